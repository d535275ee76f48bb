"""Gaussians in the world to ellipses on the picture (EWA splatting with gsplat's clamps)."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from . import conventions as c

FloatArray = NDArray[np.float32]


@dataclass
class Projected:
    """Per Gaussian: means2d [N,2] px, conics [N,3] (a, b, c of the inverse covariance, 1/px^2), depths [N] (camera z), reach [N,2] half
    width and height in px of the box outside which alpha < 1/255, visible [N] bool."""

    means2d: FloatArray
    conics: FloatArray
    depths: FloatArray
    reach: FloatArray
    visible: NDArray[np.bool_]


def project(
    means: FloatArray, quats: FloatArray, scales: FloatArray, opacities: FloatArray, viewmat: FloatArray, K: FloatArray,
    width: int, height: int, near: float = c.NEAR,
) -> Projected:
    """Project N Gaussians. quats wxyz of any length, scales linear, opacities 0..1; viewmat [4,4] world to camera (x right, y down, z
    forward), K [3,3] pixels."""
    count = len(means)
    out = Projected(
        np.zeros((count, 2), np.float32), np.zeros((count, 3), np.float32), np.zeros(count, np.float32),
        np.zeros((count, 2), np.float32), np.zeros(count, np.bool_),
    )
    _project(
        means, quats, scales, opacities, viewmat.astype(np.float64), K.astype(np.float64), float(width), float(height), near,
        out.means2d, out.conics, out.depths, out.reach, out.visible,
    )
    return out


@njit(parallel=True, cache=True)
def _project(means, quats, scales, opacities, view, K, width, height, near, means2d, conics, depths, reach, visible):
    fx, fy, cx, cy = K[0, 0], K[1, 1], K[0, 2], K[1, 2]
    margin_x, margin_y = c.FRUSTUM_MARGIN * 0.5 * width / fx, c.FRUSTUM_MARGIN * 0.5 * height / fy
    most_x, least_x = (width - cx) / fx + margin_x, cx / fx + margin_x
    most_y, least_y = (height - cy) / fy + margin_y, cy / fy + margin_y
    for i in prange(len(means)):
        mx, my, mz = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        x = view[0, 0] * mx + view[0, 1] * my + view[0, 2] * mz + view[0, 3]
        y = view[1, 0] * mx + view[1, 1] * my + view[1, 2] * mz + view[1, 3]
        z = view[2, 0] * mx + view[2, 1] * my + view[2, 2] * mz + view[2, 3]
        opacity = float(opacities[i])
        if not (z >= near and opacity >= c.MIN_ALPHA):  # also false for NaN
            continue
        qw, qx, qy, qz = float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3])
        norm = math.sqrt(qw * qw + qx * qx + qy * qy + qz * qz)
        if norm > 0.0:
            qw, qx, qy, qz = qw / norm, qx / norm, qy / norm, qz / norm
        else:
            qw = 1.0
        rz = 1.0 / z
        tx = z * min(most_x, max(-least_x, x * rz))
        ty = z * min(most_y, max(-least_y, y * rz))
        # Rows of J W, the linear map from the world to the picture.
        j0, j2 = fx * rz, -fx * tx * rz * rz
        k1, k2 = fy * rz, -fy * ty * rz * rz
        u0 = j0 * view[0, 0] + j2 * view[2, 0]
        u1 = j0 * view[0, 1] + j2 * view[2, 1]
        u2 = j0 * view[0, 2] + j2 * view[2, 2]
        v0 = k1 * view[1, 0] + k2 * view[2, 0]
        v1 = k1 * view[1, 1] + k2 * view[2, 1]
        v2 = k1 * view[1, 2] + k2 * view[2, 2]
        xx, xy, yy = 0.0, 0.0, 0.0
        for k in range(3):
            # Column k of the rotation, times its scale.
            if k == 0:
                r0, r1, r2 = 1 - 2 * (qy * qy + qz * qz), 2 * (qx * qy + qw * qz), 2 * (qx * qz - qw * qy)
            elif k == 1:
                r0, r1, r2 = 2 * (qx * qy - qw * qz), 1 - 2 * (qx * qx + qz * qz), 2 * (qy * qz + qw * qx)
            else:
                r0, r1, r2 = 2 * (qx * qz + qw * qy), 2 * (qy * qz - qw * qx), 1 - 2 * (qx * qx + qy * qy)
            s = float(scales[i, k])
            p = s * (u0 * r0 + u1 * r1 + u2 * r2)
            q = s * (v0 * r0 + v1 * r1 + v2 * r2)
            xx += p * p
            xy += p * q
            yy += q * q
        xx += c.EPS2D
        yy += c.EPS2D
        determinant = xx * yy - xy * xy
        if not (determinant > 0.0):
            continue
        extend = min(c.EXTEND, math.sqrt(2.0 * math.log(opacity / c.MIN_ALPHA)))
        px, py = fx * x * rz + cx, fy * y * rz + cy
        wide, high = extend * math.sqrt(xx), extend * math.sqrt(yy)
        if px + wide <= 0 or px - wide >= width or py + high <= 0 or py - high >= height:
            continue
        means2d[i, 0], means2d[i, 1] = px, py
        conics[i, 0], conics[i, 1], conics[i, 2] = yy / determinant, -xy / determinant, xx / determinant
        depths[i] = z
        reach[i, 0], reach[i, 1] = wide, high
        visible[i] = True
