"""A corpus of synthetic speech with phoneme times: many voices, manners and rooms."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from scipy.signal import fftconvolve, lfilter, resample_poly

from ..audio import RATE as SAMPLE_RATE
from ..audio import Sound, read_sound

from .espeak import Espeak, Manner
from .sentences import ENGLISH, OTHERS, made_sentence
from .visemes import ARPABET, Segment, segments

ACCENTS = ("en-us", "en-us", "en-us", "en", "en", "en-gb-x-rp", "en-gb-scotland", "en-gb-x-gbclan", "en-029")
VARIANTS = (
    "", "+f1", "+f2", "+f3", "+f4", "+f5", "+m1", "+m2", "+m3", "+m4", "+m5", "+m6", "+m7", "+m8", "+Andrea", "+Annie", "+Alicia",
    "+anika", "+steph", "+steph2", "+linda", "+belinda", "+Denis", "+Gene", "+Hugo", "+Lee", "+Mario", "+Michael", "+adam",
    "+antonio", "+benjamin", "+caleb", "+david", "+edward", "+ed", "+grandma", "+gustave", "+iven", "+john", "+klatt2", "+klatt4",
    "+max", "+michel", "+miguel", "+norbert", "+paul", "+pedro", "+quincy", "+rob", "+robert", "+sandro", "+shelby", "+travis",
    "+victor", "+zac", "+Alex", "+Diogo", "+Jacky", "+Storm", "+whisper", "+croak",
)  # fmt: skip
RECORDED_WARP = 0.12  # deviation of the logarithm of the factor by which copies of a recording are stretched


@dataclass
class Clip:
    """A few sentences by one voice: the sound, its visemes with their times in seconds, and how it was said where it is synthetic."""

    sound: Sound
    parts: list[Segment]
    manner: Manner | None = None


def as_sound(samples: np.ndarray) -> Sound:
    """Samples at 16 kHz as a `Sound` without a file."""
    samples = np.ascontiguousarray(samples, np.float32)
    return Sound(samples, SAMPLE_RATE, len(samples) / SAMPLE_RATE, "", SAMPLE_RATE, 1)


def make_clips(count: int, seed: int, others: float = 0.25, spoilt: float = 0.7, noises: float = 0.06, variants: Sequence[str] = VARIANTS) -> list[Clip]:
    """Clips of about 6 s; the same seed gives the same clips.

    Args:
        others: share of clips in languages other than English.
        spoilt: share of clips with noise, reverberation, other spectra or levels.
        noises: share of clips without any speech, where the mouth stays shut.
        variants: of espeak-ng's voices.
    """
    random, espeak, clips = np.random.default_rng(seed), Espeak(), []
    while len(clips) < count:
        if random.random() < noises:
            clips.append(_noise(random))
            continue
        pick = lambda options: options[random.integers(len(options))]  # noqa: E731
        foreign = random.random() < others
        language = pick(tuple(OTHERS)) if foreign else pick(ACCENTS)
        manner = Manner(
            language + pick(variants),
            int(np.clip(random.normal(165, 30), 95, 260)),
            int(random.uniform(40, 160)),
            int(np.clip(random.normal(48, 22), 0, 99)),
            int(np.clip(random.normal(50, 25), 0, 99)),
        )
        texts = []
        for _ in range(random.integers(1, 4)):
            texts.append(pick(OTHERS[language]) if foreign else pick(ENGLISH) if random.random() < 0.35 else made_sentence(random))
        clip = _clip(espeak, manner, texts, random)
        if clip is not None:
            samples = spoil(clip.sound.samples, random, clips) if random.random() < spoilt else clip.sound.samples
            clips.append(Clip(as_sound(samples), clip.parts, manner))
    return clips


def recorded_clips(paths: Sequence[Path], copies: int, seed: int, texts: Mapping[str, str] | None = None) -> list[Clip]:
    """Recordings of English speech with their phones by pocketsphinx, once as they are and `copies` - 1 times warped and spoilt.

    A minute or two of a real voice beside hours of synthetic ones is worth much; a file that cannot be aligned is left out.
    A warped copy is played faster or slower, pitch and formants with it: a larger or smaller speaker.

    Args:
        texts: what is said, by the file's name without suffix; where it is not known the recogniser's own words are aligned.
    """
    from .recogniser import align

    random, clips = np.random.default_rng(seed), []
    for path in paths:
        sound = read_sound(path)
        try:
            parts = segments(align(sound, (texts or {}).get(path.stem)), ARPABET)
        except RuntimeError:  # pocketsphinx found no path through the file
            continue
        for copy in range(copies):
            samples, times = sound.samples, parts
            if copy:
                factor = round(50 * float(np.clip(np.exp(random.normal(0, RECORDED_WARP)), 0.75, 1.3))) / 50
                samples, times = resample(samples, factor), [(a * factor, b * factor, name) for a, b, name in parts]
                samples = spoil(samples, random, clips)
            clips.append(Clip(as_sound(samples), times))
    return clips


def resample(samples: np.ndarray, factor: float) -> np.ndarray:
    """Samples played `factor` times as long; factors are multiples of 1/50."""
    return resample_poly(samples, int(round(50 * factor)), 50).astype(np.float32)


def _clip(espeak: Espeak, manner: Manner, texts: list[str], random: np.random.Generator) -> Clip | None:
    warp = float(np.clip(np.exp(random.normal(0, 0.07)), 0.82, 1.22))
    pieces, parts, time = [], [], 0.0

    def pause(seconds: float) -> None:
        nonlocal time
        pieces.append(np.zeros(int(seconds * SAMPLE_RATE), np.float32))
        parts.append((time, time + len(pieces[-1]) / SAMPLE_RATE, "sil"))
        time += len(pieces[-1]) / SAMPLE_RATE

    pause(random.uniform(0.02, 0.4))
    for text in texts:
        said = espeak.speak(text, manner)
        if len(said.samples) < 0.3 * said.rate:
            return None
        target = int(round(SAMPLE_RATE * warp))
        samples = resample_poly(said.samples, target // 50, said.rate // 50).astype(np.float32)
        scale = len(samples) / SAMPLE_RATE / (len(said.samples) / said.rate)
        parts += [(time + a * scale, time + b * scale, name) for a, b, name in segments(said.phones)]
        pieces.append(samples)
        time += len(samples) / SAMPLE_RATE
        pause(random.uniform(0.05, 0.7))
    return Clip(as_sound(np.concatenate(pieces)), _joined(parts), manner)


def _noise(random: np.random.Generator) -> Clip:
    """Rustle, rumble, hum or a tone, steady or slowly changing."""
    count = int(SAMPLE_RATE * random.uniform(2.5, 5))
    time, kind = np.arange(count) / SAMPLE_RATE, random.integers(3)
    sound = random.normal(size=count)
    if kind == 1:
        sound = lfilter([1], [1, -random.uniform(0.5, 0.99)], sound)
    elif kind == 2:
        pitch = np.exp(random.uniform(np.log(45), np.log(2500)))
        sound = 0.05 * sound + sum(np.sin(2 * np.pi * k * pitch * time) * random.random() for k in range(1, 6))
    sound *= 1 + random.uniform(0, 0.8) * np.sin(2 * np.pi * random.uniform(0.1, 1.0) * time)
    sound *= 10 ** (random.uniform(-50, -3) / 20) / np.abs(sound).max()
    return Clip(as_sound(sound), [(0.0, count / SAMPLE_RATE, "sil")])


def _joined(parts: list[Segment]) -> list[Segment]:
    """Neighbouring silences as one."""
    out: list[Segment] = []
    for start, end, name in parts:
        if out and name == "sil" and out[-1][2] == "sil":
            out[-1] = (out[-1][0], end, name)
        else:
            out.append((start, end, name))
    return out


def spoil(samples: np.ndarray, random: np.random.Generator, others: list[Clip]) -> np.ndarray:
    """Another room, microphone, level and background."""
    samples = samples.astype(np.float64)
    if random.random() < 0.4:  # a room: a decaying, darkening tail
        length = int(SAMPLE_RATE * random.uniform(0.08, 0.5))
        tail = random.normal(size=length) * np.exp(-np.arange(length) / length * 6.9)
        tail = lfilter([1], [1, -random.uniform(0.2, 0.8)], tail)
        tail *= random.uniform(0.1, 0.6) / np.sqrt((tail**2).sum())
        tail[0] += 1
        samples = fftconvolve(samples, tail)[: len(samples)]
    if random.random() < 0.5:  # spectral tilt
        samples = lfilter([1, random.uniform(-0.85, 0.6)], [1, random.uniform(-0.4, 0.4)], samples)
    if random.random() < 0.15:  # a telephone
        samples = lfilter([0.25, 0.5, 0.25], [1.0], lfilter([1, -1], [1, -0.85], samples))
    speech = np.sqrt((samples**2).mean()) + 1e-9
    if random.random() < 0.6:
        kind, level = random.integers(4), speech * 10 ** (-random.uniform(6, 40) / 20)
        noise = random.normal(size=len(samples))
        if kind == 1:
            noise = lfilter([1], [1, -0.97], noise)
        elif kind == 2:
            noise = lfilter([1, -1], [1, -0.5], noise)
        elif kind == 3 and len(others) > 3:
            noise = np.zeros(len(samples))
            for _ in range(3):
                other = others[random.integers(len(others))].sound.samples
                noise += np.resize(np.roll(other, random.integers(len(other))), len(samples))
            level = speech * 10 ** (-random.uniform(10, 25) / 20)
        samples = samples + noise * level / (noise.std() + 1e-9)
    elif random.random() < 0.5:  # a clean recording still has a floor
        samples = samples + random.normal(size=len(samples)) * 10 ** (-random.uniform(65, 85) / 20)
    samples *= 10 ** (random.uniform(-26, -1) / 20) / (np.abs(samples).max() + 1e-9)
    return samples.astype(np.float32)
