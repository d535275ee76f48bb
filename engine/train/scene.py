"""Drawing a head that is being trained: one branch over an even colour, or both over what lies behind."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from ..dataset import Frame
from ..deform.networks import BranchNetwork, BranchOutput
from ..raster import Rasterised, rasterization
from .material import Material
from .splats import Splats


@dataclass(eq=False)
class Scene:
    """The branches as far as they are: `splats` and `nets` by name; `body`, neck and shoulders, has splats alone."""

    material: Material
    splats: dict[str, Splats]
    nets: dict[str, BranchNetwork]

    @property
    def branches(self) -> list[str]:
        """Those that are there, face first."""
        return [branch for branch in ("face", "mouth") if branch in self.splats]

    def motion(
        self, branch: str, frame: Frame, members: dict[str, int] | None = None, views: Mapping[str, Tensor] | None = None
    ) -> BranchOutput:
        """What the networks say for one picture and the Gaussians that move.

        The places at rest are constants to them: positions learn from the picture alone.

        Args:
            members: one of each view; None: all.
            views: what they get; None: the picture's own.
        """
        splats = self.splats[branch]
        rows = None if splats.moving.all() else splats.moving.nonzero()[:, 0]
        views = self.material.views(frame) if views is None else views
        return self.nets[branch](splats.parameters["means"].detach(), views, subset=rows, members=members)

    def draw_branch(
        self, branch: str, frame: Frame, out: BranchOutput | None, degree: int, background: Tensor, features: Tensor | None = None
    ) -> Rasterised:
        """One branch over an even colour [3]; `out` None stands still."""
        splats, (width, height) = self.splats[branch], self.material.size
        return rasterization(
            *splats.posed(*_deltas(splats, out)), self.material.camera(frame), self.material.K, width, height,
            sh=splats.sh(degree), features=features, backgrounds=background,
        )  # fmt: skip

    def draw_head(
        self, frame: Frame, outs: Mapping[str, BranchOutput | None], degree: int, behind: Tensor, features: Tensor | None = None, body: bool = False
    ) -> Rasterised:
        """Face over mouth over `behind` [H,W,3] (method, "composite"), with `body` among the face, where there is one; `colors` is complete.

        Args:
            features: [N,C] of all branches' Gaussians, to be blended beside the colours.
        """
        branches, (width, height) = self.branches + (["body"] if body and "body" in self.splats else []), self.material.size
        posed = [self.splats[branch].posed(*_deltas(self.splats[branch], outs.get(branch))) for branch in branches]
        joined = [torch.cat(parts) for parts in zip(*posed)]
        counts = [len(self.splats[branch]) for branch in branches]
        number = torch.repeat_interleave(torch.tensor([int(b == "mouth") for b in branches]), torch.tensor(counts)).to(joined[0].device)
        drawn = rasterization(
            *joined, self.material.camera(frame), self.material.K, width, height, sh=torch.cat([self.splats[b].sh(degree) for b in branches]),
            features=features, branch=number, composite="layered",
        )  # fmt: skip
        drawn.colors = drawn.colors + (1 - drawn.alphas[..., None]) * behind
        return drawn

    @torch.no_grad()
    def picture(self, frame: Frame, degree: int, still: tuple[str, ...] = ()) -> Tensor:
        """The head in one picture [H,W,3] in 0..1, by all members; branches in `still` do not move."""
        outs = {branch: None if branch in still else self.motion(branch, frame) for branch in self.branches}
        return self.draw_head(frame, outs, degree, self.material.shown(frame).behind).colors[0].clamp(0, 1)

    @torch.no_grad()
    def quality(self, frames: list[Frame], degree: int, still: tuple[str, ...] = ()) -> dict[str, float]:
        """Mean PSNR (dB) over frames, of the whole picture and of the head's pixels, on raw pictures; SSIM of the whole."""
        from .losses import ssim

        whole, head, alike = [], [], []
        for frame in frames:
            shown = self.material.shown(frame)
            found = self.picture(frame, degree, still)
            error = (found - shown.truth).square().mean(-1)
            region = shown.head
            whole.append(_decibels(error.mean()))
            head.append(_decibels((error * region).sum() / region.sum().clamp(min=1)))
            alike.append(float(ssim(found, shown.truth)))
        mean = lambda values: sum(values) / max(len(values), 1)  # noqa: E731
        return {"psnr": mean(whole), "psnr_head": mean(head), "ssim": mean(alike)}


def _deltas(splats: Splats, out: BranchOutput | None) -> list[Tensor | None]:
    if out is None:
        return [None, None, None]
    return [None if part is None else splats.spread(part[0]) for part in (out.d_means, out.d_quats, out.d_scales)]


def _decibels(square: Tensor) -> float:
    return float(-10 * torch.log10(square.clamp(min=1e-10)))
