"""Files of other tools -> avatar. `import_file` tells them apart by what is in them."""

from __future__ import annotations

from pathlib import Path

from ..avatar import Avatar
from ..errors import UserError
from .static import Placing, unreadable

_CHECKPOINTS = (".pth", ".pt", ".ckpt")


def import_file(
    path: Path, name: str = "", metres_per_unit: float = 1.0, up: str = "+Y", front: str = "+Z", pixel_metres: float = 0.0
) -> Avatar:
    """Import a checkpoint of the authors' family, or Gaussians at rest: .ply (also compressed), .spz, .splat.

    Args:
        pixel_metres: what a pixel covered at the face in the pictures that it was trained on, which no such file says; 0: not known.

    See `import_checkpoint`, `import_ply`, `import_spz`, `import_splat`.

    Raises:
        UserError: the file is none of these, or cannot be imported.
    """
    if not 0 <= pixel_metres < 1:
        raise UserError(f"A pixel of {pixel_metres:g} m is none of a picture of a head.", "Give metres, for example 0.0005, or 0 where it is not known.")
    avatar = _imported(Path(path), Placing(name, metres_per_unit, up, front))
    if pixel_metres:
        avatar.meta.pixel_size = pixel_metres / max(metres_per_unit, 1e-30)
    return avatar


def _imported(path: Path, placing: Placing) -> Avatar:
    try:
        with path.open("rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise unreadable(path, error) from error
    if start[:3] == b"ply":
        from .ply import import_ply

        return import_ply(path, placing)
    if start[:2] == b"\x1f\x8b" or start == b"NGSP":
        from .spz import import_spz

        return import_spz(path, placing)
    if path.suffix.lower() == ".splat":  # has no mark of its own
        from .splat import import_splat

        return import_splat(path, placing)
    if start[:2] == b"PK" or start[:1] == b"\x80" or path.suffix.lower() in _CHECKPOINTS:
        from .checkpoint import import_checkpoint  # torch loads only where it is needed

        return import_checkpoint(path, placing.name, placing.metres_per_unit, placing.up, placing.front)
    raise UserError(
        f"{path}: neither a PyTorch checkpoint nor a set of Gaussians (.ply, .spz, .splat).",
        "Choose chkpnt_fuse_latest.pth, or a file of 3D Gaussians.",
    )
