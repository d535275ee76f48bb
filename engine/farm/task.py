"""What a worker of a farm runs: one shot file, or a part of it, -> a cache folder. Plain texts and numbers go in and come out."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from ..bake import Baker, BakeResult, Session
from ..cache import LOCK_FILE, SHOT_FILE
from ..cache.lock import LOCK_AGE
from ..errors import UserError
from ..shot import Shot, save_shot
from ..shot.document import Rules, read_document
from ..shot.plan import check_folder, check_sources
from .parts import left_parts, part_name, parts_folder, remove, take_in
from .probe import worker_name

PATIENCE = LOCK_AGE + 30.0
"""Seconds to wait for a folder that another process writes: a lock left by a machine that died counts as dead after LOCK_AGE."""

_sessions: dict[tuple[str, int | None], Session] = {}
_one = threading.Lock()  # a session is for one bake at a time, however many threads a worker has


def bake_file(
    path: str, root: str | None, allow_outside: bool, resume: bool, device: str, threads: int | None, parts: Sequence[str] = ()
) -> dict[str, Any]:
    """Bake one shot file by the rules of `bake --shot`; the avatar stays in this process for the next one.

    What was computed before, also by a worker that died and in parts of the shot, is kept.

    Args:
        parts: names of parts that were just baked, whether or not this machine's view of the folder shows them by now.

    Returns:
        "worker" (host:pid), "taken" (frames that parts brought) and `BakeResult`'s entries, in which those count as up to date; or
        "error" and "remedy" where the shot cannot be baked.
    """

    def bake(shot: Shot, output: Path, rules: Rules) -> dict[str, Any]:
        check_folder(output, shot, resume)
        baker = Baker(_session(device, threads), shot)
        place, taken = parts_folder(Path(path), output, rules), 0
        if place is not None and (found := list(dict.fromkeys([*(place / name for name in parts), *left_parts(place)]))):
            taken = _patiently(output, lambda: _take(baker, output, found))
        result: BakeResult = _patiently(output, lambda: baker.bake(output))
        save_shot(shot, output / SHOT_FILE, durable=False)
        if place is not None:
            remove(place)
        return {**asdict(result), "taken": taken}

    return _answer(path, Rules(None if root is None else Path(root), allow_outside), bake)


def bake_part(path: str, root: str | None, allow_outside: bool, device: str, threads: int | None, frames: Sequence[int]) -> dict[str, Any]:
    """Bake some frames of a shot file into a folder beside its cache folder, for `bake_file` to take in. Returns as that does."""

    def bake(shot: Shot, output: Path, rules: Rules) -> dict[str, Any]:
        place = parts_folder(Path(path), output, rules)
        if place is None or (place / part_name(frames)).is_symlink():
            raise UserError(f"{path}: may not write parts beside its output folder.", "Give --split 0, or --root with a folder above it.")
        folder = place / part_name(frames)
        check_folder(folder, shot, True)
        baker = Baker(_session(device, threads), shot.part(np.flatnonzero(np.isin(shot.frames, frames))))
        return asdict(_patiently(folder, lambda: baker.bake(folder)))

    return _answer(path, Rules(None if root is None else Path(root), allow_outside), bake)


def _answer(path: str, rules: Rules, bake: Callable[[Shot, Path, Rules], dict[str, Any]]) -> dict[str, Any]:
    about = {"worker": worker_name()}
    with _one:
        try:
            shot, settings = read_document(Path(path), rules)
            if settings.output is None:
                raise UserError(f"{path}: names no output folder.", "Add `output` to it.")
            check_sources(shot)
            return about | bake(shot, settings.output, rules)
        except UserError as error:
            return {**about, "error": error.message, "remedy": error.remedy}


def _session(device: str, threads: int | None) -> Session:
    return _sessions.setdefault((device, threads), Session(device, threads))


def _take(baker: Baker, output: Path, parts: Sequence[Path]) -> int:
    with baker.session.writer(output, baker.head, baker.header()) as writer:
        return take_in(writer, baker.shot, parts)


def _patiently(folder: Path, work: Callable[[], Any]) -> Any:
    """What `work` returns; again and again while another process writes the folder, up to PATIENCE."""
    begin = time.monotonic()
    while True:
        try:
            return work()
        except UserError:  # of whoever else writes there, the lock remains; after any other failure of ours it is gone
            if not (folder / LOCK_FILE).exists() or time.monotonic() - begin > PATIENCE:
                raise
        time.sleep(1)
