"""Training one branch of UA-3DTalk's networks on the known motion of bound splats, in the method's two stages (sec 2.4)."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from engine.deform.networks import BranchNetwork, BranchOutput
from engine.deform.parameters import NetworkSizes

from .face_model import FloatArray
from .motion import WIDTHS
from .train_data import Batch, Director

LOGVAR_BOUND = 7.0
CM = 100.0
BOX_SHARE = 0.01  # of all motion may lie outside the plane fields' box on each side: cells belong where things move


@dataclass(frozen=True)
class Stage:
    """steps of `frames` x `splats` rows; `ensemble`: all members with the exact fusion, else one random member a view."""

    steps: int
    frames: int
    splats: int
    rate: float
    plane_rate: float
    ensemble: bool


@dataclass(frozen=True)
class Plan:
    """Sizes and stages of a branch."""

    sizes: NetworkSizes
    stages: tuple[Stage, ...]
    weights: dict[str, float] = field(default_factory=lambda: {"means": 1.0, "quats": 8.0, "scales": 2.0})
    gap_weight: float = 1.0


@dataclass
class Target:
    """Moving splats: means [M,3] at rest, motion basis [C,M,10], how often each is drawn [M], the box [2,3] of nearly all motion,
    pairs: (upper ids, lower ids) of openings (lips, lids) that must be right."""

    means: Tensor
    basis: Tensor
    odds: np.ndarray
    box: Tensor
    pairs: list[tuple[Tensor, Tensor]]

    @classmethod
    def of(
        cls, means: FloatArray, basis: FloatArray, reach: FloatArray, fine: np.ndarray, pairs: list[tuple[np.ndarray, np.ndarray]]
    ) -> Target:
        """reach [M] m: how far each splat moves at most; fine [M] bool: those that must be exact (lids, lips), drawn more often."""
        odds = 0.15 + np.minimum(reach / 0.006, 1.0) + 1.2 * fine
        ids = [(torch.from_numpy(np.asarray(a)), torch.from_numpy(np.asarray(b))) for a, b in pairs]
        edges = np.empty((2, 3), np.float32)
        for axis in range(3):
            order = np.argsort(means[:, axis])
            share = np.cumsum(reach[order]) / reach.sum()
            edges[:, axis] = np.interp([BOX_SHARE, 1 - BOX_SHARE], share, means[order, axis])
        return cls(torch.from_numpy(means), torch.from_numpy(basis), odds / odds.sum(), torch.from_numpy(edges), ids)

    @property
    def kept(self) -> Tensor:
        """Ids that every step has: those of the pairs."""
        return torch.cat([torch.cat(pair) for pair in self.pairs]) if self.pairs else torch.zeros(0, dtype=torch.int64)


class BranchTrainer:
    """A branch in training; `run` goes on where a checkpoint stopped."""

    def __init__(self, branch: str, plan: Plan, target: Target, director: Director, checkpoint: Path, seed: int = 0) -> None:
        torch.manual_seed(seed)
        self.branch, self.plan, self.target, self.director, self.checkpoint = branch, plan, target, director, checkpoint
        self.net = BranchNetwork(branch, plan.sizes, LOGVAR_BOUND)
        box = target.box
        self.net.field.aabb.copy_(box)
        if branch == "face":
            self.net.emotion.field.aabb.copy_(box)
            # The action units' attention ends in a ReLU without bias: where it starts below 0 it never learns, so start above.
            with torch.no_grad():
                for layer in self.net.au.attention:
                    layer.weight.abs_()
        self._random = np.random.default_rng(seed)
        self.stage, self.step = 0, 0
        self._optimiser: torch.optim.Optimizer | None = None

    def run(self, report: Callable[[str], None], every: int = 100, save_every: float = 60.0) -> BranchNetwork:
        """Train through all stages."""
        self._resume(report)
        while self.stage < len(self.plan.stages):
            stage = self.plan.stages[self.stage]
            optimiser = self._optimiser or self._new_optimiser(stage)
            self._optimiser = optimiser
            began, saved, losses = time.time(), time.time(), []
            while self.step < stage.steps:
                share = 0.5 * (1 + math.cos(math.pi * self.step / stage.steps)) * min(1.0, (self.step + 1) / 60)
                for group in optimiser.param_groups:
                    group["lr"] = group["peak"] * max(share, 0.01)
                losses.append(self._one(stage, optimiser))
                self.step += 1
                if self.step % every == 0 or self.step == stage.steps:
                    report(
                        f"{self.branch} stage {self.stage + 1} step {self.step}/{stage.steps} error "
                        f"{10 * np.mean(losses[-every:], 0)[0] ** 0.5:.2f} mm rms, loss {np.mean(losses[-every:], 0)[1]:.4f}, "
                        f"{time.time() - began:.0f} s"
                    )
                if time.time() - saved > save_every:
                    self._save()
                    saved = time.time()
            self.stage, self.step, self._optimiser = self.stage + 1, 0, None
            self._save()
        return self.net

    def _new_optimiser(self, stage: Stage) -> torch.optim.Optimizer:
        planes = [p for name, p in self.net.named_parameters() if "field." in name]
        others = [p for name, p in self.net.named_parameters() if "field." not in name]
        return torch.optim.AdamW(
            [
                {"params": planes, "lr": 0.0, "peak": stage.plane_rate, "weight_decay": 0.0},
                {"params": others, "lr": 0.0, "peak": stage.rate, "weight_decay": 1e-4},
            ]
        )

    def _one(self, stage: Stage, optimiser: torch.optim.Optimizer) -> tuple[float, float]:
        batch = self.director.draw(stage.frames)
        drawn = torch.from_numpy(self._random.choice(len(self.target.odds), stage.splats, p=self.target.odds))
        subset = torch.cat([self.target.kept, drawn])
        members = None if stage.ensemble else self.net.random_members()
        out = self.net(self.target.means, batch.views, subset=subset, members=members)
        square, loss = self.losses(out, batch, subset)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        optimiser.step()
        return float(square), float(loss.detach())

    def losses(self, out: BranchOutput, batch: Batch, subset: Tensor) -> tuple[Tensor, Tensor]:
        """Mean squared distance in cm2, and the whole loss."""
        basis = self.target.basis[:, subset]
        wanted = (batch.coefficients @ basis.flatten(1)).unflatten(1, basis.shape[1:])
        error = CM * (out.d_means - wanted[..., WIDTHS["means"]])
        square = error.square().sum(-1)
        loss = self.plan.weights["means"] * square.mean()
        for name in ("quats", "scales"):
            found = getattr(out, f"d_{name}")
            if found is not None:
                loss = loss + self.plan.weights[name] * (found - wanted[..., WIDTHS[name]]).square().sum(-1).mean()
        start = 0
        for upper, lower in self.target.pairs:
            middle, end = start + len(upper), start + len(upper) + len(lower)
            gap = error[:, start:middle].mean(1) - error[:, middle:end].mean(1)
            loss = loss + self.plan.gap_weight * gap.square().sum(-1).mean()
            start = end
        return square.mean().detach(), loss

    def _save(self) -> None:
        state = {
            "net": self.net.state_dict(), "stage": self.stage, "step": self.step,
            "optimiser": self._optimiser.state_dict() if self._optimiser else None,
        }  # fmt: skip
        part = self.checkpoint.with_suffix(".part")
        self.checkpoint.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, part)
        os.replace(part, self.checkpoint)

    def _resume(self, report: Callable[[str], None]) -> None:
        if not self.checkpoint.exists():
            return
        state = torch.load(self.checkpoint, weights_only=True)
        self.net.load_state_dict(state["net"])
        self.stage, self.step = state["stage"], state["step"]
        if state["optimiser"] and self.stage < len(self.plan.stages):
            self._optimiser = self._new_optimiser(self.plan.stages[self.stage])
            self._optimiser.load_state_dict(state["optimiser"])
        report(f"{self.branch}: goes on at stage {self.stage + 1} step {self.step}")
