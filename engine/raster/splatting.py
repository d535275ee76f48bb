"""Gaussians seen by one camera as a linear map from values to a picture, on numpy arrays."""

from __future__ import annotations

from functools import cached_property

import numba
import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..errors import UserError
from . import blend
from . import conventions as c
from .harmonics import camera_position
from .projection import Projected, project
from .tiles import Tiles, sort_into_tiles

FloatArray = NDArray[np.float32]


class Splatting:
    """One set of Gaussians seen by one camera: the geometry done, any values can be blended, forward or transposed.

    Shapes: means [N,3], quats [N,4] wxyz, scales [N,3] standard deviations, opacities [N] 0..1, viewmat [4,4] world to camera (x right,
    y down, z forward), K [3,3] px. threads None uses numba's own number. Raises UserError on arrays that do not fit together.
    """

    def __init__(
        self, means: ArrayLike, quats: ArrayLike, scales: ArrayLike, opacities: ArrayLike, viewmat: ArrayLike, K: ArrayLike,
        width: int, height: int, near: float = c.NEAR, threads: int | None = None,
    ) -> None:
        self.means = _array(means, (None, 3), "means")
        count = len(self.means)
        self.viewmat = _array(viewmat, (4, 4), "viewmat")
        self.width, self.height, self.threads = width, height, threads
        with Threads(threads):
            self.projected: Projected = project(
                self.means, _array(quats, (count, 4), "quats"), _array(scales, (count, 3), "scales"),
                _array(opacities, (count,), "opacities"), self.viewmat, _array(K, (3, 3), "K"), width, height, near,
            )  # fmt: skip
            self.tiles: Tiles = sort_into_tiles(self.projected, width, height)

    def forward(self, values: ArrayLike) -> tuple[FloatArray, FloatArray]:
        """values [N,C] -> blended [H,W,C] (over nothing) and alphas [H,W]."""
        values = _array(values, (len(self.means), None), "values")
        blended, alphas, left = (np.empty((*more, self.height, self.width), np.float32) for more in (values.shape[1:], (), ()))
        with Threads(self.threads):
            blend.forward(self.tiles, self.projected, values, blended, alphas, left)
        return np.moveaxis(blended, 0, 2), alphas

    def adjoint(self, picture: ArrayLike, squared: bool = False) -> NDArray[np.float64]:
        """Transpose of `forward`: picture [H,W,C] -> [N,C], the sum over pixels of each Gaussian's weight (or its square) * pixel."""
        planes = np.ascontiguousarray(np.moveaxis(_array(picture, (self.height, self.width, None), "picture"), 2, 0))
        with Threads(self.threads):
            return blend.adjoint(self.tiles, self.projected, planes, squared)

    @cached_property
    def directions(self) -> NDArray[np.float64]:
        """[N,3] unit vectors from the camera to each Gaussian, world axes."""
        ray = self.means - camera_position(self.viewmat)
        return ray / np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12)


class Threads:
    """Sets numba's thread count for a block; None leaves it."""

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
