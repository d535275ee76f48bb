"""Gaussians in the world to ellipses on the picture (EWA splatting with gsplat's clamps), and the gradients back."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from . import conventions as c

FloatArray = NDArray[np.float32]

# Columns of Projected.ellipses: 64 bytes a Gaussian, read in one go while blending.
X, Y, ACROSS, SLOPE, DOWN, BASE, OPACITY, HEIGHT = range(8)


@dataclass
class Projected:
    """N Gaussians as one camera sees them.

    A Gaussian's exponent at a pixel d = (dx, dy) from its centre is written as a sum of squares, which keeps its digits for long thin
    ellipses too: across / 2 (dx - slope dy)^2 + down / 2 dy^2, where 1 / down is the variance in y, slope the regression of x on y and
    1 / across what variance of x is left.

    Attributes:
        ellipses: [N,8] float64; columns X, Y (centre, px), ACROSS, SLOPE, DOWN, BASE (-log opacity, added to the exponent), OPACITY,
            HEIGHT (half the height in px of the box outside which alpha < 1/255).
        depths: [N] float32, camera z.
        reach: [N,2] float32, half width and height of that box.
        radii: [N,2] int32, `reach` rounded up; 0 where the Gaussian is not drawn.
    """

    ellipses: NDArray[np.float64]
    depths: FloatArray
    reach: FloatArray
    radii: NDArray[np.int32]


def project(
    means: FloatArray, quats: FloatArray, scales: FloatArray, opacities: FloatArray, viewmat: FloatArray, K: FloatArray,
    width: int, height: int, near: float = c.NEAR, pixel_size: float = 0.0,
) -> Projected:
    """Project N Gaussians. quats wxyz of any length (zero: no rotation), scales linear, opacities 0..1; viewmat [4,4] world to camera
    (x right, y down, z forward), K [3,3] pixels. What is not a number, or has infinite size, is not drawn."""
    count = len(means)
    out = Projected(
        np.zeros((count, 8)), np.zeros(count, np.float32), np.zeros((count, 2), np.float32), np.zeros((count, 2), np.int32)
    )
    _project(
        means, quats, scales, opacities, viewmat.astype(np.float64), _pinhole(K, width, height), width, height, near, float(pixel_size),
        out.ellipses, out.depths, out.reach, out.radii,
    )
    return out


def project_backward(
    means: FloatArray, quats: FloatArray, scales: FloatArray, viewmat: FloatArray, K: FloatArray, width: int, height: int,
    projected: Projected, v_means2d: FloatArray, v_shapes: FloatArray, v_depths: FloatArray,
    v_means: FloatArray, v_quats: FloatArray, v_scales: FloatArray,
) -> None:
    """Add to v_means [N,3], v_quats [N,4], v_scales [N,3] what follows from the gradients of centres [N,2], of (across, slope, down)
    [N,3] and of depths [N]."""
    _backward(
        means, quats, scales, viewmat.astype(np.float64), _pinhole(K, width, height), projected.ellipses, projected.radii,
        v_means2d, v_shapes, v_depths, v_means, v_quats, v_scales,
    )


def _pinhole(K: FloatArray, width: int, height: int) -> NDArray[np.float64]:
    """fx, fy, cx, cy and the bounds left, right, top, bottom of x / z and y / z at the point of linearisation."""
    fx, fy, cx, cy = float(K[0, 0]), float(K[1, 1]), float(K[0, 2]), float(K[1, 2])
    margin_x, margin_y = c.FRUSTUM_MARGIN * 0.5 * width / fx, c.FRUSTUM_MARGIN * 0.5 * height / fy
    bounds = [-cx / fx - margin_x, (width - cx) / fx + margin_x, -cy / fy - margin_y, (height - cy) / fy + margin_y]
    return np.array([fx, fy, cx, cy, *bounds])


@njit(inline="always")
def _unit(w, x, y, z):
    norm = math.sqrt(w * w + x * x + y * y + z * z)
    if norm == 0.0:
        return 1.0, 0.0, 0.0, 0.0, 0.0
    return w / norm, x / norm, y / norm, z / norm, norm


@njit(inline="always")
def _rotation(w, x, y, z):
    """The rows of a unit quaternion's matrix."""
    return (
        1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
        2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
        2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
    )  # fmt: skip


@njit(inline="always")
def _linear(view, lens, x, y, rz):
    """The two rows of J W: the linear map from the world to the picture at a point of the camera's space."""
    j0, j2 = lens[0] * rz, -lens[0] * min(lens[5], max(lens[4], x * rz)) * rz
    k1, k2 = lens[1] * rz, -lens[1] * min(lens[7], max(lens[6], y * rz)) * rz
    return (
        j0 * view[0, 0] + j2 * view[2, 0], j0 * view[0, 1] + j2 * view[2, 1], j0 * view[0, 2] + j2 * view[2, 2],
        k1 * view[1, 0] + k2 * view[2, 0], k1 * view[1, 1] + k2 * view[2, 1], k1 * view[1, 2] + k2 * view[2, 2],
    )  # fmt: skip


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _project(means, quats, scales, opacities, view, lens, width, height, near, pixel_size, ellipses, depths, reach, radii):
    for i in prange(len(means)):
        mx, my, mz = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        x = view[0, 0] * mx + view[0, 1] * my + view[0, 2] * mz + view[0, 3]
        y = view[1, 0] * mx + view[1, 1] * my + view[1, 2] * mz + view[1, 3]
        z = view[2, 0] * mx + view[2, 1] * my + view[2, 2] * mz + view[2, 3]
        opacity = float(opacities[i])
        if not (z >= near and z <= c.FAR and opacity >= c.MIN_ALPHA):  # also false for NaN
            continue
        rz = 1.0 / z
        u0, u1, u2, v0, v1, v2 = _linear(view, lens, x, y, rz)
        qw, qx, qy, qz, _ = _unit(float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3]))
        r00, r01, r02, r10, r11, r12, r20, r21, r22 = _rotation(qw, qx, qy, qz)
        s0, s1, s2 = float(scales[i, 0]), float(scales[i, 1]), float(scales[i, 2])
        covers = pixel_size * math.sqrt(lens[0] * lens[1]) * rz  # drawn pixels that one of the trained pictures covers
        if covers > 1.0:
            blur = c.EPS2D * pixel_size * pixel_size * (1.0 - 1.0 / (covers * covers))
            s0, s1, s2 = math.sqrt(s0 * s0 + blur), math.sqrt(s1 * s1 + blur), math.sqrt(s2 * s2 + blur)
        p0, q0 = s0 * (u0 * r00 + u1 * r10 + u2 * r20), s0 * (v0 * r00 + v1 * r10 + v2 * r20)
        p1, q1 = s1 * (u0 * r01 + u1 * r11 + u2 * r21), s1 * (v0 * r01 + v1 * r11 + v2 * r21)
        p2, q2 = s2 * (u0 * r02 + u1 * r12 + u2 * r22), s2 * (v0 * r02 + v1 * r12 + v2 * r22)
        xx = p0 * p0 + p1 * p1 + p2 * p2 + c.EPS2D
        xy = p0 * q0 + p1 * q1 + p2 * q2
        yy = q0 * q0 + q1 * q1 + q2 * q2 + c.EPS2D
        determinant = xx * yy - xy * xy
        if not (determinant > 0.0 and determinant < math.inf):
            continue
        if 0.0 < covers < 1.0:
            less = c.EPS2D * (1.0 - covers * covers)
            opacity *= math.sqrt(((xx - less) * (yy - less) - xy * xy) / determinant)
            if not opacity >= c.MIN_ALPHA:
                continue
        base = -math.log(opacity)
        extend = min(c.EXTEND, math.sqrt(2.0 * max(0.0, -math.log(c.MIN_ALPHA) - base)))
        px, py = lens[0] * x * rz + lens[2], lens[1] * y * rz + lens[3]
        wide, high = extend * math.sqrt(xx), extend * math.sqrt(yy)
        radius_x, radius_y = math.ceil(wide), math.ceil(high)
        if px + radius_x <= 0 or px - radius_x >= width or py + radius_y <= 0 or py - radius_y >= height:
            continue
        ellipses[i, X], ellipses[i, Y] = px, py
        ellipses[i, ACROSS], ellipses[i, SLOPE], ellipses[i, DOWN] = yy / determinant, xy / yy, 1.0 / yy
        ellipses[i, BASE], ellipses[i, OPACITY], ellipses[i, HEIGHT] = base, opacity, high
        depths[i] = z
        reach[i, 0], reach[i, 1] = wide, high
        radii[i, 0], radii[i, 1] = min(radius_x, 2.0**30), min(radius_y, 2.0**30)


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _backward(means, quats, scales, view, lens, ellipses, radii, v_means2d, v_shapes, v_depths, v_means, v_quats, v_scales):
    for i in prange(len(means)):
        if radii[i, 0] == 0:
            continue
        mx, my, mz = float(means[i, 0]), float(means[i, 1]), float(means[i, 2])
        x = view[0, 0] * mx + view[0, 1] * my + view[0, 2] * mz + view[0, 3]
        y = view[1, 0] * mx + view[1, 1] * my + view[1, 2] * mz + view[1, 3]
        z = view[2, 0] * mx + view[2, 1] * my + view[2, 2] * mz + view[2, 3]
        rz = 1.0 / z
        u0, u1, u2, v0, v1, v2 = _linear(view, lens, x, y, rz)
        qw, qx, qy, qz, norm = _unit(float(quats[i, 0]), float(quats[i, 1]), float(quats[i, 2]), float(quats[i, 3]))
        turn = _rotation(qw, qx, qy, qz)

        # across = 1 / (xx - xy^2 / yy), slope = xy / yy, down = 1 / yy -> covariance.
        across, slope, down = ellipses[i, ACROSS], ellipses[i, SLOPE], ellipses[i, DOWN]
        v_xx = -across * across * v_shapes[i, 0]
        v_xy = -2.0 * slope * v_xx + down * v_shapes[i, 1]
        v_yy = slope * slope * v_xx - slope * down * v_shapes[i, 1] - down * down * v_shapes[i, 2]

        # Covariance -> scales, rotation, linear map.
        w0, w1, w2, w3, w4, w5 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        g00, g01, g02, g10, g11, g12, g20, g21, g22 = 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0
        for k in range(3):
            r0, r1, r2 = turn[k], turn[3 + k], turn[6 + k]
            s = float(scales[i, k])
            a, b = u0 * r0 + u1 * r1 + u2 * r2, v0 * r0 + v1 * r1 + v2 * r2
            v_p = s * (2.0 * v_xx * a + v_xy * b)
            v_q = s * (v_xy * a + 2.0 * v_yy * b)
            v_scales[i, k] += v_p * a + v_q * b
            w0, w1, w2 = w0 + s * v_p * r0, w1 + s * v_p * r1, w2 + s * v_p * r2
            w3, w4, w5 = w3 + s * v_q * r0, w4 + s * v_q * r1, w5 + s * v_q * r2
            d0, d1, d2 = s * (v_p * u0 + v_q * v0), s * (v_p * u1 + v_q * v1), s * (v_p * u2 + v_q * v2)
            if k == 0:
                g00, g10, g20 = d0, d1, d2
            elif k == 1:
                g01, g11, g21 = d0, d1, d2
            else:
                g02, g12, g22 = d0, d1, d2

        if norm > 0.0:
            t0 = 2.0 * (qx * (g21 - g12) + qy * (g02 - g20) + qz * (g10 - g01))
            t1 = 2.0 * (qy * (g01 + g10) + qz * (g02 + g20) + qw * (g21 - g12) - 2.0 * qx * (g11 + g22))
            t2 = 2.0 * (qx * (g01 + g10) + qz * (g12 + g21) + qw * (g02 - g20) - 2.0 * qy * (g00 + g22))
            t3 = 2.0 * (qx * (g02 + g20) + qy * (g12 + g21) + qw * (g10 - g01) - 2.0 * qz * (g00 + g11))
            along = t0 * qw + t1 * qx + t2 * qy + t3 * qz
            v_quats[i, 0] += (t0 - along * qw) / norm
            v_quats[i, 1] += (t1 - along * qx) / norm
            v_quats[i, 2] += (t2 - along * qy) / norm
            v_quats[i, 3] += (t3 - along * qz) / norm

        # Linear map and centre -> point in the camera's space -> world.
        v_j0 = w0 * view[0, 0] + w1 * view[0, 1] + w2 * view[0, 2]
        v_j2 = w0 * view[2, 0] + w1 * view[2, 1] + w2 * view[2, 2]
        v_k1 = w3 * view[1, 0] + w4 * view[1, 1] + w5 * view[1, 2]
        v_k2 = w3 * view[2, 0] + w4 * view[2, 1] + w5 * view[2, 2]
        fx, fy = lens[0], lens[1]
        ray_x, ray_y = x * rz, y * rz
        held_x, held_y = min(lens[5], max(lens[4], ray_x)), min(lens[7], max(lens[6], ray_y))
        vx, vy = fx * rz * v_means2d[i, 0], fy * rz * v_means2d[i, 1]
        vz = v_depths[i] - ray_x * vx - ray_y * vy
        vz += rz * rz * (fx * (held_x * v_j2 - v_j0) + fy * (held_y * v_k2 - v_k1))
        if held_x == ray_x:
            vx -= fx * rz * rz * v_j2
            vz += fx * rz * rz * ray_x * v_j2
        if held_y == ray_y:
            vy -= fy * rz * rz * v_k2
            vz += fy * rz * rz * ray_y * v_k2
        for k in range(3):
            v_means[i, k] += view[0, k] * vx + view[1, k] * vy + view[2, k] * vz
