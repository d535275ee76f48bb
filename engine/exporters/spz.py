"""A frame as an .spz file (Niantic), version 3; the layout is described in `engine/importers/spz.py`.

A sixth of a .ply, or less. What is lost: positions to 2**-21 m as long as all lie within 8 m; standard deviations to 3.2 % and not
below 45 micrometres; opacities to 1/510; colours (DC) to 0.95/255 and within -0.44..1.44; rotations to 0.25 degrees; the other SH
coefficients to 1/256 and within -1..127/128.
"""

from __future__ import annotations

import gzip
import io
from pathlib import Path

import numpy as np

from ..avatar import Gaussians
from ..errors import UserError
from ..files import atomic_write
from ..importers.spz import COEFFICIENTS, COLOUR_SCALE, HEADER, MAGIC, MOST

VERSION = 3
MOST_FRACTION = 20
"""Fractional bits of positions at most: a micrometre."""


def write_spz(gaussians: Gaussians, path: Path) -> None:
    """Write one set, activated, Y up and the face along +Z.

    Raises:
        UserError: more Gaussians or a larger extent than the format holds, or the file cannot be written.
    """
    count, degree = len(gaussians), COEFFICIENTS.index(gaussians.sh.shape[1] - 1)
    if count > MOST:
        raise UserError(f"{path}: an .spz holds {MOST:,} Gaussians at most, not {count:,}.", "Export another format.")
    extent = float(np.abs(gaussians.means).max())
    fraction = min(MOST_FRACTION, int(np.floor(np.log2((2**23 - 1) / max(extent, 1e-9)))))
    if fraction < 1:
        raise UserError(f"{path}: positions {extent:g} m away do not fit into an .spz.", "Export another format.")
    fixed = np.rint(gaussians.means.astype(np.float64) * 2**fraction).astype("<i4")
    sections = (
        fixed.reshape(-1, 1).view(np.uint8)[:, :3],
        _byte(gaussians.opacities * 255.0),
        _byte((gaussians.sh[:, 0] * COLOUR_SCALE + 0.5) * 255),
        _byte((np.log(gaussians.scales) + 10) * 16),
        _rotations(gaussians.quats),
        _byte(gaussians.sh[:, 1:] * 128 + 128),
    )
    data = io.BytesIO()
    with gzip.GzipFile(fileobj=data, mode="wb", compresslevel=6, mtime=0) as stream:
        stream.write(HEADER.pack(MAGIC, VERSION, count, degree, fraction, 0, 0))
        for section in sections:
            stream.write(np.ascontiguousarray(section).tobytes())
    with atomic_write(path) as handle:
        handle.write(data.getbuffer())


def _byte(values: np.ndarray) -> np.ndarray:
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def _rotations(quats: np.ndarray) -> np.ndarray:
    """[N,4] w x y z -> [N] uint32: the largest's place among x y z w, and a sign and 9 bits of each of the others."""
    quats = quats[:, [1, 2, 3, 0]].astype(np.float64)
    quats /= np.linalg.norm(quats, axis=1, keepdims=True)
    rows, largest = np.arange(len(quats)), np.abs(quats).argmax(1)
    quats *= np.where(quats[rows, largest] < 0, -1, 1)[:, None]
    words = largest.astype("<u4")
    for number in range(3):
        value = quats[rows, number + (number >= largest)]
        size = np.minimum(np.rint(np.abs(value) * (511 * 2**0.5)), 511).astype("<u4")
        words = words << np.uint32(10) | (value < 0).astype("<u4") << np.uint32(9) | size
    return words
