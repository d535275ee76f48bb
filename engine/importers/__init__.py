"""Files of other tools -> avatar. `import_file` tells them apart by what is in them."""

from __future__ import annotations

from pathlib import Path

from ..avatar import Avatar
from ..errors import UserError


def import_file(path: Path, name: str = "", metres_per_unit: float = 1.0, up: str = "+Y", front: str = "+Z") -> Avatar:
    """Import the authors' checkpoint or a 3D Gaussian .ply; see `import_checkpoint` and `import_ply`.

    Raises:
        UserError: the file is neither, or cannot be imported.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            start = handle.read(4)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    if start[:3] == b"ply":
        from .ply import import_ply

        return import_ply(path, name, metres_per_unit, up, front)
    if start[:2] == b"PK" or start[:1] == b"\x80" or path.suffix.lower() in (".pth", ".pt", ".ckpt"):
        from .checkpoint import import_checkpoint  # torch loads only where it is needed

        return import_checkpoint(path, name, metres_per_unit, up, front)
    raise UserError(f"{path}: neither a PyTorch checkpoint nor a .ply.", "Choose chkpnt_fuse_latest.pth or a 3DGS point_cloud.ply.")
