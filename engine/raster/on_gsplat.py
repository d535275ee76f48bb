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
        sh: Tensor | None, features: Tensor | None, near: float, pixel_size: float, absgrad: bool,
    ) -> None:  # fmt: skip
        self.gsplat = _library()
        self.size, self.absgrad, cameras = (width, height), absgrad, len(viewmats)
        means, quats, scales, opacities = (x.float() for x in (means, quats, scales, opacities))
        # gsplat draws nothing for a zero quaternion, and what it does with NaN is chance.
        whole = torch.isfinite(torch.cat([means, quats, scales, opacities[:, None]], 1)).all(1)
        opacities = torch.where(whole, opacities, 0.0)
        quats = torch.where((quats == 0).all(1, keepdim=True), quats.new_tensor([1.0, 0.0, 0.0, 0.0]), quats)
        viewmats, Ks = viewmats.float().contiguous(), Ks.float().contiguous()

        def projected(scales: Tensor, some: slice) -> tuple[Tensor, ...]:
            return self.gsplat.fully_fused_projection(
                means, None, quats, scales, viewmats[some], Ks[some], width, height, eps2d=c.EPS2D, near_plane=near, far_plane=c.FAR,
                radius_clip=0.0, packed=False, calc_compensations=False, camera_model="pinhole", opacities=opacities,
            )[:4]  # fmt: skip

        if pixel_size and cameras:
            covers = _covers(means, viewmats, Ks, pixel_size)
            blur = c.EPS2D * pixel_size**2 * (1 - covers.clamp(min=1) ** -2)
            each = [projected((scales**2 + blur[i, :, None]).sqrt(), slice(i, i + 1)) for i in range(cameras)]
            self.radii, self.means2d, self.depths, self.conics = (torch.cat(parts) for parts in zip(*each))
            self.opacities = opacities * _compensation(self.conics, covers)
        else:
            self.radii, self.means2d, self.depths, self.conics = projected(scales, slice(None))
            self.opacities = opacities.expand(cameras, -1)
        drawn = (self.radii > 0).all(-1)
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


def _covers(means: Tensor, viewmats: Tensor, Ks: Tensor, pixel_size: float) -> Tensor:
    """[C,N]: drawn pixels that one of the trained pictures covers (conventions.EPS2D); 1 behind the camera."""
    z = means @ viewmats[:, 2, :3, None] + viewmats[:, 2, 3, None, None]
    z = z[..., 0]
    return torch.where(z > 0, pixel_size * (Ks[:, 0, 0] * Ks[:, 1, 1]).sqrt()[:, None] / z, 1.0)


def _compensation(conics: Tensor, covers: Tensor) -> Tensor:
    """[C,N] in 0..1 from conics [C,N,3] of blurred covariances: what an opacity becomes where the pixel's blur is wider than the trained one."""
    xx, xy, yy = conics.double().unbind(-1)  # of the inverse: the ratio of determinants is taken there
    less = c.EPS2D * (1 - covers.double().clamp(max=1) ** 2)
    return ((1 - less * xx) * (1 - less * yy) - (less * xy) ** 2).clamp(min=0).sqrt().float()
