"""The Gaussians of one branch in training: parameters, their optimiser, and changing their number."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from scipy.spatial import cKDTree
from torch import Tensor

from ..avatar.gaussians import softplus_inverse

NAMES = ("means", "quats", "scales", "opacities", "sh", "sh_rest")
DC = 0.28209479177387814
"""The constant SH basis function."""


class Splats:
    """N Gaussians as leaves of the graph, raw as in the avatar file.

    Attributes:
        parameters: means [N,3], quats [N,4], scales [N,3] (softplus), opacities [N] (sigmoid), sh [N,1,3], sh_rest [N,K-1,3].
        moving: [N] bool, those that the networks move.
        optimiser: Adam, one group a parameter; None where nothing trains.
    """

    def __init__(self, parameters: Mapping[str, Tensor], moving: Tensor | None = None) -> None:
        self.parameters = {name: parameters[name].detach().clone() for name in NAMES}
        self.moving = torch.ones(len(self), dtype=torch.bool) if moving is None else moving.clone()
        self.optimiser: torch.optim.Adam | None = None

    @classmethod
    def at(cls, means: np.ndarray, colors: np.ndarray, degree: int, opacity: float = 0.1) -> Splats:
        """Round Gaussians at [N,3] as large as the way to their neighbours (3DGS), colours [N,3] in 0..1."""
        count = len(means)
        near = cKDTree(means).query(means, k=min(4, count))[0].reshape(count, -1)[:, 1:]
        sizes = np.clip(near.mean(1) if near.size else np.full(count, 0.005), 5e-4, 0.02)
        quats = np.zeros((count, 4), np.float32)
        quats[:, 0] = 1
        tensor = lambda value: torch.from_numpy(np.ascontiguousarray(value, np.float32))  # noqa: E731
        return cls(
            {
                "means": tensor(means), "quats": tensor(quats), "scales": tensor(softplus_inverse(sizes)[:, None].repeat(3, 1)),
                "opacities": torch.full((count,), float(np.log(opacity / (1 - opacity)))),
                "sh": tensor((colors - 0.5) / DC)[:, None], "sh_rest": torch.zeros(count, (degree + 1) ** 2 - 1, 3),
            }
        )  # fmt: skip

    def __len__(self) -> int:
        return len(self.parameters["means"])

    def to(self, device: torch.device) -> Splats:
        """Moved to a device; before `train`."""
        self.parameters = {name: value.to(device) for name, value in self.parameters.items()}
        self.moving = self.moving.to(device)
        return self

    def train(self, rates: Mapping[str, float]) -> None:
        """Make leaves of the parameters named and a new optimiser for them; the others stand still."""
        for name, value in self.parameters.items():
            value.requires_grad_(name in rates)
        groups = [{"params": [self.parameters[name]], "lr": rate, "name": name} for name, rate in rates.items()]
        self.optimiser = torch.optim.Adam(groups, eps=1e-15, fused=True)

    def freeze(self) -> None:
        """Nothing trains any more."""
        self.optimiser = None
        for value in self.parameters.values():
            value.requires_grad_(False)

    def set_rate(self, name: str, rate: float) -> None:
        """Learning rate of one parameter from now on."""
        for group in self.optimiser.param_groups if self.optimiser else ():
            if group["name"] == name:
                group["lr"] = rate

    def rebuild(
        self, source: Tensor, fresh: Tensor, values: Mapping[str, Tensor] | None = None, names: tuple[str, ...] = NAMES
    ) -> None:
        """Replace the Gaussians: new row i is a copy of row source[i].

        Args:
            source: [M] rows, which bring their `moving` along. fresh: [M] bool, rows whose optimiser knows nothing yet.
            values: parameters [M,...] that are not copies. names: the parameters that are replaced.
        """
        self.moving = self.moving[source]
        for group in self.optimiser.param_groups if self.optimiser else ():
            if group["name"] not in names:
                continue
            name, old = group["name"], group["params"][0]
            value = values[name] if values and name in values else old.detach()[source]
            new = value.clone().requires_grad_(True)
            state = self.optimiser.state.pop(old, {})
            for key, moment in state.items():
                if key != "step":
                    state[key] = moment[source].clone()
                    state[key][fresh] = 0
            if state:
                self.optimiser.state[new] = state
            group["params"] = [new]
            self.parameters[name] = new

    def sh(self, degree: int) -> Tensor:
        """[N,(degree+1)^2,3]."""
        return torch.cat([self.parameters["sh"], self.parameters["sh_rest"][:, : (degree + 1) ** 2 - 1]], 1)

    def posed(
        self, d_means: Tensor | None = None, d_quats: Tensor | None = None, d_scales: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """means, quats (of any length), scales, opacities, activated, with motion [N,...] added to the raw values (paper sec 2.3)."""
        p = self.parameters
        means, quats, scales = (
            p[name] if delta is None else p[name] + delta for name, delta in (("means", d_means), ("quats", d_quats), ("scales", d_scales))
        )
        return means, quats, F.softplus(scales), p["opacities"].sigmoid()

    def spread(self, values: Tensor) -> Tensor:
        """Values [M,...] of those that move as [N,...], 0 for the others."""
        if len(values) == len(self):
            return values
        return values.new_zeros(len(self), *values.shape[1:]).index_copy(0, self.moving.nonzero()[:, 0], values)

    def state(self) -> dict[str, object]:
        """What a checkpoint keeps."""
        values = {name: value.detach().cpu() for name, value in self.parameters.items()}
        return {"values": values, "moving": self.moving.cpu(), "optimiser": self.optimiser.state_dict() if self.optimiser else None}
