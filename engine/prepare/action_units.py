"""Action units from the geometry of landmarks, in OpenFace's 0..5.

Each landmark is first laid back into head space: it lies on the ray through its pixel, at the depth where the pose puts the
person's mean shape. That takes the head's turning out. Distances there are shares of the width of the eyes; a unit is what
a distance differs from the person's neutral (a percentile of it over the video, which a talking person comes back to again
and again), times 5, over the difference that counts as full. Full differences are the same for everybody, so that who never
frowns gets no frowns. What geometry cannot see (wrinkles, tension) is not in it: AU9, 14, 17 and 23 are rough.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from scipy.ndimage import median_filter
from scipy.signal import savgol_filter
from scipy.spatial.transform import Rotation

from .landmarks import FACE_POINTS
from .pose import HeadPoses
from .shape import EYE_WIDTH, FLIP, HeadShape

FULL = 5.0
BLINK = 2.5
"""AU45 of a closed eye: the views clip it at 2, so that an eye counts as closed a little before its lids touch."""

LIDS = ((159, 145), (158, 153), (160, 144), (386, 374), (385, 380), (387, 373))
"""(upper, lower) points of the lids: three of the right eye, three of the left."""


def head_plane(landmarks: np.ndarray, shape: HeadShape, poses: HeadPoses) -> np.ndarray:
    """Landmarks without the head's pose.

    Args:
        landmarks: [F,>=468,2 or 3] px, finite.

    Returns:
        [F,468,2]: x and y in head space over the width of the eyes.
    """
    turn = Rotation.from_rotvec(poses.rotation).as_matrix()
    depth = (np.einsum("fj,pj->fp", turn[:, 2], shape.points * FLIP) + poses.translation[:, None, 2])[..., None]
    rays = (np.asarray(landmarks[:, :FACE_POINTS, :2], np.float64) - shape.centre) / shape.focal
    points = np.concatenate([rays * depth, depth], -1) - poses.translation[:, None]
    return (np.einsum("fji,fpj->fpi", turn, points) * FLIP)[..., :2] / EYE_WIDTH


def measures(plane: np.ndarray) -> dict[str, np.ndarray]:
    """Distances in [F,468,2] of `head_plane`, each [F], by name; y is up, x the person's left."""

    def y(*points: int) -> np.ndarray:
        return plane[:, points, 1].mean(1)

    def x(*points: int) -> np.ndarray:
        return plane[:, points, 0].mean(1)

    upper, lower = np.array(LIDS).T
    opening = np.clip(plane[:, upper, 1] - plane[:, lower, 1], 0, None)
    eyes = y(33, 133, 362, 263)
    nose = y(98, 97, 2, 326, 327)
    return {
        "brow_inner": y(107, 55, 336, 285) - y(133, 362),
        "brow_outer": y(70, 63, 300, 293) - y(33, 263),
        "brow_gap": x(336, 285) - x(107, 55),
        "eye": opening.mean(1),
        "lid_lower": y(145, 153, 144, 374, 380, 373) - eyes,
        "cheek": y(205, 50, 425, 280) - eyes,
        "nostrils": y(129, 98, 358, 327) - eyes,
        "lip_upper": y(37, 0, 267) - nose,
        "corners_up": y(61, 291) - nose,
        "corners_wide": x(291) - x(61),
        "lip_lower": y(84, 17, 314) - nose,
        "chin": y(152, 148, 377) - nose,
        "boss": y(199, 200) - y(152, 148, 377),
        "lips_gap": y(82, 13, 312) - y(87, 14, 317),
        "lips_thick": (y(37, 0, 267) - y(82, 13, 312)) + (y(87, 14, 317) - y(84, 17, 314)),
    }


def action_units(landmarks: np.ndarray, shape: HeadShape, poses: HeadPoses) -> dict[str, np.ndarray]:
    """Intensities over a video.

    Args:
        landmarks: [F,>=468,2 or 3] px; NaN in pictures without a face, which are bridged linearly.

    Returns:
        `AU01` ... `AU45` -> [F] float32 in 0..5.
    """
    seen = np.isfinite(poses.error)
    filled = np.where(seen[:, None, None], landmarks[:, :FACE_POINTS, :2], 0.0)
    found = measures(head_plane(filled, shape, poses))
    steps = np.arange(len(seen))
    return units({name: np.interp(steps, steps[seen], values[seen]) for name, values in found.items()})


def units(found: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Intensities of the distances of `measures`, [F] each: `AU01` ... -> [F] float32 in 0..5."""

    def off(name: str, percent: float = 50.0) -> np.ndarray:
        values = _calm(found[name])
        return values - np.percentile(values, percent)

    def rise(change: np.ndarray, full: float) -> np.ndarray:
        return (change / full * FULL).clip(0, FULL).astype(np.float32)

    # Blinks are too short for smoothing: the raw opening, against what the eye is when it is open.
    open_eye = np.percentile(found["eye"], 75)
    closure = (1 - (found["eye"] / max(open_eye, 1e-6) - SHUT) / (WIDE - SHUT)).clip(0, 1)
    awake = 1 - closure  # lids that blink say nothing about the other units
    inner, outer, gap = off("brow_inner"), off("brow_outer"), off("brow_gap")
    lower_lid, cheek, nostrils = off("lid_lower"), off("cheek"), off("nostrils")
    upper_lip, up, wide = off("lip_upper"), off("corners_up"), off("corners_wide")
    jaw = np.clip(-off("chin", 80), 0, None)  # neutral: the mouth closed, the chin high
    parted = off("lips_gap", 20)
    # Corners go down with the jaw: what is left is pulled by muscles.
    corners = up + 0.25 * np.clip(jaw - np.median(jaw), 0, None)
    closed = 1 / (1 + (np.clip(parted, 0, None) / 0.04) ** 2)
    return {
        "AU01": rise(inner, 0.09),
        "AU02": rise(outer, 0.09),
        "AU04": rise(-inner - 0.5 * gap, 0.08),
        "AU05": rise((_calm(found["eye"]) - open_eye) * awake, 0.05),
        "AU06": rise(0.6 * cheek + 0.6 * lower_lid, 0.06),
        "AU07": rise(lower_lid * awake, 0.04),
        "AU09": rise(nostrils, 0.05),
        "AU10": rise(upper_lip, 0.06),
        "AU12": rise(0.7 * corners + 0.5 * wide, 0.12),
        "AU14": rise(np.clip(0.5 * wide, 0, None) - np.abs(corners), 0.08),
        "AU15": rise(-corners, 0.07),
        "AU17": rise((off("boss") + np.clip(off("lip_lower"), 0, None)) * closed, 0.18),
        "AU20": rise(wide - np.clip(corners, 0, None), 0.14),
        "AU23": rise(-off("lips_thick") * closed, 0.09),
        "AU25": rise(parted, 0.16),
        "AU26": rise(jaw, 0.28),
        "AU45": (closure * BLINK).astype(np.float32),
    }


SHUT, WIDE = 0.3, 0.75
"""Opening of an eye, as a share of its usual one, that counts as closed, and from which on it does not blink: FaceMesh's lids do not meet."""


def _calm(values: np.ndarray) -> np.ndarray:
    """Without the landmarks' shaking: a median over 3 pictures, then a parabola over 7."""
    steady = median_filter(values, 3, mode="nearest")
    return savgol_filter(steady, 7, 2, mode="nearest") if len(steady) >= 7 else steady
