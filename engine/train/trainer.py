"""The steps of training: mouth, face, agreement of the members, then both branches (paper sec 2.4)."""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor, nn

from ..dataset import Frame
from ..deform.networks import BranchNetwork, BranchOutput
from ..deform.parameters import LEAK, NetworkSizes
from .agree import Agreement
from .config import BranchPlan, TrainConfig
from .densify import Densifier, Rules
from .losses import alpha_loss, attention_loss, details_loss, likelihood_loss, motion_size, picture_loss, state_variance
from .material import Material, Shown
from .perceptual import Lpips
from .scene import Scene
from .seal import LipSeal
from .splats import Splats
from .start import begin, outside_hair

AGREE, FUSE, BODY = "agree", "fuse", "body"
AUDIO_GATE = 8.0
"""What the first weights of both layers of the audio's attention are multiplied with: position features are small."""
AU_GATE = 8.0
"""The same of the second layer of the action units' attention: about 1.5 at the start. At .2 some forty steps shut an action unit off for good."""
EMOTION_QUERY, EMOTION_PLANES = 4.0, 3.0
"""What the emotion view's first weights are multiplied with: prototypes then differ in its inputs by about as much as sounds do in theirs."""


class Trainer:
    """All that training changes. `step_once` until `done`; `state` and `restore` carry it over a stop, to the last bit.

    Args:
        lpips: the perceptual distance, where its weights are given.
    """

    def __init__(self, material: Material, config: TrainConfig, lpips: Lpips | None = None) -> None:
        self.material, self.config, self.lpips = material, config, lpips
        self.generator = torch.Generator().manual_seed(config.seed)
        self.scene = Scene(material, {}, {})
        self.mouthed = material.with_mouth(material.train)
        self.blinking = material.with_closed_eyes(material.train)
        self.meeting = material.with_meeting_lips(material.train) if material.emotions() else []
        self.seal = LipSeal(self.scene) if self.meeting and config.lip_seal and "emotion" not in config.without else None
        self.bodied = material.with_body(material.train) if config.body.steps else []
        head = (("mouth",) if self.mouthed else ()) + ("face",) + ((AGREE,) if config.agree_steps else ())
        self.parts: tuple[str, ...] = head + (FUSE,) + ((BODY,) if self.bodied else ())
        self.part, self.step = 0, 0
        self.starts: dict[str, str] = {}
        self.networks: torch.optim.Optimizer | None = None
        self.densifier: Densifier | None = None
        self.agreement: Agreement | None = None
        self.background = torch.tensor(config.background, device=material.device)
        self._begin()

    @property
    def done(self) -> bool:
        """True when all parts are trained."""
        return self.part == len(self.parts)

    @property
    def name(self) -> str:
        """The part that trains."""
        return self.parts[min(self.part, len(self.parts) - 1)]

    @property
    def plan(self) -> BranchPlan:
        """The plan of the branch that trains."""
        return getattr(self.config, self.name)

    @property
    def steps(self) -> int:
        """Steps of the part that trains."""
        return self.steps_of(self.name)

    def steps_of(self, part: str) -> int:
        """Steps of a part."""
        own = {AGREE: self.config.agree_steps, FUSE: self.config.fuse_steps}
        return own[part] if part in own else getattr(self.config, part).steps

    @property
    def phase(self) -> str:
        """`static`, `single` (one random member), `ensemble` (all), `agree`, `fuse` or `body`."""
        if self.name in (AGREE, FUSE, BODY):
            return self.name
        return "static" if self.step < self.plan.static_until else "single" if self.step < self.plan.ensemble_from else "ensemble"

    @property
    def rests(self) -> bool:
        """True while the networks of the face learn alone, see `TrainConfig.rest`."""
        static = self.plan.static_until
        return self.without_surface and static <= self.step < static + self.config.rest * (self.plan.steps - static)

    @property
    def without_surface(self) -> bool:
        """True for a face that did not begin on a surface: its motion needs help to begin, see `TrainConfig.rest` and `details`."""
        return self.name == "face" and self.starts["face"] != "depth"

    @property
    def degree(self) -> int:
        """SH degree in use."""
        return self.config.sh_degree if self.name in (AGREE, FUSE) else min(self.config.sh_degree, self.step // self.config.sh_every)

    def step_once(self) -> dict[str, float]:
        """One picture. Returns the losses (before their weights) and what a refinement did."""
        if self.name == AGREE:
            found = {name: float(value) for name, value in self.agreement.step(self.step / self.steps, self.generator).items()}
        else:
            found = self._fuse() if self.name == FUSE else self._branch(self.name)
        self.step += 1
        if self.step >= self.steps:
            self.part, self.step = self.part + 1, 0
            self._begin()
        return found

    def _begin(self) -> None:
        """Set up the part that trains now."""
        for splats in self.scene.splats.values():
            splats.freeze()
        if self.done:
            return
        config, name = self.config, self.name
        if name in (AGREE, FUSE, BODY):
            for net in self.scene.nets.values():
                net.requires_grad_(False)
            self.networks = self.densifier = None
            self.agreement = Agreement(self.scene, config) if name == AGREE else None
        if name == AGREE:
            return
        if name == FUSE:
            self.scene.splats["face"].train(self._rates(("sh", "sh_rest", "opacities")))
            if "mouth" in self.scene.splats:
                self.scene.splats["mouth"].train(self._rates(("sh", "sh_rest")))
            return
        random = np.random.default_rng([config.seed, self.part])
        splats, self.starts[name] = begin(name, self.material, config, random)
        if name == BODY:
            self._train_splats(name, splats)
            return
        torch.manual_seed(config.seed + self.part)
        self._install(name, splats, BranchNetwork(name, sizes(config), config.logvar_bound))
        with torch.no_grad():
            for head in self.scene.nets[name].heads.values():  # motion begins at none, where the static phase ended
                head[1].weight.zero_()
                head[1].bias.zero_()
            # torch's first weights shrink the sound to a thousandth on its way, and it would never be heard beside the other views.
            for layer in (*self.scene.nets[name].audio.conv, *self.scene.nets[name].audio.fc):
                nn.init.kaiming_normal_(layer.weight, a=LEAK)
            if name == "face":
                for layer in self.scene.nets[name].channel:
                    layer.weight.mul_(AUDIO_GATE)
                # The action units' attention ends in a ReLU without bias: where it starts below 0 it never learns, so start above; and so far
                # above that an action unit is not shut off in the first steps, before anything has learned what to do with it.
                for layer in self.scene.nets[name].au.attention:
                    layer.weight.abs_()
                self.scene.nets[name].au.attention[1].weight.mul_(AU_GATE)
                # Three planes multiplied and an even attention make emotion a thousandth of what the other views bring: so loud it is heard.
                emotion = self.scene.nets[name].emotion
                emotion.query.weight.mul_(EMOTION_QUERY)
                for plane in emotion.field.parameters():
                    plane.mul_(EMOTION_PLANES)

    def _install(self, name: str, splats: Splats, net: BranchNetwork) -> None:
        """Make a branch the one that trains."""
        for other in self.scene.nets.values():
            other.requires_grad_(False)
        self._train_splats(name, splats)
        self.scene.nets[name] = net.to(self.material.device).requires_grad_(True)
        self.networks = optimiser(net, self.config)

    def _train_splats(self, name: str, splats: Splats) -> None:
        self.scene.splats[name] = splats
        splats.train(self._rates())
        self.densifier = Densifier(len(splats), self.material.device)

    def _rates(self, names: tuple[str, ...] | None = None) -> dict[str, float]:
        c = self.config
        rates = {
            "means": c.means_rate, "quats": c.quats_rate, "scales": c.scales_rate, "opacities": c.opacities_rate, "sh": c.sh_rate,
            "sh_rest": c.sh_rest_rate,
        }  # fmt: skip
        return {name: rate for name, rate in rates.items() if names is None or name in names}

    def _branch(self, branch: str) -> dict[str, float]:
        config, scene, splats, phase = self.config, self.scene, self.scene.splats[branch], self.phase
        frame = self._drawn(self._teaching(branch))
        views = None if branch == BODY else self._views(frame)
        shown = self.material.shown(frame)
        net, out = scene.nets.get(branch), None
        if branch == "face" and config.still_hair and self.step == self.plan.static_until:
            splats.moving = outside_hair(splats, self.material)
        if net is not None and phase != "static":
            out = scene.motion(branch, frame, net.random_members(self.generator) if phase == "single" else None, views)
        features, attends = self._features(branch, out)
        behind = self._behind()
        drawn = scene.draw_branch(branch, frame, out, self.degree, behind, features)
        drawn.means2d.retain_grad()
        keep = {"mouth": shown.mouth, BODY: shown.body}.get(branch, (shown.face + shown.hair).clamp(max=1))
        care = 1 - {"mouth": shown.hidden, BODY: shown.head}.get(branch, torch.zeros_like(keep))
        truth = torch.lerp(behind.expand_as(shown.truth), shown.truth, keep[..., None])
        found = torch.lerp(behind.expand_as(shown.truth), drawn.colors[0], care[..., None])
        parts = {"picture": picture_loss(found, truth, config.dssim), "alpha": alpha_loss(drawn.alphas[0] * care, keep)}
        loss = parts["picture"] + config.alpha * parts["alpha"]
        if branch == "mouth" and config.lining:
            parts["lining"] = ((1 - drawn.alphas[0]) * shown.ring).mean()
            loss = loss + config.lining * parts["lining"]
        if weight := self._care():
            parts["details"] = details_loss(found, truth, torch.maximum(shown.lips, shown.eyes))
            loss = loss + weight * parts["details"]
        if out is not None:
            parts["motion"] = motion_size(out)
            loss = loss + config.motion * parts["motion"]
        if branch == "face" and out is not None and self.seal is not None:
            self.seal.follow(self.step)
            members = net.random_members(self.generator) if phase == "single" else None
            parts["seal"] = self.seal.loss(self._drawn(self.meeting), self._drawn(self.material.train), members)
            loss = loss + config.lip_seal * parts["seal"]
        if attends:
            parts["attention"] = attention_loss(drawn.features[0], shown.hair, shown.lips)
            loss = loss + config.attention * parts["attention"]
        if out is not None and config.likelihood:
            parts["likelihood"] = likelihood_loss(
                found, truth, drawn.features[0, ..., -1] * care, config.likelihood_unit, config.likelihood_floor
            )  # fmt: skip
            loss = loss + config.likelihood * parts["likelihood"]
        if self.lpips is not None and branch == "face" and self.step >= 0.9 * self.steps:
            parts["lpips"], near = self.lpips(found, truth), self.lpips(*(_inside(x, shown.lips) for x in (found, truth)))
            loss = loss + config.lpips * parts["lpips"] + config.lpips_lips * near
        share = self.step / self.steps
        splats.set_rate("means", config.means_rate * (config.means_rate_end / config.means_rate) ** share)
        splats.optimiser.zero_grad(set_to_none=True)
        if self.networks is not None:
            for group in self.networks.param_groups:
                group["lr"] = group["peak"] * config.networks_end**share
            self.networks.zero_grad(set_to_none=True)
        loss.backward()
        self.densifier.observe(drawn)
        if not self.rests:
            splats.optimiser.step()
        if out is not None:
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            self.networks.step()
        return {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in parts.items()} | self._refine(splats)

    def _teaching(self, branch: str) -> list[Frame]:
        """The pictures of which the next is drawn: all that show the branch, and for a face that moves more often those with what is rare."""
        if branch != "face":
            return {"mouth": self.mouthed, BODY: self.bodied}[branch]
        for frames, share in ((self.blinking, self.config.blinks), (self.meeting, self.config.meetings)):
            if self.phase != "static" and frames and float(torch.rand((), generator=self.generator)) < share:
                return frames
        return self.material.train

    def _care(self) -> float:
        """What the boxes of lips and eyes count for beside the whole picture."""
        if self.without_surface:
            return self.config.details
        return self.config.details_on_depth if self.name == "face" and self.phase != "static" else 0.0

    def _views(self, frame: Frame) -> dict[str, Tensor]:
        """What the networks get for a training picture: its own views, in some pictures with another moment's manner of speaking."""
        views, other = dict(self.material.views(frame)), self._drawn(self.material.train)
        if float(torch.rand((), generator=self.generator)) < self.config.swapped:
            views["style"] = self.material.views(other)["style"]
        return views

    def _behind(self) -> Tensor:
        """The even colour [3] behind a training picture; always another one behind the body, whose soft edges else learn what is green's opposite."""
        share, *color = torch.rand(4, generator=self.generator).tolist()
        return self.background if self.name != BODY and share >= self.config.recoloured else self.background.new_tensor(color)

    def _drawn(self, frames: list[Frame]) -> Frame:
        return frames[int(torch.randint(len(frames), (), generator=self.generator))]

    def _features(self, branch: str, out: BranchOutput | None) -> tuple[Tensor | None, bool]:
        """What is blended beside the colours: attention to audio and action units [N,2], state variance [N,1]; whether attention is in it."""
        if out is None:
            return None, False
        plan, config = self.plan, self.config
        begins = plan.static_until + config.attention_from * (plan.steps - plan.static_until)
        attends = branch == "face" and config.attention > 0 and out.audio_gate is not None and self.step >= begins
        parts = [out.audio_gate.abs().mean(1), out.au_gate.mean(1)] if attends else []
        if self.config.likelihood:
            parts.append(state_variance(branch, out))
        return (self.scene.splats[branch].spread(torch.stack(parts, 1)) if parts else None), attends

    def _refine(self, splats: Splats) -> dict[str, float]:
        """After a step: grow, prune, reset, when it is time."""
        config, step = self.config, self.step
        if config.reset_every and step and step % config.reset_every == 0 and step < self.steps - config.grow_before_end:
            Densifier.reset_opacities(splats, 2 * config.prune_opacity)
        if step <= config.grow_from or step % config.grow_every or step >= self.steps - min(config.grow_before_end, self.steps // 2):
            return {}
        was_reset = 0 < config.reset_every < step
        rules = Rules(
            config.grow_gradient, config.grow_scale * config.extent, config.prune_opacity,
            config.prune_scale * config.extent if was_reset else math.inf, self.plan.most,
        )  # fmt: skip
        counts = self.densifier.refine(splats, rules, self.generator)
        if self.seal is not None:
            self.seal.stale = True  # its splats have other numbers now
        return {"cloned": counts.cloned, "split": counts.split, "pruned": counts.pruned}

    def _fuse(self) -> dict[str, float]:
        config, scene = self.config, self.scene
        frame = self._drawn(self.material.train)
        shown: Shown = self.material.shown(frame)
        with torch.no_grad():
            outs = {branch: scene.motion(branch, frame) for branch in scene.branches}
        found = scene.draw_head(frame, outs, config.sh_degree, shown.behind).colors[0]
        parts = {"picture": picture_loss(found, shown.truth, config.dssim)}
        loss = parts["picture"]
        if self.lpips is not None and self.step >= self.steps / 2:
            parts["lpips"] = self.lpips(found, shown.truth)
            loss = loss + config.lpips_fuse * parts["lpips"]
        for splats in scene.splats.values():
            splats.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        for splats in scene.splats.values():
            splats.optimiser.step()
        return {"loss": float(loss.detach())} | {name: float(value.detach()) for name, value in parts.items()}

    def state(self) -> dict[str, object]:
        """All of it, for a checkpoint: tensors, numbers, text."""
        return {
            "part": self.part, "step": self.step, "starts": self.starts, "generator": self.generator.get_state(),
            "splats": {branch: splats.state() for branch, splats in self.scene.splats.items()},
            "nets": {branch: net.state_dict() for branch, net in self.scene.nets.items()},
            "networks": self.networks.state_dict() if self.networks is not None else None,
            "seal": None if self.seal is None else self.seal.state(),
            "agreement": None if self.agreement is None else self.agreement.state(),
            "densifier": None if self.densifier is None else [self.densifier.sums, self.densifier.seen],
        }  # fmt: skip

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        self.part, self.step, self.starts = state["part"], state["step"], dict(state["starts"])
        self.generator.set_state(state["generator"].cpu())
        device = self.material.device
        self.scene.splats = {branch: Splats(stored["values"], stored["moving"]).to(device) for branch, stored in state["splats"].items()}
        self.scene.nets = {branch: BranchNetwork(branch, sizes(self.config), self.config.logvar_bound).to(device) for branch in state["nets"]}
        for branch, net in self.scene.nets.items():
            net.load_state_dict(state["nets"][branch])
        if self.seal is not None:
            self.seal.restore(state["seal"])
        if self.done:
            return
        if self.name in (AGREE, FUSE):
            self._begin()
            if self.agreement is not None:
                self.agreement.restore(state["agreement"])
        else:
            if self.name == BODY:
                self._train_splats(BODY, self.scene.splats[BODY])
            else:
                self._install(self.name, self.scene.splats[self.name], self.scene.nets[self.name])
                self.networks.load_state_dict(state["networks"])
            self.densifier.sums, self.densifier.seen = (value.to(device) for value in state["densifier"])
        for branch, stored in state["splats"].items():
            optimiser = self.scene.splats[branch].optimiser
            if optimiser is not None:
                optimiser.load_state_dict(stored["optimiser"])


def sizes(config: TrainConfig) -> NetworkSizes:
    """The networks' sizes."""
    return NetworkSizes(
        members=config.members, field=config.field, field_channels=config.field_channels, emotion_field=config.emotion_field,
        emotion_channels=config.emotion_channels, codebook=config.codebook,
    )  # fmt: skip


def optimiser(net: BranchNetwork, config: TrainConfig) -> torch.optim.AdamW:
    """AdamW with the paper's three rates: planes, networks, the audio's temporal attention."""
    groups: dict[float, list[nn.Parameter]] = {}
    for name, parameter in net.named_parameters():
        factor = config.audio_attention if name.startswith("audio.attention.") else 1.0
        rate = config.planes_rate if "field." in name else config.networks_rate * factor
        groups.setdefault(rate, []).append(parameter)
    return torch.optim.AdamW([{"params": group, "lr": rate, "peak": rate} for rate, group in groups.items()], weight_decay=0.0, eps=1e-15, fused=True)


def _inside(picture: Tensor, mask: Tensor) -> Tensor:
    """The part of a picture that a box-shaped mask [H,W] holds; all of it where the mask is empty."""
    rows, columns = mask.any(1).nonzero()[:, 0], mask.any(0).nonzero()[:, 0]
    if not len(rows):
        return picture
    return picture[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
