"""LPIPS (Zhang et al. 2018) with weights of the user's: AlexNet's five convolutions and the learned weights of their channels."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from .weights import read_weights

_LAYERS = (
    ("0", (64, 3, 11, 11), 4, 2, True), ("3", (192, 64, 5, 5), 1, 2, True), ("6", (384, 192, 3, 3), 1, 1, False),
    ("8", (256, 384, 3, 3), 1, 1, False), ("10", (256, 256, 3, 3), 1, 1, False),
)  # fmt: skip
"""AlexNet's convolutions in torchvision's numbering: shape of the weights, stride, padding, whether a pooling follows."""
_WANTED = "LPIPS wants torchvision's AlexNet and LPIPS' own linear weights for it (v0.1), in this order."
SMALLEST = 32
"""Pixels; smaller pictures are enlarged."""


class Lpips:
    """The distance between two pictures.

    Args:
        network: torchvision's AlexNet (`features.0.weight` ...), see `weights.read_weights`.
        linear: LPIPS' own weights for it (`lin0.model.1.weight` ...).

    Raises:
        UserError: a file that cannot be read, or lacks what is needed (all of it is told).
    """

    def __init__(self, network: Path, linear: Path, device: torch.device) -> None:
        shapes = {f"features.{n}.{kind}": shape if kind == "weight" else shape[:1] for n, shape, *_ in _LAYERS for kind in ("weight", "bias")}
        features = read_weights(network, shapes, _WANTED)
        channels = read_weights(linear, {f"lin{i}.model.1.weight": (1, shape[0], 1, 1) for i, (_, shape, *_) in enumerate(_LAYERS)}, _WANTED)
        self._layers = [
            (features[f"features.{n}.weight"].to(device), features[f"features.{n}.bias"].to(device), stride, padding, pool)
            for n, _, stride, padding, pool in _LAYERS
        ]
        self._channels = [value.to(device) for value in channels.values()]
        self._shift = torch.tensor([-0.030, -0.088, -0.188], device=device).view(1, 3, 1, 1)
        self._scale = torch.tensor([0.458, 0.448, 0.450], device=device).view(1, 3, 1, 1)

    def __call__(self, one: Tensor, other: Tensor) -> Tensor:
        """Distance of two pictures [H,W,3] in 0..1."""
        x = torch.stack([one, other]).permute(0, 3, 1, 2)
        if min(x.shape[2:]) < SMALLEST:
            x = F.interpolate(x, scale_factor=SMALLEST / min(x.shape[2:]), mode="bilinear", align_corners=False)
        x = (2 * x - 1 - self._shift) / self._scale
        total = x.new_zeros(())
        for (weight, bias, stride, padding, pool), channels in zip(self._layers, self._channels):
            x = F.conv2d(x, weight, bias, stride, padding).relu()
            unit = x / (x.square().sum(1, keepdim=True).sqrt() + 1e-10)
            total = total + F.conv2d((unit[:1] - unit[1:]).square(), channels).mean()
            x = F.max_pool2d(x, 3, 2) if pool and min(x.shape[2:]) >= 3 else x
        return total
