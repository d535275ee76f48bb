"""SuperSplat's compressed .ply: 256 Gaussians a chunk, each number within its chunk's range.

Element `chunk`: ranges of positions, of log scales and, in newer files, of colours. Element `vertex`: four 32-bit words, for
position (11, 10, 11 bits), rotation (2 bits: the largest of w, x, y, z, which is left out; 3 x 10 bits), log scale (11, 10, 11)
and colour with opacity (4 x 8, neither SH nor logit). Element `sh`, where there is one: f_rest_* as bytes over -4..4.
"""

from __future__ import annotations

from pathlib import Path
from typing import Mapping

import numpy as np

from .static import SH_DC, raw_opacity, refuse

CHUNK = 256
WORDS = ("packed_position", "packed_rotation", "packed_scale", "packed_color")


def is_packed(vertex: np.ndarray) -> bool:
    """Whether the element `vertex` of a .ply is of this kind."""
    return "packed_position" in (vertex.dtype.names or ())


def unpack(elements: Mapping[str, np.ndarray], path: Path) -> dict[str, np.ndarray]:
    """The arguments of `static_avatar` out of the file's elements, structured arrays by name.

    Raises:
        UserError: elements or properties are missing, or do not fit each other.
    """
    vertex, chunk = elements["vertex"], elements.get("chunk")
    count = len(vertex)
    words = []
    for name in WORDS:
        if name not in vertex.dtype.names or vertex.dtype[name].kind not in "iu" or vertex.dtype[name].itemsize != 4:
            raise refuse(path, f"a compressed .ply without whole numbers of 32 bits in property {name}")
        words.append(vertex[name].astype(np.uint32))
    if chunk is None or len(chunk) * CHUNK < count:
        raise refuse(path, f"a compressed .ply with {0 if chunk is None else len(chunk)} chunks for {count} Gaussians")
    of = np.arange(count) // CHUNK
    position, rotation, scale, colour = words
    means = _between(chunk, of, ("x", "y", "z"), _parts(position, (11, 10, 11)), path)
    with np.errstate(over="ignore"):
        scales = np.exp(_between(chunk, of, ("scale_x", "scale_y", "scale_z"), _parts(scale, (11, 10, 11)), path))
    rgba = _parts(colour, (8, 8, 8, 8))
    coloured = "min_r" in (chunk.dtype.names or ())
    rgb = _between(chunk, of, ("r", "g", "b"), rgba[:, :3], path) if coloured else rgba[:, :3]
    dc = ((rgb - 0.5) / SH_DC)[:, None]
    return {
        "means": means,
        "quats": _rotations(rotation),
        "scales": scales,
        "opacities": raw_opacity(rgba[:, 3]),
        "sh": np.concatenate([dc, _higher(elements.get("sh"), count, path)], axis=1),
    }


def _parts(words: np.ndarray, bits: tuple[int, ...]) -> np.ndarray:
    """[N] uint32, highest bits first -> [N, len(bits)] float64 in 0..1."""
    found, shift = np.empty((len(words), len(bits))), 32
    for number, width in enumerate(bits):
        shift -= width
        most = (1 << width) - 1
        found[:, number] = (words >> np.uint32(shift) & np.uint32(most)) / most
    return found


def _between(chunk: np.ndarray, of: np.ndarray, axes: tuple[str, ...], part: np.ndarray, path: Path) -> np.ndarray:
    names = [f"{end}_{axis}" for axis in axes for end in ("min", "max")]
    if missing := [name for name in names if name not in (chunk.dtype.names or ())]:
        raise refuse(path, f"a compressed .ply whose chunks lack {', '.join(missing)}")
    low, high = (np.stack([chunk[f"{end}_{axis}"].astype(np.float64) for axis in axes], 1) for end in ("min", "max"))
    if not (np.isfinite(low).all() and np.isfinite(high).all()):
        raise refuse(path, "the ranges of its chunks hold NaN or infinite numbers")
    return low[of] + part * (high - low)[of]


def _rotations(words: np.ndarray) -> np.ndarray:
    largest = (words >> np.uint32(30)).astype(np.intp)
    three = (_parts(words, (2, 10, 10, 10))[:, 1:] - 0.5) * 2**0.5
    quats = np.empty((len(words), 4))
    rows = np.arange(len(words))
    quats[rows, largest] = np.sqrt(np.maximum(1 - (three**2).sum(1), 0))
    for number in range(3):
        quats[rows, number + (number >= largest)] = three[:, number]
    return quats


def _higher(sh: np.ndarray | None, count: int, path: Path) -> np.ndarray:
    """[N, K-1, 3] of the element `sh`; K = 1 without one."""
    if sh is None:
        return np.empty((count, 0, 3))
    names = [name for name in (f"f_rest_{i}" for i in range(len(sh.dtype.names or ()))) if name in sh.dtype.names]
    if len(sh) != count or len(names) not in (0, 9, 24, 45) or any(sh.dtype[name] != np.uint8 for name in names):
        raise refuse(path, f"a compressed .ply whose element `sh` does not fit its {count} Gaussians")
    whole = np.stack([sh[name] for name in names], 1) if names else np.empty((count, 0), np.uint8)
    # The ends of the range are stored exactly, what is between them by the middles of its steps.
    part = np.where(whole == 0, 0.0, np.where(whole == 255, 1.0, (whole + 0.5) / 256))
    return ((part - 0.5) * 8).reshape(count, 3, len(names) // 3).transpose(0, 2, 1)
