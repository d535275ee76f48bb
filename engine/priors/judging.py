"""How good priors are: lips against a recogniser's phone times, sync against the truth, what style and content tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..views.analysis import RATE
from ..views.lips import LipNet
from .lessons import Lesson
from .lip_training import COUNT
from .networks import MouthNet

WINDOW = 200  # frames over which a shift between sound and mouth is judged
FURTHEST = 30  # frames
NEAR = 0.1  # seconds; neighbouring shifts agree nearly as well as the best
LEAST = 1e-3  # deviation of the agreement over the shifts; a mouth that moves has a tenth or more, one that stands still the ends of its pieces


def sync_scores(lips: LipNet, mouth: MouthNet, lesson: Lesson, furthest: int = FURTHEST) -> tuple[np.ndarray, np.ndarray]:
    """Agreement [F,2n+1] of each moment's sound with the mouth n frames earlier .. n later, and shifts in seconds (positive: the
    mouth is late). NaN where the mouth is not known or nothing is heard."""
    heard_there = lesson.presence > 0.5
    with torch.inference_mode():
        heard = lips(torch.from_numpy(lesson.inputs)[None])[0, 2 * COUNT + 1 :].T.numpy()
        seen = mouth(torch.from_numpy(np.nan_to_num(lesson.mouth)).T[None])[0].T.numpy()
    blind = ~np.isfinite(lesson.mouth).all(1)
    seen[np.convolve(blind, np.ones(25), "same") > 0] = np.nan
    padded = np.pad(seen, ((furthest, furthest), (0, 0)), constant_values=np.nan)
    shifts = np.arange(-furthest, furthest + 1)
    scores = np.stack([(heard * padded[furthest + s : furthest + s + len(heard)]).sum(1) for s in shifts], 1)
    scores[~heard_there] = np.nan
    return scores, shifts / RATE


def mouth_lead(lips: LipNet, mouth: MouthNet, lesson: Lesson) -> tuple[float, float]:
    """Seconds by which the mouth is ahead of the sound in a lesson, and how clear that is: how many deviations of the shifts over
    0.1 s away its agreement stands above their mean. 0 and 0 where nothing can be said: nothing seen, nothing heard, a mouth that stands still, or
    best at the furthest shift."""
    scores, shifts = sync_scores(lips, mouth, lesson)
    whole = np.isfinite(scores).all(1)
    mean = scores[whole].mean(0) if whole.any() else np.zeros(len(shifts))
    best = int(mean.argmax())
    other = mean[np.abs(shifts - shifts[best]) > NEAR]
    if best in (0, len(shifts) - 1) or other.std() < LEAST:
        return 0.0, 0.0
    return float(-shifts[best]), float((mean[best] - other.mean()) / other.std())


def sync_accuracy(lips: LipNet, mouth: MouthNet, lessons: Sequence[Lesson], tolerance: float = 0.04) -> dict[str, float]:
    """Of windows of 2 s: share whose best shift is the true one within `tolerance` s (chance with it), over mouths in sync."""
    right = []
    for lesson in lessons:
        scores, shifts = sync_scores(lips, mouth, lesson)
        for start in range(0, len(scores) - WINDOW + 1, WINDOW // 2):
            part = scores[start : start + WINDOW]
            part = part[np.isfinite(part).all(1)]
            if len(part) > WINDOW // 2:
                right.append(abs(shifts[part.mean(0).argmax()]) <= tolerance + 1e-9)
    chance = (2 * round(tolerance * RATE) + 1) / (2 * FURTHEST + 1)
    return {"within 40 ms": float(np.mean(right)) if right else float("nan"), "chance": chance, "windows": len(right)}


def probe(features: np.ndarray, label: np.ndarray, train: np.ndarray, steps: int = 300, seed: int = 0) -> float:
    """Balanced share right of a linear classifier of labels [N] from features [N,D], learned on the rows of `train` [N] bool, judged on
    the others."""
    torch.manual_seed(seed)
    mean, deviation = features[train].mean(0), features[train].std(0) + 1e-3
    x = torch.from_numpy(((features - mean) / deviation).clip(-5, 5).astype(np.float32))
    classes, y = np.unique(label, return_inverse=True)
    y, rows = torch.from_numpy(y), torch.from_numpy(np.flatnonzero(train))
    net = nn.Linear(x.shape[1], len(classes))
    optimiser = torch.optim.Adam(net.parameters(), 2e-2, weight_decay=1e-4)
    weight = 1 / torch.bincount(y[rows], minlength=len(classes)).clamp(min=1).float()
    for _ in range(steps):
        some = rows[torch.randint(len(rows), (1024,))]
        loss = F.cross_entropy(net(x[some]), y[some], weight / weight.mean())
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.inference_mode():
        said = net(x).argmax(1).numpy()
    test, y = ~train, y.numpy()
    return float(np.mean([(said[test & (y == c)] == c).mean() for c in np.unique(y[test])]))
