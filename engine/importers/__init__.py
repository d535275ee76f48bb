"""Files of other tools -> avatar. `import_file` tells them apart by what is in them."""

from __future__ import annotations

from pathlib import Path

from ..avatar import Avatar
from ..errors import UserError
from .static import Placing, unreadable

_CHECKPOINTS = (".pth", ".pt", ".ckpt")


def import_file(path: Path, name: str = "", metres_per_unit: float = 1.0, up: str = "+Y", front: str = "+Z") -> Avatar:
    """Import a checkpoint of the authors' family, or Gaussians at rest: .ply (also compressed), .spz, .splat.

    See `import_checkpoint`, `import_ply`, `import_spz`, `import_splat`.

    Raises:
        UserError: the file is none of these, or cannot be imported.
    """
    path, placing = Path(path), Placing(name, metres_per_unit, up, front)
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

        return import_checkpoint(path, name, metres_per_unit, up, front)
    raise UserError(
        f"{path}: neither a PyTorch checkpoint nor a set of Gaussians (.ply, .spz, .splat).",
        "Choose chkpnt_fuse_latest.pth, or a file of 3D Gaussians.",
    )
