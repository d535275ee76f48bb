"""Per-frame view features from a file, through the networks, motion to a file: the core of `python -m engine deform`."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..avatar import Avatar
from ..errors import UserError
from ..files import atomic_write
from .fast import Deformer, Motion

BATCH = 32
"""Frames between two reports of progress."""

OUTPUTS = {
    "face_d_xyz": ("face", "d_means"),
    "face_d_rot": ("face", "d_quats"),
    "face_d_scale": ("face", "d_scales"),
    "mouth_d_xyz": ("mouth", "d_means"),
}
"""Key of the motion file -> branch and field of `Motion`; float32 [F, M, 3 or 4] for the M moving Gaussians of the branch."""

_DAMAGE = (ValueError, EOFError, KeyError, SyntaxError, MemoryError, RuntimeError, zipfile.BadZipFile, zlib.error)
"""What numpy and zipfile raise for foreign and damaged files."""


def load_features(path: Path, deformer: Deformer) -> dict[str, np.ndarray]:
    """Read a features file.

    Args:
        path: .npz with audio [F,8,29,16], exp [F,1,64], style [F,1,64], emotion [F,1,128], au [F,6], NaN where not measured (sizes are the
            avatar's); other entries are ignored.
        deformer: of the avatar that the features are for.

    Raises:
        UserError: unreadable, truncated or foreign file, an entry that is missing, misshapen or not finite.
    """
    path = Path(path)
    try:
        content = np.load(path, allow_pickle=False)
        if isinstance(content, np.ndarray):
            raise ValueError("one array without a name")
        with content:
            views = {name: content[name] for name in deformer.frame_shapes if name in content.files}
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    except _DAMAGE as error:
        raise UserError(f"{path}: not a whole .npz of plain numbers.", "Save the features again with numpy.savez.") from error
    return deformer.checked(views, str(path))


def deform_file(
    avatar: Avatar,
    features: Path,
    out: Path,
    device: str = "auto",
    threads: int | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> dict[str, tuple[int, ...]]:
    """Run the networks on every frame of a features file and write the motion.

    Args:
        avatar: with networks.
        features: see `load_features`.
        out: .npz that is written in one step, keys as `OUTPUTS`; those of a branch without networks are left out.
        device, threads: see `Deformer`.
        progress: called with frames done and frames in all; may raise `Cancelled`, then nothing is written.

    Returns:
        key -> shape of what was written.

    Raises:
        UserError: from the avatar, the features or the writing.
    """
    deformer = Deformer(avatar, device, threads)
    views = load_features(features, deformer)
    count = len(next(iter(views.values())))
    parts: list[Motion] = []
    for start in range(0, count, BATCH):
        parts.append(deformer.motion({name: view[start : start + BATCH] for name, view in views.items()}))
        if progress is not None:
            progress(min(start + BATCH, count), count)
    written = {}
    for key, (branch, field) in OUTPUTS.items():
        if getattr(parts[0], branch) is not None:
            written[key] = np.concatenate([getattr(getattr(part, branch), field) for part in parts])
    with atomic_write(Path(out)) as handle:
        np.savez(handle, **written)
    return {key: value.shape for key, value in written.items()}
