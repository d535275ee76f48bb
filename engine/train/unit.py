"""What a variance is worth in the picture (ours).

A fusion knows no unit: a factor on all views' variances of a Gaussian cancels. The film has one: the error that its pictures are left with. Of every
Gaussian i, with w its weight in a pixel, e that pixel's error (its channels' mean, display colours of 0..1) and V the variance of its fused state:

    left_i = sum_pixels w e^2 / sum_pixels w
    unit_i = left_i / mean_frames V_i          of one that moves;        unit_i = left_i          of one that stands still

Variances times this are variances of colour, over the film right on the mean, and higher where V is.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

from ..deform.networks import BranchOutput
from ..raster import Rasterised
from .losses import state_variance
from .material import Shown, spaced
from .scene import Scene

PICTURES = 100
"""That are looked at, evenly spaced."""
SURE = 1.0
"""Weight in pixels that a Gaussian is given beforehand, with the mean error: hardly seen ones are no better known than all."""


def variance_units(scene: Scene, degree: int) -> dict[str, np.ndarray]:
    """Branch (and `body`) -> [N] float32: variance of colour for one of the state's; for a Gaussian that stands still, its variance of colour."""
    counts = [len(scene.splats[branch]) for branch in scene.branches]
    device = scene.material.device
    spoilt, seen = torch.zeros(2, sum(counts), dtype=torch.float64, device=device)
    usual = {branch: torch.zeros(int(scene.splats[branch].moving.sum()), dtype=torch.float64, device=device) for branch in scene.branches}
    frames = spaced(scene.material.train, PICTURES)
    for frame in frames:
        shown = scene.material.shown(frame)
        with torch.no_grad():
            outs = {branch: scene.motion(branch, frame) for branch in scene.branches}
        for branch, out in outs.items():
            usual[branch] += state_variance(branch, out) / len(frames)
        blended = torch.zeros(sum(counts), 2, device=device, requires_grad=True)
        weights = _weights(scene.draw_head(frame, outs, degree, shown.behind, blended), blended, shown, torch.ones_like(shown.body))
        spoilt, seen = spoilt + weights[:, 0], seen + weights[:, 1]
    found = {}
    for branch, part in zip(scene.branches, left(spoilt, seen).split(counts)):
        part[scene.splats[branch].moving] /= usual[branch].clamp(min=torch.finfo(torch.float32).tiny)
        found[branch] = part.to(torch.float32).cpu().numpy()
    if "body" in scene.splats:  # alone, where its pictures show it
        spoilt, seen = torch.zeros(2, len(scene.splats["body"]), dtype=torch.float64, device=device)
        for frame in frames:
            shown = scene.material.shown(frame)
            blended = torch.zeros(len(seen), 2, device=device, requires_grad=True)
            weights = _weights(scene.draw_branch("body", frame, None, degree, shown.behind.mean((0, 1)), blended), blended, shown, shown.body)
            spoilt, seen = spoilt + weights[:, 0], seen + weights[:, 1]
        found["body"] = left(spoilt, seen).to(torch.float32).cpu().numpy()
    return found


def _weights(drawn: Rasterised, blended: Tensor, shown: Shown, where: Tensor) -> Tensor:
    """[N,2]: sums of w e^2 and of w over the pixels `where` [H,W]. A blended feature's gradient is the weight with which it is blended."""
    error = (drawn.colors[0].detach().clamp(0, 1) - shown.truth).mean(-1)
    maps = torch.stack([error.square(), torch.ones_like(error)], -1) * where[..., None]
    return torch.autograd.grad((drawn.features[0] * maps).sum(), blended)[0]


def left(spoilt: Tensor, seen: Tensor) -> Tensor:
    """[N] squared error that Gaussians are left with, from their weights [N] in pixels: sums of w e^2 and of w."""
    mean = spoilt.sum() / seen.sum().clamp(min=1)
    return (spoilt + SURE * mean) / (seen + SURE)


def color_variance(scene: Scene, outs: Mapping[str, BranchOutput], units: Mapping[str, np.ndarray]) -> Tensor:
    """[N,1] variance of colour of all branches' Gaussians in one frame, to be blended."""
    parts = []
    for branch in scene.branches:
        splats, unit = scene.splats[branch], torch.from_numpy(units[branch]).to(scene.material.device)
        parts.append(torch.where(splats.moving, splats.spread(state_variance(branch, outs[branch])), 1) * unit)
    return torch.cat(parts)[:, None]
