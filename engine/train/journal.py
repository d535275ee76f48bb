"""What a training says of itself: a line of JSON every so often, the same to TensorBoard where that is installed, and the time left."""

from __future__ import annotations

import json
import time
from pathlib import Path
from statistics import median
from typing import Any

NAME = "log.jsonl"
COST = {"static": 1.0, "single": 6.0, "ensemble": 14.0, "agree": 4.0, "fuse": 6.0, "body": 1.0}
"""What a step of a phase costs beside a static one, until it has been measured."""


class Journal:
    """Appends to `log.jsonl` in a folder; lines that a stop made obsolete are cut off.

    Args:
        kept: bytes of the file that count (of the checkpoint that is gone on from).
        step: of the checkpoint, over all parts.
    """

    def __init__(self, folder: Path, kept: int = 0, step: int = 0) -> None:
        self.path = folder / NAME
        folder.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("r+b" if self.path.exists() else "w+b")
        self._file.truncate(kept)
        self._file.seek(kept)
        self.board = _board(folder / "tensorboard", step)

    @property
    def size(self) -> int:
        """Bytes until now."""
        self._file.flush()
        return self._file.tell()

    def write(self, step: int, part: str, values: dict[str, Any]) -> None:
        """A line: `step` over all parts, the part's name and some numbers."""
        self._file.write((json.dumps({"step": step, "part": part} | values) + "\n").encode())
        self._file.flush()
        if self.board is not None:
            for name, value in values.items():
                if isinstance(value, (int, float)):
                    self.board.add_scalar(f"{part}/{name}", value, step)

    def lines(self) -> list[dict[str, Any]]:
        """All lines."""
        self._file.flush()
        return [json.loads(line) for line in self.path.read_text("utf-8").splitlines()]

    def close(self) -> None:
        """Let go of the files."""
        self._file.close()
        if self.board is not None:
            self.board.close()


def _board(folder: Path, step: int) -> Any:
    """TensorBoard's own writer, or None where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError:
        return None
    return SummaryWriter(str(folder), purge_step=step)


class Clock:
    """Seconds spent and left: what each phase's steps were measured to take, for phases to come by COST."""

    def __init__(self, seconds: float = 0.0, cpu: float = 0.0, pace: dict[str, float] | None = None) -> None:
        self._wall, self._cpu = time.monotonic() - seconds, time.process_time() - cpu
        self.pace = dict(pace or {})
        self._begun = set(self.pace)
        self._last = time.monotonic()

    @property
    def seconds(self) -> float:
        """Spent in all, over all runs."""
        return time.monotonic() - self._wall

    @property
    def cpu(self) -> float:
        """Processor seconds of the same."""
        return time.process_time() - self._cpu

    def lap(self, kind: str) -> None:
        """A step of a kind (`face single`) has ended. The first one says nothing: compilers run in it."""
        now = time.monotonic()
        took, self._last = now - self._last, now
        if kind not in self._begun:
            self._begun.add(kind)
            return
        self.pace[kind] = took if kind not in self.pace else 0.97 * self.pace[kind] + 0.03 * took

    def pause(self) -> None:
        """What was done since the last step is none."""
        self._last = time.monotonic()

    def left(self, steps: dict[str, int]) -> float:
        """Seconds for so many steps of each kind."""
        base = [pace / COST[kind.split()[-1]] for kind, pace in self.pace.items()]
        unit = median(base) if base else 0.02
        return sum(count * self.pace.get(kind, unit * COST[kind.split()[-1]]) for kind, count in steps.items())
