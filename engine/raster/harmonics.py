"""Colours from spherical harmonics, toward one camera, and the gradients back (the order and signs of `sh_basis`)."""

from __future__ import annotations

import math

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

FloatArray = NDArray[np.float32]
_DC = 0.28209479177387814
_A = 0.4886025119029199
_B0, _B1, _B2 = 1.0925484305920792, 0.31539156525252005, 0.5462742152960396
_C0, _C1, _C2, _C3, _C4 = 0.5900435899266435, 2.890611442640554, 0.4570457994644658, 0.3731763325901154, 1.445305721320277


def camera_position(viewmat: NDArray) -> NDArray[np.float64]:
    """[3] where the camera of a viewmat [4,4] stands in the world."""
    return np.linalg.inv(np.asarray(viewmat, np.float64))[:3, 3]


def colors(means: FloatArray, sh: FloatArray, position: NDArray[np.float64], radii: NDArray[np.int32]) -> FloatArray:
    """sh [N,K,3] of K = 1, 4, 9 or 16 -> [N,3], 0 or more, seen from position [3]; 0 where radii [N,2] are."""
    out = np.zeros((len(means), 3), np.float32)
    _colors(means, sh, position, radii, out)
    return out


def colors_backward(
    means: FloatArray, sh: FloatArray, position: NDArray[np.float64], radii: NDArray[np.int32], values: FloatArray, v_colors: FloatArray,
    v_sh: FloatArray, v_means: FloatArray,
) -> None:
    """Add to v_sh [N,K,3] and v_means [N,3] what follows from the gradient v_colors [N,3] of `colors`, whose result was values."""
    _backward(means, sh, position, radii, values, v_colors, v_sh, v_means)


@njit(inline="always")
def _basis(x, y, z, terms, out):
    out[0] = _DC
    if terms > 1:
        out[1], out[2], out[3] = -_A * y, _A * z, -_A * x
    if terms > 4:
        out[4], out[5], out[7], out[8] = _B0 * x * y, -_B0 * y * z, -_B0 * x * z, _B2 * (x * x - y * y)
        out[6] = _B1 * (2.0 * z * z - x * x - y * y)
    if terms > 9:
        out[9], out[10] = -_C0 * y * (3.0 * x * x - y * y), _C1 * x * y * z
        out[11] = -_C2 * y * (4.0 * z * z - x * x - y * y)
        out[12] = _C3 * z * (2.0 * z * z - 3.0 * x * x - 3.0 * y * y)
        out[13] = -_C2 * x * (4.0 * z * z - x * x - y * y)
        out[14], out[15] = _C4 * z * (x * x - y * y), -_C0 * x * (x * x - 3.0 * y * y)


@njit(inline="always")
def _slope(x, y, z, terms, g):
    """Gradient in x, y, z of sum_k g_k basis_k."""
    dx, dy, dz = 0.0, 0.0, 0.0
    if terms > 1:
        dx, dy, dz = -_A * g[3], -_A * g[1], _A * g[2]
    if terms > 4:
        dx += _B0 * (y * g[4] - z * g[7]) + 2.0 * x * (_B2 * g[8] - _B1 * g[6])
        dy += _B0 * (x * g[4] - z * g[5]) - 2.0 * y * (_B2 * g[8] + _B1 * g[6])
        dz += -_B0 * (y * g[5] + x * g[7]) + 4.0 * _B1 * z * g[6]
    if terms > 9:
        xx, yy, zz, xy, xz, yz = x * x, y * y, z * z, x * y, x * z, y * z
        dx += -6.0 * _C0 * xy * g[9] + _C1 * yz * g[10] + 2.0 * _C2 * xy * g[11] - 6.0 * _C3 * xz * g[12]
        dx += -_C2 * (4.0 * zz - 3.0 * xx - yy) * g[13] + 2.0 * _C4 * xz * g[14] - 3.0 * _C0 * (xx - yy) * g[15]
        dy += -3.0 * _C0 * (xx - yy) * g[9] + _C1 * xz * g[10] - _C2 * (4.0 * zz - xx - 3.0 * yy) * g[11] - 6.0 * _C3 * yz * g[12]
        dy += 2.0 * _C2 * xy * g[13] - 2.0 * _C4 * yz * g[14] + 6.0 * _C0 * xy * g[15]
        dz += _C1 * xy * g[10] - 8.0 * _C2 * yz * g[11] + _C3 * (6.0 * zz - 3.0 * xx - 3.0 * yy) * g[12]
        dz += -8.0 * _C2 * xz * g[13] + _C4 * (xx - yy) * g[14]
    return dx, dy, dz


@njit(inline="always")
def _direction(means, i, position):
    x, y, z = means[i, 0] - position[0], means[i, 1] - position[1], means[i, 2] - position[2]
    away = max(math.sqrt(x * x + y * y + z * z), 1e-12)
    return x / away, y / away, z / away, away


_CHUNK = 1024
"""Gaussians that share one piece of scratch memory."""


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _colors(means, sh, position, radii, out):
    count, terms = sh.shape[0], sh.shape[1]
    for chunk in prange((count + _CHUNK - 1) // _CHUNK):
        basis = np.zeros(16)
        for i in range(chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK)):
            if radii[i, 0] == 0:
                continue
            x, y, z, _ = _direction(means, i, position)
            _basis(x, y, z, terms, basis)
            for channel in range(3):
                value = 0.5
                for k in range(terms):
                    value += basis[k] * sh[i, k, channel]
                out[i, channel] = max(value, 0.0)


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _backward(means, sh, position, radii, values, v_colors, v_sh, v_means):
    count, terms = sh.shape[0], sh.shape[1]
    for chunk in prange((count + _CHUNK - 1) // _CHUNK):
        basis, given = np.zeros(16), np.zeros(16)
        for i in range(chunk * _CHUNK, min(count, (chunk + 1) * _CHUNK)):
            if radii[i, 0] == 0:
                continue
            x, y, z, away = _direction(means, i, position)
            _basis(x, y, z, terms, basis)
            given[:] = 0.0
            for channel in range(3):
                if values[i, channel] > 0.0:
                    v = v_colors[i, channel]
                    for k in range(terms):
                        v_sh[i, k, channel] += basis[k] * v
                        given[k] += sh[i, k, channel] * v
            if terms > 1:
                dx, dy, dz = _slope(x, y, z, terms, given)
                along = dx * x + dy * y + dz * z
                v_means[i, 0] += (dx - along * x) / away
                v_means[i, 1] += (dy - along * y) / away
                v_means[i, 2] += (dz - along * z) / away
