"""What the command line and the worker both do. Each function takes plain values and returns a JSON-ready dictionary."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

from .avatar import load_avatar, save_avatar
from .shot import load_shot

if TYPE_CHECKING:
    from .bake import Session

Progress = Callable[[int, int, str], None]


def info(avatar: Path) -> dict[str, Any]:
    """Who an avatar is and what it needs."""
    loaded = load_avatar(avatar)
    return {
        "path": str(avatar),
        "hash": loaded.hash,
        "static": loaded.is_static,
        "gaussians": {branch: loaded.count(branch) for branch in loaded.branches},
        "moving": {branch: len(loaded.moving(branch)) for branch in loaded.branches},
        "emotion_prototypes": "emotion.prototypes" in loaded.tensors,
        "bytes": Path(avatar).stat().st_size,
        **asdict(loaded.meta),
    }


def import_file(source: Path, out: Path, name: str = "", up: str = "+Y", front: str = "+Z", metres: float = 1.0) -> dict[str, Any]:
    """A checkpoint (.pth) of the authors' layout or a 3DGS .ply -> an avatar file.

    Raises:
        UserError: neither of the two, or not readable as such.
    """
    from . import importers

    save_avatar(importers.import_file(Path(source), name, metres, up, front), Path(out))
    return info(Path(out))


def bake(
    session: Session,
    shot: Path,
    out: Path,
    order: Sequence[int] = (),
    progress: Progress = lambda done, total, text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Bake a shot file into a cache folder."""
    from .bake import Baker

    loaded = load_shot(Path(shot))
    progress(0, len(loaded), "loading avatar and sound")  # the first time ever, loops are compiled too: some seconds
    return asdict(Baker(session, loaded).bake(Path(out), order, progress, stopped))
