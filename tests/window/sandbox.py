"""Runs the walk (walk.py) in a root folder (make_root.py): bubblewrap, a screen in memory, no network, nothing of the user's."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .make_root import PROGRAMS, is_whole

HERE = Path(__file__).resolve().parent

VARIABLE = "UA3DTALK_WINDOW_ROOT"
"""Environment variable that names the root folder."""
SIZE = (1600, 1200)
HOME = "/artist"
"""Where the walk's folder is inside."""
RESULT, LOG, PICTURES = "result.json", "log.txt", "pictures"
_OWN = ("shot", "given", ".config", ".cache", ".local")

_SCRIPT = """
Xvfb :9 -screen 0 {width}x{height}x24 -nolisten tcp >/tmp/xvfb.txt 2>&1 &
for _ in $(seq 200); do [ -e /tmp/.X11-unix/X9 ] && break; sleep 0.05; done
export DISPLAY=:9
blender --factory-startup --enable-event-simulate -p 0 0 {width} {height} --python-exit-code 1 --python /walk/walk.py
status=$?
cat /tmp/*.crash.txt 2>/dev/null
exit $status
"""


def named_root() -> Path | None:
    """The root folder that the environment names."""
    named = os.environ.get(VARIABLE)
    return Path(named).absolute() if named else None


@dataclass(frozen=True)
class Engine:
    """A virtual environment with the engine's packages: `python` is its program, `folders` must be visible to run it."""

    python: Path
    folders: tuple[Path, ...]


def engine_of(python: Path) -> Engine:
    """Ask a Python where its environment and its own files are.

    Raises:
        OSError, subprocess.SubprocessError, ValueError: it cannot be run.
    """
    code = "import json, sys; print(json.dumps([sys.prefix, sys.base_prefix]))"
    asked = subprocess.run([str(python), "-c", code], capture_output=True, text=True, check=True)
    folders = tuple(dict.fromkeys(Path(p).absolute() for p in json.loads(asked.stdout)))
    return Engine(python.absolute(), folders)


def reason_against(root: Path | None, python: Path) -> str | None:
    """Why the walk cannot be made here, in one line; None where it can."""
    if root is None:
        return f"{VARIABLE} names no root folder; make one with: sudo python3 tests/window/make_root.py FOLDER"
    if not is_whole(root):
        return f"{root} is no root folder with {', '.join(PROGRAMS)}; make one with: sudo python3 tests/window/make_root.py {root}"
    if shutil.which("bwrap") is None:
        return "the program bwrap is missing; install it with: apt-get install bubblewrap"
    try:
        engine = engine_of(python)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        return f"the engine's Python {python} cannot be run: {error}"
    hidden = [folder for folder in engine.folders if folder.is_relative_to("/usr")]
    if hidden:
        return f"the engine's Python is of this system's own folder {hidden[0]}, which the root folder hides; use another (pyenv, uv)"
    probe = [*_bubblewrap(root), "/usr/bin/true"]
    asked = subprocess.run(probe, capture_output=True, text=True)
    if asked.returncode:
        return f"bubblewrap cannot open the root folder: {(asked.stderr.strip().splitlines() or ['no reason given'])[-1]}"
    return None


def _bubblewrap(root: Path) -> list[str]:
    """The folders of the root, read-only, on an empty tree, so that more can be bound at any path beside them."""
    command = ["bwrap"]
    for entry in sorted(root.iterdir()):
        if entry.is_symlink():
            command += ["--symlink", os.readlink(entry), f"/{entry.name}"]
        elif entry.name in ("usr", "etc"):
            command += ["--ro-bind", str(entry), f"/{entry.name}"]
    command += "--dev /dev --proc /proc --tmpfs /tmp --tmpfs /run --dir /var".split()
    return [*command, "--unshare-pid", "--unshare-net", "--unshare-ipc", "--die-with-parent", "--new-session", "--clearenv"]


def inside(root: Path, out: Path, python: Path, environment: dict[str, str]) -> list[str]:
    """What a command is put behind to be run in the root folder, with `out` as HOME and the engine's Python at its own path."""
    command = [*_bubblewrap(root), "--ro-bind", str(HERE), "/walk", "--bind", str(out), HOME]
    for folder in engine_of(python).folders:
        command += ["--ro-bind", str(folder), str(folder)]
    usual = {
        "HOME": HOME, "PATH": "/usr/bin:/bin", "LC_ALL": "C.UTF-8", "LIBGL_ALWAYS_SOFTWARE": "1", "XDG_RUNTIME_DIR": "/run",
        "OMP_NUM_THREADS": "1", "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    for name, value in (usual | environment).items():
        command += ["--setenv", name, value]
    return [*command, "--chdir", HOME]


def walk(root: Path, out: Path, zip_path: Path, python: Path, avatar: Path, sound: Path, limit: float = 900.0) -> dict[str, Any]:
    """Make the walk once.

    Args:
        root: folder of make_root.py. out: receives result.json, log.txt and pictures/; what an earlier walk left there goes.
        zip_path: the built extension. python: the engine's. avatar, sound: what is imported. limit: seconds.
    Returns:
        {"steps": [{"name", "seconds", "facts"}], "failed": name of a step or None, "error": text or None, "measured", "seconds"}
    """
    out = out.absolute()
    for name in (PICTURES, *_OWN):
        shutil.rmtree(out / name, ignore_errors=True)
        (out / name).mkdir(parents=True)
    (out / RESULT).unlink(missing_ok=True)
    given = {"zip": zip_path, "avatar": avatar, "sound": sound}
    names = {}
    for what, path in given.items():
        names[what] = f"{HOME}/given/{Path(shutil.copy2(path, out / 'given')).name}"
    width, height = SIZE
    given = {"WALK": json.dumps({**names, "python": str(engine_of(python).python), "out": HOME})}
    command = [*inside(root, out, python, given), "bash", "-c", _SCRIPT.format(width=width, height=height)]
    started = time.monotonic()
    with (out / LOG).open("wb") as log:
        try:
            status: int | None = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=limit).returncode
        except subprocess.TimeoutExpired:  # --die-with-parent has ended all that ran inside
            status = None
    try:
        result = json.loads((out / RESULT).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        result = {"steps": [], "failed": "start", "error": "Blender wrote no result"}
    if status != 0 and not result["error"]:
        result["failed"], result["error"] = "end", f"Blender ended with status {status}" if status is not None else "the time ran out"
    result["seconds"] = round(time.monotonic() - started, 1)
    if result["error"]:
        tail = (out / LOG).read_text(encoding="utf-8", errors="replace").splitlines()[-15:]
        result["log"] = tail
    for name in _OWN:
        shutil.rmtree(out / name, ignore_errors=True)
    return result
