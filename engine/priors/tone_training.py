"""Training the style encoder by FuseNet's reconstruction (eq. 4): what the expression has that the content has not."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..views.lips import LipNet, lip_features
from ..views.tone import TONE, ToneNet, speaking
from .lessons import STRIDE, Lesson
from .lip_training import Report
from .networks import FuseNet

LEAST = 0.02
"""Deviation of a coefficient under which it counts as still."""


@dataclass(frozen=True)
class ToneSettings:
    """How f_tone is trained.

    Attributes:
        steps, batch, rate, decay: AdamW, one cycle; an example is one row at 25 Hz.
        noise: deviation of what is added to the style encoder's normalised input.
        voice, manner: weights of telling the synthetic voices apart, and of their rate, pitch, range and volume, beside eq. 4.
        tone: False leaves f_tone out of FuseNet (zeros), to see what it is worth.
        seed: of everything that is drawn.
    """

    steps: int = 800
    batch: int = 512
    rate: float = 3e-3
    decay: float = 1e-2
    noise: float = 0.8
    voice: float = 0.1
    manner: float = 0.1
    tone: bool = True
    seed: int = 0


@dataclass(eq=False)
class Fused:
    """A trained FuseNet and the coefficients it gives: names [C], their mean and deviation [C]."""

    net: FuseNet
    names: tuple[str, ...]
    mean: np.ndarray
    deviation: np.ndarray


@dataclass(eq=False)
class Rows:
    """Rows at 25 Hz of many lessons: exp [N,64], tone inputs [N,83], their share of speech [N], expression [N,C] (NaN: not known),
    voice [N] int64 (-1: none), manner [N,4] (NaN), viseme [N] int64 (-1), lesson [N]."""

    exp: np.ndarray
    tone: np.ndarray
    share: np.ndarray
    expression: np.ndarray
    voice: np.ndarray
    manner: np.ndarray
    viseme: np.ndarray
    lesson: np.ndarray
    names: tuple[str, ...]
    voices: tuple[str, ...]

    @classmethod
    def of(cls, lips: LipNet, lessons: Sequence[Lesson], names: tuple[str, ...] | None = None) -> Rows:
        """Hear the lessons with a trained lip expert. `names`: order of the coefficients (all that occur)."""
        names = names or tuple(sorted({name for lesson in lessons for name in lesson.names}))
        voices = tuple(sorted({lesson.voice for lesson in lessons}))
        parts = []
        for number, lesson in enumerate(lessons):
            exp = exp_rows(lips, lesson)
            count = len(exp)
            expression = np.full((count, len(names)), np.nan, np.float32)
            there = [name for name in names if name in lesson.names]
            expression[:, [names.index(name) for name in there]] = lesson.expression[:, [lesson.names.index(name) for name in there]]
            manner = np.full(4, np.nan, np.float32) if lesson.manner is None else lesson.manner
            parts.append(
                (
                    exp, lesson.tone[:count], speaking(lesson.tone[:count]), expression, np.full(count, voices.index(lesson.voice)),
                    np.broadcast_to(manner, (count, 4)), lesson.viseme[::STRIDE], np.full(count, number),
                )  # fmt: skip
            )
        return cls(*(np.concatenate(part) for part in zip(*parts)), names, voices)


def exp_rows(lips: LipNet, lesson: Lesson) -> np.ndarray:
    """f_exp [R,64] of a lesson at 25 Hz."""
    with torch.inference_mode():
        outputs = lips(torch.from_numpy(lesson.inputs)[None])[0].T.numpy()
    return lip_features(outputs, lesson)[::STRIDE]


def train_tone(
    rows: Rows, settings: ToneSettings = ToneSettings(), report: Report | None = None
) -> tuple[ToneNet, Fused]:
    """Minimise || FuseNet(f_exp, f_tone) - f_prior ||^2 (eq. 4) over the rows whose expression is known; the lip expert stands still."""
    torch.manual_seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    tone = ToneNet()
    tone.mean.copy_(torch.from_numpy(rows.tone.mean(0)))
    tone.deviation.copy_(torch.from_numpy(np.maximum(rows.tone.std(0), 1e-2)))
    known = np.isfinite(rows.expression)
    mean = np.where(known.any(0), np.nanmean(np.where(known.any(0), rows.expression, 0.0), 0), 0.0).astype(np.float32)
    deviation = np.maximum(np.nanstd(np.where(known.any(0), rows.expression, 0.0), 0), LEAST).astype(np.float32)
    fuse = FuseNet(len(rows.names))
    voice, manner = nn.Linear(TONE, len(rows.voices)), nn.Linear(TONE, rows.manner.shape[1])
    parameters = [p for part in (tone, fuse, voice, manner) for p in part.parameters()]
    optimiser = torch.optim.AdamW(parameters, settings.rate, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps)
    usable = np.flatnonzero(known.any(1) | np.isfinite(rows.manner).all(1))
    for step in range(settings.steps):
        at = random.choice(usable, settings.batch)
        heard = torch.from_numpy(rows.tone[at]) + settings.noise * tone.deviation * torch.randn(len(at), rows.tone.shape[1])
        share = torch.from_numpy(rows.share[at])[:, None]
        style = tone(heard) * share
        exp = torch.from_numpy(rows.exp[at])
        meant = torch.from_numpy((rows.expression[at] - mean) / deviation)
        there = torch.isfinite(meant)
        loss = (fuse(exp, style if settings.tone else torch.zeros_like(style)) - meant.nan_to_num(0))[there].square().mean()
        eq4 = float(loss.detach())
        speaks = torch.from_numpy(np.isfinite(rows.manner[at]).all(1)) & (share[:, 0] > 0.5)
        if speaks.any():
            loss = loss + settings.voice * F.cross_entropy(voice(style)[speaks], torch.from_numpy(rows.voice[at])[speaks])
            loss = loss + settings.manner * (manner(style)[speaks] - torch.from_numpy(rows.manner[at])[speaks]).square().mean()
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        schedule.step()
        if report is not None:
            report(step + 1, settings.steps, f"style: eq. 4 {eq4:.3f}")
    return tone.eval(), Fused(fuse.eval(), rows.names, mean, deviation)


def tone_rows(tone: ToneNet, rows: Rows) -> np.ndarray:
    """f_tone [N,64]."""
    with torch.inference_mode():
        return tone(torch.from_numpy(rows.tone)).numpy() * rows.share[:, None]


def reconstruction_error(tone: ToneNet | None, fused: Fused, rows: Rows) -> float:
    """Eq. 4 over rows where something is said, as a share of the coefficients' variance; tone None: without f_tone."""
    style = np.zeros((len(rows.exp), TONE), np.float32) if tone is None else tone_rows(tone, rows)
    with torch.inference_mode():
        found = fused.net(torch.from_numpy(rows.exp), torch.from_numpy(style)).numpy()
    difference = (found - (rows.expression - fused.mean) / fused.deviation)[rows.share > 0.5]
    moving = fused.deviation > LEAST
    return float(np.nanmean(np.square(difference[:, moving])))
