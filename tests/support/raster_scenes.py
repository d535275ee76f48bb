"""Scenes and cameras for the rasterisers' tests."""

from __future__ import annotations

import math

import torch
from torch import Tensor

WIDTH, HEIGHT = 53, 37
GAUSSIANS = ("means", "quats", "scales", "opacities")


def camera(
    distance: float = 4.0, tilt: float = 0.0, width: int = WIDTH, height: int = HEIGHT, focal: float = 60.0
) -> tuple[Tensor, Tensor]:
    """viewmats [1,4,4] and Ks [1,3,3]: `distance` in front of the origin, turned by `tilt` about y (radians)."""
    Ks = torch.tensor([[[focal, 0, width / 2], [0, 1.1 * focal, height / 2], [0, 0, 1]]])
    viewmats = torch.eye(4)[None].clone()
    viewmats[0, 0, 0] = viewmats[0, 2, 2] = math.cos(tilt)
    viewmats[0, 0, 2], viewmats[0, 2, 0] = math.sin(tilt), -math.sin(tilt)
    viewmats[0, 2, 3] = distance
    return viewmats, Ks


def scene(count: int, seed: int, degree: int = 1, spread: float = 1.0, size: float = 0.15) -> dict[str, Tensor]:
    """Random Gaussians round the origin, float32: means, quats, scales, opacities, sh."""
    generator = torch.Generator().manual_seed(seed)
    return {
        "means": spread * torch.randn(count, 3, generator=generator),
        "quats": torch.randn(count, 4, generator=generator),
        "scales": size * (0.05 + 1.45 * torch.rand(count, 3, generator=generator)),
        "opacities": torch.rand(count, generator=generator),
        "sh": 0.5 * torch.randn(count, (degree + 1) ** 2, 3, generator=generator),
    }
