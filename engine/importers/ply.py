"""A 3D Gaussian .ply -> static avatar: INRIA's layout in all its variants, and SuperSplat's compressed one."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from ..avatar import Avatar
from .packed_ply import is_packed, unpack
from .static import OPAQUE, Placing, refuse, static_avatar, unreadable

NECESSARY = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "scale_0", "scale_1", "scale_2")
"""Properties without which a set of Gaussians cannot be drawn."""

MAX_HEADER = 1 << 16
_REMEDY = "Choose the point_cloud.ply that 3DGS training wrote, or copy it again."


def import_ply(path: Path, placing: Placing = Placing()) -> Avatar:
    """Read a .ply of Gaussians: binary of either byte order or text, properties in any order, SH degree 0 to 3, or compressed.

    Scales are logarithms in the file and become raw softplus values. Missing f_rest_* mean SH degree 0, missing rot_*
    no rotation, a missing opacity an opaque set; normals and other properties are ignored.

    Args:
        path: the .ply.
        placing: the default axes suit heads out of a face tracker. Scenes reconstructed with COLMAP have no fixed axes;
            they often have Y down and a face that looks along -Z: `up='-Y', front='-Z'`.

    Raises:
        UserError: unreadable, foreign or truncated file, a necessary property missing, NaN or infinity.
    """
    path = Path(path)
    data = _read(path)
    elements = {element.name: element.data for element in data}
    if "vertex" not in elements:
        raise refuse(path, "it has no element `vertex`", _REMEDY)
    vertex = elements["vertex"]
    if is_packed(vertex):
        return static_avatar(path, placing, "compressed 3D Gaussian file", **unpack(elements, path))
    names = vertex.dtype.names or ()
    missing = [item for item in NECESSARY if item not in names]
    if missing:
        raise refuse(path, f"no set of 3D Gaussians: property {', '.join(missing)} missing", _REMEDY)
    rest = sorted(int(item[7:]) for item in names if item.startswith("f_rest_") and item[7:].isdecimal())
    if len(rest) not in (0, 9, 24, 45) or rest != list(range(len(rest))):
        raise refuse(path, f"it has {len(rest)} f_rest properties; 0, 9, 24 or 45 in a row are expected", _REMEDY)
    rotated = [item for item in (f"rot_{i}" for i in range(4)) if item in names]
    if len(rotated) not in (0, 4):
        raise refuse(path, f"it has only {', '.join(rotated)} of the four rotation properties", _REMEDY)

    count = len(vertex)
    dc = _columns(vertex, [f"f_dc_{i}" for i in range(3)], path)[:, None]
    # One channel after the other in the file, one coefficient after the other in the avatar.
    higher = _columns(vertex, [f"f_rest_{i}" for i in rest], path).reshape(count, 3, len(rest) // 3).transpose(0, 2, 1)
    with np.errstate(over="ignore"):
        scales = np.exp(_columns(vertex, [f"scale_{i}" for i in range(3)], path).astype(np.float64))
    identity = np.tile(np.array([1, 0, 0, 0], np.float32), (count, 1))
    opacities = _columns(vertex, ["opacity"], path)[:, 0] if "opacity" in names else np.full(count, OPAQUE, np.float32)
    return static_avatar(
        path, placing, "3D Gaussian file",
        means=_columns(vertex, ["x", "y", "z"], path),
        quats=_columns(vertex, rotated, path) if rotated else identity,
        scales=scales,
        opacities=opacities,
        sh=np.concatenate([dc, higher], 1),
    )  # fmt: skip


def _read(path: Path) -> PlyData:
    try:
        _check_header(path)
        # Mapped: the reader compares counts with the file's size before anything is allocated.
        return PlyData.read(str(path), mmap="r")
    except OSError as error:
        raise unreadable(path, error) from error
    except (PlyParseError, ValueError, KeyError, TypeError, IndexError, EOFError, MemoryError, OverflowError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise refuse(path, f"damaged or cut short ({line[:200]})", _REMEDY) from error


def _check_header(path: Path) -> None:
    """Refuse what the library would allocate or loop over before it sees that the file is too short for it."""
    size = path.stat().st_size
    with path.open("rb") as handle:
        start = handle.read(MAX_HEADER)
    if start[:3] != b"ply":
        raise refuse(path, "not a .ply file", _REMEDY)
    # Lines end as the first one does, and as the library has it: what it reads must be what is looked at here.
    line_end = "\r\n" if start[3:5] == b"\r\n" else chr(start[3]) if start[3:4] in (b"\r", b"\n") else "\n"
    elements: list[list[int]] = []  # count, properties
    for fields in (line.split() for line in start.decode("latin-1").split(line_end)):
        if fields[:1] == ["end_header"]:
            break
        if fields[:1] == ["element"] and len(fields) == 3:
            elements.append([int(fields[2]), 0])
        elif fields[:1] == ["property"] and elements:
            if fields[1:2] == ["list"]:
                raise refuse(path, "it has properties that are lists, as meshes do and sets of Gaussians do not", _REMEDY)
            elements[-1][1] += 1
    else:
        raise refuse(path, "damaged or cut short (its header does not end)", _REMEDY)
    for count, properties in elements:
        # A number takes a byte at least; a line of text a line end, too.
        if count < 0 or count * max(properties, 1) > size:
            raise refuse(path, f"damaged or cut short (room for {count} of something is not in {size} bytes)", _REMEDY)


def _columns(vertex: np.ndarray, names: list[str], path: Path) -> np.ndarray:
    """Properties side by side, [N, len(names)] float32, finite."""
    found = np.empty((len(vertex), len(names)), np.float32)
    for number, name in enumerate(names):
        with np.errstate(over="ignore"):
            found[:, number] = vertex[name]
        if not np.isfinite(found[:, number]).all():
            raise refuse(path, f"property {name} holds NaN or infinite numbers", _REMEDY)
    return found
