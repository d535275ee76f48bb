"""How the statistics of the views lie in a CUDA device's memory, between the Triton kernels that write and read them.

Neighbours in memory are neighbours in a warp: a read of the fusion is one whole line, a write of the members 16 bytes.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from .fusion import helmert

LANES = 8
"""Lanes of a warp that share a Gaussian."""

GROUP = 4
"""Gaussians of a warp: 32 / LANES. The interpreter may take more at a time."""

HELD = 120
"""A system that takes more registers of a lane than this would not stay in them."""


@dataclass(frozen=True)
class Layout:
    """Where the kernel finds the numbers of a Gaussian: packed [ceil(R / group), L, slots, group], float32.

    Attributes:
        views, members, latent: V, T, L.
        group: Gaussians of a program.
    """

    views: int
    members: int
    latent: int
    group: int = GROUP

    @property
    def per(self) -> int:
        """Lanes of a view."""
        return LANES // (1 << (self.views - 1).bit_length())

    @property
    def groups(self) -> int:
        """Contrasts of a lane."""
        return -(-(self.members - 1) // self.per)

    @property
    def fits(self) -> bool:
        """Whether the kernel takes this V and T; other shapes are for the torch path."""
        return self.views <= LANES and sum(self.groups - c // LANES for c in self.columns) <= HELD

    @property
    def slots(self) -> int:
        """Slots of a channel: the contrasts', the views' centres, the views' variances."""
        return self.groups * LANES + 2 * (LANES // self.per)

    def slot(self, view: int, contrast: int) -> int:
        """Slot of a view's contrast."""
        return contrast // self.per * LANES + view * self.per + contrast % self.per

    def centre_slot(self, view: int) -> int:
        """Slot of the mean of a view's members."""
        return self.groups * LANES + view

    def variance_slot(self, view: int) -> int:
        """Slot of a view's aleatoric variance."""
        return self.centre_slot(view) + LANES // self.per

    @property
    def columns(self) -> tuple[int, ...]:
        """The slots that are unknowns, in the order of elimination."""
        return tuple(sorted(self.slot(v, t) for v in range(self.views) for t in range(self.members - 1)))

    def empty(self, rows: int, device: torch.device | str) -> Tensor:
        """Room for R rows: contrasts and centres of zero, variances of one, where nobody writes."""
        packed = torch.zeros(-(-rows // self.group), self.latent, self.slots, self.group, device=device)
        packed[:, :, self.variance_slot(0) :] = 1
        return packed


def pack(both: Tensor, variance: Tensor, group: int = GROUP) -> Tensor:
    """Bring rows into the kernel's layout (`Layout`), for callers that have no packed ones.

    Args:
        both: [V, T, >=L, R], float32; the first L channels are the member means.
        variance: [V, L, R] aleatoric variances.
        group: Gaussians of a program.
    """
    views, members = both.shape[:2]
    latent, rows = variance.shape[1:]
    layout = Layout(views, members, latent, group)
    packed = layout.empty(rows, both.device)
    flat = packed.permute(2, 1, 0, 3)  # [slots, L, blocks, group]
    means, whole = both[:, :, :latent], rows // group * group

    def put(slot: int, values: Tensor) -> None:
        flat[slot, :, : rows // group] = values[:, :whole].unflatten(1, (-1, group))
        flat[slot, :, -1, : rows - whole] = values[:, whole:]

    turn = helmert(members, means) / max(members - 1, 1) ** 0.5
    for view in range(views):
        for t, contrast in enumerate((turn @ means[view].flatten(1)).view(-1, latent, rows)):
            put(layout.slot(view, t), contrast)
        put(layout.centre_slot(view), means[view].mean(0))
        put(layout.variance_slot(view), variance[view])
    return packed
