"""Splats bound to triangles of the face model: any pose of the model gives their positions, rotations and scales.

A point is `bary . corners + frame . offset`, where the frame of a triangle has its first edge as X and its normal as Z. A splat turns
with the frame and with the in-plane rotation of the triangle's stretch (polar decomposition of the 2x2 map between rest and pose),
and its scales follow how far that map stretches its own axes. All of it is smooth in the pose.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

BINDING_VERSION = 2
"""Goes up whenever the bound splats that move change in number, order or place."""


@dataclass
class Binding:
    """tri [N,3] vertex ids, bary [N,3], offset [N,3] in m in the triangle's frame at rest; quats [N,4] wxyz and scales [N,3]
    (standard deviations, m) at rest; rest_vertices [V,3] the pose in which the splats were bound (avatar space, m)."""

    tri: IntArray
    bary: FloatArray
    offset: FloatArray
    quats: FloatArray
    scales: FloatArray
    rest_vertices: FloatArray

    @cached_property
    def rest_frames(self) -> tuple[NDArray, NDArray]:
        return frames(self.rest_vertices, self.tri)

    def subset(self, keep: NDArray) -> Binding:
        """The same for some splats only (mask or ids)."""
        return Binding(
            self.tri[keep], self.bary[keep], self.offset[keep], self.quats[keep], self.scales[keep], self.rest_vertices
        )


def frames(vertices: NDArray[np.floating], tri: IntArray) -> tuple[NDArray, NDArray]:
    """Frames [N,3,3] (columns X, Y, Z) of triangles, and their two edges in that frame's plane [N,2,2] (columns are edges)."""
    a, b, c = (vertices[tri[:, k]].astype(np.float64) for k in range(3))
    e1, e2 = b - a, c - a
    length = np.maximum(np.linalg.norm(e1, axis=1, keepdims=True), 1e-12)
    x = e1 / length
    normal = np.cross(e1, e2)
    z = normal / np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-18)
    y = np.cross(z, x)
    plane = np.zeros((len(tri), 2, 2))
    plane[:, 0, 0] = length[:, 0]
    plane[:, 0, 1] = (e2 * x).sum(1)
    plane[:, 1, 1] = (e2 * y).sum(1)
    return np.stack([x, y, z], axis=2), plane


def bind_points(points: NDArray[np.floating], vertices: NDArray[np.floating], tri: IntArray, bary: NDArray) -> FloatArray:
    """Offsets [N,3] in the triangles' frames of points [N,3] given at the pose `vertices`."""
    foot = np.einsum("nk,nkd->nd", bary, vertices[tri].astype(np.float64))
    return np.einsum("nij,ni->nj", frames(vertices, tri)[0], points - foot).astype(np.float32)


def place_points(offset: NDArray, vertices: NDArray[np.floating], tri: IntArray, bary: NDArray) -> FloatArray:
    """Inverse of `bind_points` at another pose."""
    foot = np.einsum("nk,nkd->nd", bary, vertices[tri].astype(np.float64))
    return (foot + np.einsum("nij,nj->ni", frames(vertices, tri)[0], offset)).astype(np.float32)


def deform(binding: Binding, vertices: NDArray[np.floating]) -> tuple[FloatArray, FloatArray, FloatArray]:
    """means [N,3] (m), quats [N,4] (wxyz, unit, w >= 0 in the turn from rest) and scales [N,3] (m) at the pose `vertices` [V,3]."""
    from scipy.spatial.transform import Rotation  # not at the top: Blender's Python binds points too, and has no scipy

    rest_frame, rest_plane = binding.rest_frames
    frame, plane = frames(vertices, binding.tri)
    means = place_points(binding.offset, vertices, binding.tri, binding.bary)

    # In-plane map rest -> pose and the rotation in it.
    determinant = rest_plane[:, 0, 0] * rest_plane[:, 1, 1]
    flat = np.abs(determinant) < 1e-16
    inverse = np.zeros_like(rest_plane)
    safe = np.where(flat, 1.0, determinant)
    inverse[:, 0, 0] = rest_plane[:, 1, 1] / safe
    inverse[:, 1, 1] = rest_plane[:, 0, 0] / safe
    inverse[:, 0, 1] = -rest_plane[:, 0, 1] / safe
    stretch = plane @ inverse
    stretch[flat] = np.eye(2)
    angle = np.arctan2(stretch[:, 1, 0] - stretch[:, 0, 1], stretch[:, 0, 0] + stretch[:, 1, 1])
    within = np.zeros((len(angle), 3, 3))
    within[:, 0, 0] = within[:, 1, 1] = np.cos(angle)
    within[:, 1, 0], within[:, 0, 1] = np.sin(angle), -np.sin(angle)
    within[:, 2, 2] = 1.0
    turn = frame @ within @ rest_frame.transpose(0, 2, 1)

    rest_rotation = Rotation.from_quat(binding.quats, scalar_first=True)
    rotation = Rotation.from_matrix(turn) * rest_rotation
    quats = rotation.as_quat(scalar_first=True).astype(np.float32)
    # One sign for all poses: near the quaternion at rest.
    flip = (quats * binding.quats).sum(axis=1) < 0
    quats[flip] *= -1

    axes = rest_frame.transpose(0, 2, 1) @ rest_rotation.as_matrix()
    stretched = np.concatenate([stretch @ axes[:, :2], axes[:, 2:]], axis=1)
    factor = np.linalg.norm(stretched, axis=1)
    scales = binding.scales * np.clip(factor, 0.3, 3.0)
    return means, quats, scales.astype(np.float32)
