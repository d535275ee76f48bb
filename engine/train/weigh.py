"""Teaching the variances what a spoilt view is (ours; the paper's fusion, sec 2.3 and eq. 12, learns them by the picture alone).

In pictures a wrong weight is worth a hundredth of a decibel, so after the picture's training all weights are nearly equal. What a view's
aleatoric variance is to say is known, though: how far noise in the view's input throws its mean. So its inputs are spoilt by noise of a
known strength, and the log-variances, nothing else, learn

    log D(noisy) = log D(clean) + log(1 + gain * (m(noisy) - m(clean))^2 / signal)

with m a member's mean, and `signal` the variance that m has over the film. Clean inputs very nearly keep the weights that the picture taught.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from ..deform.networks import BranchNetwork
from ..deform.parameters import VIEWS
from .config import TrainConfig
from .scene import Scene

FRAMES, GAUSSIANS = 8, 128
"""Of a step."""
CLEAN = 0.5
"""Share of the frames that stay clean."""
QUIET, LOUD = 25.0, -10.0
"""Signal to noise of the others, dB: evenly between the two."""
SIGNAL = 48, 64
"""Frames and Gaussians by which the signal is measured."""
LEAST = 0.05
"""Of a view's mean signal: what a channel that stands still counts as having."""


class Weigher:
    """The log-variances of all branches, and what they were."""

    def __init__(self, scene: Scene, config: TrainConfig) -> None:
        self.scene, self.config = scene, config
        self.before: dict[str, BranchNetwork] = {branch: deepcopy(net).requires_grad_(False) for branch, net in scene.nets.items()}
        for net in scene.nets.values():
            for name in _logvars(net):
                net.get_parameter(name).requires_grad_(True)
        parameters = [net.get_parameter(name) for net in scene.nets.values() for name in _logvars(net)]
        self.optimiser = torch.optim.Adam(parameters, lr=config.weigh_rate)
        self._signal = {branch: self._measured(branch) for branch in scene.nets}

    def step(self, share: float, generator: torch.Generator) -> Tensor:
        """One step, `share` of all of them done. Returns the mean squared error of the log-variances."""
        loss = torch.zeros((), device=self.scene.material.device)
        for branch, net in self.scene.nets.items():
            places, rows = self._moving(branch)
            rows = rows[torch.randperm(len(rows), generator=generator)[:GAUSSIANS].to(rows.device)]
            numbers = torch.randint(len(self.scene.material.train), (FRAMES,), generator=generator).tolist()
            clean, noisy = self._views(branch, numbers, generator)
            with torch.no_grad():
                was = self.before[branch].statistics(places[rows], clean)
            now = net.statistics(places[rows], noisy)
            for view, (mean, logvar) in now.items():
                thrown = (mean.detach() - was[view][0]).square() / self._signal[branch][view]
                loss = loss + (logvar - was[view][1] - torch.log1p(self.config.weigh_gain * thrown)).square().mean()
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.weigh_rate * (1 - share)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return loss.detach()

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        before = {branch: {name: net.get_parameter(name) for name in _logvars(net)} for branch, net in self.before.items()}
        return {"before": before, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        for branch, values in state["before"].items():
            self.before[branch].load_state_dict(values, strict=False)
        self.optimiser.load_state_dict(state["optimiser"])

    def _views(self, branch: str, numbers: list[int], generator: torch.Generator) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Views of some training pictures, and the same with noise on each view of the branch."""
        material, count = self.scene.material, len(numbers)
        each = [material.views(material.train[number]) for number in numbers]
        clean = {view: torch.cat([views[view] for views in each]) for view in each[0]}
        noisy = dict(clean)
        for view in VIEWS[branch]:
            level, kept = torch.rand(2, count, generator=generator)
            strength = 10 ** (-(QUIET + level * (LOUD - QUIET)) / 20) * (kept >= CLEAN)
            noise = strength.reshape(-1, *[1] * (clean[view].ndim - 1)) * torch.randn(clean[view].shape, generator=generator)
            noisy[view] = clean[view] + noise.to(material.device) * material.spread(view)
        return clean, noisy

    @torch.no_grad()
    def _measured(self, branch: str) -> dict[str, Tensor]:
        """Variance over the film of each view's means, [1,1,1,L]."""
        material, (places, rows) = self.scene.material, self._moving(branch)
        frames, count = SIGNAL
        numbers = torch.linspace(0, len(material.train) - 1, min(frames, len(material.train))).long().tolist()
        each = [material.views(material.train[number]) for number in numbers]
        views = {view: torch.cat([one[view] for one in each]) for view in each[0]}
        found = self.before[branch].statistics(places[rows[:: max(1, len(rows) // count)]], views)
        signal = {view: mean.var(1, correction=0, keepdim=True).mean((0, 2), keepdim=True) for view, (mean, _) in found.items()}
        return {view: value + LEAST * value.mean() + 1e-12 for view, value in signal.items()}

    def _moving(self, branch: str) -> tuple[Tensor, Tensor]:
        """Places at rest [N,3], and the rows [M] that move."""
        splats = self.scene.splats[branch]
        return splats.parameters["means"].detach(), splats.moving.nonzero()[:, 0]


def _logvars(net: BranchNetwork) -> list[str]:
    return [name for name, _ in net.named_parameters() if name.startswith("fuse.") and ".logvar." in name]
