"""What each triangle of the face model is, and the masks that colour the skin.

All positions here are model space (cm) of the mean identity unless said otherwise, so that a mask or a noise pattern sticks to
the skin whatever the identity and the expression are.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from .face_model import FaceModel, FloatArray, IntArray

SKIN, BAG, SOCKET, GUMS, TEETH, IRIS_L, IRIS_R, SCLERA_L, SCLERA_R = range(9)
"""Part labels of triangles. BAG is the inside of the cheeks and throat, SOCKET the skin round the back of the eyeball."""

# Vertex ranges inside M_BackHead, as the makers' table lists them.
_MOUTH_SOCKET = (11248, 13293)
_EYE_SOCKETS = (13294, 14061)

CUT_Y = -11.6
"""cm: skin wholly below this height is hidden by the sweater and dropped."""

# Optical axis of the left eye of the mean identity (x > 0): 7.7 degrees outward.
IRIS_BACK = np.array([3.093, 3.614, 7.995])
IRIS_PUPIL = np.array([3.2928, 3.6168, 9.463])

# Hairline: degrees of azimuth from the front, and its height in cm.
_HAIRLINE_AZIMUTH = (0, 20, 38, 52, 64, 78, 92, 105, 130, 180)
_HAIRLINE_HEIGHT = (10.9, 10.7, 10.2, 8.6, 6.2, 5.0, 3.2, 0.6, -3.0, -3.8)


@dataclass
class Parts:
    """Labels and masks of one face model."""

    model: FaceModel

    @cached_property
    def triangle_labels(self) -> NDArray[np.int8]:
        """[T] part of each triangle, -1 where it is never drawn."""
        names = self.model.material_names
        by_material = {
            "M_Face": SKIN, "M_BackHead": SKIN, "M_GumsTongue": GUMS, "M_Teeth": TEETH, "M_IrisLeft": IRIS_L,
            "M_IrisRight": IRIS_R, "M_ScleraLeft": SCLERA_L, "M_ScleraRight": SCLERA_R,
        }
        table = np.array([by_material.get(name, -1) for name in names], np.int8)
        labels = table[self.model.triangle_materials].copy()
        lowest = self.model.triangles.min(axis=1)
        labels[(lowest >= _MOUTH_SOCKET[0]) & (lowest <= _MOUTH_SOCKET[1])] = BAG
        labels[(lowest >= _EYE_SOCKETS[0]) & (lowest <= _EYE_SOCKETS[1])] = SOCKET
        height = self.model.vertices[self.model.triangles][:, :, 1].max(axis=1)
        labels[(labels == SKIN) & (height < CUT_Y)] = -1
        return labels

    def triangles(self, *labels: int) -> IntArray:
        """Ids of the triangles of these parts."""
        return np.flatnonzero(np.isin(self.triangle_labels, labels)).astype(np.int32)

    @cached_property
    def is_face(self) -> NDArray[np.bool_]:
        """[V] vertices of M_Face, where UV runs over 0..1."""
        flag = np.zeros(len(self.model.vertices), bool)
        flag[self.model.material_vertices("M_Face")] = True
        return flag

    @cached_property
    def lips(self) -> FloatArray:
        """[V] 0..1: inside the lips' outline, soft over .009 of UV."""
        uv = self.model.vertex_uvs
        outline = closed_curve(uv[self.model.landmarks[48:60]], 12)
        distance = signed_distance(uv, outline)
        return np.where(self.is_face, smoothstep(-0.0045, 0.0045, distance), 0.0).astype(np.float32)

    @cached_property
    def brows(self) -> FloatArray:
        """[V] 0..1 around the two brow lines."""
        uv = self.model.vertex_uvs
        weight = np.zeros(len(uv))
        for first in (17, 22):
            line = self.brow_line(first)
            distance = np.linalg.norm(uv[:, None] - line[None], axis=2).min(axis=1)
            weight = np.maximum(weight, np.exp(-0.5 * (distance / 0.014) ** 2))
        return np.where(self.is_face, weight, 0.0).astype(np.float32)

    def brow_line(self, first: int, samples: int = 40) -> FloatArray:
        """[samples,2] UV along the middle of the brow whose landmarks start at `first` (17 at x < 0, 22 at x > 0)."""
        points = self.model.vertex_uvs[self.model.landmarks[first : first + 5]].astype(float)
        line = open_curve(points, samples)
        # The landmarks run along the upper edge of the brow.
        line[:, 1] -= np.interp(np.linspace(0, 1, samples), [0, 0.5, 1], [0.007, 0.010, 0.007])
        return line.astype(np.float32)

    @cached_property
    def blush(self) -> FloatArray:
        """[V] 0..1: redder cheeks, tip of the nose and ears."""
        p = self.model.mean_vertices
        mirrored = np.stack([np.abs(p[:, 0]), p[:, 1], p[:, 2]], axis=1)

        def blob(centre: tuple[float, float, float], radius: float) -> NDArray:
            return np.exp(-0.5 * (np.linalg.norm(mirrored - centre, axis=1) / radius) ** 2)

        ears = smoothstep(7.6, 8.6, mirrored[:, 0]) * smoothstep(-1.0, 1.0, p[:, 1]) * (1 - smoothstep(6.0, 7.0, p[:, 1]))
        total = 0.8 * blob((4.6, 0.2, 8.8), 2.0) + 0.7 * blob((0.0, 0.2, 12.6), 1.3) + 0.45 * ears
        return np.clip(total, 0, 1).astype(np.float32)

    @cached_property
    def scalp(self) -> FloatArray:
        """[V] 0..1 above the hairline."""
        return np.clip(0.5 + self.above_hairline(self.model.mean_vertices) / 1.2, 0, 1).astype(np.float32)

    def above_hairline(self, mean_position: NDArray[np.floating]) -> NDArray[np.float64]:
        """Height in cm above the hairline (negative below) of points of the mean identity [...,3]."""
        x, y, z = np.moveaxis(np.asarray(mean_position, float), -1, 0)
        azimuth = np.degrees(np.arctan2(np.abs(x), z - 1.0))
        behind_ear = (np.abs(x) > 6.9) & (y < 6.5) & (y > -2.5) & (z > -2.2)
        return np.where(behind_ear, -2.0, y - np.interp(azimuth, _HAIRLINE_AZIMUTH, _HAIRLINE_HEIGHT))

    def eye_axis(self, side: str) -> tuple[FloatArray, FloatArray]:
        """Back and front point of an eye's optical axis in the mean identity, cm."""
        sign = np.array([1.0 if side == "L" else -1.0, 1.0, 1.0])
        return (IRIS_BACK * sign).astype(np.float32), (IRIS_PUPIL * sign).astype(np.float32)


def smoothstep(low: float, high: float, x: NDArray) -> NDArray:
    t = np.clip((x - low) / (high - low), 0.0, 1.0)
    return t * t * (3.0 - 2.0 * t)


def _catmull_rom(p: NDArray, t: NDArray) -> NDArray:
    a, b, c, d = p
    return 0.5 * (2 * b + (c - a) * t + (2 * a - 5 * b + 4 * c - d) * t**2 + (3 * b - a - 3 * c + d) * t**3)


def closed_curve(points: NDArray, per_span: int) -> NDArray[np.float64]:
    """Catmull-Rom through a closed ring of points [N,2] -> [N * per_span, 2]."""
    points = np.asarray(points, float)
    t = np.linspace(0, 1, per_span, endpoint=False)[:, None]
    shifted = [np.roll(points, -k, axis=0) for k in (-1, 0, 1, 2)]
    return np.concatenate([_catmull_rom(np.array([s[i] for s in shifted]), t) for i in range(len(points))])


def open_curve(points: NDArray, samples: int) -> NDArray[np.float64]:
    """Catmull-Rom through a line of points, `samples` points in all, evenly spaced in the parameter."""
    points = np.asarray(points, float)
    padded = np.concatenate([2 * points[:1] - points[1:2], points, 2 * points[-1:] - points[-2:-1]])
    where = np.linspace(0, len(points) - 1, samples)
    span = np.minimum(where.astype(int), len(points) - 2)
    return np.stack([_catmull_rom(padded[s : s + 4], t) for s, t in zip(span, where - span)])


def signed_distance(points: NDArray, polygon: NDArray) -> NDArray[np.float64]:
    """Distance of points [N,2] to a closed polygon [M,2], positive inside."""
    a, b = polygon, np.roll(polygon, -1, axis=0)
    ab = b - a
    ap = points[:, None] - a[None]
    t = np.clip((ap * ab).sum(-1) / np.maximum((ab * ab).sum(-1), 1e-18), 0, 1)
    nearest = np.linalg.norm(ap - t[..., None] * ab, axis=-1).min(axis=1)
    y = points[:, None, 1]
    crosses = (a[None, :, 1] > y) != (b[None, :, 1] > y)
    with np.errstate(divide="ignore", invalid="ignore"):
        at = a[None, :, 0] + (y - a[None, :, 1]) / (b - a)[None, :, 1] * (b - a)[None, :, 0]
    inside = (crosses & (points[:, None, 0] < at)).sum(axis=1) % 2 == 1
    return np.where(inside, nearest, -nearest)
