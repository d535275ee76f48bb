"""A face of 468 points whose pose, expression and lens are known: what `engine.prepare` is tested on without a landmark model."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy.spatial.transform import Rotation

POINTS, ALL = 468, 478
FLIP = np.array([1.0, -1.0, -1.0])


def face(seed: int = 0) -> np.ndarray:
    """[468,3] metres in head space: an ellipsoid's front, with the named points where a face has them (mirrored left and right)."""
    random = np.random.default_rng(seed)
    angle, up = random.uniform(-1.2, 1.2, POINTS), random.uniform(-1.0, 0.75, POINTS)
    ring = np.sqrt(1 - up**2 * 0.8)
    points = np.column_stack([0.075 * np.sin(angle) * ring, 0.095 * up, 0.09 * np.cos(angle) * ring])
    for numbers, x, y, z in (
        ((33, 263), 0.0446, 0.0084, 0.066), ((133, 362), 0.0184, 0.0084, 0.072),  # corners of the eyes
        ((159, 386), 0.031, 0.0136, 0.074), ((145, 374), 0.031, 0.0030, 0.074), ((158, 385), 0.026, 0.0130, 0.074),
        ((153, 380), 0.026, 0.0034, 0.074), ((160, 387), 0.036, 0.0130, 0.073), ((144, 373), 0.036, 0.0034, 0.073),
        ((107, 336), 0.014, 0.030, 0.082), ((55, 285), 0.014, 0.026, 0.082), ((66, 296), 0.022, 0.033, 0.081),
        ((105, 334), 0.032, 0.034, 0.078), ((63, 293), 0.042, 0.032, 0.072), ((70, 300), 0.050, 0.028, 0.066),
        ((98, 327), 0.012, -0.026, 0.086), ((97, 326), 0.006, -0.027, 0.090), ((129, 358), 0.017, -0.022, 0.082),
        ((205, 425), 0.040, -0.026, 0.072), ((50, 280), 0.046, -0.014, 0.068), ((61, 291), 0.026, -0.052, 0.0795),
        ((37, 267), 0.008, -0.045, 0.092), ((82, 312), 0.007, -0.0515, 0.091), ((87, 317), 0.007, -0.0525, 0.091), ((84, 314), 0.008, -0.061, 0.090),
        ((148, 377), 0.012, -0.094, 0.082), ((199, 200), 0.0, -0.080, 0.086), ((234, 454), 0.073, 0.002, 0.005), ((127, 356), 0.072, 0.022, 0.008),
        ((93, 323), 0.072, -0.012, 0.008), ((132, 361), 0.069, -0.026, 0.012), ((58, 288), 0.063, -0.050, 0.020), ((172, 397), 0.055, -0.066, 0.034),
        ((136, 365), 0.046, -0.076, 0.048), ((150, 379), 0.034, -0.086, 0.062), ((149, 378), 0.026, -0.090, 0.070), ((176, 400), 0.019, -0.093, 0.078),
        ((162, 389), 0.069, 0.036, 0.014), ((21, 251), 0.062, 0.050, 0.024), ((54, 284), 0.052, 0.061, 0.040), ((103, 332), 0.040, 0.067, 0.054),
        ((67, 297), 0.026, 0.070, 0.064), ((109, 338), 0.012, 0.072, 0.070),
    ):  # fmt: skip
        points[numbers[0]], points[numbers[1]] = (-x, y, z), (x, y, z)
    points[199] = points[200] = 0, -0.080, 0.086
    for number, y, z in (
        (168, 0.012, 0.085), (197, -0.004, 0.098), (5, -0.016, 0.106), (4, -0.020, 0.109), (2, -0.029, 0.094), (0, -0.045, 0.095),
        (13, -0.0515, 0.093), (14, -0.0525, 0.093), (17, -0.062, 0.091), (152, -0.095, 0.083), (10, 0.073, 0.071),
    ):  # fmt: skip
        points[number] = 0, y, z
    return points


@dataclass
class Film:
    """F pictures of a moving head.

    Attributes:
        landmarks: [F,478,3] px as FaceMesh gives them: z away from the camera in the scale of x, roughly. focal: px. size: px.
        rotation: [F,3] rotation vectors, translation [F,3] metres, head (turned by FLIP) to camera.
    """

    landmarks: np.ndarray
    focal: float
    size: int
    rotation: np.ndarray
    translation: np.ndarray
    points: np.ndarray = field(repr=False)


def film(count: int = 120, noise: float = 0.2, focal: float = 1100.0, size: int = 400, turning: float = 12.0, moves: np.ndarray | None = None) -> Film:
    """Film the head. `moves`: [F,468,3] metres that points move in head space; turning: degrees to each side."""
    time = np.arange(count) / 25
    rotation = np.radians(np.column_stack([4 * np.sin(2.1 * time) + 3, turning * np.sin(1.3 * time), 3 * np.cos(1.7 * time)]))
    translation = np.column_stack([0.01 * np.sin(0.9 * time), 0.01 + 0.006 * np.cos(1.1 * time), 0.85 + 0.02 * np.sin(0.7 * time)])
    points = face()
    posed = points[None] + (0 if moves is None else moves)
    camera = np.einsum("fij,fpj->fpi", Rotation.from_rotvec(rotation).as_matrix(), np.broadcast_to(posed, (count, POINTS, 3)) * FLIP)
    camera = camera + translation[:, None]
    pixels = camera[..., :2] / camera[..., 2:] * focal + size / 2
    depth = (camera[..., 2] - camera[..., 2].mean(1, keepdims=True)) * focal / translation[:, None, 2]
    random = np.random.default_rng(1)
    landmarks = np.concatenate([pixels + noise * random.standard_normal(pixels.shape), depth[..., None]], -1)
    whole = np.concatenate([landmarks, np.repeat(landmarks[:, 33:34], ALL - POINTS, 1)], 1)
    return Film(whole.astype(np.float32), focal, size, rotation, translation, points)
