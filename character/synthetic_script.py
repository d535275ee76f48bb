"""What the synthetic person says and does: takes of speech under emotions, 25 frames a second.

A take is one sentence in one emotion at one strength, from shut lips to shut lips. Voice and face follow the same strength: it drifts
within a take, so that a set holds every strength and not three. No sentence is said twice in a set.
"""

from __future__ import annotations

import json
import re
import zipfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
from scipy.signal import resample_poly

from engine.audio import RATE as SOUND_RATE
from engine.avatar import EMOTIONS
from engine.errors import UserError
from engine.files import atomic_path
from engine.priors.corpus import as_sound
from engine.priors.espeak import Espeak, Manner
from engine.priors.sentences import ENGLISH, made_sentence
from engine.priors.visemes import articulate, labels, segments
from engine.views.builtin import MelWindow

from .face_model import FloatArray
from .motion import Performance, articulation_strength

FPS = 25
STEPS = 4  # of the 100 Hz tracks to a frame
SAMPLES = SOUND_RATE // FPS
LEVELS = (1.0, 0.35, 0.65)
SHARES = {"train": 0.75, "val": 0.2, "val_intensity": 0.05}
VOICES = ("en-us+m3", "en-us+f2", "en+m1", "en-us+f4", "en-gb-scotland+m7", "en+f3")
LEAD, TAIL = 0.24, 0.28  # seconds of silence round a sentence
MEETINGS = 3
"""Sentences in which lips meet at least as often come first: what was never shown shut under an emotion does not shut under it."""
HELD_FROM, TRAINED_TO = 0.8, 0.7
"""Of the held-out emotion: strengths above the first are in `val_intensity` alone, training ends at the second."""

# What an emotion at full strength does to a voice: factor on words a minute, pitch, range, factor on volume.
_MANNERS = {
    "neutral": (1.0, 0, 0, 1.0), "happy": (1.10, 14, 28, 1.15), "sad": (0.78, -13, -30, 0.62), "angry": (1.12, 3, 24, 1.55),
    "fear": (1.22, 20, -12, 0.85), "disgusted": (0.86, -9, -4, 0.95), "surprised": (1.02, 24, 40, 1.2), "contempt": (0.88, -5, -18, 0.8),
}  # fmt: skip


@dataclass(frozen=True)
class Take:
    """A sentence, its emotion and the highest strength of it, the split that it is for and the number of its camera."""

    text: str
    emotion: str
    level: float
    split: str
    camera: int


@dataclass
class Script:
    """F frames of everything.

    samples [F * 640] float32 at 16 kHz; performance of the face; take [F] index into takes; phoneme [F] IPA ("" in a pause); viseme [F].
    """

    takes: list[Take]
    samples: FloatArray
    performance: Performance
    take: np.ndarray
    phoneme: np.ndarray
    viseme: np.ndarray

    def splits(self) -> dict[str, list[int]]:
        """Frames of `train`, `val` and `val_intensity`; of the last only those at the held-out strength."""
        found: dict[str, list[int]] = {name: [] for name in SHARES}
        for frame, take in enumerate(self.take):
            of = self.takes[take]
            if of.split != "val_intensity" or self.performance.emotion[frame].max() >= HELD_FROM:
                found[of.split].append(frame)
        return found


    def save(self, path: Path) -> None:
        """Write it whole or not at all."""
        p = self.performance
        arrays = {"samples": self.samples, "take": self.take, "phoneme": self.phoneme, "viseme": self.viseme}
        arrays |= {field.name: getattr(p, field.name) for field in fields(Performance)}
        takes = np.array(json.dumps([asdict(take) for take in self.takes]))
        with atomic_path(path) as part, open(part, "wb") as file:
            np.savez(file, takes=takes, **arrays)

    @classmethod
    def load(cls, path: Path) -> Script:
        """Read it back. Raises UserError where the file is not one."""
        try:
            with np.load(path, allow_pickle=False) as z:
                takes = [Take(**take) for take in json.loads(str(z["takes"]))]
                performance = Performance(*(z[field.name] for field in fields(Performance)))
                return cls(takes, z["samples"], performance, z["take"], z["phoneme"], z["viseme"])
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise UserError(f"{path} is no script of a synthetic person.", "Delete its folder and begin again.") from error


def manner(voice: str, emotion: str, strength: float, rate: int = 165, pitch: int = 46, span: int = 50, volume: int = 90) -> Manner:
    """How a voice says something in an emotion of strength 0..1."""
    faster, higher, wider, louder = _MANNERS[emotion]
    return Manner(
        voice, round(rate * faster**strength), round(min(volume * louder**strength, 200)),
        round(np.clip(pitch + strength * higher, 0, 99)), round(np.clip(span + strength * wider, 0, 99)),
    )  # fmt: skip


def write_script(seconds: float, cameras: int, seed: int, voice: str, held: str, espeak: Espeak | None = None) -> Script:
    """A script of about `seconds`. The same arguments give the same sentences, emotions and cameras; the sound may differ by a few
    milliseconds, as espeak-ng's depends on what it said before: keep a script that is to be used again (`Script.save`).

    held: the emotion whose highest strength is not trained on. Raises UserError for an emotion or a voice that there is not.
    """
    if held not in EMOTIONS[1:]:
        raise UserError(f"{held!r} is no emotion to hold out.", f"Give one of {', '.join(EMOTIONS[1:])}.")
    random, espeak = np.random.default_rng(seed), espeak or Espeak()
    texts = sorted((ENGLISH[i] for i in random.permutation(len(ENGLISH))), key=lambda text: _meetings(text) < MEETINGS)
    moods = {split: _moods(random, split, held) for split in SHARES}
    takes, spoken, length = [], [], dict.fromkeys(SHARES, 0)
    while sum(length.values()) < seconds * FPS:
        split = min(SHARES, key=lambda name: length[name] / SHARES[name])
        emotion, level = next(moods[split])
        while len(texts) <= len(takes):
            more = made_sentence(random)
            texts += [] if more in texts else [more]
        number = sum(take.split == split for take in takes)
        # Two takes of three are seen from the front.
        camera = 1 + number // 3 % (cameras - 1) if cameras > 1 and number % 3 == 1 else 0
        take = Take(texts[len(takes)], emotion, level, split, camera)
        said = _speak(espeak, take, voice)
        takes.append(take)
        spoken.append(said)
        length[split] += len(said[1]) // STEPS
    return _join(takes, spoken, random)


def _meetings(text: str) -> int:
    """How often lips meet, roughly: runs of the letters p, b and m."""
    return len(re.findall("[pbm]+", text.lower()))


def _moods(random: np.random.Generator, split: str, held: str) -> Iterator[tuple[str, float]]:
    """Emotions and strengths without end: every emotion once a round, at another strength in each; training starts at the full one."""
    if split == "val_intensity":
        while True:
            yield held, 1.0
    order = list(random.permutation(len(EMOTIONS)))
    start, turn = random.integers(3, size=len(EMOTIONS)) * (split != "train"), 0
    while True:
        for e in order:
            level = float(np.clip(LEVELS[(start[e] + turn) % 3] + random.uniform(-0.1, 0.1), 0.2, 1.0))
            if EMOTIONS[e] == held:
                level = min(level, TRAINED_TO)
            yield EMOTIONS[e], (0.0 if e == 0 else level)
        turn += 1


Spoken = tuple[FloatArray, np.ndarray, np.ndarray, np.ndarray]


def _speak(espeak: Espeak, take: Take, voice: str) -> Spoken:
    """samples at 16 kHz, articulation [T,20], visemes [T] and phones [T] at 100 Hz, T whole frames."""
    said = espeak.speak(take.text, manner(voice, take.emotion, take.level))
    if len(said.samples) < 0.3 * said.rate:
        raise UserError(f"The voice {voice!r} says nothing.", "Choose another: `espeak-ng --voices`.")
    samples = resample_poly(said.samples, SOUND_RATE // 50, said.rate // 50)
    end = LEAD + len(said.samples) / said.rate
    frames = int(np.ceil((end + TAIL) * FPS))
    total = frames / FPS
    phones = [(0.0, LEAD, ""), *((LEAD + a, LEAD + b, name) for a, b, name in said.phones), (end, total, "")]
    parts, count = segments(phones), frames * STEPS
    padded = np.zeros(frames * SAMPLES, np.float32)
    first = round(LEAD * SOUND_RATE)
    padded[first : first + len(samples)] = samples[: len(padded) - first]
    heard = np.zeros(count, "U8")
    for start, stop, name in phones:
        heard[int(np.ceil(start * 100 - 1e-6)) : int(np.ceil(stop * 100 - 1e-6))] = name
    return padded, articulate(parts, count), labels(parts, count), heard


def _join(takes: list[Take], spoken: list[Spoken], random: np.random.Generator) -> Script:
    samples = np.concatenate([part[0] for part in spoken])
    samples *= 0.8 / max(float(np.abs(samples).max()), 1e-6)  # one gain for all: how loud an emotion is stays
    samples += (random.normal(size=len(samples)) * 10 ** (-72 / 20)).astype(np.float32)
    articulation, viseme, phoneme = (np.concatenate([part[k] for part in spoken])[::STEPS] for k in (1, 2, 3))
    level = MelWindow().track(as_sound(samples)).features[:, -3]
    count = len(articulation)
    strength = articulation_strength(level)[: count * STEPS : STEPS]
    strength = np.pad(strength, (0, count - len(strength)), mode="edge")
    number = np.repeat(np.arange(len(takes)), [len(part[1]) // STEPS for part in spoken])
    emotion = np.concatenate([_emotion(take, int((number == i).sum()), random) for i, take in enumerate(takes)])
    performance = Performance(articulation, strength, emotion, _units(count, emotion, random))
    return Script(takes, samples, performance, number.astype(np.int32), phoneme, viseme.astype(np.int32))


def _emotion(take: Take, frames: int, random: np.random.Generator) -> FloatArray:
    """[frames,8]: rises from neutral before the first word, drifts, falls after the last."""
    low = 0.88 if take.split == "val_intensity" else 0.45
    drift = low + (1 - low) * (0.5 + 0.5 * np.sin(np.arange(frames) / FPS * random.uniform(1.5, 3.0) + random.uniform(0, 2 * np.pi)))
    edge = np.minimum(np.arange(frames) + 1, frames - np.arange(frames)) / (0.32 * FPS)
    edge = edge.clip(0, 1)
    out = np.zeros((frames, len(EMOTIONS)), np.float32)
    out[:, EMOTIONS.index(take.emotion)] = take.level * drift * edge * edge * (3 - 2 * edge)
    out[:, 0] = 0
    return out


def _units(frames: int, emotion: FloatArray, random: np.random.Generator) -> FloatArray:
    """AU1, 4, 5, 6, 7, 45 [frames,6] on top of the emotion: blinks every 2 to 5 s, now and then a brow, a lid or a cheek."""
    time, out = np.arange(frames) / FPS, np.zeros((frames, 6), np.float32)
    moment = random.uniform(0.5, 2.5)
    while moment < time[-1]:
        # Lids fall in 80 ms, stay for 40 to 80, rise in 160.
        shut = np.minimum((time - moment + 0.08) / 0.08, (moment + random.uniform(0.04, 0.08) + 0.16 - time) / 0.16).clip(0, 1)
        out[:, 5] = np.maximum(out[:, 5], shut * shut * (3 - 2 * shut))
        moment += random.uniform(2.0, 5.0)
    moment = random.uniform(0.3, 1.5)
    while moment < time[-1]:
        half, which, height = random.uniform(0.25, 0.7), random.integers(5), random.uniform(0.3, 1.0)
        bump = (1 - np.abs(time - moment - half) / half).clip(0, 1)
        out[:, which] = np.maximum(out[:, which], height * bump * bump * (3 - 2 * bump))
        moment += random.uniform(0.8, 3.0)
    out[:, :5] *= 1 - 0.6 * emotion.max(axis=1, keepdims=True)  # an emotion has the say over brows and lids
    return out


def head_motion(frames: int, seed: int) -> np.ndarray:
    """[frames,4,4] float64: where the head goes in its own space, slow and small: turns by up to 8, 5 and 3 degrees about Y, X and Z
    of a point in the neck, and shifts by up to 5 mm."""
    random, time = np.random.default_rng([seed, 1]), np.arange(frames) / FPS
    tracks = []
    for reach in (8.0, 5.0, 3.0, 0.005, 0.004, 0.005):
        waves = [np.sin(2 * np.pi * f * time + random.uniform(0, 2 * np.pi)) / f for f in random.uniform((0.08, 0.2, 0.4), (0.2, 0.4, 0.8))]
        wave = sum(waves)
        tracks.append(reach * wave / max(float(np.abs(wave).max()), 1e-9))
    yaw, pitch, roll = np.radians(tracks[:3])
    pivot = np.array([0.0, -0.07, -0.02])
    out = np.tile(np.eye(4), (frames, 1, 1))
    for axis, angle in ((2, roll), (0, pitch), (1, yaw)):
        turn = np.tile(np.eye(3), (frames, 1, 1))
        a, b = [k for k in range(3) if k != axis]
        turn[:, a, a] = turn[:, b, b] = np.cos(angle)
        turn[:, b, a], turn[:, a, b] = np.sin(angle), -np.sin(angle)
        out[:, :3, :3] = turn @ out[:, :3, :3]
    out[:, :3, 3] = pivot - out[:, :3, :3] @ pivot + np.transpose(tracks[3:])
    return out
