"""What the command line and the worker both do. Each function takes plain values and returns a JSON-ready dictionary."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable, Sequence

import numpy as np

from .avatar import load_avatar, save_avatar
from .errors import UserError
from .files import file_hash
from .shot import load_shot

if TYPE_CHECKING:
    from .bake import Session

Progress = Callable[[int, int, str], None]
MOST_TIMES = 100_000
"""Times that are answered in one go."""


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
        "emotions_bring_brows": loaded.emotion_action_units() is not None,
        "uncertainty": "of colour" if loaded.variance_unit("face") is not None else "none" if loaded.is_static else "of the networks' state",
        "bytes": Path(avatar).stat().st_size,
        **asdict(loaded.meta),
    }


def import_file(source: Path, out: Path, name: str = "", up: str = "+Y", front: str = "+Z", metres: float = 1.0, pixel: float = 0.0) -> dict[str, Any]:
    """A checkpoint (.pth) of the authors' layout, or Gaussians at rest (.ply, .spz, .splat) -> an avatar file. metres per unit; pixel: metres, see
    `importers.import_file`.

    Raises:
        UserError: none of these, or not readable as such.
    """
    from . import importers

    save_avatar(importers.import_file(Path(source), name, metres, up, front, pixel), Path(out))
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


def emotion(session: Session, avatar: Path, sound: Path, times: Sequence[float | None]) -> dict[str, Any]:
    """The automatic emotion of a sound, to be turned into keys.

    Args:
        times: seconds in the sound; None, or a time outside it, is silence.

    Returns:
        weights: for each time eight in the order of EMOTIONS, their sum 1; confidence: for each time, 0..1.

    Raises:
        UserError: avatar or sound cannot be read, or the times are no list of numbers or more than MOST_TIMES.
    """
    if not isinstance(times, Sequence) or isinstance(times, str) or not all(t is None or type(t) in (int, float) for t in times):
        raise UserError("The times are not a list of seconds.", "Give numbers, or nothing where there is no sound.")
    if len(times) > MOST_TIMES:
        raise UserError(f"{len(times)} times are too many for one answer.", f"Ask for {MOST_TIMES} at a time.")
    track = session.emotion(session.head(Path(avatar)), Path(sound), file_hash(Path(sound)))
    at = np.array([np.nan if t is None else t for t in times], np.float64)
    weights, confidence = track.at(at).astype(float), track.confidence_at(at).astype(float)
    return {"weights": weights.round(6).tolist(), "confidence": confidence.reshape(-1).round(6).tolist()}
