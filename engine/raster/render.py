"""Pictures of Gaussians on the CPU, in gsplat's terms (see conventions.py; reference.py is the readable twin)."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..avatar.gaussians import sh_basis
from ..errors import UserError
from . import blend
from . import conventions as c
from .projection import Projected, project

FloatArray = NDArray[np.float32]
Composite = Literal["sorted", "layered"]


@dataclass
class Rendered:
    """colors [H,W,3] over the background, alphas [H,W] 0..1, depth [H,W] expected camera z (0 where nothing is), features [H,W,C] or
    None (blended like colours, not divided by alpha), drawn [N] bool."""

    colors: FloatArray
    alphas: FloatArray
    depth: FloatArray
    features: FloatArray | None
    drawn: NDArray[np.bool_]


class Splatting:
    """One set of Gaussians seen by one camera: the geometry done, any values can be blended, forward or transposed.

    Shapes: means [N,3], quats [N,4] wxyz, scales [N,3] standard deviations, opacities [N] 0..1, viewmat [4,4] world to camera (x right,
    y down, z forward), K [3,3] px; branch [N] with 0 = face, 1 = mouth, needed for composite 'layered' (every branch 1 behind every
    branch 0). Raises UserError on arrays that do not fit together.
    """

    def __init__(
        self, means: ArrayLike, quats: ArrayLike, scales: ArrayLike, opacities: ArrayLike, viewmat: ArrayLike, K: ArrayLike,
        width: int, height: int, branch: ArrayLike | None = None, composite: Composite = "sorted", near: float = c.NEAR,
        threads: int | None = None,
    ) -> None:
        self.means = _array(means, (None, 3), "means")
        count = len(self.means)
        self.opacities = _array(opacities, (count,), "opacities")
        self.viewmat = _array(viewmat, (4, 4), "viewmat")
        if width < 1 or height < 1:
            raise UserError(f"a picture of {width} x {height} pixels cannot be drawn", remedy="use at least one pixel")
        if composite not in ("sorted", "layered"):
            raise UserError(f"composite {composite!r} is unknown", remedy="use 'sorted' or 'layered'")
        self.width, self.height = int(width), int(height)
        self.threads = threads
        quats = _array(quats, (count, 4), "quats")
        scales = _array(scales, (count, 3), "scales")
        with _threads(threads):
            self.projected: Projected = project(
                self.means, quats, scales, self.opacities, self.viewmat, _array(K, (3, 3), "K"), self.width, self.height, near
            )
            self.order = self._drawing_order(branch, composite)
            p = self.projected
            self._ids, self._starts = blend.tile_lists(self.order, p.means2d, p.reach, self.width, self.height)
        # alpha >= 1/255 as a bound on the exponent.
        self._limit = np.log(np.maximum(self.opacities.astype(np.float64), 1e-30) / c.MIN_ALPHA).astype(np.float32)

    def _drawing_order(self, branch: ArrayLike | None, composite: Composite) -> NDArray[np.int32]:
        seen = np.flatnonzero(self.projected.visible)
        depth = self.projected.depths[seen]
        if composite == "layered":
            if branch is None:
                raise UserError("layered compositing needs the branch of each Gaussian", remedy="pass branch, 0 face and 1 mouth")
            flags = np.asarray(branch)
            if flags.shape != (len(self.means),):
                raise UserError(f"branch has shape {flags.shape}, not ({len(self.means)},)")
            order = np.lexsort((depth, flags[seen] != 0))
        else:
            order = np.argsort(depth, kind="stable")
        return seen[order].astype(np.int32)

    @property
    def _geometry(self) -> tuple:
        p = self.projected
        return self._ids, self._starts, p.means2d, p.reach, p.conics, self.opacities, self._limit

    def forward(self, values: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """values [N,C] -> blended [H,W,C] (no background) and what light is left [H,W] (1 - alpha)."""
        values = _array(values, (len(self.means), None), "values")
        with _threads(self.threads):
            return blend.forward(*self._geometry, values, self.width, self.height)

    def adjoint(self, picture: ArrayLike, squared: bool = False) -> NDArray[np.float64]:
        """Transpose of `forward`: picture [H,W,C] -> [N,C], the sum over pixels of each Gaussian's weight (or its square) * pixel."""
        picture = _array(picture, (self.height, self.width, None), "picture")
        with _threads(self.threads):
            return blend.adjoint(*self._geometry, picture, squared)

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """[N,3] unit vectors from the camera to each Gaussian, world axes."""
        view = self.viewmat.astype(np.float64)
        ray = self.means - (-view[:3, :3].T @ view[:3, 3])
        return ray / np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12)

    def colors(self, sh: ArrayLike) -> FloatArray:
        """sh [N,K,3], K = 1, 4, 9 or 16 -> colours [N,3] toward this camera, 0 or more."""
        sh = _array(sh, (len(self.means), None, 3), "sh")
        degree = int(round(sh.shape[1] ** 0.5)) - 1
        if (degree + 1) ** 2 != sh.shape[1] or degree > 3:
            raise UserError(f"sh has {sh.shape[1]} coefficients", remedy="1, 4, 9 or 16 are possible")
        basis = sh_basis(self.directions, degree)
        return np.maximum(0.5 + np.einsum("nk,nkc->nc", basis, sh), 0.0).astype(np.float32)


def render(
    means: ArrayLike, quats: ArrayLike, scales: ArrayLike, opacities: ArrayLike, sh: ArrayLike, viewmat: ArrayLike, K: ArrayLike,
    width: int, height: int, background: ArrayLike | None = None, branch: ArrayLike | None = None,
    composite: Composite = "sorted", features: ArrayLike | None = None, near: float = c.NEAR, threads: int | None = None,
) -> Rendered:
    """Draw N Gaussians (see `Splatting` for shapes and errors). sh [N,K,3] in 3DGS order; background [3] (black when None);
    features [N,C] are blended beside the colours; threads None uses numba's own number."""
    scene = Splatting(means, quats, scales, opacities, viewmat, K, width, height, branch, composite, near, threads)
    values = [scene.colors(sh), scene.projected.depths[:, None]]
    if features is not None:
        values.append(_array(features, (len(scene.means), None), "features"))
    blended, left = scene.forward(np.concatenate(values, axis=1))
    alphas = 1.0 - left
    colors = blended[..., :3]
    if background is not None:
        colors = colors + left[..., None] * _array(background, (3,), "background")
    depth = blended[..., 3] / np.maximum(alphas, 1e-10)
    return Rendered(
        np.ascontiguousarray(colors), alphas, depth, blended[..., 4:] if features is not None else None, scene.projected.visible
    )


class _threads:
    """Sets numba's thread count for a block."""

    def __init__(self, count: int | None) -> None:
        self.count = count

    def __enter__(self) -> None:
        self.before = numba.get_num_threads()
        if self.count is not None:
            numba.set_num_threads(max(1, min(self.count, numba.config.NUMBA_NUM_THREADS)))

    def __exit__(self, *_: object) -> None:
        numba.set_num_threads(self.before)


def _array(value: ArrayLike, shape: tuple[int | None, ...], name: str) -> FloatArray:
    array = np.ascontiguousarray(value, dtype=np.float32)
    if array.ndim != len(shape) or any(want is not None and want != have for want, have in zip(shape, array.shape)):
        wanted = ", ".join("N" if want is None else str(want) for want in shape)
        raise UserError(f"{name} has shape {array.shape}, not ({wanted})")
    return array
