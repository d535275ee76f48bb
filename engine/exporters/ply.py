"""A frame as a .ply in INRIA's layout, as 3DGS training writes it.

float32, little endian: x y z, nx ny nz (0), f_dc_*, f_rest_* (one colour after the other), opacity (logit), scale_* (natural
logarithm of the standard deviation), rot_* (w x y z). Colours are display-referred sRGB, positions metres; the format has no axes,
so a comment names them.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyElement

from ..avatar import Gaussians
from ..files import atomic_write
from .frames import Axes

MOST_OPAQUE = 1 - 2.0**-24
"""Opacities are kept this far from 0 and 1, whose logits are infinite."""


def write_ply(gaussians: Gaussians, path: Path, axes: Axes) -> None:
    """Write one set, activated, in the axes that it is in.

    Raises:
        UserError: the file cannot be written.
    """
    count = len(gaussians)
    opacities = np.clip(gaussians.opacities.astype(np.float64), 1 - MOST_OPAQUE, MOST_OPAQUE)
    higher = gaussians.sh[:, 1:].transpose(0, 2, 1).reshape(count, 3 * (gaussians.sh.shape[1] - 1))
    parts = {
        ("x", "y", "z"): gaussians.means,
        ("nx", "ny", "nz"): np.zeros((count, 3)),
        tuple(f"f_dc_{i}" for i in range(3)): gaussians.sh[:, 0],
        tuple(f"f_rest_{i}" for i in range(higher.shape[1])): higher,
        ("opacity",): np.log(opacities / (1 - opacities))[:, None],
        tuple(f"scale_{i}" for i in range(3)): np.log(gaussians.scales),
        tuple(f"rot_{i}" for i in range(4)): gaussians.quats,
    }
    rows = np.concatenate(list(parts.values()), axis=1, dtype="<f4", casting="same_kind")
    vertex = rows.view([(name, "<f4") for names in parts for name in names])[:, 0]
    comments = ["3D Gaussians by UA-3DTalk", f"metres; up {axes.up}, the face looks along {axes.front}"]
    with atomic_write(path) as handle:
        PlyData([PlyElement.describe(vertex, "vertex")], byte_order="<", comments=comments).write(handle)
