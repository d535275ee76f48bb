"""A .splat file -> static avatar: 32 bytes a Gaussian, no header.

Position and linear scale (3 + 3 float32), colour and opacity (4 bytes, neither SH nor logit), rotation (w, x, y, z as bytes around 128).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..avatar import Avatar
from .static import SH_DC, Placing, raw_opacity, refuse, static_avatar, unreadable

RECORD = np.dtype([("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])


def import_splat(path: Path, placing: Placing = Placing()) -> Avatar:
    """Read a .splat; its axes are those of the .ply that it was made of.

    Raises:
        UserError: unreadable or cut short, NaN or infinity.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if not size or size % RECORD.itemsize:
            raise refuse(path, f"no whole .splat file: {size} bytes are no multiple of {RECORD.itemsize}")
        records = np.fromfile(path, RECORD)
    except OSError as error:
        raise unreadable(path, error) from error
    rgba = records["rgba"] / 255.0
    with np.errstate(invalid="ignore"):  # what is no number is refused below
        scales = records["scales"].astype(np.float64)
    return static_avatar(
        path, placing, ".splat file",
        means=records["means"],
        quats=(records["quats"].astype(np.float32) - 128) / 128,
        scales=scales,
        opacities=raw_opacity(rgba[:, 3]),
        sh=((rgba[:, :3] - 0.5) / SH_DC)[:, None],
    )  # fmt: skip
