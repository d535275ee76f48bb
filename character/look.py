"""The look of the demo person: cameras, poses and colours of the renders that the splats are fitted to.

`render_views` writes the scene for Blender, starts it (see look_render.py) and gives the pictures back; what is already rendered
from the same scene is kept.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from engine.errors import UserError

from . import weights
from .face_model import AXES, FaceModel, FloatArray, to_avatar, to_blender, to_model
from .look_parts import Parts
from .look_strands import Strands, brows, hair, lashes
from .look_sweater import sweater
from .person_binding import bind_points, place_points


@dataclass(frozen=True)
class Look:
    """Colours, linear RGB."""

    skin: tuple[float, float, float] = (0.58, 0.305, 0.185)
    blush: tuple[float, float, float] = (0.60, 0.20, 0.14)
    lips: tuple[float, float, float] = (0.47, 0.15, 0.135)
    hair: tuple[float, float, float] = (0.070, 0.034, 0.016)
    brows: tuple[float, float, float] = (0.045, 0.024, 0.013)
    iris: tuple[float, float, float] = (0.060, 0.085, 0.050)
    iris_inner: tuple[float, float, float] = (0.13, 0.075, 0.025)
    sweater: tuple[float, float, float] = (0.030, 0.105, 0.150)
    freckles: float = 0.35


@dataclass(frozen=True)
class View:
    """One picture. The camera looks from `yaw` (degrees toward +X) and `pitch` (up) at `target` (avatar space, m); `span` is the
    width in m that the picture covers at the target."""

    name: str
    pose: str = "neutral"
    yaw: float = 0.0
    pitch: float = 0.0
    target: tuple[float, float, float] = (0.0, -0.035, 0.0)
    span: float = 0.40
    size: int = 576
    distance: float = 1.35

    @property
    def focal(self) -> float:
        """Focal length in pixels."""
        return self.size * self.distance / self.span

    @property
    def K(self) -> FloatArray:
        """[3,3] intrinsics in pixels."""
        half = self.size / 2
        return np.array([[self.focal, 0, half], [0, self.focal, half], [0, 0, 1]], np.float32)

    @property
    def viewmat(self) -> FloatArray:
        """[4,4] avatar space to camera (x right, y down, z forward)."""
        a, b = np.radians(self.yaw), np.radians(self.pitch)
        back = np.array([np.sin(a) * np.cos(b), np.sin(b), np.cos(a) * np.cos(b)])
        right = np.array([np.cos(a), 0.0, -np.sin(a)])
        rows = np.stack([right, -np.cross(back, right), -back])
        matrix = np.eye(4)
        matrix[:3, :3] = rows
        matrix[:3, 3] = -rows @ (np.array(self.target) + self.distance * back)
        return matrix.astype(np.float32)

    def blender_matrix(self) -> list[list[float]]:
        """Camera to world in Blender's axes and units."""
        return blender_matrix(self.viewmat).tolist()


def blender_matrix(viewmat: NDArray[np.floating]) -> NDArray[np.float64]:
    """Camera to world [4,4] in Blender's axes and units (camera looks along -z) for a viewmat [4,4] of avatar space."""
    world_from_camera = np.linalg.inv(viewmat.astype(np.float64))
    matrix = np.eye(4)
    matrix[:3, :3] = AXES @ world_from_camera[:3, :3] @ np.diag([1.0, -1.0, -1.0])
    matrix[:3, 3] = to_blender(to_model(world_from_camera[:3, 3]))
    return matrix


POSES: dict[str, weights.Coefficients] = {
    "neutral": weights.NEUTRAL,
    "aa": weights.VISEMES["aa"],
    "ae": weights.VISEMES["ae"],
    "iy": weights.VISEMES["iy"],
    "th": weights.VISEMES["th"],
    "blink": weights.combine((1.0, weights.NEUTRAL), (1.0, weights.BLINK)),
    "happy": weights.combine((1.0, weights.VISEMES["ae"]), (0.8, weights.EMOTIONS["happy"])),
    "surprised": weights.EMOTIONS["surprised"],
    "angry": weights.EMOTIONS["angry"],
}

_FACE = (0.0, 0.005, 0.06)
_MOUTH = (0.0, -0.055, 0.08)


def training_views() -> list[View]:
    """Whole head from around, the face close, the mouth and the lids in the poses that show them."""
    views = [View(f"bust_{yaw:+d}", yaw=yaw) for yaw in (-100, -75, -50, -25, 0, 25, 50, 75, 100)]
    views += [View(f"bust_{yaw:+d}_{pitch:+d}", yaw=yaw, pitch=pitch) for yaw, pitch in (
        (-35, 22), (35, 22), (-30, -16), (30, -16), (0, 45), (150, 12), (-150, 12), (180, 0), (90, 55), (-90, 55),
    )]
    views += [View(f"face_{yaw:+d}", yaw=yaw, target=_FACE, span=0.21) for yaw in (-45, -15, 0, 15, 45)]
    views += [View("face_up", pitch=-18, target=_FACE, span=0.21), View("face_down", pitch=18, target=_FACE, span=0.21)]
    views += [View(f"{pose}_{yaw:+d}", pose, yaw=yaw, target=_FACE, span=0.21)
              for pose in ("aa", "happy", "blink", "surprised") for yaw in (-25, 25)]
    views += [View(f"{pose}_0", pose, target=_FACE, span=0.21) for pose in ("angry", "iy")]
    views += [View(f"mouth_{pose}_{yaw:+d}", pose, yaw=yaw, target=_MOUTH, span=0.10, size=384)
              for pose in ("aa", "ae", "th") for yaw in (-20, 20)]
    return views


def held_out_views() -> list[View]:
    """Never trained on."""
    return [
        View("held_bust", yaw=12, pitch=6),
        View("held_face", yaw=-30, pitch=4, target=_FACE, span=0.21),
        View("held_aa", "aa", yaw=6, pitch=-4, target=_FACE, span=0.21),
        View("held_happy", "happy", yaw=0, pitch=2, target=_FACE, span=0.21),
    ]


@dataclass
class Person:
    """Geometry of one identity at rest, model space (cm) for strands and sweater."""

    model: FaceModel
    look: Look = field(default_factory=Look)

    def __post_init__(self) -> None:
        self.parts = Parts(self.model)
        self.rest = self.model.pose(weights.NEUTRAL)
        rest_cm = to_model(self.rest)
        self.hair: Strands = hair(self.parts, rest_cm)
        self.brows: Strands = brows(self.parts, rest_cm)
        self.lashes: Strands = lashes(self.parts, rest_cm)
        self.sweater_points, self.sweater_faces = sweater()

    def posed_strands(self, strands: Strands, vertices: FloatArray) -> FloatArray:
        """[S,K,3] cm at the pose `vertices` (avatar space)."""
        tri = self.model.triangles[strands.triangle.ravel()]
        bary = np.full((len(tri), 3), 1 / 3)
        offset = bind_points(to_avatar(strands.points.reshape(-1, 3)), self.rest, tri, bary)
        return to_model(place_points(offset, vertices, tri, bary)).reshape(strands.points.shape)


def scene_arrays(person: Person) -> dict[str, NDArray]:
    """What look_render.build needs of the person at rest, in Blender's axes and units."""
    parts, model = person.parts, person.model
    drawn = np.flatnonzero(parts.triangle_labels >= 0)
    segments = 128
    angle = np.arange(len(person.sweater_points)) % segments / segments
    return {
        "rest_points": to_blender(to_model(person.rest)),
        "head_triangles": model.triangles[drawn],
        "head_labels": parts.triangle_labels[drawn].astype(np.int32),
        "rest": model.mean_vertices, "lips": parts.lips, "blush": parts.blush, "scalp": parts.scalp, "brows": parts.brows,
        "eye_axis_L": np.stack(parts.eye_axis("L")), "eye_axis_R": np.stack(parts.eye_axis("R")),
        "sweater_points": to_blender(person.sweater_points), "sweater_faces": person.sweater_faces,
        "sweater_rest": person.sweater_points,
        # Mirrored at the back so that the pattern has no seam; 45 ribs a half turn (a wave repeats every 2 pi / 20).
        "sweater_knit": np.stack([np.abs(angle - 0.5) * 28.274, angle * 0, angle * 0], axis=1),
        "hair_points": to_blender(person.hair.points), "hair_radius": 0.1 * person.hair.radius,
        "brows_points": to_blender(person.brows.points), "brows_radius": 0.1 * person.brows.radius,
        "lashes_points": to_blender(person.lashes.points), "lashes_radius": 0.1 * person.lashes.radius,
    }


def write_scene(person: Person, folder: Path, views: list[View], samples: int) -> None:
    """Write scene.npz and views.json; pictures in the folder that came from another scene are removed."""
    arrays = scene_arrays(person)
    poses = sorted({view.pose for view in views})
    posed = [person.model.pose(POSES[name]) for name in poses]
    arrays |= {
        "posed_head": np.stack([to_blender(to_model(p)) for p in posed]),
        "posed_brows": np.stack([to_blender(person.posed_strands(person.brows, p)) for p in posed]),
        "posed_lashes": np.stack([to_blender(person.posed_strands(person.lashes, p)) for p in posed]),
    }
    job = {"look": asdict(person.look), "samples": samples, "poses": poses, "views": [
        {"name": v.name, "pose": v.pose, "matrix": v.blender_matrix(), "focal": v.focal, "width": v.size, "height": v.size}
        for v in views
    ]}
    digest = hashlib.sha256(Path(__file__).with_name("look_render.py").read_bytes())
    for name in sorted(arrays):
        if not name.startswith("posed_"):
            digest.update(np.ascontiguousarray(arrays[name]).tobytes())
    digest.update(json.dumps([job["look"], samples], sort_keys=True).encode())
    keys = {view["name"]: hashlib.sha256((digest.hexdigest() + json.dumps(view)).encode()).hexdigest() for view in job["views"]}

    folder.mkdir(parents=True, exist_ok=True)
    old = json.loads((folder / "keys.json").read_text()) if (folder / "keys.json").exists() else {}
    for name, key in keys.items():
        if old.get(name) != key:
            (folder / f"{name}.png").unlink(missing_ok=True)
    np.savez(folder / "scene.npz", **arrays)
    (folder / "views.json").write_text(json.dumps(job))
    (folder / "keys.json").write_text(json.dumps(keys))


def render_views(
    person: Person, folder: Path, views: list[View], blender_python: Path, samples: int = 16, threads: int = 1
) -> dict[str, FloatArray]:
    """Render what is missing and read all: {view name: [H,W,4] straight alpha, display-referred sRGB, 0..1}.

    blender_python: a Python interpreter (or the virtual environment that holds it) in which `import bpy` works. Raises UserError
    when it cannot be started or a view is not rendered.
    """
    write_scene(person, folder, views, samples)
    if any(not (folder / f"{view.name}.png").exists() for view in views):
        command = [*blender_command(blender_python), str(Path(__file__).with_name("look_render.py")), str(folder)]
        done = subprocess.run([*command, "--threads", str(threads)], env=blender_environment(), check=False)
        if done.returncode != 0:
            raise UserError(f"Blender ended with code {done.returncode}", remedy=f"its messages are above; the scene is in {folder}")
    return {view.name: read_picture(folder / f"{view.name}.png") for view in views}


def read_picture(path: Path) -> FloatArray:
    """[H,W,4] float32, straight alpha, 0..1."""
    if not path.exists():
        raise UserError(f"{path} was not rendered", remedy="run the command again")
    with Image.open(path) as image:
        return np.asarray(image.convert("RGBA"), np.float32) / 255.0


def blender_command(blender_python: Path) -> list[str]:
    """How to start Blender's Python, politely. Raises UserError when it is not there."""
    command = [str(_interpreter(blender_python))]
    nice = shutil.which("nice")
    return [nice, "-n", "10", *command] if nice else command


def blender_environment() -> dict[str, str]:
    """Ours without packages of the user's own, which may be of another Python."""
    return {**os.environ, "PYTHONNOUSERSITE": "1"}


def _interpreter(path: Path) -> Path:
    if path.is_dir():
        for inside in ("bin/python", "Scripts/python.exe"):
            if (path / inside).exists():
                return path / inside
    if not path.is_file():
        raise UserError(f"{path} is no Python with Blender", remedy="give --blender-python the environment that has bpy")
    return path
