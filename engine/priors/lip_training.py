"""Training the lip expert and its sync discriminator: minutes on one core."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch.nn import functional as F

from ..views.analysis import HIGH_HZ, LOW_HZ, MELS
from ..views.content import VISEMES
from ..views.lips import LipNet
from .lessons import Lesson
from .networks import MouthNet
from .recogniser import PLAIN

Report = Callable[[int, int, str], None]
COUNT = len(VISEMES)
CROP = 160
"""Frames of one example."""


@dataclass(frozen=True)
class LipSettings:
    """How the lip expert is trained; chosen on real English speech.

    Attributes:
        steps, batch, rate, decay: AdamW, one cycle.
        average: of the weights over the last steps (exponential).
        real: share of a batch that is recorded or filmed, where there is any. A few minutes of real voices are worth more than hours
            of synthetic ones.
        noise, tilt: deviations of what is added to the normalised spectrum: a floor; another voice or microphone.
        tempo, throat: deviations of the logarithms of the factors by which an example is said slower or faster, and by which its formants
            are moved: other speakers.
        viseme, articulation, opening, correlation, plain, sync: weights of the losses.
        temperature: of the sync discriminator's contrast.
        moments: of each example that the contrast compares.
        seed: of everything that is drawn.
    """

    steps: int = 1600
    batch: int = 24
    rate: float = 2e-3
    decay: float = 1e-2
    average: float = 0.99
    real: float = 0.6
    noise: float = 0.4
    tilt: float = 0.3
    tempo: float = 0.08
    throat: float = 0.05
    viseme: float = 0.5
    articulation: float = 1.0
    opening: float = 30.0
    correlation: float = 1.5
    plain: float = 10.0
    sync: float = 0.3
    temperature: float = 0.1
    moments: int = 6
    seed: int = 0


@dataclass(eq=False)
class Pool:
    """Lessons of one kind on one time line."""

    inputs: np.ndarray
    viseme: np.ndarray
    articulation: np.ndarray
    opening: np.ndarray
    mouth: np.ndarray
    starts: np.ndarray
    lengths: np.ndarray

    @classmethod
    def of(cls, lessons: Sequence[Lesson]) -> Pool | None:
        """None where no lesson is as long as an example."""
        long = [lesson for lesson in lessons if lesson.inputs.shape[1] >= CROP]
        if not long:
            return None
        lengths = np.array([lesson.inputs.shape[1] for lesson in long])
        rows = [np.concatenate([getattr(lesson, name) for lesson in long]) for name in ("viseme", "articulation", "opening", "mouth")]
        return cls(np.concatenate([lesson.inputs for lesson in long], 1), *rows, np.cumsum(lengths) - lengths, lengths)

    def draw(self, random: np.random.Generator, count: int, tempo: float = 0.0) -> list[np.ndarray]:
        """Inputs [count,43,160], visemes, articulation, opening, mouth [count,160,..], by nearest frames where the tempo is another."""
        chosen = random.choice(len(self.lengths), count, p=self.lengths / self.lengths.sum())
        lengths = self.lengths[chosen]
        factors = np.minimum(np.exp(random.normal(0, tempo, count)).clip(0.7, 1.4), (lengths - 1) / (CROP - 1))
        steps = np.round(np.arange(CROP) * factors[:, None]).astype(int)
        begin = self.starts[chosen] + (random.random(count) * (lengths - steps[:, -1])).astype(int)
        rows = begin[:, None] + steps
        return [self.inputs[:, rows].transpose(1, 0, 2), self.viseme[rows], self.articulation[rows], self.opening[rows], self.mouth[rows]]


def train_lips(
    synthetic: Sequence[Lesson], real: Sequence[Lesson], settings: LipSettings = LipSettings(), report: Report | None = None
) -> tuple[LipNet, MouthNet]:
    """Train both nets together; the same lessons and settings give the same nets on the same machine."""
    torch.manual_seed(settings.seed)
    random = np.random.default_rng(settings.seed)
    pools = [(Pool.of(synthetic), 1 - settings.real), (Pool.of(real), settings.real)]
    there = [(pool, share) for pool, share in pools if pool is not None]
    if not there:
        raise ValueError(f"no lesson is as long as {CROP / 100} s")
    counts = [round(settings.batch * share / sum(share for _, share in there)) for _, share in there]
    lips, mouth = LipNet(), MouthNet()
    parameters = [*lips.parameters(), *mouth.parameters()]
    optimiser = torch.optim.AdamW(parameters, settings.rate, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, total_steps=settings.steps)
    mean = torch.optim.swa_utils.AveragedModel(
        torch.nn.ModuleList([lips, mouth]), multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(settings.average)
    )
    for step in range(settings.steps):
        drawn = [pool.draw(random, count, settings.tempo) for (pool, _), count in zip(there, counts) if count]
        arrays = [torch.from_numpy(np.concatenate(part)) for part in zip(*drawn)]
        inputs = _spoilt(arrays[0].float(), random, settings)
        loss, parts = lip_loss(lips, mouth, inputs, *arrays[1:], random=random, settings=settings)
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimiser.step()
        schedule.step()
        mean.update_parameters(torch.nn.ModuleList([lips, mouth]))
        if report is not None:
            report(step + 1, settings.steps, "lips: " + ", ".join(f"{name} {value:.3f}" for name, value in parts.items()))
    return mean.module[0].eval(), mean.module[1].eval()


def lip_loss(
    lips: LipNet, mouth: MouthNet, inputs: torch.Tensor, viseme: torch.Tensor, articulation: torch.Tensor, opening: torch.Tensor,
    tracks: torch.Tensor, random: np.random.Generator, settings: LipSettings,
) -> tuple[torch.Tensor, dict[str, float]]:  # fmt: skip
    """The loss of a batch (shapes as `Pool.draw`), and its parts by name. What is not known (NaN, -1) counts nowhere."""
    out = lips(inputs)
    parts: dict[str, torch.Tensor] = {}
    if (viseme >= 0).any():
        parts["viseme"] = F.cross_entropy(out[:, :COUNT], viseme, ignore_index=-1, label_smoothing=0.02)
        parts["plain"] = plain_loss(out[:, :COUNT], viseme)
    known = torch.isfinite(articulation).all(-1)
    if known.any():
        surprise = -(articulation.nan_to_num(0) * out[:, COUNT : 2 * COUNT].log_softmax(1).transpose(1, 2)).sum(-1)
        parts["articulation"] = surprise[known].mean()
    known = torch.isfinite(opening)
    if known.any():
        said, meant = out[:, 2 * COUNT].sigmoid()[known], opening[known]
        parts["opening"] = (said - meant).square().mean()
        a, b = said - said.mean(), meant - meant.mean()
        parts["correlation"] = 1 - (a * b).mean() / ((a.square().mean() * b.square().mean()).sqrt() + 1e-6)
    contrast = sync_loss(out[:, 2 * COUNT + 1 :], mouth, tracks, random, settings)
    if contrast is not None:
        parts["sync"] = contrast
    total = sum(getattr(settings, name) * value for name, value in parts.items())
    return total, {name: float(value.detach()) for name, value in parts.items()}


def plain_loss(logits: torch.Tensor, viseme: torch.Tensor) -> torch.Tensor:
    """Of logits [B,20,F] and labels [B,F] (-1: not known): squared error of the plain opening (`recogniser.PLAIN`) that the posteriors say:
    to take one viseme for another of the same opening matters less."""
    known, opening = viseme >= 0, torch.from_numpy(PLAIN).float()
    meant = F.avg_pool1d(opening[viseme.clamp(min=0)][:, None], 3, 1, 1, count_include_pad=False)[:, 0]
    said = torch.einsum("bvf,v->bf", logits.softmax(1), opening)
    return (said - meant)[known].square().mean()


def sync_loss(
    heard: torch.Tensor, mouth: MouthNet, tracks: torch.Tensor, random: np.random.Generator, settings: LipSettings
) -> torch.Tensor | None:
    """Contrast of sound [B,20,F] and mouth [B,F,3]: each moment against all others of the batch, those of its own clip among them."""
    whole = torch.isfinite(tracks).all(-1).all(-1)
    if whole.sum() < 2:
        return None
    seen = mouth(tracks[whole].transpose(1, 2))
    spacing = CROP // settings.moments
    at = torch.from_numpy(np.arange(settings.moments) * spacing + random.integers(0, spacing, (int(whole.sum()), settings.moments)))
    pick = lambda values: torch.gather(values, 2, at[:, None].expand(-1, values.shape[1], -1)).transpose(1, 2).flatten(0, 1)  # noqa: E731
    near = pick(heard[whole]) @ pick(seen).T / settings.temperature
    own = torch.arange(len(near))
    return (F.cross_entropy(near, own) + F.cross_entropy(near.T, own)) / 2


def _spoilt(inputs: torch.Tensor, random: np.random.Generator, settings: LipSettings) -> torch.Tensor:
    """Moved formants, noise, another spectral balance and masked bands on normalised spectra [B,43,F]."""
    count = len(inputs)
    inputs[:, :MELS] = moved_formants(inputs[:, :MELS], np.exp(random.normal(0, settings.throat, count)).clip(0.75, 1.33))
    inputs[:, :MELS] += settings.noise * torch.rand(count, 1, 1) * torch.randn(count, MELS, CROP)
    balance = F.interpolate(torch.randn(count, 1, 6), MELS, mode="linear", align_corners=True).transpose(1, 2)
    inputs[:, :MELS] += settings.tilt * balance
    for _ in range(2):
        low = int(random.integers(0, MELS - 6))
        inputs[:, low : low + int(random.integers(1, 7))] = 0
    return inputs


def moved_formants(mel: torch.Tensor, factors: np.ndarray) -> torch.Tensor:
    """Bands [B,40,F] with what lay at f Hz times the factor [B] brought to f Hz; the outermost bands stand for what lies beyond."""
    scale = lambda hertz: 2595 * np.log10(1 + hertz / 700)  # noqa: E731
    centres = np.linspace(scale(LOW_HZ), scale(HIGH_HZ), MELS + 2)[1:-1]
    moved = scale(700 * (10 ** (centres / 2595) - 1) * factors[:, None])
    at = ((moved - centres[0]) / (centres[1] - centres[0])).clip(0, MELS - 1)
    low = np.minimum(at.astype(int), MELS - 2)
    share = torch.from_numpy((at - low).astype(np.float32))[..., None]
    bands = lambda rows: torch.gather(mel, 1, torch.from_numpy(rows)[..., None].expand(-1, -1, mel.shape[2]))  # noqa: E731
    return bands(low) * (1 - share) + bands(low + 1) * share
