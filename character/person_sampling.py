"""Where the splats sit: blue-noise samples of the surfaces, segments of the strands, each bound to a triangle of the face model."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .face_model import FloatArray, IntArray, to_avatar, to_model
from .look import Person
from .look_parts import BAG, GUMS, IRIS_L, IRIS_R, SKIN, SOCKET, TEETH, smoothstep
from .look_strands import Strands, random_barycentrics, vertex_normals
from .person_binding import Binding, bind_points

PARTS = ("skin", "eye", "socket", "brows", "lashes", "hair", "sweater", "bag", "gums", "teeth", "catchlight")
"""Names of the values of `Splats.part`."""
MOUTH = ("bag", "gums", "teeth")
OVERLAP = {
    "skin": (0.72, 0.72), "eye": (0.60, 0.66), "socket": (0.72, 0.72), "bag": (0.75, 0.75), "gums": (0.66, 0.70), "teeth": (0.60, 0.66),
}
"""Standard deviation of a disc over the distance to its neighbours, where samples are fine (.12 cm) and coarse (.2 cm)."""


@dataclass(frozen=True)
class Density:
    """Distances between samples in cm, and shares of the strands that become splats."""

    skin: float = 0.276
    neck: float = 0.42
    scalp: float = 0.50
    lips: float = 0.105
    eyelids: float = 0.120
    nose: float = 0.175
    nostrils: float = 0.10
    ears: float = 0.17
    brow: float = 0.19
    iris: float = 0.050
    white: float = 0.115
    socket: float = 0.22
    bag: float = 0.44
    gums: float = 0.34
    tongue: float = 0.18
    teeth: float = 0.138
    upper_teeth: float = 0.105
    hair_strands: int = 4300
    hair_segments: int = 4
    sweater_columns: int = 180
    sweater_rows: int = 34
    seed: int = 3


@dataclass
class Splats:
    """Bound splats with opacities [N] in 0..1 and part [N] (index into PARTS)."""

    binding: Binding
    opacities: FloatArray
    part: NDArray[np.int8]

    def subset(self, keep: NDArray) -> Splats:
        return Splats(self.binding.subset(keep), self.opacities[keep], self.part[keep])


def sample(person: Person, motion: FloatArray, density: Density = Density()) -> Splats:
    """All splats of a person at rest. motion [V]: how far (m) any pose moves each vertex, used to find a triangle that never moves
    for what must not (hair, sweater)."""
    rng = np.random.default_rng(density.seed)
    sampler = _Sampler(person, rng)
    model, parts = person.model, person.parts
    skin = parts.triangles(SKIN)
    still = still_triangle(model.triangles[skin], motion)

    out = [
        sampler.surface("skin", skin, _skin_spacing(person, density), 0.97, _skin_overlap(person)),
        sampler.surface("socket", _near_eye_opening(person, parts.triangles(SOCKET)), density.socket, 0.95),
        *(sampler.surface("eye", *_eye(person, side, label, density), 0.97) for side, label in (("L", IRIS_L), ("R", IRIS_R))),
        sampler.strands("brows", person.brows, 2, 0.42, width=1.7, lift=0.06),
        sampler.strands("lashes", person.lashes, 3, 0.55, width=1.5),
        sampler.still_strands("hair", person.hair, density, still),
        sampler.sweater(density, still),
        sampler.catchlights(),
        sampler.surface("bag", _bag(person), density.bag, 0.97),
        sampler.surface("gums", _gums(person), _gum_spacing(person, density), 0.97),
    ]
    teeth = _teeth(person)
    upper = triangles_upper(model, teeth)
    every = sampler.surface("teeth", teeth, density.teeth, 0.97)
    out.append(every.subset(~np.isin(every.binding.tri, model.triangles[teeth[upper]]).all(axis=1)))
    # The upper row never moves, so that it costs the motion networks nothing: it may be finer.
    out.append(sampler.surface("teeth", teeth[upper], density.upper_teeth, 0.97))
    return join(out)


def join(splats: list[Splats]) -> Splats:
    first = splats[0].binding
    bindings = [s.binding for s in splats]
    return Splats(
        Binding(*(np.concatenate([getattr(b, name) for b in bindings]) for name in ("tri", "bary", "offset", "quats", "scales")),
                first.rest_vertices),
        np.concatenate([s.opacities for s in splats]),
        np.concatenate([s.part for s in splats]),
    )


def still_triangle(triangles: IntArray, motion: FloatArray) -> IntArray:
    """[3] the vertices of the triangle that moves least."""
    return triangles[motion[triangles].max(axis=1).argmin()]


# --- where and how densely ----------------------------------------------------------------------------------------------------


def _skin_spacing(person: Person, d: Density) -> FloatArray:
    """[V] cm."""
    parts, model = person.parts, person.model
    p = model.mean_vertices
    landmarks = model.mean_vertices[model.landmarks]
    eyes = cKDTree(landmarks[36:48]).query(p)[0]
    nose = cKDTree(landmarks[29:36]).query(p)[0]
    mouth = cKDTree(landmarks[48:68]).query(p)[0]
    spacing = np.full(len(p), d.skin)
    spacing = np.where(p[:, 1] < -6.8, np.interp(p[:, 1], [-9.0, -6.8], [d.neck, d.skin]), spacing)
    spacing = np.where((p[:, 2] < 1.5) & (parts.scalp < 0.5), np.maximum(spacing, 0.30), spacing)
    spacing = np.minimum(spacing, np.interp(nose, [0.3, 1.6], [d.nose, d.skin]))
    spacing = np.minimum(spacing, np.interp(_from_nostrils(p), [0.6, 0.95], [d.nostrils, d.skin]))
    spacing = np.where(_on_ears(p), np.minimum(spacing, d.ears), spacing)
    spacing = np.minimum(spacing, np.interp(mouth, [0.3, 1.4], [d.nose, d.skin]))
    spacing = np.minimum(spacing, np.interp(eyes, [0.35, 1.3], [d.eyelids, d.skin]))
    spacing = np.where(parts.brows > 0.4, np.minimum(spacing, d.brow), spacing)
    spacing = np.where(parts.lips > 0.3, d.lips, spacing)
    deep_scalp = smoothstep(0.8, 2.4, parts.above_hairline(p))
    return (spacing + (d.scalp - spacing) * np.where(deep_scalp > 0, deep_scalp, 0)).astype(np.float32)


def _skin_overlap(person: Person) -> FloatArray:
    """[V] like OVERLAP. Discs must not stick out past the lips and the ears, nor those of the nostrils' inside through the wings of the
    nose; what lies behind there is much alike."""
    model = person.model
    p = model.mean_vertices
    overlap = np.full(len(p), OVERLAP["skin"][1])
    rim = np.linalg.norm(np.where(p[:, :1] < 0, NOSTRIL_RIM * (-1, 1, 1), NOSTRIL_RIM) - p, axis=1)
    overlap = np.minimum(overlap, np.interp(rim, [0.7, 0.95], [0.44, 0.72]))
    inward = np.where(p[:, :1] < 0, NOSE_CAVITY * (-1, 1, 1), NOSE_CAVITY) - p
    facing_in = (vertex_normals(p, model.triangles[person.parts.triangles(SKIN)]) * inward).sum(axis=1) > 0.05
    overlap = np.where(facing_in & (np.linalg.norm(inward, axis=1) < 1.45), 0.26, overlap)
    overlap = np.where(_on_ears(p) | (person.parts.brows > 0.1), 0.60, overlap)
    return np.where(person.parts.lips > 0.3, 0.60, overlap).astype(np.float32)


NOSTRIL = np.array([0.66, -0.7, 10.9])
NOSTRIL_RIM = np.array([0.70, -0.5, 11.5])
NOSE_CAVITY = np.array([0.66, 0.1, 10.8])
"""Foot of the nostril (sampled finely), middle of its rim, and of the hollow behind it at x > 0, mean identity, cm."""


def _from_nostrils(p: FloatArray) -> FloatArray:
    """[V] distance in cm to the middle of the nearer nostril, a little flattened."""
    return np.minimum(*(np.linalg.norm((p - NOSTRIL * (side, 1, 1)) * (1.0, 1.2, 0.9), axis=1) for side in (1, -1)))


def _on_ears(p: FloatArray) -> NDArray[np.bool_]:
    return (np.abs(p[:, 0]) > 7.4) & (p[:, 1] > -2.0) & (p[:, 1] < 6.0)


def _near_eye_opening(person: Person, triangles: IntArray) -> IntArray:
    """The front of the sockets: what shows at the corners of the eyes."""
    centre = person.model.mean_vertices[person.model.triangles[triangles]].mean(axis=1)
    return triangles[centre[:, 2] > 8.3]


def _eye(person: Person, side: str, label: int, d: Density) -> tuple[IntArray, FloatArray]:
    model = person.model
    back, front = person.parts.eye_axis(side)
    axis = (front - back) / np.linalg.norm(front - back)
    pivot = np.array([3.105 if side == "L" else -3.105, 3.604, 7.89])
    relative = model.mean_vertices - pivot
    radius = np.linalg.norm(np.cross(model.mean_vertices - back, axis), axis=1)
    spacing = np.interp(radius, [0.60, 0.75], [d.iris, d.white])
    triangles = person.parts.triangles(label)
    corner = relative[model.triangles[triangles]]
    direction = corner.mean(axis=1)
    cosine = (direction @ axis) / np.linalg.norm(direction, axis=1)
    # The ball has an inner wall behind the iris: only what faces out, and the bottom of the pupil.
    outward = (np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]) * direction).sum(axis=1) > 0
    pupil = radius[model.triangles[triangles]].min(axis=1) < 0.30
    return triangles[(cosine > np.cos(np.radians(66))) & (outward | pupil)], spacing.astype(np.float32)


def _bag(person: Person) -> IntArray:
    triangles = person.parts.triangles(BAG)
    centre = person.model.mean_vertices[person.model.triangles[triangles]].mean(axis=1)
    return triangles[centre[:, 2] > 3.0]


def _gums(person: Person) -> IntArray:
    triangles = person.parts.triangles(GUMS)
    centre = person.model.mean_vertices[person.model.triangles[triangles]].mean(axis=1)
    return triangles[centre[:, 2] > 4.0]


def _gum_spacing(person: Person, d: Density) -> FloatArray:
    on_tongue = np.linalg.norm(person.model.tongue[0], axis=1) > 0
    return np.where(on_tongue, d.tongue, d.gums).astype(np.float32)


def _teeth(person: Person) -> IntArray:
    """Crowns of the front ten of each row, without the parts inside the gums."""
    model = person.model
    triangles = person.parts.triangles(TEETH)
    centre = model.mean_vertices[model.triangles[triangles]].mean(axis=1)
    upper = triangles_upper(model, triangles)
    crown = np.where(upper, centre[:, 1] < -1.55, centre[:, 1] > -4.95)
    return triangles[(centre[:, 2] > 7.4) & crown]


def triangles_upper(model, triangles: IntArray) -> NDArray[np.bool_]:
    """Which triangles of the teeth belong to the upper row, by the makers' vertex table."""
    return model.triangles[triangles].min(axis=1) < 19247


# --- samples --------------------------------------------------------------------------------------------------------------------


class _Sampler:
    def __init__(self, person: Person, rng: np.random.Generator) -> None:
        self.person, self.rng = person, rng
        self.rest = person.rest
        self.rest_cm = to_model(person.rest)

    def surface(
        self, part: str, triangles: IntArray, spacing: float | FloatArray, opacity: float, overlap: FloatArray | None = None
    ) -> Splats:
        """Flat discs on triangles, facing outward. spacing in cm, one number or one per vertex; overlap per vertex, else OVERLAP's."""
        tri = self.person.model.triangles[triangles]
        if np.isscalar(spacing):
            spacing = np.full(len(self.rest), spacing, np.float32)
        owner, bary = blue_noise(self.rng, self.rest_cm, tri, spacing)
        normals = vertex_normals(self.rest_cm, tri)
        normal = np.einsum("nk,nkd->nd", bary, normals[tri[owner]])
        points = np.einsum("nk,nkd->nd", bary, self.rest_cm[tri[owner]])
        local = np.einsum("nk,nk->n", bary, spacing[tri[owner]])
        neighbours = cKDTree(points).query(points, k=min(7, len(points)))[0][:, 1:]
        across = np.clip(neighbours.mean(axis=1), 0.8 * local, 1.5 * local)
        # Wide enough that almost nothing shines through (0.3 % on the skin): behind a face lie dark hair and a dark mouth.
        if overlap is None:
            share = np.interp(local, [0.12, 0.20], OVERLAP[part])
        else:
            share = np.einsum("nk,nk->n", bary, overlap[tri[owner]])
        sigma = share * across
        scales = np.stack([sigma, sigma, 0.12 * sigma], axis=1)
        return self._made(part, tri[owner], bary, np.zeros((len(owner), 3)), facing(normal), scales, opacity)

    def strands(self, part: str, strands: Strands, segments: int, opacity: float, width: float, lift: float = 0.0) -> Splats:
        """Elongated splats along strands, each bound to the triangle of its middle. lift in cm: splats are drawn in the order of their
        centres, and a hair must lie before the skin around it also where that slants."""
        middle, direction, length, radius, triangle = cut(strands, segments)
        tri = self.person.model.triangles[triangle]
        bary = np.full((len(tri), 3), 1 / 3)
        normal = vertex_normals(self.rest_cm, self.person.model.triangles)[tri].mean(axis=1)
        offset = bind_points(to_avatar(middle + lift * normal), self.rest, tri, bary)
        scales = np.stack([0.42 * length, width * 0.75 * radius, width * 0.55 * radius], axis=1)
        return self._made(part, tri, bary, offset, along(direction, normal), scales, opacity)

    def still_strands(self, part: str, strands: Strands, d: Density, still: IntArray) -> Splats:
        chosen = self.rng.choice(len(strands.points), d.hair_strands, replace=False)
        some = Strands(strands.points[chosen], strands.triangle[chosen], strands.radius[chosen])
        middle, direction, length, radius, triangle = cut(some, d.hair_segments)
        normal = vertex_normals(self.rest_cm, self.person.model.triangles)[self.person.model.triangles[triangle]].mean(axis=1)
        tri, bary, offset = self._still(middle, still)
        wide = np.sqrt(len(strands.points) / d.hair_strands) * 1.15
        scales = np.stack([0.40 * length, 0.9 * wide * radius, 0.45 * wide * radius], axis=1)
        return self._made(part, tri, bary, offset, along(direction, normal), scales, 0.86)

    def sweater(self, d: Density, still: IntArray) -> Splats:
        """Columns on the ridges and in the grooves of the ribs: splats long along the rib."""
        segments = 128
        grid = self.person.sweater_points.reshape(-1, segments, 3)
        arc = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(grid[:, 0], axis=0), axis=1))])
        row = np.interp(np.linspace(0.02, 0.99, d.sweater_rows) * arc[-1], arc, np.arange(len(grid)))
        column = np.arange(d.sweater_columns) / d.sweater_columns * segments

        def at(r: NDArray, c: NDArray) -> NDArray:
            r0, c0 = np.minimum(r.astype(int), len(grid) - 2), c.astype(int)
            fr, fc = (r - r0)[..., None], (c - c0)[..., None]
            g = lambda i, j: grid[i, j % segments]
            return (g(r0, c0) * (1 - fr) + g(r0 + 1, c0) * fr) * (1 - fc) + (g(r0, c0 + 1) * (1 - fr) + g(r0 + 1, c0 + 1) * fr) * fc

        r, c = np.meshgrid(row, column, indexing="ij")
        # Every other column half a step lower, so that the rows do not show.
        r = np.clip(r + np.where(np.arange(len(column)) % 2, 0.5, 0.0) * np.gradient(row)[:, None], 0, len(grid) - 1.001)
        points = at(r, c).reshape(-1, 3)
        down = (at(np.minimum(r + 0.5, len(grid) - 1.001), c) - at(np.maximum(r - 0.5, 0), c)).reshape(-1, 3)
        side = (at(r, (c + 0.5) % segments) - at(r, (c - 0.5) % segments)).reshape(-1, 3)
        step_down = np.linalg.norm(np.gradient(at(r, c), axis=0), axis=-1).ravel()
        step_side = np.linalg.norm(side, axis=1) * segments / d.sweater_columns
        scales = np.stack([0.60 * step_down, 0.50 * step_side, 0.06 * step_side], axis=1)
        tri, bary, offset = self._still(points, still)
        return self._made("sweater", tri, bary, offset, along(down, np.cross(down, side)), scales, 0.97)

    def catchlights(self) -> Splats:
        """A small highlight on each cornea: it follows the eye, as the reflection of a far light nearly does."""
        model = self.person.model
        tris, barys, offsets, normals = [], [], [], []
        for side, label in (("L", IRIS_L), ("R", IRIS_R)):
            back, front = self.person.parts.eye_axis(side)
            shift = model.vertices[model.eyes[side][0]].mean(axis=0) - model.mean_vertices[model.eyes[side][0]].mean(axis=0)
            spot = front + shift + np.array([-0.17, 0.19, 0.13])
            triangles = model.triangles[self.person.parts.triangles(label)]
            centres = self.rest_cm[triangles].mean(axis=1)
            tri = triangles[np.linalg.norm(centres - spot, axis=1).argmin()][None]
            bary = np.full((1, 3), 1 / 3)
            tris.append(tri), barys.append(bary)
            offsets.append(bind_points(to_avatar(spot[None]), self.rest, tri, bary))
            normals.append((front - back)[None])
        scales = np.repeat([[0.055, 0.055, 0.012]], 2, axis=0)
        return self._made("catchlight", np.concatenate(tris), np.concatenate(barys), np.concatenate(offsets),
                          facing(np.concatenate(normals)), scales, 0.85)

    def _still(self, points_cm: NDArray, still: IntArray) -> tuple[IntArray, NDArray, FloatArray]:
        tri = np.repeat(still[None], len(points_cm), axis=0)
        bary = np.full((len(tri), 3), 1 / 3)
        return tri, bary, bind_points(to_avatar(points_cm), self.rest, tri, bary)

    def _made(self, part: str, tri: IntArray, bary: NDArray, offset: NDArray, quats: NDArray, scales_cm: NDArray, opacity: float) -> Splats:
        binding = Binding(
            tri.astype(np.int32), bary.astype(np.float32), offset.astype(np.float32), quats.astype(np.float32),
            (np.maximum(scales_cm, 1e-3) / 100.0).astype(np.float32), self.rest,
        )
        return Splats(binding, np.full(len(tri), opacity, np.float32), np.full(len(tri), PARTS.index(part), np.int8))


def blue_noise(rng: np.random.Generator, points: NDArray, tri: IntArray, spacing: FloatArray) -> tuple[IntArray, FloatArray]:
    """Random samples of triangles [T,3], none nearer to another than its spacing (per vertex). -> triangle [N], barycentrics [N,3]."""
    corner = points[tri].astype(np.float64)
    area = 0.5 * np.linalg.norm(np.cross(corner[:, 1] - corner[:, 0], corner[:, 2] - corner[:, 0]), axis=1)
    per_triangle = 9.0 * area / spacing[tri].mean(axis=1) ** 2
    owner = np.repeat(np.arange(len(tri)), rng.poisson(per_triangle))
    owner = owner[rng.permutation(len(owner))]
    bary = random_barycentrics(rng, len(owner))
    where = np.einsum("nk,nkd->nd", bary, corner[owner])
    reach = np.einsum("nk,nk->n", bary, spacing[tri[owner]])
    taken = np.zeros(len(owner), bool)
    blocked = np.zeros(len(owner), bool)
    neighbours = cKDTree(where).query_ball_point(where, reach)
    for i, near in enumerate(neighbours):
        if not blocked[i]:
            taken[i] = True
            blocked[near] = True
    return owner[taken].astype(np.int32), bary[taken].astype(np.float32)


def cut(strands: Strands, segments: int) -> tuple[NDArray, NDArray, NDArray, NDArray, IntArray]:
    """Cut strands [S,K,3] into equal pieces: middle, direction, length, radius, triangle of each."""
    count = strands.points.shape[1]
    ends = np.linspace(0, count - 1, segments + 1)

    def at(values: NDArray, where: NDArray) -> NDArray:
        low = np.minimum(where.astype(int), count - 2)
        f = (where - low).reshape((1, -1) + (1,) * (values.ndim - 2))
        return values[:, low] * (1 - f) + values[:, low + 1] * f

    points, middle = at(strands.points, ends), 0.5 * (ends[1:] + ends[:-1])
    step = np.diff(points, axis=1)
    triangle = strands.triangle[:, np.round(middle).astype(int)]
    return (
        at(strands.points, middle).reshape(-1, 3), step.reshape(-1, 3), np.linalg.norm(step, axis=2).ravel(),
        at(strands.radius, middle).ravel(), triangle.ravel(),
    )


def facing(normal: NDArray) -> FloatArray:
    """Quaternions (wxyz) whose Z axis is the normal."""
    helper = np.where(np.abs(normal[:, :1]) < 0.8 * np.linalg.norm(normal, axis=1, keepdims=True), [[1.0, 0, 0]], [[0, 1.0, 0]])
    return along(np.cross(normal, helper), normal)


def along(direction: NDArray, normal: NDArray) -> FloatArray:
    """Quaternions (wxyz) whose X axis is the direction and whose Z axis is as near to the normal as can be."""
    unit = lambda v: v / np.maximum(np.linalg.norm(v, axis=1, keepdims=True), 1e-12)
    x = unit(direction)
    y = unit(np.cross(normal + 1e-6 * np.array([0.3, 0.5, 0.8]), x))
    return Rotation.from_matrix(np.stack([x, y, np.cross(x, y)], axis=2)).as_quat(scalar_first=True).astype(np.float32)
