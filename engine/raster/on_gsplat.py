"""The CUDA back end: gsplat's kernels, given the same conventions as the CPU's.

Colours come from gsplat's spherical harmonics (the basis and signs are those of `sh_basis`); colours, depth and features are blended as
channels of one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from ..errors import UserError
from . import conventions as c
from .results import Layer


def _library() -> Any:
    remedy = "install gsplat 1.5.3 beside a CUDA build of torch, or use backend 'cpu'"
    try:
        import gsplat
        from gsplat.cuda._backend import _C as kernels  # compiles them where they are not yet
    except ImportError as error:
        raise UserError(f"gsplat cannot be imported ({error})", remedy) from error
    if kernels is None:
        raise UserError("gsplat has no compiled kernels, and there is no CUDA toolkit (nvcc) to compile them", remedy)
    return gsplat


class GsplatScene:
    """Gaussians projected for C cameras (arguments as of `rasterization`); `layer` blends some or all of them."""

    def __init__(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int,
        sh: Tensor | None, features: Tensor | None, near: float, absgrad: bool,
    ) -> None:  # fmt: skip
        self.gsplat = _library()
        self.size, self.absgrad, cameras = (width, height), absgrad, len(viewmats)
        means, quats, scales, opacities = (x.float() for x in (means, quats, scales, opacities))
        # gsplat draws nothing for a zero quaternion, and what it does with NaN is chance.
        whole = torch.isfinite(torch.cat([means, quats, scales, opacities[:, None]], 1)).all(1)
        opacities = torch.where(whole, opacities, 0.0)
        quats = torch.where((quats == 0).all(1, keepdim=True), quats.new_tensor([1.0, 0.0, 0.0, 0.0]), quats)
        viewmats, Ks = viewmats.float().contiguous(), Ks.float().contiguous()
        self.radii, self.means2d, self.depths, self.conics, _ = self.gsplat.fully_fused_projection(
            means, None, quats, scales, viewmats, Ks, width, height, eps2d=c.EPS2D, near_plane=near, far_plane=c.FAR, radius_clip=0.0,
            packed=False, calc_compensations=False, camera_model="pinhole", opacities=opacities,
        )  # fmt: skip
        drawn = (self.radii > 0).all(-1)
        self.opacities = opacities.expand(cameras, -1)
        self.channels = [torch.where(drawn, self.depths, 0.0)[..., None]]
        if sh is not None:
            directions = means - torch.linalg.inv(viewmats)[:, None, :3, 3]
            coefficients = sh.float().expand(cameras, *sh.shape)
            colors = self.gsplat.spherical_harmonics(round(sh.shape[1] ** 0.5) - 1, directions, coefficients, masks=drawn)
            self.channels.append(torch.where(drawn[..., None], colors + 0.5, 0.0).clamp(min=0.0))
        if features is not None:
            self.channels.append(features.float().expand(cameras, *features.shape))
        self.colored = sh is not None

    def layer(self, members: Tensor | None) -> Layer:
        """Blend the Gaussians of a mask [N], or all."""
        width, height = self.size
        radii = self.radii if members is None else self.radii * members[:, None]
        if members is not None and self.absgrad:  # gsplat keeps that of the last call only
            raise UserError("gsplat sums absolute gradients for one layer only", remedy="use composite 'sorted', or no absgrad")
        across, down = -(-width // c.TILE), -(-height // c.TILE)
        _, crossings, ids = self.gsplat.isect_tiles(self.means2d.detach(), radii, self.depths.detach(), c.TILE, across, down)
        offsets = self.gsplat.isect_offset_encode(crossings, len(radii), across, down)
        blended, alphas = self.gsplat.rasterize_to_pixels(
            self.means2d, self.conics, torch.cat(self.channels, -1), self.opacities, width, height, c.TILE, offsets, ids,
            absgrad=self.absgrad,
        )  # fmt: skip
        rest = blended[..., 1:]
        colors, features = (rest[..., :3], rest[..., 3:]) if self.colored else (None, rest)
        return Layer(alphas[..., 0], 1 - alphas[..., 0], blended[..., 0], colors, features if features.shape[-1] else None)
