"""Teaching the uncertainty what it is to say (ours; the paper leaves both to the picture, sec 2.3, eq. 8 to 12).

In pictures a wrong weight is worth a hundredth of a decibel and a disagreement of members nothing, so after the picture's training all
weights are nearly equal, and members differ on what they were trained on as much as on what they never saw. Both have a known meaning:

- *Aleatoric*: how far noise in a view's input throws its mean. Inputs are spoilt by noise of a known strength, and log-variances learn
      log D(noisy) = log D(clean) + log(1 + gain * (m(noisy) - m(clean))^2 / signal)
  with m a member's mean, and `signal` the variance that m has over the film. Clean inputs very nearly keep the weights they had.
- *Epistemic*: how little of this was in the training data. On the training data the members of a view learn to say what they say on average;
  elsewhere they go on differing, as their first layers were drawn apart.

The members learn first, then the log-variances. The motion on clean inputs is held where it was; fields, attention, fusion and decoder
do not change.
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
SHARED = 0.1
"""Of the mean signal of all views of the branch: this much more every channel counts as having. States are fused in one unit, and noise
that is nothing beside the others' signals is not to cost a quiet view its say."""
AGREED = 0.4
"""Share of the steps in which members learn to agree."""
HELD = 100.0
"""Weight of the motion's change, as a share of its variance, beside the members' disagreement, as a share of what it was."""
AVERAGES = 0.2
"""Rate of the members' means, as a share of the log-variances'."""


class Weigher:
    """The views' networks of all branches, and what they were."""

    def __init__(self, scene: Scene, config: TrainConfig) -> None:
        self.scene, self.config = scene, config
        self.before: dict[str, BranchNetwork] = {branch: deepcopy(net).requires_grad_(False) for branch, net in scene.nets.items()}
        variances, averages = [], []
        for net in scene.nets.values():
            for name in _names(net):
                (variances if ".logvar." in name else averages).append(net.get_parameter(name).requires_grad_(True))
        self.averages = torch.optim.Adam(averages, lr=AVERAGES * config.weigh_rate)
        self.variances = torch.optim.Adam(variances, lr=config.weigh_rate)
        self._signal = {branch: self._measured(branch) for branch in scene.nets}

    def step(self, share: float, generator: torch.Generator) -> dict[str, Tensor]:
        """One step, `share` of all of them done: first the members' means, from AGREED on the log-variances. Returns the losses; `loss` is
        what was learned by."""
        agree = share < AGREED
        parts = [(self._agreement if agree else self._noise)(branch, generator) for branch in self.scene.nets]
        found = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        loss = sum(found.values())
        optimiser, rate = (self.averages, AVERAGES) if agree else (self.variances, 1.0)
        left = 1 - share / AGREED if agree else (1 - share) / (1 - AGREED)
        for group in optimiser.param_groups:
            group["lr"] = rate * self.config.weigh_rate * left
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {name: value.detach() for name, value in ({"loss": loss} | found).items()}

    def _agreement(self, branch: str, generator: torch.Generator) -> dict[str, Tensor]:
        """How far members are from what they said on average, and the motion from what it was."""
        places, views = self._drawn(branch, generator)
        with torch.no_grad():
            was = self.before[branch](places, views)
        now, apart = self.scene.nets[branch](places, views), torch.zeros((), device=places.device)
        for view, old in was.view_means.items():
            apart = apart + (now.view_means[view] - old.mean(0)).square().mean() / (old.var(0, correction=0).mean() + 1e-12)
        moved = (now.d_means - was.d_means).square().mean() / (was.d_means.var(0).mean() + 1e-20)
        return {"disagreement": apart, "motion": HELD * moved}

    def _noise(self, branch: str, generator: torch.Generator) -> dict[str, Tensor]:
        """How far log-variances of noisy views are from what they are to be."""
        places, clean = self._drawn(branch, generator)
        noisy, net, found = self._spoilt(branch, clean, generator), self.scene.nets[branch], torch.zeros((), device=places.device)
        with torch.no_grad():
            was, means = self.before[branch].statistics(places, clean), net.statistics(places, clean)
        for view, (mean, logvar) in net.statistics(places, noisy).items():
            thrown = (mean.detach() - means[view][0]).square() / self._signal[branch][view]
            found = found + (logvar - was[view][1] - torch.log1p(self.config.weigh_gain * thrown)).square().mean()
        return {"variance": found}

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        before = {branch: {name: net.get_parameter(name) for name in _names(net)} for branch, net in self.before.items()}
        return {"before": before, "averages": self.averages.state_dict(), "variances": self.variances.state_dict()}

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        for branch, values in state["before"].items():
            self.before[branch].load_state_dict(values, strict=False)
        self._signal = {branch: self._measured(branch) for branch in self.before}
        self.averages.load_state_dict(state["averages"])
        self.variances.load_state_dict(state["variances"])

    def _drawn(self, branch: str, generator: torch.Generator) -> tuple[Tensor, dict[str, Tensor]]:
        """Places at rest of some Gaussians that move, and the views of some training pictures."""
        material, places = self.scene.material, self._moving(branch)
        places = places[torch.randperm(len(places), generator=generator)[:GAUSSIANS].to(places.device)]
        return places, self._views(torch.randint(len(material.train), (FRAMES,), generator=generator).tolist())

    def _views(self, numbers: list[int]) -> dict[str, Tensor]:
        material = self.scene.material
        each = [material.views(material.train[number]) for number in numbers]
        return {view: torch.cat([views[view] for views in each]) for view in each[0]}

    def _spoilt(self, branch: str, clean: dict[str, Tensor], generator: torch.Generator) -> dict[str, Tensor]:
        """The same with noise on each view of the branch."""
        noisy = dict(clean)
        for view in VIEWS[branch]:
            level, kept = torch.rand(2, len(clean[view]), generator=generator)
            strength = 10 ** (-(QUIET + level * (LOUD - QUIET)) / 20) * (kept >= CLEAN)
            noise = strength.reshape(-1, *[1] * (clean[view].ndim - 1)) * torch.randn(clean[view].shape, generator=generator)
            noisy[view] = clean[view] + noise.to(clean[view].device) * self.scene.material.spread(view)
        return noisy

    @torch.no_grad()
    def _measured(self, branch: str) -> dict[str, Tensor]:
        """Variance over the film of each view's means, [1,1,1,L]."""
        material, places = self.scene.material, self._moving(branch)
        frames, count = SIGNAL
        numbers = torch.linspace(0, len(material.train) - 1, min(frames, len(material.train))).long().tolist()
        found = self.before[branch].statistics(places[:: max(1, len(places) // count)], self._views(numbers))
        signal = {view: mean.var(1, correction=0, keepdim=True).mean((0, 2), keepdim=True) for view, (mean, _) in found.items()}
        shared = SHARED * torch.stack([value.mean() for value in signal.values()]).mean() + 1e-12
        return {view: value + shared for view, value in signal.items()}

    def _moving(self, branch: str) -> Tensor:
        """Places at rest [M,3] of what moves."""
        splats = self.scene.splats[branch]
        return splats.parameters["means"].detach()[splats.moving]


def _names(net: BranchNetwork) -> list[str]:
    """Of the parameters that learn here: the views' own networks (eq. 8)."""
    return [name for name, _ in net.named_parameters() if name.startswith("fuse.") and not name.startswith("fuse.fc.")]
