"""One call for every back end: what is wrong with the input is said here, layers are put together here."""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from ..errors import UserError
from . import conventions as c
from .results import Rasterised

Composite = Literal["sorted", "layered"]
Backend = Literal["auto", "cpu", "gsplat"]


def rasterization(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int, *,
    sh: Tensor | None = None, features: Tensor | None = None, backgrounds: Tensor | None = None, branch: Tensor | None = None,
    composite: Composite = "sorted", near: float = c.NEAR, pixel_size: float = 0.0, absgrad: bool = False, backend: Backend = "auto", threads: int | None = None,
) -> Rasterised:  # fmt: skip
    """Draw N Gaussians from C cameras (3D Gaussian Splatting; gsplat's conventions, see conventions.py).

    Differentiable in means, quats, scales, opacities, sh, features and backgrounds; not in the cameras. A Gaussian with a value that is
    not finite is not drawn. On the CPU the result is the same to the last bit for any number of threads.

    Args:
        means: [N,3] float32.
        quats: [N,4], w first, of any length; a zero one turns nothing.
        scales: [N,3], standard deviations, in units of means.
        opacities: [N], 0..1.
        viewmats: [C,4,4], world to camera; x right, y down, z forward.
        Ks: [C,3,3], pixels; the centre of the first pixel is (0.5, 0.5).
        width, height: px.
        sh: [N,K,3], K = 1, 4, 9 or 16 in 3DGS order; colour = max(0, 0.5 + sum(sh * basis)).
        features: [N,D], blended beside the colours.
        backgrounds: [C,3] or [3]; none is black.
        branch: [N], 0 face, else mouth; `layered` needs it.
        composite: `sorted` by depth alone, or `layered`: face + (1 - alpha_face) * mouth, each sorted in itself.
        near: Gaussians whose centre lies nearer are not drawn.
        pixel_size: of the pictures that the Gaussians were trained on, at the Gaussians, in units of means: drawn larger or smaller they look as
            there (conventions.EPS2D), without gradients. 0: not known, every picture is drawn as if trained at its size.
        absgrad: also sum absolute gradients of means2d (see `Rasterised`).
        backend: `cpu` (numba), `gsplat` (CUDA), or `auto`: gsplat for tensors on CUDA, else cpu.
        threads: of the CPU back end; None for numba's own number.

    Raises:
        UserError: tensors that do not fit together, or a back end that is not there.
    """
    _check(means, quats, scales, opacities, viewmats, Ks, width, height, sh, features, backgrounds, branch, composite, pixel_size)
    if pixel_size and torch.is_grad_enabled() and any(x.requires_grad for x in (means, quats, scales, opacities)):
        raise UserError("pixel_size is for drawing, not for training", remedy="leave it out, or draw without gradients")
    if _choose(backend, means) == "gsplat":
        from .on_gsplat import GsplatScene

        scene = GsplatScene(means, quats, scales, opacities, viewmats, Ks, width, height, sh, features, near, pixel_size, absgrad)
    else:
        from .on_cpu import CpuScene

        scene = CpuScene(means, quats, scales, opacities, viewmats, Ks, width, height, sh, features, near, pixel_size, absgrad, threads)
    if composite == "layered":
        face = branch == 0
        layer = scene.layer(face).over(scene.layer(~face))
    else:
        layer = scene.layer(None)
    return layer.finish(backgrounds, scene.means2d, scene.radii)


def _choose(backend: str, means: Tensor) -> str:
    if backend not in ("auto", "cpu", "gsplat"):
        raise UserError(f"rasteriser {backend!r} is unknown", remedy="use 'auto', 'cpu' or 'gsplat'")
    if backend == "gsplat" and not torch.cuda.is_available():
        raise UserError("gsplat needs a CUDA device, and there is none", remedy="use backend 'cpu'")
    if backend == "gsplat" and not means.is_cuda:
        raise UserError(f"gsplat needs tensors on a CUDA device, these are on {means.device}", remedy="move them, or use backend 'cpu'")
    if backend == "cpu" and means.device.type != "cpu":
        raise UserError(f"the CPU rasteriser needs tensors in main memory, these are on {means.device}", remedy="move them, or use 'auto'")
    return "gsplat" if means.is_cuda else "cpu"


def _check(
    means: Tensor, quats: Tensor, scales: Tensor, opacities: Tensor, viewmats: Tensor, Ks: Tensor, width: int, height: int,
    sh: Tensor | None, features: Tensor | None, backgrounds: Tensor | None, branch: Tensor | None, composite: str, pixel_size: float,
) -> None:  # fmt: skip
    count, cameras = len(means), len(viewmats)
    wanted: list[tuple[str, Tensor | None, tuple[int | None, ...]]] = [
        ("means", means, (count, 3)), ("quats", quats, (count, 4)), ("scales", scales, (count, 3)), ("opacities", opacities, (count,)),
        ("viewmats", viewmats, (cameras, 4, 4)), ("Ks", Ks, (cameras, 3, 3)), ("sh", sh, (count, None, 3)),
        ("features", features, (count, None)), ("branch", branch, (count,)),
    ]  # fmt: skip
    if backgrounds is not None:
        wanted.append(("backgrounds", backgrounds, (3,) if backgrounds.ndim == 1 else (cameras, 3)))
    for name, value, shape in wanted:
        if value is None:
            continue
        if value.ndim != len(shape) or any(want not in (None, have) for want, have in zip(shape, value.shape)):
            text = ", ".join("any" if want is None else str(want) for want in shape)
            raise UserError(f"{name} has shape {tuple(value.shape)}, not ({text})", remedy="give every Gaussian and camera its row")
        if value.device != means.device:
            raise UserError(f"{name} is on {value.device}, means on {means.device}", remedy="put all tensors on one device")
    if sh is not None and sh.shape[1] not in (1, 4, 9, 16):
        raise UserError(f"sh has {sh.shape[1]} coefficients", remedy="1, 4, 9 or 16 are possible")
    if not 0 <= pixel_size < float("inf"):
        raise UserError(f"pixel_size {pixel_size} is no size", remedy="give a length, or 0 where it is not known")
    if width < 1 or height < 1:
        raise UserError(f"a picture of {width} x {height} pixels cannot be drawn", remedy="use at least one pixel")
    if composite not in ("sorted", "layered"):
        raise UserError(f"composite {composite!r} is unknown", remedy="use 'sorted' or 'layered'")
    if composite == "layered" and branch is None:
        raise UserError("layered compositing needs the branch of each Gaussian", remedy="pass branch, 0 face and 1 mouth")
    if backgrounds is not None and sh is None:
        raise UserError("backgrounds are for colours, and there is no sh", remedy="pass sh, or no backgrounds")
    if viewmats.requires_grad or Ks.requires_grad:
        raise UserError("cameras get no gradients", remedy="detach viewmats and Ks")
