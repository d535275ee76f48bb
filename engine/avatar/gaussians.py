"""A set of 3D Gaussians as drawn, its activations, and turning it from one frame of axes into another."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Gaussians:
    """N activated 3D Gaussians.

    Attributes:
        means: [N,3] float32, centres.
        quats: [N,4] float32, unit, w first.
        scales: [N,3] float32, standard deviations along the rotated axes, in units of `means`, > 0.
        opacities: [N] float32 in 0..1.
        sh: [N,K,3] float32, K = (degree+1)^2, DC first, 3DGS order and signs; colour = 0.5 + sum(sh * basis), sRGB.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray

    def __len__(self) -> int:
        return len(self.means)


def sigmoid(raw: np.ndarray) -> np.ndarray:
    """Opacity's activation: any real -> 0..1."""
    return (0.5 * (np.tanh(0.5 * np.asarray(raw, np.float64)) + 1.0)).astype(np.float32)


def softplus(raw: np.ndarray) -> np.ndarray:
    """Scale's activation: any real -> > 0 (the paper's code uses softplus where 3DGS uses exp); float32, error 3e-7 of it."""
    raw = np.asarray(raw, np.float32)
    return np.maximum(raw, 0) + np.log1p(np.exp(-np.abs(raw)))  # float64 costs five times as much, every frame


def softplus_inverse(scales: np.ndarray) -> np.ndarray:
    """Raw value whose softplus is `scales` (> 0); float64 inside, exact for tiny scales."""
    scales = np.asarray(scales, np.float64)
    return (scales + np.log(-np.expm1(-scales))).astype(np.float32)


def normalise(quats: np.ndarray) -> np.ndarray:
    """Quaternions [..,4] of length 1; a zero one becomes no rotation."""
    quats = np.asarray(quats, np.float32)
    length = np.sqrt(np.einsum("...i,...i->...", quats, quats))[..., None]
    if length.all():
        return quats / length
    return np.where(length > 0, quats / np.where(length > 0, length, 1), np.array([1, 0, 0, 0], np.float32))


def quat_multiply(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Hamilton product [..,4], w first: the rotation b, then a."""
    aw, ax, ay, az = np.moveaxis(np.asarray(a), -1, 0)
    bw, bx, by, bz = np.moveaxis(np.asarray(b), -1, 0)
    return np.stack(
        [
            aw * bw - ax * bx - ay * by - az * bz,
            aw * bx + ax * bw + ay * bz - az * by,
            aw * by - ax * bz + ay * bw + az * bx,
            aw * bz + ax * by - ay * bx + az * bw,
        ],
        axis=-1,
    )


def matrix_to_quat(matrix: np.ndarray) -> np.ndarray:
    """Unit quaternion [4] (w first) of a rotation matrix [3,3], by the eigenvector that is stable for every rotation."""
    m = np.asarray(matrix, np.float64)
    k = np.array(
        [
            [m[0, 0] + m[1, 1] + m[2, 2], m[2, 1] - m[1, 2], m[0, 2] - m[2, 0], m[1, 0] - m[0, 1]],
            [m[2, 1] - m[1, 2], m[0, 0] - m[1, 1] - m[2, 2], m[0, 1] + m[1, 0], m[0, 2] + m[2, 0]],
            [m[0, 2] - m[2, 0], m[0, 1] + m[1, 0], m[1, 1] - m[0, 0] - m[2, 2], m[1, 2] + m[2, 1]],
            [m[1, 0] - m[0, 1], m[0, 2] + m[2, 0], m[1, 2] + m[2, 1], m[2, 2] - m[0, 0] - m[1, 1]],
        ]
    )
    quat = np.linalg.eigh(k)[1][:, -1]
    return quat if quat[0] >= 0 else -quat


# Real spherical harmonics up to degree 3 with 3DGS's signs, as polynomials of the unit direction (x, y, z).
def sh_basis(directions: np.ndarray, degree: int) -> np.ndarray:
    """SH basis [M,(degree+1)^2] at unit directions [M,3], degree 0..3."""
    x, y, z = np.asarray(directions, np.float64).T
    one = np.ones_like(x)
    columns = [0.28209479177387814 * one]
    if degree >= 1:
        columns += [-0.4886025119029199 * y, 0.4886025119029199 * z, -0.4886025119029199 * x]
    if degree >= 2:
        columns += [
            1.0925484305920792 * x * y,
            -1.0925484305920792 * y * z,
            0.31539156525252005 * (2 * z * z - x * x - y * y),
            -1.0925484305920792 * x * z,
            0.5462742152960396 * (x * x - y * y),
        ]
    if degree >= 3:
        columns += [
            -0.5900435899266435 * y * (3 * x * x - y * y),
            2.890611442640554 * x * y * z,
            -0.4570457994644658 * y * (4 * z * z - x * x - y * y),
            0.3731763325901154 * z * (2 * z * z - 3 * x * x - 3 * y * y),
            -0.4570457994644658 * x * (4 * z * z - x * x - y * y),
            1.445305721320277 * z * (x * x - y * y),
            -0.5900435899266435 * x * (x * x - 3 * y * y),
        ]
    return np.stack(columns, axis=-1)


def turn_sh(sh: np.ndarray, rotation: np.ndarray) -> np.ndarray:
    """SH [N,K,3] of a set turned by `rotation` [3,3]: the colour seen along R d is what was seen along d.

    Each degree turns within itself; its matrix is fitted to the basis at fixed directions, exact to rounding.
    """
    degree = int(round(sh.shape[1] ** 0.5)) - 1
    directions = np.random.default_rng(0).normal(size=(64, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    before = sh_basis(directions, degree)
    after = sh_basis(directions @ np.asarray(rotation, np.float64).T, degree)
    turned = np.array(sh, np.float32)
    for band in range(1, degree + 1):
        columns = slice(band * band, (band + 1) ** 2)
        matrix = np.linalg.lstsq(after[:, columns], before[:, columns], rcond=None)[0]
        turned[:, columns] = np.einsum("ij,njc->nic", matrix, np.asarray(sh[:, columns], np.float64))
    return turned


def turn_geometry(
    means: np.ndarray, quats: np.ndarray, scales: np.ndarray, rotation: np.ndarray, factor: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """means [N,3], quats [N,4], scales [N,3] turned by `rotation` [3,3] about the origin and scaled by `factor`."""
    rotation = np.asarray(rotation, np.float64)
    return (
        (means @ (factor * rotation.T)).astype(np.float32),
        quat_multiply(matrix_to_quat(rotation), quats).astype(np.float32),
        (scales * factor).astype(np.float32),
    )


def turn(gaussians: Gaussians, rotation: np.ndarray, factor: float = 1.0) -> Gaussians:
    """The set turned by `rotation` [3,3] about the origin and scaled by `factor`, colours included."""
    geometry = turn_geometry(gaussians.means, gaussians.quats, gaussians.scales, rotation, factor)
    return Gaussians(*geometry, gaussians.opacities, turn_sh(gaussians.sh, np.asarray(rotation, np.float64)))


def join(parts: list[Gaussians]) -> Gaussians:
    """One set out of several; SH of lower degree is filled with zeros."""
    bands = max(part.sh.shape[1] for part in parts)
    sh = [np.pad(part.sh, ((0, 0), (0, bands - part.sh.shape[1]), (0, 0))) for part in parts]
    return Gaussians(
        *(np.concatenate([getattr(part, name) for part in parts]) for name in ("means", "quats", "scales", "opacities")),
        np.concatenate(sh),
    )
