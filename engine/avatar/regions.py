"""Where the parts of the face are: a region for each Gaussian, and how much of it the strengths of a shot reach.

All of it follows from a few points: brows, eyes and lips, as the avatar's `landmarks.*` name them. Without landmarks they are set
by the proportions of a head: eyes 0.4 of its width apart, the mouth one such distance below them. Lengths below are in units
of the distance between the eyes.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .file import Avatar

REGIONS = ("brows", "eyes", "nose", "cheeks", "lips", "jaw", "mouth", "head")
"""Names of the regions; `mouth` is its inside, `head` all that is not named: forehead, ears, hair, neck, shoulders."""

_EYES_OF_WIDTH = 0.4
_MOUTH_BELOW_CROWN = 2.9
_BROW = np.array([(0.17, 0.35), (0.35, 0.42), (0.56, 0.44), (0.74, 0.38), (0.88, 0.26)])
"""The brow's upper edge in a head without landmarks: sideways from the middle, up from the eye."""
_BROW_POINTS = 9


@dataclass(frozen=True)
class _Face:
    """The points everything is measured from: left, up and front of the face, in the avatar's units.

    unit: distance of the eyes; eyes [2,3] centres; brows: two lines of points [n,3] along their upper edges; lips [3] centre.
    """

    unit: float
    eyes: np.ndarray
    brows: tuple[np.ndarray, ...]
    lips: np.ndarray


def regions(avatar: Avatar) -> np.ndarray:
    """Region [N] uint8 (index into REGIONS) of the Gaussians in the order of `Avatar.rest`: face first, then mouth."""
    points = _points(avatar, "face")
    face = _face(avatar, points)
    found = np.full(len(points), REGIONS.index("head"), np.uint8)
    eye_height, (side, lip_height, lip_front) = face.eyes[:, 1].mean(), face.lips
    x = np.abs(points[:, 0] - side) / face.unit
    down, up = (eye_height - points[:, 1]) / face.unit, (points[:, 1] - lip_height) / face.unit
    back = (lip_front - points[:, 2]) / face.unit
    level = (eye_height - lip_height) / face.unit  # from the lips up to the eyes, about 1

    # From behind to the front: what is named later lies over what was named before.
    jaw_line = np.maximum(0.5 * (x - 0.45), 0)  # rises from the corner of the mouth to the ear's lobe
    before_ears = back < 1.45
    found[before_ears & (up < jaw_line) & (up > -0.8 + 0.4 * np.maximum(back - 0.1, 0))] = REGIONS.index("jaw")
    found[before_ears & (back < 1.3) & (up >= jaw_line) & (down > 0.1 * x)] = REGIONS.index("cheeks")
    wing = 0.13 + 0.19 * np.clip((down + 0.1) / (level - 0.25), 0, 1)
    found[(back < 0.45) & (x < wing) & (down > -0.1) & (up > 0.3)] = REGIONS.index("nose")
    found[(back < 0.6) & (_lips(x, up) < 1)] = REGIONS.index("lips")
    for eye in face.eyes:
        apart = (points - eye) / face.unit
        tall = np.where(apart[:, 1] > 0, 0.26, 0.22)
        inside = (apart[:, 0] / 0.34) ** 2 + (apart[:, 1] / tall) ** 2 < 1
        found[inside & (apart[:, 2] > -0.5)] = REGIONS.index("eyes")
    for brow in face.brows:
        middle = brow - np.array([0, 0.05, 0]) * face.unit  # the line runs along its upper edge
        apart = [np.hypot(points[:, 0] - p[0], points[:, 1] - p[1]) for p in middle]
        near = np.min(apart, axis=0) < 0.13 * face.unit
        found[near & (np.abs(points[:, 2] - middle[:, 2].mean()) < 0.5 * face.unit)] = REGIONS.index("brows")
    return np.concatenate([found, np.full(avatar.count("mouth"), REGIONS.index("mouth"), np.uint8)])


def strength_masks(avatar: Avatar) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How much a shot's strengths of upper face, lower face and lips reach the moving Gaussians (`Avatar.moving_rows`).

    Each is smooth from 0 to 1, so that no seam opens where a strength ends. Upper and lower face change over from the lids to
    the nostrils and add up to 1. The inside of the mouth goes with the lower face and the lips, which frame it.

    Returns:
        upper, lower, lips: [M] float32.
    """
    points = _points(avatar, "face")
    face = _face(avatar, points)
    points = points[avatar.moving("face")]
    apart = (points - face.lips) / face.unit
    down = (face.eyes[:, 1].mean() - points[:, 1]) / face.unit
    upper = _smooth((0.7 - down) / 0.45)
    lips = _smooth(2 - _lips(np.abs(apart[:, 0]), apart[:, 1])) * _smooth((1.1 + apart[:, 2]) / 0.5)
    inside = np.ones(len(avatar.moving("mouth")))
    masks = ((upper, 0 * inside), (1 - upper, inside), (lips, inside))
    return tuple(np.concatenate(parts).astype(np.float32) for parts in masks)  # type: ignore[return-value]


def _lips(x: np.ndarray, up: np.ndarray) -> np.ndarray:
    """Distance from the middle of the mouth, 1 at the lips' edge; `x` sideways and `up` in units of the eyes' distance."""
    return np.hypot(x / 0.48, up / 0.27)


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _points(avatar: Avatar, branch: str) -> np.ndarray:
    """Means [N,3] of a branch: to the left of the face, up, to the front; units of the avatar."""
    to_blender = avatar.rotation_to_blender()  # x left, y back, z up
    return np.asarray(avatar.tensors[f"{branch}.means"], np.float64) @ to_blender[[0, 2, 1]].T * (1, 1, -1)


def _face(avatar: Avatar, points: np.ndarray) -> _Face:
    named = {}
    for name in ("brow", "lid_upper", "lid_lower", "lip_upper", "lip_lower"):
        rows = np.asarray(avatar.tensors.get(f"landmarks.{name}", ()))
        if rows.ndim != 1 or not len(rows) or rows.dtype.kind not in "iu" or rows.min() < 0 or rows.max() >= len(points):
            return _proportions(avatar, points)
        named[name] = points[rows]
    lips = np.concatenate([named["lip_upper"], named["lip_lower"]]).mean(0)
    lids = np.concatenate([named["lid_upper"], named["lid_lower"]])
    sides = [lids[:, 0] < lips[0], lids[:, 0] >= lips[0]]
    brows = [named["brow"][part(named["brow"][:, 0], lips[0])] for part in (np.less, np.greater_equal)]
    if not all(map(np.any, sides)) or not all(map(len, brows)):
        return _proportions(avatar, points)
    eyes = np.stack([lids[side].mean(0) for side in sides])
    unit = float(np.linalg.norm(eyes[1] - eyes[0]))
    return _Face(unit, eyes, tuple(map(_line, brows)), lips) if unit > 0 else _proportions(avatar, points)


def _line(brow: np.ndarray) -> np.ndarray:
    """Evenly spaced points along a brow whose landmarks come in any order."""
    brow = brow[np.argsort(brow[:, 0])]
    x = np.linspace(brow[0, 0], brow[-1, 0], _BROW_POINTS)
    return np.stack([x, *(np.interp(x, brow[:, 0], brow[:, axis]) for axis in (1, 2))], axis=1)


def _proportions(avatar: Avatar, points: np.ndarray) -> _Face:
    """The points of a head without landmarks: from the box of its upper half, and from where the inside of the mouth lies.

    The upper half: shoulders are wider than a head.
    """
    lowest, crown = np.quantile(points[:, 1], (0.01, 0.99))
    low, high = np.quantile(points[points[:, 1] >= (lowest + crown) / 2], (0.01, 0.99), axis=0)
    unit = max(_EYES_OF_WIDTH * float(high[0] - low[0]), 1e-9)
    side, height = (low[0] + high[0]) / 2, max(crown - _MOUTH_BELOW_CROWN * unit, lowest)
    if avatar.count("mouth"):
        side, height, _ = np.median(_points(avatar, "mouth"), axis=0)
    front = high[2] - 0.17 * unit  # the tip of the nose is the foremost
    eyes = np.array([(side + sign * 0.5 * unit, height + unit, front - 0.3 * unit) for sign in (-1, 1)])
    brows = []
    for sign in (-1, 1):
        line = [(side + sign * x * unit, height + (1 + y) * unit, front - 0.2 * unit) for x, y in _BROW]
        brows.append(_line(np.array(line)))
    return _Face(unit, eyes, tuple(brows), np.array([side, height, front]))
