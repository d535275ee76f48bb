"""Cameras from JSON: a pose and a lens, still or changing from frame to frame.

The world is the cache's: Blender's axes (Z up, the face looks along -Y), metres, the avatar where it was trained. Cameras inside
are gsplat's: viewmat from world to camera with x right, y down, z forward; K in pixels, the first pixel's centre at 0.5.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Mapping

import numpy as np

from ..errors import UserError

SENSOR_MM = 36.0
_TO_CV = np.diag([1.0, -1.0, -1.0, 1.0])  # a Blender camera looks along -z with y up
LARGEST = 16384


@dataclass(frozen=True)
class Camera:
    """One camera: viewmat [4,4] world to camera, K [3,3] pixels, picture size in pixels."""

    viewmat: np.ndarray
    K: np.ndarray
    width: int
    height: int


@dataclass(frozen=True)
class CameraPath:
    """A camera over time: from each frame in `starts` on, the camera beside it; before the first, the first."""

    starts: tuple[int, ...]
    cameras: tuple[Camera, ...]

    def at(self, frame: int) -> Camera:
        """The camera that holds at a frame."""
        return self.cameras[max(0, int(np.searchsorted(self.starts, frame, side="right")) - 1)]


def load_camera(path: Path) -> CameraPath:
    """Read a camera file.

    A JSON object with `width`, `height` (pixels); a pose: `viewmat` [4,4] (world to camera, x right, y down, z forward), or
    `matrix_world` [4,4] (as Blender's camera objects have it), or `position` and `target` [3]; a lens: `K` [3,3] (pixels), or
    `focal_mm` with `sensor_mm` (36, along the longer side). `frames` may hold a list of objects with `frame` and any of
    these, for a camera that moves: what an entry names holds from its frame on.

    Raises:
        UserError: unreadable, or an entry that is missing or makes no camera; file and entry are named.
    """
    path = Path(path)
    try:
        values = json.loads(path.read_text("utf-8"))
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON ({error}).", "See the README for the entries of a camera file.") from error
    try:
        if not isinstance(values, dict):
            raise ValueError("it holds no object")
        steps = values.get("frames", [])
        if not isinstance(steps, list) or not all(isinstance(step, dict) and type(step.get("frame")) is int for step in steps):
            raise ValueError("`frames` is to be a list of objects with a whole `frame`")
        if not steps:
            return CameraPath((0,), (_camera(values),))
        now, starts, cameras = {k: v for k, v in values.items() if k != "frames"}, [], []
        for step in sorted(steps, key=lambda step: step["frame"]):
            now = _merged(now, step)
            starts.append(step["frame"])
            cameras.append(_camera(now))
        return CameraPath(tuple(starts), tuple(cameras))
    except (ValueError, TypeError, OverflowError) as error:
        raise UserError(f"{path}: {error}.", "See the README for the entries of a camera file.") from error


def portrait(means: np.ndarray, width: int, height: int) -> CameraPath:
    """A still camera in front that holds all of `means` [N,3] but for the outermost hundredth; 85 mm."""
    low, high = np.quantile(means, (0.005, 0.995), axis=0) if len(means) else np.array([[-0.1] * 3, [0.1] * 3])
    centre, half = (low + high) / 2, np.maximum((high - low) / 2, 1e-3)
    tangent = SENSOR_MM / 2 / 85.0 / max(width, height)
    distance = 1.1 * max(half[0] / (tangent * width), half[2] / (tangent * height)) + half[1]
    values = {"width": width, "height": height, "focal_mm": 85.0, "target": centre.tolist()}
    return CameraPath((0,), (_camera(values | {"position": (centre - [0, distance, 0]).tolist()}),))


_POSES, _LENSES = ("viewmat", "matrix_world", "position"), ("K", "focal_mm")


def _merged(now: Mapping[str, Any], step: Mapping[str, Any]) -> dict[str, Any]:
    """`now` with what the step names; a pose or lens given another way takes the place of the old one."""
    merged = dict(now)
    for ways in (_POSES, _LENSES):
        if any(way in step for way in ways):
            merged = {k: v for k, v in merged.items() if k not in ways}
    return merged | dict(step)


def _camera(values: Mapping[str, Any]) -> Camera:
    width, height = (_size(values, name) for name in ("width", "height"))
    given = [name for name in _POSES if name in values]
    if len(given) != 1:
        raise ValueError("give the pose as one of `viewmat`, `matrix_world`, or `position` with `target`")
    if given[0] == "position":
        viewmat = _look_at(_array(values, "position", (3,)), _array(values, "target", (3,)))
    elif given[0] == "viewmat":
        viewmat = _array(values, "viewmat", (4, 4))
    else:
        world = _array(values, "matrix_world", (4, 4))
        turn = world[:3, :3] / np.maximum(np.linalg.norm(world[:3, :3], axis=0), 1e-12)  # a camera's scale does not count
        rigid = np.eye(4)
        rigid[:3, :3], rigid[:3, 3] = turn.T, -turn.T @ world[:3, 3]
        viewmat = _TO_CV @ rigid
    turn = viewmat[:3, :3]
    if np.abs(turn @ turn.T - np.eye(3)).max() > 1e-3 or np.linalg.det(turn) < 0:
        raise ValueError(f"`{given[0]}` is not a rotation and a position")
    given = [name for name in _LENSES if name in values]
    if len(given) != 1:
        raise ValueError("give the lens as one of `K` or `focal_mm`")
    if given[0] == "K":
        K = _array(values, "K", (3, 3))
    else:
        sensor = _number(values.get("sensor_mm", SENSOR_MM), "sensor_mm")
        focal = _number(values["focal_mm"], "focal_mm") / sensor * max(width, height)
        K = np.array([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])
    if not (K[0, 0] > 0 and K[1, 1] > 0):
        raise ValueError("`K` has no positive focal lengths")
    return Camera(viewmat, K, width, height)


def _size(values: Mapping[str, Any], name: str) -> int:
    size = values.get(name)
    if type(size) is not int or not 1 <= size <= LARGEST:
        raise ValueError(f"`{name}` is to be a whole number of pixels from 1 to {LARGEST}")
    return size


def _number(value: Any, name: str) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not (math.isfinite(value) and value > 0):
        raise ValueError(f"`{name}` is to be a number above 0")
    return float(value)


def _array(values: Mapping[str, Any], name: str, shape: tuple[int, ...]) -> np.ndarray:
    wanted = " x ".join(str(side) for side in shape)
    try:
        array = np.array(values.get(name), np.float64)
    except (ValueError, TypeError):
        array = np.zeros(())
    if array.shape != shape or not np.isfinite(array).all():
        raise ValueError(f"`{name}` is to be {wanted} numbers")
    return array


def _look_at(position: np.ndarray, target: np.ndarray) -> np.ndarray:
    forward = target - position
    if not np.linalg.norm(forward) > 1e-9:
        raise ValueError("`position` and `target` are the same place")
    forward = forward / np.linalg.norm(forward)
    up = np.array([0.0, 0, 1]) if abs(forward[2]) < 0.999 else np.array([0.0, 1, 0])
    right = np.cross(forward, up)
    right /= np.linalg.norm(right)
    viewmat = np.eye(4)
    viewmat[:3, :3] = np.stack([right, np.cross(forward, right), forward])
    viewmat[:3, 3] = -viewmat[:3, :3] @ position
    return viewmat
