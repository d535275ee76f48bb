"""What a rasteriser gives back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from . import conventions as c


@dataclass
class Rasterised:
    """Pictures of N Gaussians from C cameras.

    Attributes:
        colors: [C,H,W,3] over the background; None without sh.
        alphas: [C,H,W], 0..1.
        depth: [C,H,W], expected camera z; 0 where nothing is.
        features: [C,H,W,D], blended like colours over nothing, not divided by alpha; None without features.
        means2d: [C,N,2] px, a node of the graph: `retain_grad()` before the backward pass makes it fill `means2d.grad`. With absgrad the
            backward pass sets `means2d.absgrad` [C,N,2], the sums over pixels of the gradient's absolute values.
        radii: [C,N,2] int32 px, half the box that holds what of a Gaussian is seen, rounded up; 0 where it is not drawn.
    """

    colors: Tensor | None
    alphas: Tensor
    depth: Tensor
    features: Tensor | None
    means2d: Tensor
    radii: Tensor

    @property
    def info(self) -> dict[str, Any]:
        """What gsplat's densification strategies read (`step_pre_backward`, `step_post_backward`, packed=False)."""
        cameras, height, width = self.alphas.shape
        return {
            "means2d": self.means2d, "radii": self.radii, "gaussian_ids": None, "width": width, "height": height, "n_cameras": cameras,
        }  # fmt: skip


@dataclass
class Layer:
    """Gaussians blended over nothing: alphas [C,H,W], left [C,H,W] (1 - alpha, to its own digits), depth [C,H,W] (sum of weight * z),
    colors [C,H,W,3], features [C,H,W,D]."""

    alphas: Tensor
    left: Tensor
    depth: Tensor
    colors: Tensor | None
    features: Tensor | None

    def over(self, back: Layer) -> Layer:
        """self + (1 - alpha) * back (UA-3DTalk's composite of face and mouth)."""
        left = self.left[..., None]
        return Layer(
            self.alphas + self.left * back.alphas,
            self.left * back.left,
            self.depth + self.left * back.depth,
            None if self.colors is None else self.colors + left * back.colors,
            None if self.features is None else self.features + left * back.features,
        )

    def finish(self, backgrounds: Tensor | None, means2d: Tensor, radii: Tensor) -> Rasterised:
        """Over a background [C,3] or [3]; the depth divided by alpha."""
        colors = self.colors
        if colors is not None and backgrounds is not None:
            colors = colors + self.left[..., None] * torch.atleast_2d(backgrounds)[:, None, None]
        depth = self.depth / self.alphas.clamp(min=c.LEAST_ALPHA)
        return Rasterised(colors, self.alphas, depth, self.features, means2d, radii)
