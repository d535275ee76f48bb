"""What the 3D views show of avatars: the scene's settings, and a colour ramp that fits what there is to see."""

from __future__ import annotations

import bpy
import numpy as np

from ..engine.errors import UserError
from . import avatar, frames
from .draw.source import ViewportLook

ON_A_RAMP = ("UNCERTAINTY", "ALEATORIC", "EPISTEMIC", "DEPTH")
"""What is shown as colours between two values."""
_CLEAR = 0.1
"""Opacity under which a Gaussian is hardly seen."""


def look_of(scene: bpy.types.Scene) -> ViewportLook:
    """What draw.source asks: what the 3D views show."""
    settings = scene.ua3dtalk_display
    return ViewportLook(settings.display.lower(), (settings.low, max(settings.high, settings.low + 1e-9)))


def fit_ramp(scene: bpy.types.Scene, view: bpy.types.RegionView3D | None = None) -> tuple[float, float]:
    """Let the ramp go from (nearly) the least to the most that the scene's avatars show at the current frame.

    Args:
        view: from which depths are seen; None: the scene's camera.

    Raises:
        UserError: what is shown is not on a ramp, or there is none of it.
    """
    settings = scene.ua3dtalk_display
    if settings.display not in ON_A_RAMP:
        raise UserError("What the 3D views show is not on a colour ramp.", "Show depth or an uncertainty.")
    values = np.concatenate([np.zeros(0), *(_values(obj, scene, settings.display, view) for obj in avatar.avatars(scene.objects))])
    if not len(values):
        raise UserError(f"No avatar has anything of that at frame {scene.frame_current}.", "Bake it first.")
    low, high = np.quantile(values, (0.01, 0.99))
    settings.low, settings.high = float(low), float(max(high, np.nextafter(np.float32(low), np.float32(np.inf))))
    return settings.low, settings.high


def _values(obj: bpy.types.Object, scene: bpy.types.Scene, display: str, view: bpy.types.RegionView3D | None) -> np.ndarray:
    """Of the Gaussians of an avatar that are seen, [n]; none where nothing is known."""
    try:
        now = frames.shown(obj, scene.frame_current_final)
    except UserError:
        return np.zeros(0)
    clear = now.opacities > _CLEAR
    if display == "DEPTH":
        if view is None and scene.camera is None:
            raise UserError("The scene has no camera to see a depth from.", "Add one, or press the button in a 3D view.")
        to_view = scene.camera.matrix_world.inverted() if view is None else view.view_matrix
        row = np.array(to_view @ obj.matrix_world)[2]
        return -(now.means[clear] @ row[:3] + row[3])
    if now.uncertainty is None:
        return np.zeros(0)
    found = now.uncertainty.sum(1) if display == "UNCERTAINTY" else now.uncertainty[:, int(display == "EPISTEMIC")]
    return found[clear & (found > 0)]
