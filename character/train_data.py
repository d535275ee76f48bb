"""What the deformation networks are trained on: views of synthetic speech, random emotions and action units, exact targets."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from engine.priors.corpus import Clip
from engine.views.builtin import NEIGHBOURS, STEPS, MelWindow, Prosody
from engine.views.content import VISEMES, Content

from .face_model import FloatArray
from .motion import Actor, Performance, articulation_strength

PAD = 40  # frames of silence between clips, more than an audio window reaches
ARTICULATION = slice(len(VISEMES), 2 * len(VISEMES))  # of f_exp
SWAPPED = 0.2  # share of frames whose audio and style views are another moment's: f_exp must not be ignored
NOISY = 0.5


@dataclass
class SpeechBank:
    """Views of many clips on one time line at 100 Hz, silence between them.

    audio [F,29] (rows of the audio windows), exp [F,64], style [F,64], strength [F] (see `articulation_strength`), usable [K]: frames
    to draw from.
    """

    audio: FloatArray
    exp: FloatArray
    style: FloatArray
    strength: FloatArray
    usable: np.ndarray

    @classmethod
    def of(cls, clips: list[Clip], content: Content) -> SpeechBank:
        """Run the providers over the clips."""
        parts: list[list[np.ndarray]] = [[], [], [], []]
        usable, length = [], 0
        mel, prosody = MelWindow(), Prosody()
        for clip in clips:
            window, exp = mel.track(clip.sound), content.track(clip.sound)
            style = prosody.track(clip.sound)
            times = np.arange(len(exp.features)) / exp.rate
            rows = [window.features, exp.features, style.at(times)[:, 0], articulation_strength(window.features[:, -3])]
            for part, value, silence in zip(parts, rows, (window.silence, exp.silence, style.silence, 1.0)):
                edge = np.broadcast_to(np.asarray(silence, np.float32), (PAD, *value.shape[1:]))
                part += [value, edge]
            # A few frames of pure silence belong to it too.
            usable.append(np.arange(length, length + len(times) + 3))
            length += len(times) + PAD
        head = [np.concatenate([part[1][:PAD], *part]) for part in parts]
        return cls(*head, np.concatenate(usable) + PAD)

    def windows(self, frames: np.ndarray) -> FloatArray:
        """Audio windows [B,8,29,16] at frames; the window's offsets are whole frames at 100 Hz."""
        around = (np.arange(NEIGHBOURS) - 4)[:, None] * 4 + (2 * np.arange(STEPS) - (STEPS - 1))
        rows = (frames[:, None, None] + around).clip(0, len(self.audio) - 1)
        return self.audio[rows].transpose(0, 1, 3, 2)


def random_emotions(random: np.random.Generator, count: int) -> FloatArray:
    """Weights times intensity [count,8]: one emotion in any intensity, mixtures, and neutral."""
    out = np.zeros((count, 8), np.float32)
    kind = random.random(count)
    for row, k in zip(out, kind):
        if k < 0.45:
            row[random.integers(1, 8)] = 1.0
        elif k < 0.75:
            two = random.choice(np.arange(1, 8), 2, replace=False)
            row[two] = random.dirichlet([1.0, 1.0])
        elif k < 0.88:
            row[:] = random.dirichlet(np.full(8, 0.5))
    return out * np.sqrt(random.random((count, 1))).astype(np.float32) * np.where(random.random((count, 1)) < 0.15, 0, 1)


def random_aus(random: np.random.Generator, count: int) -> FloatArray:
    """AU1, 4, 5, 6, 7, 45 [count,6] in 0..1."""
    aus = random.random((count, 6)) ** 1.5 * (random.random((count, 6)) < 0.3)
    blink = random.random(count)
    aus[:, 5] = np.where(blink < 0.15, 1.0, np.where(blink < 0.45, random.random(count), 0.0))
    aus[:, :5] *= np.where(random.random((count, 1)) < 0.3, 0, 1)
    return aus.astype(np.float32)


@dataclass
class Batch:
    """B frames: the networks' views, and what the face does in them, coefficients [B,C] less those at rest."""

    views: dict[str, Tensor]
    coefficients: Tensor


class Director:
    """Draws batches: any moment of the bank, `expressive` under any emotion and action units."""

    def __init__(self, bank: SpeechBank, actor: Actor, prototypes: FloatArray, seed: int, expressive: bool = True) -> None:
        self._bank, self._actor, self._prototypes, self._expressive = bank, actor, prototypes, expressive
        self._random, self._rest = np.random.default_rng(seed), actor.at_rest()

    def draw(self, count: int, spoil: bool = True) -> Batch:
        """A batch of `count` frames; `spoil` disturbs the audio and style views as training wants it."""
        random, bank = self._random, self._bank
        frames = random.choice(bank.usable, count)
        share = np.float32(self._expressive)
        emotion, au = share * random_emotions(random, count), share * random_aus(random, count)
        seen = np.where(random.random(count) < SWAPPED, random.choice(bank.usable, count), frames) if spoil else frames
        audio, exp, style = bank.windows(seen), bank.exp[frames], bank.style[seen]
        if spoil:
            scale = random.uniform(0, 0.4, (count, 1, 1, 1)) * (random.random((count, 1, 1, 1)) < NOISY)
            audio = audio + (scale * random.normal(size=audio.shape)).astype(np.float32)
            style = style + (0.1 * random.normal(size=style.shape)).astype(np.float32)
        return self.batch(frames, emotion, au, audio, exp, style)

    def batch(
        self, frames: np.ndarray, emotion: FloatArray, au: FloatArray, audio: FloatArray, exp: FloatArray, style: FloatArray
    ) -> Batch:
        """A batch of given frames and views."""
        performance = Performance(self._bank.exp[frames][:, ARTICULATION], self._bank.strength[frames], emotion, au)
        coefficients = self._actor.coefficients(performance) - self._rest
        views = {
            "audio": audio, "exp": exp[:, None], "style": style[:, None], "au": au,
            "emotion": emotion_feature(emotion, self._prototypes)[:, None],
        }  # fmt: skip
        return Batch(
            {name: torch.from_numpy(np.ascontiguousarray(value, np.float32)) for name, value in views.items()},
            torch.from_numpy(coefficients),
        )


def emotion_feature(weights: np.ndarray, prototypes: FloatArray) -> FloatArray:
    """f_emotion [B,128] for weights times intensity [B,8]: p_neutral + sum x_e (p_e - p_neutral)."""
    return (prototypes[0] + weights @ (prototypes - prototypes[0])).astype(np.float32)


def make_prototypes(seed: int = 8, dim: int = 128, length: float = 4.0) -> FloatArray:
    """Emotion prototypes [8,128]: orthogonal, of one length."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(dim, 8)))
    return (length * basis.T).astype(np.float32)
