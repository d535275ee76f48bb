"""Hair, brows and lashes as polylines in model space (cm), made once at the rest pose.

Every strand carries, for each of its points, the triangle it moves with, so that renders and splats move alike.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from .face_model import FloatArray, IntArray
from .look_parts import SKIN, Parts, smoothstep


@dataclass
class Strands:
    """points [S,K,3] in cm at rest, triangle [S,K] that each point moves with, radius [S,K] in cm."""

    points: FloatArray
    triangle: IntArray
    radius: FloatArray


@dataclass(frozen=True)
class HairStyle:
    """A short crop. Lengths in cm."""

    strands: int = 22000
    points: int = 8
    clumps: int = 520
    length_top: float = 3.3
    length_side: float = 1.3
    radius: float = 0.034
    seed: int = 11


def vertex_normals(points: NDArray[np.floating], triangles: IntArray) -> FloatArray:
    """Area-weighted unit normals [V,3]; zero where no triangle of the list touches a vertex."""
    corner = points[triangles].astype(np.float64)
    face = np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0])
    normal = np.zeros((len(points), 3))
    for k in range(3):
        np.add.at(normal, triangles[:, k], face)
    length = np.linalg.norm(normal, axis=1, keepdims=True)
    return (normal / np.maximum(length, 1e-12)).astype(np.float32)


def random_barycentrics(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    a, b = np.sqrt(rng.random(count)), rng.random(count)
    return np.stack([1 - a, a * (1 - b), a * b], axis=1)


def _unit(v: NDArray) -> NDArray:
    return v / np.maximum(np.linalg.norm(v, axis=-1, keepdims=True), 1e-9)


def hair(parts: Parts, rest_cm: FloatArray, style: HairStyle = HairStyle()) -> Strands:
    """A crop combed forward from the crown, swept to one side over the forehead, short at the sides."""
    rng = np.random.default_rng(style.seed)
    model = parts.model
    ids = parts.triangles(SKIN)
    tri = model.triangles[ids]
    above = parts.above_hairline(model.mean_vertices)
    corner_above = above[tri]
    area = 0.5 * np.linalg.norm(np.cross(rest_cm[tri[:, 1]] - rest_cm[tri[:, 0]], rest_cm[tri[:, 2]] - rest_cm[tri[:, 0]]), axis=1)
    weight = area * (corner_above.max(axis=1) > 0)
    pick = rng.choice(len(ids), style.strands * 2, p=weight / weight.sum())
    bary = random_barycentrics(rng, len(pick))
    height = (bary * corner_above[pick]).sum(axis=1)
    # A soft, uneven hairline: fewer hairs over the first centimetre.
    keep = np.flatnonzero(height + rng.normal(0, 0.18, len(height)) > 0.05 + 0.35 * rng.random(len(height)) ** 2)[: style.strands]
    pick, bary, height = pick[keep], bary[keep], height[keep]

    normals = vertex_normals(rest_cm, tri)
    root = np.einsum("sk,skd->sd", bary, rest_cm[tri[pick]])
    out = _unit(np.einsum("sk,skd->sd", bary, normals[tri[pick]]))
    mean_root = np.einsum("sk,skd->sd", bary, model.mean_vertices[tri[pick]])

    head = cKDTree(np.concatenate([rest_cm[np.unique(tri)], rest_cm[tri].mean(axis=1)]))
    surface_normal = np.concatenate([normals[np.unique(tri)], _unit(normals[tri].mean(axis=1))])

    # The crown whorl sits at the back, a little to one side; hair lies away from it with a turn to +X.
    crown = np.array([-1.2, 13.6, -4.2])
    away = root - crown
    comb = away - (away * out).sum(1, keepdims=True) * out
    comb = _unit(comb) + 0.5 * np.cross(out, _unit(comb))
    front = smoothstep(1.0, 8.0, mean_root[:, 2:3]) * smoothstep(8.0, 11.0, mean_root[:, 1:2])
    comb = comb + front * np.array([1.1, 0.35, 0.15])
    low = 1.0 - smoothstep(3.0, 9.5, mean_root[:, 1:2])
    comb = comb + low * np.array([0.0, -1.4, -0.35])
    comb = _unit(comb - (comb * out).sum(1, keepdims=True) * out)

    top = smoothstep(5.5, 11.5, mean_root[:, 1])
    length = style.length_side + (style.length_top - style.length_side) * top
    length = length * (1.0 + 0.25 * front[:, 0]) * np.clip(0.5 + 0.5 * smoothstep(-0.2, 1.6, height), 0.45, 1)
    length = length * np.clip(rng.normal(1.0, 0.13, len(root)), 0.6, 1.35)
    # Fade toward the nape and the temples.
    length = length * (0.35 + 0.65 * smoothstep(-4.0, 3.5, mean_root[:, 1]))

    clump_root = rng.choice(len(root), style.clumps, replace=False)
    clump = cKDTree(root[clump_root]).query(root)[1]
    swing = rng.normal(0, 0.30, (style.clumps, 3))[clump] + rng.normal(0, 0.10, (len(root), 3))
    lift = (0.30 + 0.50 * top + 0.35 * front[:, 0]) * rng.normal(1.0, 0.18, len(root))

    points = np.empty((len(root), style.points, 3))
    points[:, 0] = root - 0.08 * out
    step = (length / (style.points - 1))[:, None]
    for k in range(1, style.points):
        t = (k - 1) / (style.points - 2)
        near = points[:, k - 1]
        normal = surface_normal[head.query(near)[1]]
        along = comb - (comb * normal).sum(1, keepdims=True) * normal
        rise = (lift * (1.0 - 1.15 * t))[:, None]
        direction = _unit(_unit(along + swing * (0.4 + 0.8 * t)) + rise * normal * 1.3 + np.array([0, -0.20, 0]) * t)
        new = near + step * direction
        # Push what went under off the head.
        distance, index = head.query(new)
        gap = ((new - head.data[index]) * surface_normal[index]).sum(1)
        floor = 0.04 + 0.22 * top * t
        new += np.maximum(floor - gap, 0.0)[:, None] * surface_normal[index]
        points[:, k] = new
    # Strands of a clump draw together toward their tips.
    guide = points[clump_root[clump]] - points[clump_root[clump]][:, :1] + points[:, :1]
    spread = points[clump_root[clump]] - guide
    pull = (0.45 * (np.linspace(0, 1, style.points) ** 1.4))[None, :, None]
    points += pull * (guide + 0.65 * spread - points)

    radius = style.radius * np.linspace(1.0, 0.25, style.points) ** 0.8
    radius = np.broadcast_to(radius, points.shape[:2]) * rng.uniform(0.8, 1.2, (len(points), 1))
    triangle = np.broadcast_to(ids[pick][:, None], points.shape[:2])
    return Strands(points.astype(np.float32), triangle.astype(np.int32), radius.astype(np.float32))


def brows(parts: Parts, rest_cm: FloatArray, per_side: int = 340, seed: int = 5) -> Strands:
    """Short tapered hairs along both brow lines: upright at the inner end, lying outward toward the temple."""
    rng = np.random.default_rng(seed)
    model = parts.model
    ids = parts.triangles(SKIN)
    ids = ids[parts.is_face[model.triangles[ids]].all(axis=1)]
    tri, tri_uv = model.triangles[ids], model.triangle_uvs[ids]
    normals = vertex_normals(rest_cm, tri)
    finder = UVFinder(tri_uv)
    all_points, all_triangles, all_radius = [], [], []
    for first, sign in ((17, -1.0), (22, 1.0)):
        line = parts.brow_line(first, 80)
        if sign < 0:  # landmarks 17..21 run from the temple to the nose
            line = line[::-1]
        t = rng.beta(1.05, 1.15, per_side)
        thick = 0.0085 * np.interp(t, [0, 0.15, 0.55, 1], [0.8, 1.05, 0.9, 0.32])
        centre = np.stack([np.interp(t, np.linspace(0, 1, len(line)), line[:, k]) for k in range(2)], axis=1)
        across = np.clip(rng.normal(0, 0.52, per_side), -1.1, 1.1)
        uv = centre + np.stack([np.zeros(per_side), across * thick], axis=1)
        triangle, bary = finder(uv)
        root = np.einsum("sk,skd->sd", bary, rest_cm[tri[triangle]])
        out = _unit(np.einsum("sk,skd->sd", bary, normals[tri[triangle]]))
        angle = np.radians(np.interp(t, [0, 0.18, 0.45, 1], [78, 48, 24, -14]) - 16 * across + rng.normal(0, 8, per_side))
        direction = np.stack([sign * np.cos(angle), np.sin(angle), np.zeros(per_side)], axis=1)
        direction = _unit(direction - (direction * out).sum(1, keepdims=True) * out)
        length = rng.uniform(0.42, 0.68, per_side) * np.interp(t, [0, 0.2, 0.7, 1], [0.7, 0.95, 0.95, 0.65])
        steps = np.linspace(0, 1, 4)
        bend = sign * np.array([1.0, -0.25, 0.0])
        points = root[:, None] + (length[:, None] * steps)[..., None] * _unit(direction[:, None] + 0.45 * steps[None, :, None] * bend)
        # Follow the curve of the forehead: lift each point to a set height over the plane of its nearest skin.
        tree = cKDTree(rest_cm[np.unique(tri)])
        near = np.unique(tri)[tree.query(points.reshape(-1, 3))[1]].reshape(points.shape[:2])
        gap = ((points - rest_cm[near]) * normals[near]).sum(-1)
        points = points + (0.012 + 0.035 * steps[None] - gap)[..., None] * normals[near]
        all_points.append(points)
        all_triangles.append(np.broadcast_to(ids[triangle][:, None], points.shape[:2]))
        all_radius.append(np.broadcast_to(np.array([0.019, 0.019, 0.015, 0.006]), points.shape[:2]))
    return _joined(all_points, all_triangles, all_radius)


def lashes(parts: Parts, rest_cm: FloatArray, upper: int = 95, lower: int = 46, seed: int = 7) -> Strands:
    """Lashes along the model's lash cards (three upper and one lower an eye, hidden otherwise), which move with the lids."""
    rng = np.random.default_rng(seed)
    model = parts.model
    card_ids = np.flatnonzero(model.triangle_materials == model.material_names.index("M_EyeLashes")).astype(np.int32)
    tri_uv = model.triangle_uvs[card_ids]
    centre = tri_uv.mean(axis=1)
    steps = np.linspace(0.0, 1.0, 5)
    all_points, all_triangles, all_radius = [], [], []
    for eye in (6.01, 6.51):  # UV of the cards: u along the lid, v across, roots at the high end
        for low in (0.01, 0.18, 0.35, 0.52, 0.68, 0.85):
            mine = (np.abs(centre[:, 0] - eye - 0.24) < 0.25) & (np.abs(centre[:, 1] - low - 0.07) < 0.075)
            if not mine.any():
                continue
            finder = UVFinder(tri_uv[mine])
            uv = tri_uv[mine].reshape(-1, 2)
            (u0, v0), (u1, v1) = uv.min(axis=0), uv.max(axis=0)
            is_lower = rest_cm[model.triangles[card_ids[mine]]][..., 1].mean() < 3.35 + (rest_cm - model.mean_vertices)[:, 1].mean()
            count = (lower if is_lower else upper) // 3
            u = np.sort(rng.uniform(0.06, 0.97, count))
            reach = (0.55 if is_lower else 0.76) * rng.uniform(0.75, 1.0, count) * (0.72 + 0.28 * np.sin(np.pi * u))
            lean = (u - 0.5) * 0.10 + rng.normal(0, 0.008, count)
            at_u = u0 + (u1 - u0) * np.clip(u[:, None] + lean[:, None] * steps**1.2, 0.003, 0.997)
            at_v = v1 - (v1 - v0) * np.clip(reach[:, None] * steps, 0.003, 0.997)
            triangle, bary = finder(np.stack([at_u, at_v], axis=-1).reshape(-1, 2))
            corner = rest_cm[model.triangles[card_ids[mine][triangle]]]
            points = np.einsum("sk,skd->sd", bary, corner).reshape(count, len(steps), 3)
            if not is_lower:  # the cards stand straight out: curl the tips up
                points = points + (0.26 * steps**2)[None, :, None] * np.array([0.0, 1.0, -0.15])
            all_points.append(points)
            all_triangles.append(card_ids[mine][triangle].reshape(count, len(steps)))
            thick = 0.016 if is_lower else 0.024
            all_radius.append(np.broadcast_to(thick * np.linspace(1.0, 0.25, len(steps)), points.shape[:2]))
    return _joined(all_points, all_triangles, all_radius)


def _joined(points: list[NDArray], triangles: list[NDArray], radius: list[NDArray]) -> Strands:
    return Strands(
        np.concatenate(points).astype(np.float32),
        np.concatenate(triangles).astype(np.int32),
        np.concatenate(radius).astype(np.float32),
    )


class UVFinder:
    """Finds the triangle of a UV layout [T,3,2] that holds a UV point; the nearest one where none does."""

    def __init__(self, triangle_uvs: FloatArray) -> None:
        self._uv = triangle_uvs.astype(np.float64)
        self._tree = cKDTree(self._uv.mean(axis=1))

    def __call__(self, uv: NDArray[np.floating]) -> tuple[IntArray, FloatArray]:
        """[N,2] -> triangle [N] and barycentrics [N,3], clipped into the triangle."""
        candidates = self._tree.query(uv, k=min(12, len(self._uv)))[1]
        a, b, c = np.moveaxis(self._uv[candidates], 2, 0)
        v0, v1, v2 = b - a, c - a, np.asarray(uv, float)[:, None] - a
        cross = v0[..., 0] * v1[..., 1] - v0[..., 1] * v1[..., 0]
        cross = np.where(np.abs(cross) < 1e-16, 1e-16, cross)
        s = (v2[..., 0] * v1[..., 1] - v2[..., 1] * v1[..., 0]) / cross
        t = (v0[..., 0] * v2[..., 1] - v0[..., 1] * v2[..., 0]) / cross
        bary = np.stack([1 - s - t, s, t], axis=-1)
        best = bary.min(axis=-1).argmax(axis=1)
        row = np.arange(len(best))
        chosen = np.clip(bary[row, best], 0, None)
        return candidates[row, best].astype(np.int32), (chosen / chosen.sum(axis=1, keepdims=True)).astype(np.float32)
