"""Growing and pruning: the rules of gsplat's DefaultStrategy (3DGS), on any device.

gsplat's own classes take scales through exp; here they go through a softplus, as the paper's do, so the rules are written once more and serve
processor and graphics card alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from ..raster import Rasterised
from .splats import Splats

SHRINK = 1.6
"""What the scales of a split Gaussian are divided by (3DGS)."""


@dataclass(frozen=True)
class Rules:
    """See TrainConfig; lengths in units of the scene. most: 0 for no limit; too_large: inf where size is no reason to go."""

    gradient: float
    split_above: float
    prune_opacity: float
    too_large: float
    most: int


@dataclass
class Counts:
    """What a refinement did."""

    cloned: int
    split: int
    pruned: int


class Densifier:
    """Sums of the gradients of N Gaussians' places in the picture, and what follows from them."""

    def __init__(self, count: int, device: torch.device | str = "cpu") -> None:
        self.sums, self.seen = torch.zeros(count, device=device), torch.zeros(count, device=device)

    def observe(self, drawn: Rasterised, rows: slice = slice(None)) -> None:
        """Take in the gradients of `means2d` after a backward pass, in units of half the picture, of those that were drawn.

        Args:
            rows: of the picture's Gaussians that are these.
        """
        cameras, height, width = drawn.alphas.shape
        if drawn.means2d.grad is None:
            return
        half = drawn.means2d.new_tensor([width / 2, height / 2]) * cameras
        norm = (drawn.means2d.grad[:, rows] * half).norm(dim=-1)
        visible = (drawn.radii[:, rows] > 0).all(-1)
        self.sums += (norm * visible).sum(0)
        self.seen += visible.sum(0)

    def refine(self, splats: Splats, rules: Rules, generator: torch.Generator) -> Counts:
        """Clone, split, prune; the sums begin anew. Splitting draws from `generator` (on the processor)."""
        gradient = self.sums / self.seen.clamp(min=1)
        grows = gradient > rules.gradient
        if rules.most:
            room = max(rules.most - len(splats), 0)
            if int(grows.sum()) > room:  # those that need it most
                chosen = torch.where(grows, gradient, 0).topk(room).indices
                grows = torch.zeros_like(grows).index_fill_(0, chosen, True)
        scales = F.softplus(splats.parameters["scales"].detach())
        large = scales.max(1).values > rules.split_above
        clones, halves = (grows & ~large).nonzero()[:, 0], (grows & large).nonzero()[:, 0]
        stay = (~(grows & large)).nonzero()[:, 0]
        source = torch.cat([stay, clones, halves, halves])
        fresh = torch.arange(len(source), device=source.device) >= len(stay)
        if len(source) > len(splats):
            splats.rebuild(source, fresh, _split(splats, source, len(halves), scales, generator))
        gone = splats.parameters["opacities"].detach().sigmoid() < rules.prune_opacity
        gone |= F.softplus(splats.parameters["scales"].detach()).max(1).values > rules.too_large
        kept = (~gone).nonzero()[:, 0]
        if 0 < len(kept) < len(gone):
            splats.rebuild(kept, torch.zeros(len(kept), dtype=torch.bool, device=kept.device))
        self.sums, self.seen = (torch.zeros(len(splats), device=self.sums.device) for _ in range(2))
        return Counts(len(clones), len(halves), len(gone) - len(splats))

    @staticmethod
    def reset_opacities(splats: Splats, opacity: float) -> None:
        """No Gaussian keeps more than `opacity`; their moments are forgotten."""
        raw = splats.parameters["opacities"].detach()
        rows = torch.arange(len(raw), device=raw.device)
        lower = {"opacities": raw.clamp(max=float(torch.tensor(opacity).logit()))}
        splats.rebuild(rows, torch.ones_like(rows, dtype=torch.bool), lower, ("opacities",))


def _split(splats: Splats, source: Tensor, count: int, scales: Tensor, generator: torch.Generator) -> dict[str, Tensor]:
    """Means and raw scales of the new rows; the last 2 `count` are halves: drawn from the old Gaussian, smaller."""
    means, raw = (splats.parameters[name].detach()[source].clone() for name in ("means", "scales"))
    if count:
        rows = source[-2 * count :]
        noise = torch.randn(2 * count, 3, generator=generator).to(means.device)
        means[-2 * count :] += _rotated(splats.parameters["quats"].detach()[rows], scales[rows] * noise)
        smaller = scales[rows] / SHRINK
        raw[-2 * count :] = smaller + torch.log(-torch.expm1(-smaller))
    return {"means": means, "scales": raw}


def _rotated(quats: Tensor, vectors: Tensor) -> Tensor:
    quats = F.normalize(quats, dim=-1)
    w, u = quats[:, :1], quats[:, 1:]
    twice = 2 * torch.linalg.cross(u, vectors)
    return vectors + w * twice + torch.linalg.cross(u, twice)
