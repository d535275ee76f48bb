"""The face model (ICT-FaceKit Light, MIT) as arrays: identities, expressions, gaze and tongue.

Model space is the makers' (centimetres, Y up, the face looks along +Z). Avatar space is the engine's: metres, Y up, front +Z,
shifted by `CENTRE_CM` so that the whole head with its hair lies inside +-0.15.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from engine.errors import UserError

FloatArray = NDArray[np.float32]
IntArray = NDArray[np.int32]

CENTRE_CM = np.array([0.0, 2.5, 2.0], np.float32)
"""The point of model space (cm) that becomes the origin of avatar space."""

CM_PER_METRE = 100.0

# Multi-PIE 68 point landmarks as vertex indices, as the face model's read-me lists them.
LANDMARKS_68 = (
    1225, 1888, 1052, 367, 1719, 1722, 2199, 1447, 966, 3661, 4390, 3927, 3924, 2608, 3272, 4088, 3443, 268, 493, 1914, 2044,
    1401, 3615, 4240, 4114, 2734, 2509, 978, 4527, 4942, 4857, 1140, 2075, 1147, 4269, 3360, 1507, 1542, 1537, 1528, 1518,
    1511, 3742, 3751, 3756, 3721, 3725, 3732, 5708, 5695, 2081, 0, 4275, 6200, 6213, 6346, 6461, 5518, 5957, 5841, 5702,
    5711, 5533, 6216, 6207, 6470, 5517, 5966,
)

EYE_PIVOT_CM = {"L": np.array([3.105, 3.604, 7.89]), "R": np.array([-3.105, 3.604, 7.89])}
"""Centres of rotation of the eyeballs of the mean identity. `_L` is at x > 0."""

# Degrees of eyeball rotation that fit the lids when the eyeLook shape is at 1.
DEGREES_OUT, DEGREES_DOWN, DEGREES_UP = 27.5, 25.0, 18.75

EXTRA_COEFFICIENTS = ("tongueUp", "tongueOut", "gazeYaw", "gazePitch")
"""Coefficients that `FaceModel.pose` takes beside the model's own shapes: two tongue shapes (0..1), and degrees of gaze on top of
what the eyeLook shapes turn (yaw toward +X, pitch up)."""

DEFAULT_IDENTITY_SEED = 6
IDENTITY_MODES = 60
IDENTITY_SIGMA = 0.5


@dataclass
class FaceModel:
    """One identity of the face model.

    vertices [V,3] and identities are in cm (model space); `pose` and `rest` give avatar space in metres.
    faces [F,4] int32 are quads, -1 in the last column where a face is a triangle; face_uvs [F,4] index uvs [U,2];
    face_materials [F] index material_names.
    """

    vertices: FloatArray
    faces: IntArray
    uvs: FloatArray
    face_uvs: IntArray
    face_materials: NDArray[np.int8]
    material_names: tuple[str, ...]
    expression_names: tuple[str, ...]
    expressions: FloatArray
    landmarks: IntArray
    mean_vertices: FloatArray
    identity_seed: int | None = None
    source: str = ""
    _index: dict[str, int] = field(init=False, repr=False)

    def __post_init__(self) -> None:
        self._index = {name: i for i, name in enumerate(self.expression_names)}

    # --- topology -------------------------------------------------------------------------------------------------------

    @cached_property
    def triangles(self) -> IntArray:
        """[T,3] vertex ids: quads split along their first diagonal."""
        return self._split(self.faces)[0]

    @cached_property
    def triangle_faces(self) -> IntArray:
        """[T] the face that each triangle comes from."""
        return self._split(self.faces)[1]

    @cached_property
    def triangle_uvs(self) -> FloatArray:
        """[T,3,2] UV of each corner."""
        return self.uvs[self._split(self.face_uvs)[0]]

    @cached_property
    def triangle_materials(self) -> NDArray[np.int8]:
        """[T] index into material_names."""
        return self.face_materials[self.triangle_faces]

    @cached_property
    def vertex_uvs(self) -> FloatArray:
        """[V,2] one UV per vertex (a seam vertex has several: the last one met)."""
        uv = np.zeros((len(self.vertices), 2), np.float32)
        uv[self.triangles.ravel()] = self.triangle_uvs.reshape(-1, 2)
        return uv

    def _split(self, table: IntArray) -> tuple[IntArray, IntArray]:
        quad = np.flatnonzero(self.faces[:, 3] >= 0)
        every = np.arange(len(self.faces))
        triangles = np.concatenate([table[:, :3], table[quad][:, [0, 2, 3]]])
        owner = np.concatenate([every, quad])
        order = np.argsort(owner, kind="stable")
        return triangles[order].astype(np.int32), owner[order].astype(np.int32)

    def material_vertices(self, *names: str) -> IntArray:
        """Sorted ids of the vertices used by faces of these materials."""
        wanted = [self.material_names.index(name) for name in names]
        used = self.faces[np.isin(self.face_materials, wanted)]
        return np.unique(used[used >= 0]).astype(np.int32)

    # --- motion ---------------------------------------------------------------------------------------------------------

    @cached_property
    def rest(self) -> FloatArray:
        """[V,3] avatar space: the model without any expression (lips slightly open)."""
        return to_avatar(self.vertices)

    @cached_property
    def tongue(self) -> tuple[FloatArray, FloatArray]:
        """Offsets [V,3] in cm of the shapes tongueUp and tongueOut, which the model lacks."""
        ids = self.material_vertices("M_GumsTongue")
        u, v = self.vertex_uvs[ids, 0] - 2.0, self.vertex_uvs[ids, 1]
        y, z = self.mean_vertices[ids, 1], self.mean_vertices[ids, 2]
        top = (u > 0.47) & (u < 0.97) & (v < 0.46)
        under = (u > 0.72) & (u < 0.935) & (v > 0.44) & (v < 0.76) & (z < 9.75) & (y < -4.2)
        t = np.clip((z - 6.0) / 3.6, 0.0, 1.0)
        weight = np.where(top | under, t * t * (3.0 - 2.0 * t), 0.0)[:, None]
        up, out = np.zeros_like(self.vertices), np.zeros_like(self.vertices)
        up[ids] = weight * np.array([0.0, 1.25, 0.35])
        out[ids] = weight * np.array([0.0, 0.55, 1.7])
        return up, out

    @cached_property
    def eyes(self) -> dict[str, tuple[IntArray, FloatArray]]:
        """For 'L' and 'R': ids of the eyeball's vertices and its centre of rotation [3] in cm for this identity."""
        eyes = {}
        for side, name in (("L", "Left"), ("R", "Right")):
            ids = self.material_vertices(f"M_Sclera{name}", f"M_Iris{name}")
            shift = (self.vertices[ids] - self.mean_vertices[ids]).mean(axis=0)
            eyes[side] = ids, (EYE_PIVOT_CM[side] + shift).astype(np.float32)
        return eyes

    def gaze(self, coefficients: Mapping[str, float]) -> dict[str, tuple[float, float]]:
        """(yaw, pitch) in degrees of each eye: yaw toward +X, pitch up."""
        get = coefficients.get
        turned = {}
        for side, outward in (("L", 1.0), ("R", -1.0)):
            yaw = DEGREES_OUT * outward * (get(f"eyeLookOut_{side}", 0.0) - get(f"eyeLookIn_{side}", 0.0))
            pitch = DEGREES_UP * get(f"eyeLookUp_{side}", 0.0) - DEGREES_DOWN * get(f"eyeLookDown_{side}", 0.0)
            turned[side] = yaw + get("gazeYaw", 0.0), pitch + get("gazePitch", 0.0)
        return turned

    def pose(self, coefficients: Mapping[str, float]) -> FloatArray:
        """Vertices [V,3] in avatar space for expression coefficients by name (1 = full shape; values outside 0..1 are allowed).

        Names are the model's own and those of `EXTRA_COEFFICIENTS`. Raises KeyError for any other name.
        """
        posed = self.vertices.copy()
        shapes = {name: value for name, value in coefficients.items() if name not in EXTRA_COEFFICIENTS and value != 0.0}
        if shapes:
            ids = [self._index[name] for name in shapes]
            posed += np.tensordot(np.fromiter(shapes.values(), np.float32), self.expressions[ids], axes=1)
        for name, offset in zip(("tongueUp", "tongueOut"), self.tongue):
            if coefficients.get(name):
                posed += np.float32(coefficients[name]) * offset
        for side, (yaw, pitch) in self.gaze(coefficients).items():
            if yaw or pitch:
                ids, pivot = self.eyes[side]
                posed[ids] = (posed[ids] - pivot) @ _turn(yaw, pitch).T + pivot
        return to_avatar(posed)


def to_avatar(points_cm: NDArray[np.floating]) -> FloatArray:
    """Model space (cm) to avatar space (m), any leading shape."""
    return ((points_cm - CENTRE_CM) / CM_PER_METRE).astype(np.float32)


def to_model(points: NDArray[np.floating]) -> FloatArray:
    """Avatar space (m) to model space (cm), any leading shape."""
    return (points * CM_PER_METRE + CENTRE_CM).astype(np.float32)


AXES = np.array([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
"""(x, y, z) of the face model -> Blender's (x, -z, y)."""


def to_blender(points_cm: NDArray[np.floating]) -> FloatArray:
    """Model space (cm) to Blender's axes, 1 unit = 10 cm."""
    return (0.1 * (points_cm @ AXES.T)).astype(np.float32)


def load(path: Path | str, identity_seed: int | None = DEFAULT_IDENTITY_SEED) -> FaceModel:
    """Read the face model and give it an identity.

    path: the packed .npz, or the folder as its makers publish it (the checkout or its FaceXModel folder with one OBJ file a
    shape). identity_seed None gives the mean face; else the first 60 identity offsets are weighted by
    `default_rng(seed).normal(0, .5, 60)`. Raises UserError when the path holds neither.
    """
    path = Path(path)
    if path.is_dir():
        arrays = _read_folder(path)
    elif path.suffix == ".npz" and path.is_file():
        with np.load(path, allow_pickle=False) as packed:
            arrays = {name: packed[name] for name in packed.files}
    else:
        raise UserError(f"{path} is no face model", remedy="give ict_facekit.npz or the FaceXModel folder of ICT-FaceKit")
    try:
        mean = arrays["vertices"].astype(np.float32)
        identities = arrays["identities"]
        model = FaceModel(
            vertices=mean + _identity(identities, identity_seed),
            faces=arrays["faces"].astype(np.int32),
            uvs=arrays["uvs"].astype(np.float32),
            face_uvs=arrays["face_uvs"].astype(np.int32),
            face_materials=arrays["face_materials"],
            material_names=tuple(str(n) for n in arrays["material_names"]),
            expression_names=tuple(str(n) for n in arrays["expression_names"]),
            expressions=arrays["expressions"].astype(np.float32),
            landmarks=arrays["landmarks_68"].astype(np.int32),
            mean_vertices=mean,
            identity_seed=identity_seed,
            source=path.name,
        )
    except KeyError as missing:
        raise UserError(f"{path} lacks the array {missing}", remedy="pack the face model again") from None
    return model


def identity_weights(seed: int) -> NDArray[np.float64]:
    """[60] weights of the identity offsets."""
    return np.random.default_rng(seed).normal(0.0, IDENTITY_SIGMA, IDENTITY_MODES)


def _identity(offsets: NDArray[np.floating], seed: int | None) -> FloatArray | float:
    if seed is None:
        return 0.0
    weights = identity_weights(seed)[: len(offsets)]
    return np.tensordot(weights, offsets[: len(weights)].astype(np.float32), axes=1).astype(np.float32)


def _turn(yaw: float, pitch: float) -> FloatArray:
    """Rotation [3,3]: pitch up about X, then yaw toward +X about Y; degrees."""
    a, b = np.radians(yaw), np.radians(pitch)
    about_y = np.array([[np.cos(a), 0, np.sin(a)], [0, 1, 0], [-np.sin(a), 0, np.cos(a)]])
    about_x = np.array([[1, 0, 0], [0, np.cos(b), np.sin(b)], [0, -np.sin(b), np.cos(b)]])
    return (about_y @ about_x).astype(np.float32)


# --- the folder as its makers publish it ------------------------------------------------------------------------------------


def _read_folder(folder: Path) -> dict[str, NDArray]:
    if (folder / "FaceXModel").is_dir():
        folder = folder / "FaceXModel"
    neutral = folder / "generic_neutral_mesh.obj"
    if not neutral.is_file():
        raise UserError(f"{folder} holds no generic_neutral_mesh.obj", remedy="give the FaceXModel folder of ICT-FaceKit")
    base = _read_obj(neutral)
    mean = base["vertices"]
    shapes = sorted(p for p in folder.glob("*.obj") if p != neutral)
    identity_files = [p for p in shapes if p.stem.startswith("identity")]
    expression_files = [p for p in shapes if p not in identity_files]

    def offsets(files: list[Path]) -> NDArray:
        out = np.zeros((len(files), *mean.shape), np.float32)
        for row, file in zip(out, files):
            points = _read_positions(file)
            if points.shape != mean.shape:
                raise UserError(f"{file} has {len(points)} vertices, not {len(mean)}", remedy="fetch the face model again")
            row[:] = points - mean
        return out

    return base | {
        "expression_names": np.array([p.stem for p in expression_files]),
        "expressions": offsets(expression_files),
        "identities": offsets(identity_files),
        "landmarks_68": np.array(LANDMARKS_68, np.int32),
    }


def _read_positions(path: Path) -> NDArray[np.float32]:
    with path.open("r", encoding="utf-8", errors="replace") as lines:
        return np.array([line.split()[1:4] for line in lines if line.startswith("v ")], np.float32)


def _read_obj(path: Path) -> dict[str, NDArray]:
    positions, uvs, faces, face_uvs, materials = [], [], [], [], []
    names: list[str] = []
    current = -1
    with path.open("r", encoding="utf-8", errors="replace") as lines:
        for line in lines:
            kind, _, rest = line.strip().partition(" ")
            if kind == "v":
                positions.append(rest.split()[:3])
            elif kind == "vt":
                uvs.append(rest.split()[:2])
            elif kind == "usemtl":
                if rest not in names:
                    names.append(rest)
                current = names.index(rest)
            elif kind == "f":
                corners = [corner.split("/") for corner in rest.split()]
                if len(corners) not in (3, 4):
                    raise UserError(f"{path} has a face of {len(corners)} corners", remedy="fetch the face model again")
                pad = [-1] * (4 - len(corners))
                faces.append([int(c[0]) - 1 for c in corners] + pad)
                face_uvs.append([int(c[1]) - 1 for c in corners] + pad)
                materials.append(current)
    return {
        "vertices": np.array(positions, np.float32),
        "uvs": np.array(uvs, np.float32),
        "faces": np.array(faces, np.int32),
        "face_uvs": np.array(face_uvs, np.int32),
        "face_materials": np.array(materials, np.int8),
        "material_names": np.array(names),
    }
