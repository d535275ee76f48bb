"""A roll-neck sweater: lofted rings in model space (cm) that hide the cut of the bust."""

from __future__ import annotations

import numpy as np
from scipy.interpolate import PchipInterpolator

from .face_model import FloatArray, IntArray

# Rings from inside the collar, over its rim, down to the chest: height, half width, depth to the front, depth to the back.
_RINGS = np.array([
    (-12.6, 7.60, 5.9, 6.4),
    (-11.0, 7.20, 5.9, 6.0),
    (-10.2, 7.10, 6.0, 5.9),
    (-9.85, 7.30, 6.2, 6.1),
    (-10.2, 7.65, 6.6, 6.5),
    (-11.3, 8.00, 6.8, 6.9),
    (-12.3, 8.90, 7.1, 7.5),
    (-13.1, 10.6, 7.4, 8.2),
    (-14.3, 13.2, 7.9, 8.9),
    (-16.0, 15.9, 8.7, 9.5),
    (-18.5, 18.0, 9.8, 10.0),
    (-22.0, 19.2, 11.0, 10.3),
    (-26.0, 19.6, 11.8, 10.4),
])
_RISE_BEHIND = 1.5
"""cm: how much higher the collar stands behind than in front."""


def sweater(segments: int = 128, rings: int = 72) -> tuple[FloatArray, IntArray]:
    """Vertices [rings*segments,3] in cm and outward quads [F,4]; column 0 is at the front."""
    along = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(_RINGS[:, :2], axis=0), axis=1))])
    height, width, front, back = PchipInterpolator(along, _RINGS)(np.linspace(0, along[-1], rings)).T
    angle = np.linspace(0, 2 * np.pi, segments, endpoint=False)
    s, c = np.sin(angle), np.cos(angle)
    # A superellipse: a little squarer than a circle across the shoulders.
    power = np.interp(height, [-19.0, -12.0], [0.86, 1.0])[:, None]
    x = width[:, None] * np.sign(s) * np.abs(s) ** power
    z = np.where(c > 0, front[:, None], back[:, None]) * np.sign(c) * np.abs(c) ** power
    tilt = np.interp(height, [-18.0, -12.5], [0.0, 1.0])[:, None]
    y = height[:, None] - 0.5 * _RISE_BEHIND * c * tilt
    points = np.stack([x, y, z + 0.2], axis=-1).reshape(-1, 3)
    ring, segment = np.meshgrid(np.arange(rings - 1), np.arange(segments), indexing="ij")
    after = (segment + 1) % segments
    quads = np.stack([ring * segments + segment, (ring + 1) * segments + segment, (ring + 1) * segments + after, ring * segments + after], -1)
    return points.astype(np.float32), quads.reshape(-1, 4).astype(np.int32)
