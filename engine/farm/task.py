"""What a worker of a farm runs: one shot file -> its cache folder. Plain texts and numbers go in and come out."""

from __future__ import annotations

import os
import socket
import threading
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..bake import Baker, BakeResult, Session
from ..cache import LOCK_FILE, SHOT_FILE
from ..cache.writer import LOCK_AGE
from ..errors import UserError
from ..shot import save_shot
from ..shot.document import Rules, read_document
from ..shot.plan import check_folder, check_sources

PATIENCE = LOCK_AGE + 30.0
"""Seconds to wait for a folder that another process writes: a lock left by a machine that died counts as dead after LOCK_AGE."""

_sessions: dict[tuple[str, int | None], Session] = {}
_one = threading.Lock()  # a session is for one bake at a time, however many threads a worker has


def bake_file(path: str, root: str | None, allow_outside: bool, resume: bool, device: str, threads: int | None) -> dict[str, Any]:
    """Bake one shot file by the rules of `bake --shot`; the avatar stays in this process for the next one.

    What was computed before, also by a worker that died, is kept. No split: a cache folder has one writer at a time.

    Returns:
        "worker" (host:pid), and `BakeResult`'s entries; or "error" and "remedy" where the shot is at fault: nothing another try would mend.
    """
    about = {"worker": f"{socket.gethostname()}:{os.getpid()}"}
    with _one:
        try:
            shot, settings = read_document(Path(path), Rules(None if root is None else Path(root), allow_outside))
            if settings.output is None:
                raise UserError(f"{path}: names no output folder.", "Add `output` to it.")
            check_sources(shot)
            check_folder(settings.output, shot, resume)
            session = _sessions.setdefault((device, threads), Session(device, threads))
            result = _bake(Baker(session, shot), settings.output)
            save_shot(shot, settings.output / SHOT_FILE, durable=False)
        except UserError as error:
            return {**about, "error": error.message, "remedy": error.remedy}
    return {**about, **asdict(result)}


def _bake(baker: Baker, folder: Path) -> BakeResult:
    begin = time.monotonic()
    while True:
        try:
            return baker.bake(folder)
        except UserError:  # of whoever else writes there, the lock remains; after any other failure of ours it is gone
            if not (folder / LOCK_FILE).exists() or time.monotonic() - begin > PATIENCE:
                raise
        time.sleep(1)
