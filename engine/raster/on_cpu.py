"""The CPU back end: projection, harmonics and blending as nodes of torch's graph around the numba kernels."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

from ..errors import UserError
from . import blend, harmonics
from .projection import ACROSS, SLOPE, Projected, project, project_backward
from .results import Layer
from .splatting import Threads
from .tiles import sort_into_tiles


class CpuScene:
    """Gaussians projected for C cameras (arguments as of `rasterization`); `layer` blends some or all of them."""

    def __init__(
        self, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int,
        sh: Tensor | None, features: Tensor | None, near: float, pixel_size: float, absgrad: bool, threads: int | None,
    ) -> None:  # fmt: skip
        if len(opacities) and opacities.detach().max() > 1:
            raise UserError("an opacity is greater than 1", remedy="give activated opacities, 0..1")
        self.size, self.threads, self.absgrad = (width, height), threads, absgrad
        self.opacities, self.features = opacities.float(), None if features is None else features.float()
        means, cameras = means.float(), (_array(viewmats), _array(Ks))
        self.means2d, self.shapes, self.depths, self.radii, self.projected = _Project.apply(
            means, quats.float(), scales.float(), self.opacities, cameras, self.size, near, pixel_size, threads
        )
        self.colors = None if sh is None else _Harmonics.apply(means, sh.float(), cameras[0], self.projected, threads)

    def layer(self, members: Tensor | None) -> Layer:
        """Blend the Gaussians of a mask [N], or all."""
        chosen = None if members is None else members.numpy()
        alphas, left, depth, colors, features = _Blend.apply(
            self.means2d, self.shapes, self.opacities, self.depths, self.colors, self.features,
            self.projected, chosen, self.size, self.absgrad, self.threads,
        )  # fmt: skip
        return Layer(alphas, left, depth, *(None if x is None else x.permute(0, 2, 3, 1) for x in (colors, features)))


def _array(tensor: Tensor) -> NDArray[np.float32]:
    return np.ascontiguousarray(tensor.detach().numpy(), np.float32)


class _Project(Function):
    """means, quats, scales -> means2d [C,N,2], shapes [C,N,3] (across, slope, down), depths [C,N]; radii; `Projected` of each camera."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, cameras: tuple[NDArray, NDArray],
        size: tuple[int, int], near: float, pixel_size: float, threads: int | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        arrays = [_array(x) for x in (means, quats, scales, opacities)]
        with Threads(threads):
            projected = [project(*arrays, viewmat, K, *size, near, pixel_size) for viewmat, K in zip(*cameras)]
        ctx.save_for_backward(means, quats, scales)
        ctx.settings, ctx.projected = (cameras, size, threads), projected
        ctx.set_materialize_grads(False)
        count = len(means)

        def stacked(parts: list[NDArray], shape: tuple[int, ...], kind: Any) -> Tensor:
            return torch.from_numpy(np.array(parts, kind).reshape(len(projected), *shape))

        means2d = stacked([p.ellipses[:, :2] for p in projected], (count, 2), np.float32)
        shapes = stacked([p.ellipses[:, ACROSS : SLOPE + 2] for p in projected], (count, 3), np.float32)
        depths = stacked([p.depths for p in projected], (count,), np.float32)
        radii = stacked([p.radii for p in projected], (count, 2), np.int32)
        ctx.mark_non_differentiable(radii)
        return means2d, shapes, depths, radii, projected

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_means2d: Tensor | None, v_shapes: Tensor | None, v_depths: Tensor | None, *_: Any) -> tuple[Any, ...]:
        arrays = [_array(x) for x in ctx.saved_tensors]
        (viewmats, Ks), size, threads = ctx.settings
        sums = [np.zeros(x.shape) for x in arrays]
        count = len(arrays[0])
        with Threads(threads):
            for camera, projected in enumerate(ctx.projected):
                given = [
                    np.zeros(shape, np.float32) if v is None else _array(v[camera])
                    for v, shape in ((v_means2d, (count, 2)), (v_shapes, (count, 3)), (v_depths, (count,)))
                ]
                project_backward(*arrays, viewmats[camera], Ks[camera], *size, projected, *given, *sums)
        return *(torch.from_numpy(x.astype(np.float32)) for x in sums), None, None, None, None, None, None


class _Harmonics(Function):
    """means, sh -> colours [C,N,3]."""

    @staticmethod
    def forward(
        ctx: Any, means: Tensor, sh: Tensor, viewmats: NDArray, projected: list[Projected], threads: int | None
    ) -> Tensor:
        ctx.positions = [harmonics.camera_position(viewmat) for viewmat in viewmats]
        with Threads(threads):
            parts = [harmonics.colors(_array(means), _array(sh), at, p.radii) for at, p in zip(ctx.positions, projected)]
        colors = torch.from_numpy(parts[0][None] if len(parts) == 1 else np.array(parts, np.float32).reshape(len(parts), len(means), 3))
        ctx.save_for_backward(means, sh, colors)
        ctx.projected, ctx.threads = projected, threads
        return colors

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, v_colors: Tensor) -> tuple[Any, ...]:
        means, sh, colors = (_array(x) for x in ctx.saved_tensors)
        v_means, v_sh = np.zeros(means.shape), np.zeros(sh.shape, np.float32)
        with Threads(ctx.threads):
            for at, p, values, given in zip(ctx.positions, ctx.projected, colors, _array(v_colors)):
                harmonics.colors_backward(means, sh, at, p.radii, values, given, v_sh, v_means)
        return torch.from_numpy(v_means.astype(np.float32)), torch.from_numpy(v_sh), None, None, None


class _Blend(Function):
    """means2d, shapes, opacities, and the values depths [C,N], colors [C,N,3], features [N,D] -> alphas and left [C,H,W], and the values
    blended, [C,H,W], [C,3,H,W], [C,D,H,W]. The geometry itself is read, in float64, from `Projected`."""

    @staticmethod
    def forward(
        ctx: Any, means2d: Tensor, shapes: Tensor, opacities: Tensor, depths: Tensor, colors: Tensor | None, features: Tensor | None,
        projected: list[Projected], members: NDArray[np.bool_] | None, size: tuple[int, int], absgrad: bool, threads: int | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        width, height = size
        ends = np.cumsum([1, 0 if colors is None else 3, 0 if features is None else features.shape[1]])
        blended = np.empty((len(projected), ends[-1], height, width), np.float32)
        alphas, left = (np.empty((len(projected), height, width), np.float32) for _ in range(2))
        ctx.tiles = []
        with Threads(threads):
            for camera, p in enumerate(projected):
                ctx.tiles.append(sort_into_tiles(p, width, height, members))
                blend.forward(ctx.tiles[-1], p, _values(camera, depths, colors, features), blended[camera], alphas[camera], left[camera])
        ctx.save_for_backward(means2d, depths, colors, features)
        ctx.projected, ctx.absgrad, ctx.threads = projected, absgrad, threads
        ctx.set_materialize_grads(False)
        return (
            torch.from_numpy(alphas), torch.from_numpy(left), torch.from_numpy(blended[:, 0]),
            None if colors is None else torch.from_numpy(blended[:, 1 : ends[1]]),
            None if features is None else torch.from_numpy(blended[:, ends[1] :]),
        )  # fmt: skip

    @staticmethod
    @once_differentiable
    def backward(
        ctx: Any, v_alphas: Tensor | None, v_left: Tensor | None, v_depth: Tensor | None, v_colors: Tensor | None,
        v_features: Tensor | None,
    ) -> tuple[Any, ...]:  # fmt: skip
        means2d, depths, colors, features = ctx.saved_tensors
        # Values that the loss does not look at are left out.
        depths, colors, features = (
            x if v is not None else None for x, v in ((depths, v_depth), (colors, v_colors), (features, v_features))
        )
        cameras, count = means2d.shape[:2]
        found = []
        with Threads(ctx.threads):
            for camera, (tiles, p) in enumerate(zip(ctx.tiles, ctx.projected)):
                shape = tiles.height, tiles.width
                planes = [] if v_depth is None else [_array(v_depth[camera])[None]]
                planes += [_array(v[camera]) for v in (v_colors, v_features) if v is not None]
                given = np.concatenate(planes) if planes else np.zeros((0, *shape), np.float32)
                light = np.zeros(shape, np.float32) if v_alphas is None else _array(v_alphas[camera])
                light = light if v_left is None else light - _array(v_left[camera])
                found.append(blend.backward(tiles, p, _values(camera, depths, colors, features, count), given, light, ctx.absgrad))

        def stacked(parts: list[NDArray]) -> Tensor:
            return torch.from_numpy(parts[0][None] if len(parts) == 1 else np.stack(parts))

        if ctx.absgrad:
            before = getattr(means2d, "absgrad", 0.0)  # of the other layer
            means2d.absgrad = before + stacked([x.absolute for x in found])
        values = stacked([x.values for x in found])
        at = 0
        v_values: list[Tensor | None] = []
        for value, columns in ((depths, 1), (colors, 3), (features, 0 if features is None else features.shape[1])):
            v_values.append(None if value is None else values[..., at : at + columns])
            at += 0 if value is None else columns
        return (
            stacked([x.means2d for x in found]), stacked([x.shapes for x in found]), stacked([x.opacities for x in found]).sum(0),
            None if v_values[0] is None else v_values[0][..., 0], v_values[1], None if v_values[2] is None else v_values[2].sum(0),
            None, None, None, None, None,
        )  # fmt: skip


def _values(camera: int, depths: Tensor | None, colors: Tensor | None, features: Tensor | None, count: int = 0) -> NDArray[np.float32]:
    """[N,C]: what there is of depth, colours, features."""
    parts = [x for x in (
        None if depths is None else depths[camera, :, None], None if colors is None else colors[camera], features,
    ) if x is not None]  # fmt: skip
    return np.concatenate([x.detach().numpy() for x in parts], axis=1) if parts else np.zeros((count, 0), np.float32)
