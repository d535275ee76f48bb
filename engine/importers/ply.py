"""A plain 3D Gaussian .ply (INRIA's layout) -> static avatar."""

from __future__ import annotations

import datetime
from pathlib import Path

import numpy as np
from plyfile import PlyData, PlyParseError

from ..avatar import Avatar, AvatarMeta
from ..avatar.gaussians import softplus_inverse
from ..errors import UserError

NECESSARY = ("x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "scale_0", "scale_1", "scale_2")
"""Properties without which a set of Gaussians cannot be drawn."""

OPAQUE = 10.0
"""Raw opacity where the file has none: 0.99995 after the sigmoid."""


def import_ply(path: Path, name: str = "", metres_per_unit: float = 1.0, up: str = "+Y", front: str = "+Z") -> Avatar:
    """Read a .ply of Gaussians, binary or text, SH degree 0 to 3.

    Scales are logarithms in the file and become raw softplus values. Missing f_rest_* mean SH degree 0, missing rot_*
    no rotation, a missing opacity an opaque set; normals and other properties are ignored.

    Args:
        path: the .ply.
        name: the avatar's name; the file's own if empty.
        metres_per_unit: length of one unit of the positions.
        up, front: axes of the positions; the default suits heads out of a face tracker. Scenes reconstructed with
            COLMAP have no fixed axes; they often have Y down and a face that looks along -Z: `up='-Y', front='-Z'`.

    Raises:
        UserError: unreadable, foreign, truncated or compressed file, a necessary property missing, NaN or infinity.
    """
    path = Path(path)
    vertex = _vertices(path)
    names = vertex.dtype.names or ()
    missing = [item for item in NECESSARY if item not in names]
    if missing:
        packed = "packed_position" in names
        raise UserError(
            f"{path}: " + ("a compressed .ply." if packed else f"no set of 3D Gaussians: property {', '.join(missing)} missing."),
            "Export it as an uncompressed .ply (INRIA's layout)." if packed else "Choose the point_cloud.ply that 3DGS training wrote.",
        )
    if not len(vertex):
        raise _refuse(path, "it holds no Gaussians")
    rest = sorted(int(item[7:]) for item in names if item.startswith("f_rest_") and item[7:].isdigit())
    if len(rest) not in (0, 9, 24, 45) or rest != list(range(len(rest))):
        raise _refuse(path, f"it has {len(rest)} f_rest properties; 0, 9, 24 or 45 in a row are expected")
    rotated = [item for item in (f"rot_{i}" for i in range(4)) if item in names]
    if len(rotated) not in (0, 4):
        raise _refuse(path, f"it has only {', '.join(rotated)} of the four rotation properties")

    dc = _columns(vertex, [f"f_dc_{i}" for i in range(3)], path)[:, None]
    # One channel after the other in the file, one coefficient after the other in the avatar.
    higher = _columns(vertex, [f"f_rest_{i}" for i in rest], path).reshape(len(vertex), 3, -1).transpose(0, 2, 1)
    scales = _columns(vertex, [f"scale_{i}" for i in range(3)], path)
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        raw_scales = softplus_inverse(np.exp(scales.astype(np.float64)))
    if not np.isfinite(raw_scales).all():
        raise _refuse(path, "its scales are beyond all size (they should be logarithms)")
    identity = np.tile(np.array([1, 0, 0, 0], np.float32), (len(vertex), 1))
    opaque = np.full((len(vertex), 1), OPAQUE, np.float32)
    tensors = {
        "face.means": _columns(vertex, ["x", "y", "z"], path),
        "face.quats": _columns(vertex, rotated, path) if rotated else identity,
        "face.scales": raw_scales,
        "face.opacities": (_columns(vertex, ["opacity"], path) if "opacity" in names else opaque)[:, 0],
        "face.sh": np.ascontiguousarray(np.concatenate([dc, higher], 1)),
    }
    meta = AvatarMeta(
        name=name or path.stem,
        metres_per_unit=metres_per_unit,
        up=up,
        front=front,
        composite="sorted",
        emotions=[],
        provenance=f"Imported from the 3D Gaussian file {path.name}; it has no networks and does not talk.",
        created=datetime.date.today().isoformat(),
    )
    return Avatar(meta, tensors)


def _vertices(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as handle:
            if handle.read(4).rstrip(b"\r\n") not in (b"ply", b"ply\n"):
                raise _refuse(path, "not a .ply file")
        data = PlyData.read(str(path), mmap=False)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    except (PlyParseError, ValueError, KeyError, TypeError, EOFError, MemoryError, OverflowError) as error:
        line = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise _refuse(path, f"damaged or cut short ({line})") from error
    if "vertex" not in data:
        raise _refuse(path, "it has no element `vertex`")
    return data["vertex"].data


def _columns(vertex: np.ndarray, names: list[str], path: Path) -> np.ndarray:
    """Properties side by side, [N, len(names)] float32, finite."""
    found = np.empty((len(vertex), len(names)), np.float32)
    for number, name in enumerate(names):
        if vertex.dtype[name].kind not in "fiu":
            raise _refuse(path, f"property {name} is a list")
        with np.errstate(over="ignore"):
            found[:, number] = vertex[name]
        if not np.isfinite(found[:, number]).all():
            raise _refuse(path, f"property {name} holds NaN or infinite numbers")
    return found


def _refuse(path: Path, why: str) -> UserError:
    return UserError(f"{path}: {why}.", "Choose the point_cloud.ply that 3DGS training wrote, or copy it again.")
