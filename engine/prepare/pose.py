"""The head's pose in every picture, smooth in time: perspective-n-point on the person's rigid landmarks."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.linalg import solveh_banded
from scipy.spatial.transform import Rotation

from .shape import CORRELATED, FLIP, ROBUST, HeadShape, project

# How much a talking head's motion changes from one picture to the next two, 25 a second: a nod of 3 degrees twice a second
# reaches 0.7 degrees. A camera on a tripod sees no more; depth is told worst by the picture and held most.
TURN_CHANGE = np.radians(0.5)
SHIFT_CHANGE = np.array([0.001, 0.001, 0.002])  # metres
ROUNDS = 12


@dataclass(frozen=True, eq=False)
class HeadPoses:
    """Where the head is, picture by picture (NaN-free; pictures without a face are bridged by their neighbours).

    Attributes:
        rotation: [F,3] rotation vectors, translation: [F,3] metres: head to camera, on top of `FLIP` (see shape.py).
        error: [F] px, root mean square distance between the rigid landmarks and where the pose puts them; NaN without a face.
    """

    rotation: np.ndarray
    translation: np.ndarray
    error: np.ndarray

    @property
    def camera_to_world(self) -> np.ndarray:
        """[F,4,4]: the camera in head space, OpenGL's axes (x right, y up, looks along -z)."""
        result = np.tile(np.eye(4), (len(self.rotation), 1, 1))
        # Both ends have y and z turned round: head space by FLIP, the camera by OpenGL's axes.
        turned = Rotation.from_rotvec(self.rotation).as_matrix() * FLIP
        result[:, :3, :3] = turned.transpose(0, 2, 1) * FLIP
        result[:, :3, 3] = -np.einsum("fji,fj->fi", turned, self.translation)
        return result

    @property
    def angles(self) -> np.ndarray:
        """[F,3] degrees: yaw (positive: towards the person's left), pitch (positive: down), roll (positive: towards the person's left shoulder)."""
        return Rotation.from_rotvec(self.rotation * FLIP).as_euler("YXZ", degrees=True) * [1.0, 1.0, -1.0]


def fit_poses(landmarks: np.ndarray, shape: HeadShape) -> HeadPoses:
    """Find the poses.

    Gauss-Newton over all pictures at once: robust distances of the rigid points, weighted by how much each moves by itself, and
    second differences in time. Each step is one banded linear system, exact and in linear time.

    Args:
        landmarks: [F,>=468,2 or 3] px; NaN in pictures without a face.
    """
    rigid = shape.rigid
    observed = np.asarray(landmarks[:, rigid, :2], np.float64)
    seen = np.isfinite(observed).all((1, 2))
    weights = 1 / (shape.spread[rigid] * np.sqrt(CORRELATED))
    rotation, translation = _first_guess(observed, seen, shape)
    for _ in range(ROUNDS):
        step = _step(observed, seen, weights, shape, rotation, translation)
        rotation = (Rotation.from_rotvec(step[:, :3]) * Rotation.from_rotvec(rotation)).as_rotvec()
        translation = translation + step[:, 3:]
        translation[:, 2] = np.maximum(translation[:, 2], 0.05)
        if np.abs(step).max() < 1e-7:
            break
    off = project(shape.points[rigid], rotation, translation, shape.focal, shape.centre) - observed
    return HeadPoses(rotation, translation, np.sqrt((off**2).sum(-1).mean(-1)))


def _first_guess(observed: np.ndarray, seen: np.ndarray, shape: HeadShape) -> tuple[np.ndarray, np.ndarray]:
    """Scaled orthography: the rotation nearest to the affine map from the model to the picture; gaps filled from the neighbours."""
    model = shape.points[shape.rigid] * FLIP
    middle = model.mean(0)
    count = len(observed)
    rotation, translation = np.zeros((count, 3)), np.zeros((count, 3))
    inverse = np.linalg.pinv(model - middle)
    points = observed[seen]
    affine = np.einsum("jp,fpi->fij", inverse, points - points.mean(1, keepdims=True))  # [n,2,3]
    u, s, vt = np.linalg.svd(affine, full_matrices=False)
    rows = u @ vt
    scale = s.mean(-1)
    matrices = np.concatenate([rows, np.cross(rows[:, 0], rows[:, 1])[:, None]], axis=1)
    depth = shape.focal / scale
    place = np.column_stack([(points.mean(1) - shape.centre) / scale[:, None], depth])
    rotation[seen] = Rotation.from_matrix(matrices).as_rotvec()
    translation[seen] = place - matrices @ middle * [1, 1, 0]
    nearest = np.interp(np.arange(count), np.flatnonzero(seen), np.flatnonzero(seen)).round().astype(int)
    nearest = np.flatnonzero(seen)[np.abs(nearest[:, None] - np.flatnonzero(seen)[None]).argmin(1)] if not seen.all() else np.arange(count)
    return rotation[nearest], translation[nearest]


def _step(
    observed: np.ndarray, seen: np.ndarray, weights: np.ndarray, shape: HeadShape, rotation: np.ndarray, translation: np.ndarray
) -> np.ndarray:
    """One Gauss-Newton step [F,6]: a small turn (camera axes) and shift."""
    model = shape.points[shape.rigid] * FLIP
    turned = np.einsum("fij,pj->fpi", Rotation.from_rotvec(rotation).as_matrix(), model)
    x, y, z = np.moveaxis(turned + translation[:, None], -1, 0)
    z = np.maximum(z, 1e-3)
    f, zero = shape.focal, np.zeros_like(z)
    lens = np.stack([np.stack([f / z, zero, -f * x / z**2], -1), np.stack([zero, f / z, -f * y / z**2], -1)], -2)  # [F,P,2,3]
    a, b, c = np.moveaxis(turned, -1, 0)
    cross = np.stack([np.stack([zero, c, -b], -1), np.stack([-c, zero, a], -1), np.stack([b, -a, zero], -1)], -2)  # d(turn x v)
    jacobian = np.concatenate([lens @ cross, lens], -1)
    off = np.where(seen[:, None, None], observed, 0) - np.stack([f * x / z, f * y / z], -1) - np.where(seen[:, None, None], shape.centre, 0)
    size = np.linalg.norm(off, axis=-1) * weights / ROBUST
    trust = np.where(seen[:, None], weights**2 / np.sqrt(1 + size**2), 0)  # soft-L1, re-weighted
    blocks = np.einsum("fp,fpki,fpkj->fij", trust, jacobian, jacobian)
    right = np.einsum("fp,fpki,fpk->fi", trust, jacobian, off)
    return _solve(blocks, right, rotation, translation)


def _solve(blocks: np.ndarray, right: np.ndarray, rotation: np.ndarray, translation: np.ndarray) -> np.ndarray:
    """Add the smoothness term to block-diagonal normal equations and solve: a band of 3 blocks' width."""
    count = len(blocks)
    holds = 1 / np.concatenate([np.full(3, TURN_CHANGE), SHIFT_CHANGE]) ** 2
    band = np.zeros((18, 6 * count))  # upper form: band[17 + i - j, j] = A[i, j]
    for i in range(6):
        for j in range(i, 6):
            band[17 + i - j, j::6] = blocks[:, i, j]
    right = right.copy()
    if count > 2:
        # Differences of rotation vectors are taken relative to the mean pose, where they are small angles.
        base = Rotation.from_rotvec(rotation).mean()
        state = np.concatenate([(Rotation.from_rotvec(rotation) * base.inv()).as_rotvec(), translation], 1)
        second = np.diff(state, 2, axis=0)
        for offset, factor in enumerate((1.0, -2.0, 1.0)):
            right[offset : count - 2 + offset] -= factor * second * holds
        pattern = np.zeros((3, count))  # D^T D: diagonal, first and second off-diagonal
        for p, first in enumerate((1.0, -2.0, 1.0)):
            for q, other in enumerate((1.0, -2.0, 1.0)):
                if q >= p:
                    pattern[q - p, q : count - 2 + q] += first * other
        for k in range(3):
            for i in range(6):
                band[17 - 6 * k, i::6] += pattern[k] * holds[i]
    band[17] += 1e-9 * np.abs(band[17]).max()
    return solveh_banded(band, right.ravel()).reshape(count, 6)
