"""Faults of a farm's workers."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import time
from contextlib import suppress
from pathlib import Path

from ua3dtalk.engine.cache import LOCK_FILE
from ua3dtalk.engine.shot.document import read_document

from .case import MARK, Case, ended, marked, until
from .ground import FRAMES, Ground

KILLS = 5
"""Workers killed in one run."""
SHOTS = 4


def write_shots(ground: Ground, folder: Path) -> list[Path]:
    """Shot files whose smile never stands still: each frame has a key of its own."""
    for name in ("head.safetensors", "speech.wav"):
        shutil.copy2(ground.folder / name, folder / name)
    paths = []
    for number in range(SHOTS):
        document = {
            "ua3dtalk_shot": 1, "name": f"s{number}", "avatar": {"path": "head.safetensors"}, "sound": {"path": "speech.wav"}, "fps": 25,
            "frames": {"first": 0, "last": FRAMES - 1}, "curves": {"happy": [[0, 0.1 * number], [FRAMES, 1]]}, "output": {"folder": f"cache/s{number}"},
        }  # fmt: skip
        paths.append(folder / f"s{number}.json")
        paths[-1].write_text(json.dumps(document), encoding="utf-8")
    return paths


def holders(folder: Path, mark: str) -> list[int]:
    """Processes of this campaign that write caches below a folder now."""
    found = []
    for lock in folder.rglob(LOCK_FILE):
        with suppress(OSError, ValueError, IndexError):
            found.append(int(lock.read_text().split()[1]))
    return [pid for pid in found if pid in marked(mark)]


def kill_workers(case: Case, ground: Ground) -> None:
    """kill -9 of workers of `python -m engine farm`, several in one run, each while it writes: every shot is whole in the end."""
    folder = ground.place("farm")
    folder.mkdir()
    paths = write_shots(ground, folder)
    mark = f"{ground.mark}-{case.number}"
    command = [ground.python, "-m", "engine", "farm", *paths, "--workers", 2, "--retries", 2 * KILLS, "--json", "--device", "cpu", "--threads", 1]
    killed: list[int] = []
    with open(folder / "errors.txt", "w", encoding="utf-8") as errors:
        run = subprocess.Popen([*map(str, command)], cwd=ground.root, stdout=subprocess.PIPE, stderr=errors, text=True, env=os.environ | {MARK: mark})
        try:
            while run.poll() is None and len(killed) < KILLS:
                time.sleep(case.random.uniform(0.02, 0.4))
                found = [pid for pid in holders(folder, mark) if pid not in killed]
                if not found:
                    continue
                pid = case.random.choice(found)
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                    killed.append(pid)
                    until(lambda: ended(pid), 10)  # noqa: B023
            out = run.communicate(timeout=300)[0]
        finally:
            if run.poll() is None:
                run.kill()
                run.communicate()
    case.moment["killed"] = len(killed)
    lines = [json.loads(line) for line in out.splitlines() if line.startswith("{")]
    told = [line for line in lines if line.get("event") == "error"]
    for line in told:
        case.line(line["error"])
    case.hold("answers", run.returncode == 0 and lines and lines[-1].get("ok"), f"exit {run.returncode}: {told[:2]}")
    for path in paths:
        shot, settings = read_document(path)
        assert settings.output is not None
        ground.learn(shot)
        ground.whole(case, settings.output, shot)
    case.alone(mark)
    shutil.rmtree(folder)
