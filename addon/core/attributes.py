"""Point attributes of an avatar's point cloud, named as Blender 5.3 names those of Gaussian splats."""

from __future__ import annotations

import numpy as np

from ...engine.avatar import Gaussians

POSITION, SCALE, ROTATION, BASE, RADIUS = "position", "scale", "rotation", "radiance:base", "radius"
BRANCH = "ua3dtalk:branch"
SHOWN_RADIUS = 0.0002
"""Metres. What draws points as balls (Blender before 5.3) is to show next to nothing of them: the splats are drawn over it."""


def static_attributes(gaussians: Gaussians, branch: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """What does not move: name -> (kind, values [N,...] float32). Kinds: `float4`, `vector`, `float`, `integer`.

    `radiance:base` holds the three SH DC coefficients as they stand and the opacity; `radiance:sh_i` the higher ones in order.
    """
    found: dict[str, tuple[str, np.ndarray]] = {
        BASE: ("float4", np.concatenate([gaussians.sh[:, 0], gaussians.opacities[:, None]], axis=1)),
        BRANCH: ("integer", np.asarray(branch, np.int32)),
        RADIUS: ("float", np.full(len(gaussians), SHOWN_RADIUS, np.float32)),
    }
    for i in range(1, gaussians.sh.shape[1]):
        found[f"radiance:sh_{i - 1}"] = ("vector", gaussians.sh[:, i])
    return found


def moving_attributes(means: np.ndarray, quats: np.ndarray, scales: np.ndarray) -> dict[str, tuple[str, np.ndarray]]:
    """What each frame sets: position and scale (linear) [N,3], rotation [N,4], w first."""
    return {POSITION: ("vector", means), SCALE: ("vector", scales), ROTATION: ("quaternion", quats)}


def read_gaussians(arrays: dict[str, np.ndarray]) -> Gaussians:
    """The inverse: the Gaussians that a point cloud's attributes hold. Raises KeyError where one is missing."""
    base = arrays[BASE]
    rest = [arrays[f"radiance:sh_{i}"] for i in range(sum(name.startswith("radiance:sh_") for name in arrays))]
    sh = np.stack([base[:, :3], *rest], axis=1)
    return Gaussians(arrays[POSITION], arrays[ROTATION], arrays[SCALE], base[:, 3], sh)
