"""`python -m engine farm`."""

from __future__ import annotations

import argparse
import glob
import signal
import threading
from pathlib import Path
from typing import Any, Callable

from ..arguments import add_shot_rules

DESCRIPTION = """Shot files -> their cache folders, several at a time, on processes of this machine or on the workers of a Dask scheduler. One
bad shot or worker does not stop the rest; what is up to date is not computed again. Exit codes: 0 all are whole, 1 one or more failed, 2 wrong usage,
130 interrupted. --json: one object a line, each with `event`: progress, error (with `shot`) or result (with `shots`, a row about each,
and `broken_workers`)."""
_COLUMNS = {"shot": "shot", "frames": "frames", "computed": "computed", "moved": "shared", "up_to_date": "up to date", "parts": "parts", "seconds": "seconds",
            "worker": "worker", "error": "error"}  # fmt: skip


def add(command: Any, compute: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command; `command(name, run, text)` gives its parser, `compute` adds where the networks run."""
    sub = command("farm", _run, "many shot files at a time, on this machine or on many (Dask)")
    sub.description = DESCRIPTION
    sub.add_argument("shots", nargs="+", metavar="SHOT", help="shot files (.json), or patterns such as shots/*.json")
    where = sub.add_mutually_exclusive_group()
    where.add_argument("--scheduler", metavar="ADDRESS", help="of a Dask scheduler, such as tcp://10.0.0.1:8786 (none: processes of this machine)")
    where.add_argument("--workers", type=int, metavar="N", help="processes on this machine (1)")
    sub.add_argument("--gpu", action="store_true", help="with --scheduler: only on workers that declare the resource GPU=1")
    sub.add_argument("--retries", type=int, default=2, help="how often a shot is begun again after its worker died or broke (2)")
    sub.add_argument(
        "--split", type=int, metavar="FRAMES",
        help="bake shots in parts of so many frames, on several workers at once; 0: never (shots longer than an even share of what waits, for each worker)",
    )  # fmt: skip
    add_shot_rules(sub)
    compute(sub)
    sub.set_defaults(wrong_usage=sub.error)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    if options.gpu and options.scheduler is None:
        options.wrong_usage("--gpu: only with --scheduler, whose workers say what they have")
    if options.retries < 0 or options.workers is not None and options.workers < 1:
        options.wrong_usage("--retries is 0 or more, --workers is 1 or more")
    if options.split is not None and options.split < 0:
        options.wrong_usage("--split is 0 or more frames")
    from ..events import Events
    from .run import FarmSettings, bake_shots

    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    settings = FarmSettings(
        options.scheduler, options.workers or 1, options.retries, options.gpu, options.split, options.root, options.allow_outside, options.resume,
        options.device, options.threads,
    )  # fmt: skip
    result = bake_shots([Path(found) for text in options.shots for found in _matches(text)], settings, Events(options.json))
    rows, failed = result.rows, sum("error" in row for row in result.rows)
    if options.json:
        return {"event": "result", "ok": not failed, "failed": failed, "shots": rows, "broken_workers": result.broken}
    print(_table(rows))
    for name, reason in result.broken.items():
        print(f"worker {name} got no work: {reason}")
    return {"ok": not failed, "shots": len(rows), "failed": failed}


def _matches(text: str) -> list[str]:
    """The files of a pattern, which not every shell resolves; what matches nothing stays, and is told of as missing."""
    return (not Path(text).exists() and sorted(glob.glob(text))) or [text]


def _table(rows: list[dict[str, Any]]) -> str:
    lines = [list(_COLUMNS.values())]
    lines += [[_cell(row.get(name, "")) for name in _COLUMNS] for row in rows]
    widths = [max(len(line[column]) for line in lines) for column in range(len(_COLUMNS))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths)).rstrip() for line in lines)


def _cell(value: Any) -> str:
    return f"{value:.1f}" if isinstance(value, float) else str(value)
