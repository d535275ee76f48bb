"""The rasteriser once more, plain: torch, float64, every Gaussian against every pixel, gradients by autograd. For tests and for reading."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from . import conventions as c
from .results import Layer, Rasterised


def rasterization(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int, *,
    sh: Tensor | None = None, features: Tensor | None = None, backgrounds: Tensor | None = None, branch: Tensor | None = None,
    composite: str = "sorted", near: float = c.NEAR, pixel_size: float = 0.0,
) -> Rasterised:  # fmt: skip
    """The same pictures and gradients as `engine.raster.rasterization`, arguments and result alike (all float64)."""
    ellipses = _project(means, quats, scales, opacities, viewmats, Ks, width, height, near, pixel_size)
    values = [ellipses.depths[..., None]]
    if sh is not None:
        values.append(colors_toward(means, sh, viewmats))
    if features is not None:
        values.append(features.double().expand(len(viewmats), *features.shape))

    def layer(members: Tensor) -> Layer:
        drawn = [_blend(ellipses, camera, members, torch.cat(values, 2)[camera], width, height) for camera in range(len(viewmats))]
        alphas, blended = (torch.stack(x) for x in zip(*drawn))
        rest = blended[..., 1:]
        colors, spread = (rest[..., :3], rest[..., 3:]) if sh is not None else (None, rest)
        return Layer(alphas, 1 - alphas, blended[..., 0], colors, None if features is None else spread)

    whole = _layers(branch, composite, means)
    picture = layer(whole[0]) if len(whole) == 1 else layer(whole[0]).over(layer(whole[1]))
    return picture.finish(None if backgrounds is None else backgrounds.double(), ellipses.means2d, ellipses.radii)


def doubtful(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int, *,
    branch: Tensor | None = None, composite: str = "sorted", near: float = c.NEAR, pixel_size: float = 0.0, tolerance: float = 2e-5,
) -> Tensor:  # fmt: skip
    """Pixels [C,H,W] where rounding may decide: some Gaussian's alpha, or the transmittance after it, lies within a share `tolerance` of
    the bound that it is held against (times 5 for the transmittance, which is a product)."""
    with torch.no_grad():
        ellipses = _project(means, quats, scales, opacities, viewmats, Ks, width, height, near, pixel_size)
        found = torch.zeros(len(viewmats), height, width, dtype=torch.bool)
        for camera in range(len(viewmats)):
            for members in _layers(branch, composite, means):
                for row in range(height):
                    raw, alpha, after = _row(ellipses, camera, _order(ellipses, camera, members), row, width)
                    near_bound = (raw / c.MIN_ALPHA - 1).abs() < tolerance
                    near_bound |= (raw / c.MAX_ALPHA - 1).abs() < tolerance
                    near_bound |= (alpha > 0) & ((after / c.MIN_TRANSMITTANCE - 1).abs() < 5 * tolerance)
                    found[camera, row] |= near_bound.any(0)
    return found


@dataclass
class _Ellipses:
    """means2d [C,N,2], covariances [C,N,2,2], depths [C,N], opacities [C,N], radii [C,N,2] (0: not drawn)."""

    means2d: Tensor
    covariances: Tensor
    depths: Tensor
    opacities: Tensor
    radii: Tensor


def rotation_matrices(quats: Tensor) -> Tensor:
    """[N,4] wxyz of any length -> [N,3,3]; a zero quaternion turns nothing."""
    still = (quats == 0).all(1, keepdim=True)
    quats = torch.where(still, quats.new_tensor([1.0, 0.0, 0.0, 0.0]), quats)
    w, x, y, z = (quats / quats.norm(dim=1, keepdim=True)).unbind(1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, 1) for row in rows], 1)


def _project(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int, near: float,
    pixel_size: float,
) -> _Ellipses:
    means, quats, scales, opacities, viewmats, Ks = (x.double() for x in (means, quats, scales, opacities, viewmats, Ks))
    whole = torch.isfinite(torch.cat([means, quats, scales, opacities[:, None]], 1)).all(1)
    # Rows that are not drawn take part with harmless numbers, so that no NaN comes back through them.
    means, quats, scales = (torch.where(whole[:, None], x, 1.0) for x in (means, quats, scales))
    camera = means @ viewmats[:, :3, :3].mT + viewmats[:, None, :3, 3]
    ahead = whole & (camera[..., 2] >= near) & (camera[..., 2] <= c.FAR)
    camera = torch.where(ahead[..., None], camera, 1.0)
    x, y, z = camera.unbind(-1)
    fx, fy, cx, cy = (Ks[:, i, j, None] for i, j in ((0, 0), (1, 1), (0, 2), (1, 2)))
    means2d = torch.stack([fx * x / z + cx, fy * y / z + cy], -1)

    # EWA: J W Sigma W^T J^T, blurred by EPS2D. The point of linearisation is kept near the picture: beyond, J grows without bound.
    margin_x, margin_y = c.FRUSTUM_MARGIN * 0.5 * width / fx, c.FRUSTUM_MARGIN * 0.5 * height / fy
    ray_x = (x / z).clamp(-cx / fx - margin_x, (width - cx) / fx + margin_x)
    ray_y = (y / z).clamp(-cy / fy - margin_y, (height - cy) / fy + margin_y)
    nothing = torch.zeros_like(z)
    jacobian = torch.stack(
        [torch.stack([fx / z, nothing, -fx * ray_x / z], -1), torch.stack([nothing, fy / z, -fy * ray_y / z], -1)], -2
    )
    covers = pixel_size * (fx * fy).sqrt() / z  # drawn pixels that one of the trained pictures covers
    if pixel_size:
        blur = c.EPS2D * pixel_size**2 * (1 - covers.clamp(min=1) ** -2)
        scales = (scales**2 + blur[..., None]).sqrt()[..., None, :]
    else:
        scales = scales[:, None]
    axes = rotation_matrices(quats) * scales
    half = jacobian @ viewmats[:, None, :3, :3] @ axes
    covariances = half @ half.mT + c.EPS2D * torch.eye(2, dtype=torch.float64)
    opacities = opacities.expand(z.shape)
    if pixel_size:
        more = c.EPS2D * (1 - covers.clamp(max=1) ** 2)[..., None, None] * torch.eye(2, dtype=torch.float64)
        opacities = opacities * (torch.linalg.det(covariances - more) / torch.linalg.det(covariances)).sqrt()

    with torch.no_grad():
        extend = torch.sqrt(2 * torch.log((opacities / c.MIN_ALPHA).clamp(min=1))).clamp(max=c.EXTEND)
        radii = torch.ceil(extend[..., None] * covariances.diagonal(dim1=-2, dim2=-1).sqrt())
        size = torch.tensor([width, height])
        inside = ((means2d + radii > 0) & (means2d - radii < size)).all(-1)
        drawn = ahead & inside & (opacities >= c.MIN_ALPHA)
        radii = torch.where(drawn[..., None], radii.clamp(max=2.0**30), 0.0).int()
    return _Ellipses(means2d, covariances, z, torch.where(whole, opacities, 0.0), radii)


def colors_toward(means: Tensor, sh: Tensor, viewmats: Tensor) -> Tensor:
    """sh [N,K,3] -> colours [C,N,3] toward each camera, 0 or more."""
    means, sh, viewmats = means.double(), sh.double(), viewmats.double()
    ray = means - torch.linalg.inv(viewmats)[:, None, :3, 3]
    ray = torch.where(torch.isfinite(ray), ray, 1.0)
    basis = sh_basis(ray / ray.norm(dim=-1, keepdim=True).clamp(min=1e-12), sh.shape[1])
    return (0.5 + torch.einsum("cnk,nkd->cnd", basis, sh)).clamp(min=0)


def sh_basis(directions: Tensor, terms: int) -> Tensor:
    """[...,3] unit -> [...,terms], with the signs and order of 3DGS (and of `engine.avatar.gaussians.sh_basis`)."""
    x, y, z = directions.unbind(-1)
    columns = [
        0.28209479177387814 + 0 * x, -0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x,
        1.0925484305920792 * x * y, -1.0925484305920792 * y * z, 0.31539156525252005 * (2 * z * z - x * x - y * y),
        -1.0925484305920792 * x * z, 0.5462742152960396 * (x * x - y * y),
        -0.5900435899266435 * y * (3 * x * x - y * y), 2.890611442640554 * x * y * z, -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
        0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y), -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
        1.445305721320277 * z * (x * x - y * y), -0.5900435899266435 * x * (x * x - 3 * y * y),
    ]  # fmt: skip
    return torch.stack(columns[:terms], -1)


def _layers(branch: Tensor | None, composite: str, means: Tensor) -> list[Tensor]:
    """The masks [N] of the layers, front first."""
    if composite == "layered":
        assert branch is not None
        return [branch == 0, branch != 0]
    return [torch.ones(len(means), dtype=torch.bool)]


def _order(ellipses: _Ellipses, camera: int, members: Tensor) -> Tensor:
    """Indices of what is drawn, front first."""
    chosen = torch.nonzero(members & (ellipses.radii[camera, :, 0] > 0))[:, 0]
    return chosen[torch.argsort(ellipses.depths[camera, chosen].detach().float(), stable=True)]


def _row(ellipses: _Ellipses, camera: int, order: Tensor, row: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    """One row of pixels: alpha before clamp and cut, alpha with them, and the transmittance after each Gaussian, all [M,W]."""
    (xx, xy), (_, yy) = (x.unbind(-1) for x in ellipses.covariances[camera, order].unbind(-2))
    dx = torch.arange(width) + 0.5 - ellipses.means2d[camera, order, :1]
    dy = row + 0.5 - ellipses.means2d[camera, order, 1:]
    determinant = (xx * yy - xy * xy)[:, None]
    sigma = (0.5 * (yy[:, None] * dx**2 + xx[:, None] * dy**2) - xy[:, None] * dx * dy) / determinant
    raw = ellipses.opacities[camera, order, None] * torch.exp(-sigma)
    alpha = torch.where(raw >= c.MIN_ALPHA, raw.clamp(max=c.MAX_ALPHA), 0.0)
    return raw, alpha, torch.cumprod(1 - alpha, 0)


def _blend(
    ellipses: _Ellipses, camera: int, members: Tensor, values: Tensor, width: int, height: int
) -> tuple[Tensor, Tensor]:
    """values [N,D] -> alphas [H,W], blended [H,W,D]."""
    order = _order(ellipses, camera, members)
    alphas, blended = [], []
    for row in range(height):
        _, alpha, after = _row(ellipses, camera, order, row, width)
        # Transmittance only falls: once it would be too low, it is for all that follow.
        alpha = torch.where(after > c.MIN_TRANSMITTANCE, alpha, 0.0)
        after = torch.cumprod(1 - alpha, 0)
        before = torch.cat([torch.ones(1, width, dtype=torch.float64), after])
        blended.append((alpha * before[:-1]).mT @ values[order])
        alphas.append(1 - before[-1])
    return torch.stack(alphas), torch.stack(blended)
