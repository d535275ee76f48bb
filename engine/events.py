"""What a command tells a script: one JSON object a line on standard output, each with `event`. Standard library alone.

    start     shot, avatar, sound, fps, frames (how many), first, last, out
    progress  progress (frames done), total, text
    frame     frame: one more that can be read now
    result    shot, ok, and what was asked for: of a bake computed, moved, up_to_date, seconds, cache; of --dry-run and --check see
              engine/shot/plan.py
    error     error (one line), remedy, exit_code

Without JSON the progress is one line that is written over on a terminal's standard error. Other programs (Blender) may print lines
of their own between: what is no JSON object is none of these.
"""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from .errors import UserError

if TYPE_CHECKING:
    from .shot import Shot

REFUSED, WRONG_USAGE, INTERRUPTED = 1, 2, 130
"""Exit codes beside 0: it could not be done, or not all is whole; arguments nobody understands; stopped by the user."""
EVERY = 0.5
"""Seconds between two lines of progress."""


class Events:
    """Tells of one run, as JSON lines or for people. Callable as `progress`."""

    def __init__(self, as_json: bool) -> None:
        self.as_json, self._last = as_json, 0.0

    def start(self, name: str, shot: Shot, out: object) -> None:
        """Something is done with this shot now."""
        if not self.as_json:
            return
        frames = {"frames": len(shot), "first": int(shot.frames[0]), "last": int(shot.frames[-1])}
        files = {"avatar": str(shot.avatar), "sound": None if shot.sound is None else str(shot.sound)}
        self._tell("start", {"shot": name, **files, "fps": shot.fps, **frames, "out": str(out)})

    def __call__(self, done: int, total: int, text: str, frames: Sequence[int] = ()) -> None:
        for frame in frames if self.as_json else ():
            self._tell("frame", {"frame": int(frame)})
        now = time.monotonic()
        if done < total and now - self._last < EVERY:
            return
        self._last = now
        if self.as_json:
            self._tell("progress", {"progress": done, "total": total, "text": text})
        elif sys.stderr.isatty():
            print(f"\r{done}/{total} {text}\033[K", end="" if done < total else "\n", file=sys.stderr, flush=True)
        else:
            print(f"{done}/{total} {text}", file=sys.stderr, flush=True)

    def note(self, text: str) -> None:
        """Something worth knowing, for people."""
        print(f"note: {text}", file=sys.stderr, flush=True)

    def result(self, result: dict[str, Any]) -> None:
        """What came of it, for a script."""
        if self.as_json:
            self._tell("result", result)

    def error(self, error: UserError | str, code: int = REFUSED, **facts: str) -> None:
        """It could not be done: one line, for people and for scripts. `facts`: such as which of several shots."""
        known = error if isinstance(error, UserError) else UserError(error)
        if self.as_json:
            self._tell("error", {**facts, "error": known.message, "remedy": known.remedy, "exit_code": code})
        print(f"error: {known}", file=sys.stderr, flush=True)

    def _tell(self, event: str, facts: dict[str, Any]) -> None:
        print(json.dumps({"event": event, **facts}), flush=True)
