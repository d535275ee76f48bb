"""A branch's motion on a CUDA device by the Triton kernels."""

from __future__ import annotations

from typing import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..errors import Cancelled
from .fast import Branch, Fuse
from .networks import BranchNetwork
from .parameters import VIEWS
from .triton_fusion import fuse_packed
from .triton_layout import Layout
from .triton_members import View, members

CHUNK = 65536
"""Gaussians at a time: 17 KB each of the device's memory, and few launches."""


def takes(views: int, count: int, latent: int, device: torch.device) -> bool:
    """Whether the kernels do V views of T members on a device: compute capability 8 (tf32) and a system that fits."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device)[0] >= 8 and Layout(views, count, latent).fits


class PackedBranch(Branch):
    """`fast.Branch` with the constants of its rows kept, and the views' statistics packed for the fusion."""

    def __init__(self, net: BranchNetwork, samples: Mapping[str, np.ndarray], device: torch.device) -> None:
        super().__init__(net, samples, device)
        self.chunk = CHUNK
        self._rows: dict[int, _Rows] = {}  # by the first one

    @torch.inference_mode()
    def _chunk(
        self,
        rows: slice,
        inputs: Mapping[str, Tensor],
        fresh: Mapping[str, list[bool]],
        doubts: Tensor,
        out: Mapping[str, Tensor],
        stopped: Callable[[], bool] | None,
    ) -> None:
        """All frames of some Gaussians. Nothing is asked of the device before the last frame is on its way."""
        if rows.start not in self._rows:
            self._rows[rows.start] = _Rows(self, *self._constants(rows))
        own = self._rows[rows.start]
        good = torch.empty(len(fresh["exp"]), own.count, dtype=torch.bool, device=own.state.device)
        for frame in range(len(good)):
            if stopped is not None and stopped():
                raise Cancelled()
            for number, (view, x) in enumerate(inputs.items()):
                if fresh[view][frame]:
                    members(own.views[view], number, x[frame], own.layout, own.packed, own.count)
                    own.packed[:, :, own.layout.variance_slot(number)] *= doubts[frame, number]
            mean, aleatoric, epistemic, shares, good[frame] = fuse_packed(own.layout, own.packed, own.count, doubts[frame])
            out["aleatoric"][frame, rows], out["epistemic"][frame, rows], out["shares"][frame, rows] = aleatoric, epistemic, shares.T
            for name, value in self._decoded(own.state, mean.T).items():
                out[name][frame, rows] = value
        spoilt = (~good).nonzero()
        for frame in spoilt[:, 0].unique().tolist():
            self._again(own, rows.start, spoilt[spoilt[:, 0] == frame, 1], frame, inputs, doubts[frame], out)

    def _again(
        self, own: _Rows, start: int, bad: Tensor, frame: int, inputs: Mapping[str, Tensor], doubt: Tensor, out: Mapping[str, Tensor]
    ) -> None:
        """A frame's rows that float32 spoils, fused in float64."""
        fuse = Fuse(len(inputs), self.sizes.members, self.sizes.latent, self.bound, own.state[bad])
        for number, (view, x) in enumerate(inputs.items()):
            first = own.first[view] if len(own.first[view]) == 1 else own.first[view][bad]
            self._members(view, x[frame], first, own.gain[view][bad] if view in own.gain else None, fuse.both[number])
        fused, *summary = fuse.exact(slice(None), frame, doubt)
        where = bad + start
        for name, value in zip(("aleatoric", "epistemic", "shares"), summary):
            out[name][frame, where] = value
        for name, value in self._decoded(own.state[bad], fused).items():
            out[name][frame, where] = value


class _Rows:
    """What no frame changes for some rows, and room for what frames do."""

    def __init__(self, branch: PackedBranch, first: dict[str, Tensor], gain: dict[str, Tensor], state: Tensor) -> None:
        self.first, self.gain, self.state = first, gain, state
        self.count = len(state)
        self.views: dict[str, View] = {}
        for view in VIEWS[branch.branch]:
            weight, bias = branch.second[view]
            self.views[view] = View(
                first[view].contiguous(),
                gain[view].contiguous() if view in gain else None,
                branch.frame_weight[view].T.contiguous() if view in gain else None,
                weight.contiguous(),
                bias[:, :, 0].contiguous(),
                branch.bound,
            )
        self.layout = Layout(len(self.views), branch.sizes.members, branch.sizes.latent)
        self.packed = self.layout.empty(self.count, state.device)
