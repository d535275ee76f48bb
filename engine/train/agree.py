"""Teaching the members of a view to agree on the film (ours; the paper leaves their differences to chance, sec 2.3, eq. 10).

A picture does not mind members that disagree as long as their mean is right, so after the picture's training they differ on what they were
trained on as much as on what they never saw. Here they learn to say on the training data what they say on average; elsewhere they go on
differing, as their first layers were drawn apart. The motion is held where it was; log-variances, fields, attention, fusion and decoder do not
change. How far a view can be trusted in a given frame is `deform.doubt`'s.
"""

from __future__ import annotations

from copy import deepcopy

import torch
from torch import Tensor

from ..deform.networks import BranchNetwork
from .config import TrainConfig
from .scene import Scene

FRAMES, GAUSSIANS = 8, 128
"""Of a step."""
HELD = 100.0
"""Weight of the motion's change, as a share of its variance, beside the members' disagreement, as a share of what it was."""


class Agreement:
    """The members' means of all branches, and what they were."""

    def __init__(self, scene: Scene, config: TrainConfig) -> None:
        self.scene, self.config = scene, config
        self.before: dict[str, BranchNetwork] = {branch: deepcopy(net).requires_grad_(False) for branch, net in scene.nets.items()}
        self.optimiser = torch.optim.Adam(
            [net.get_parameter(name).requires_grad_(True) for net in scene.nets.values() for name in _names(net)], lr=config.agree_rate
        )

    def step(self, share: float, generator: torch.Generator) -> dict[str, Tensor]:
        """One step, `share` of all of them done. Returns the losses; `loss` is what was learned by."""
        parts = [self._losses(branch, generator) for branch in self.scene.nets]
        found = {name: torch.stack([part[name] for part in parts]).sum() for name in parts[0]}
        loss = sum(found.values())
        for group in self.optimiser.param_groups:
            group["lr"] = self.config.agree_rate * (1 - share)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        self.optimiser.step()
        return {name: value.detach() for name, value in ({"loss": loss} | found).items()}

    def _losses(self, branch: str, generator: torch.Generator) -> dict[str, Tensor]:
        """How far members are from what they said on average, and the motion from what it was."""
        material, splats = self.scene.material, self.scene.splats[branch]
        places = splats.parameters["means"].detach()[splats.moving]
        places = places[torch.randperm(len(places), generator=generator)[:GAUSSIANS].to(places.device)]
        frames = torch.randint(len(material.train), (FRAMES,), generator=generator).tolist()
        each = [material.views(material.train[frame]) for frame in frames]
        views = {view: torch.cat([one[view] for one in each]) for view in each[0]}
        with torch.no_grad():
            was = self.before[branch](places, views)
        now, apart = self.scene.nets[branch](places, views), torch.zeros((), device=places.device)
        for view, old in was.view_means.items():
            apart = apart + (now.view_means[view] - old.mean(0)).square().mean() / (old.var(0, correction=0).mean() + 1e-12)
        moved = (now.d_means - was.d_means).square().mean() / (was.d_means.var(0).mean() + 1e-20)
        return {"disagreement": apart, "motion": HELD * moved}

    def state(self) -> dict[str, object]:
        """For a checkpoint."""
        before = {branch: {name: net.get_parameter(name) for name in _names(net)} for branch, net in self.before.items()}
        return {"before": before, "optimiser": self.optimiser.state_dict()}

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        for branch, values in state["before"].items():
            self.before[branch].load_state_dict(values, strict=False)
        self.optimiser.load_state_dict(state["optimiser"])


def _names(net: BranchNetwork) -> list[str]:
    """Of the parameters that learn here: first layers and means of the views' own networks (eq. 8)."""
    return [name for name, _ in net.named_parameters() if name.startswith("fuse.") and not name.startswith("fuse.fc.") and ".logvar." not in name]
