"""Making and checking the Python environment that the engine runs in."""

from __future__ import annotations

import json
import os
import queue
import subprocess
import threading
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ...engine.errors import UserError

STAMP = "ua3dtalk.json"
"""In a folder made here, written when everything is installed: {"requirements": text}."""
CHECK_TIMEOUT = 180.0
_KEPT_LINES = 400


def venv_python(folder: Path) -> Path:
    """The Python of a virtual environment."""
    return folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")


def clean_variables() -> dict[str, str]:
    """The process's variables without those that point Blender's Python (or a user's) at its packages."""
    kept = {k: v for k, v in os.environ.items() if k not in ("PYTHONHOME", "PYTHONPATH", "VIRTUAL_ENV")}
    return {**kept, "PYTHONNOUSERSITE": "1", "PYTHONUNBUFFERED": "1", "PYTHONDONTWRITEBYTECODE": "1"}


def is_ready(folder: Path, requirements: Path) -> bool:
    """True where `folder` was set up here for just these requirements."""
    try:
        stamp = json.loads((folder / STAMP).read_text("utf-8"))
        return venv_python(folder).exists() and stamp["requirements"] == requirements.read_text("utf-8")
    except (OSError, ValueError, KeyError, TypeError):
        return False


@dataclass(frozen=True)
class Step:
    """One command of the set-up."""

    text: str
    command: tuple[str, ...]


def setup_steps(base_python: Path, folder: Path, requirements: Path, options: Sequence[str] = ()) -> list[Step]:
    """The commands that make the environment in `folder`.

    Args:
        options: more options for pip, such as an index of the user's choosing.
    """
    python = str(venv_python(folder))
    pip = (python, "-m", "pip", "--disable-pip-version-check", "--no-input")
    return [
        Step("Making the environment", (str(base_python), "-m", "venv", "--clear", str(folder))),
        Step("Installing packages", (*pip, "install", "--progress-bar", "off", *options, "-r", str(requirements))),
    ]


class Setup:
    """Runs the steps one after the other in child processes; `pump` moves it on and never waits.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        text: what is being done. lines: the last lines that the commands said. error: when failed.
    """

    def __init__(self, steps: Sequence[Step], folder: Path, requirements: Path) -> None:
        self.state, self.text = "running", ""
        self.lines: list[str] = []
        self.error: UserError | None = None
        self._steps, self._folder, self._requirements = list(steps), folder, requirements
        self._heard: queue.Queue[str] = queue.Queue()
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    def pump(self) -> None:
        """Take what the running command said; start the next one when it is through."""
        while not self._heard.empty():
            self.lines = [*self.lines, self._heard.get()][-_KEPT_LINES:]
        if self.state != "running":
            return
        if self._process is None:
            self._start()
            return
        code = self._process.poll()
        # The pipe may still hold lines when the process is over.
        if code is None or (self._reader is not None and self._reader.is_alive()) or not self._heard.empty():
            return
        self._process = None
        if code:
            why = next((line for line in reversed(self.lines) if line.strip()), f"exit code {code}")
            self._fail(f"{self.text} failed: {why}")
        elif self._steps:
            self._start()
        else:
            try:
                (self._folder / STAMP).write_text(json.dumps({"requirements": self._requirements.read_text("utf-8")}), "utf-8")
                self.state, self.text = "done", "The environment is ready"
            except OSError as error:
                self._fail(f"Cannot write to {self._folder}: {error.strerror or error}.")

    def _start(self) -> None:
        step = self._steps.pop(0)
        self.text = step.text
        self._heard.put(f"$ {' '.join(step.command)}")
        try:
            self._folder.parent.mkdir(parents=True, exist_ok=True)
            self._process = subprocess.Popen(
                step.command,
                env=clean_variables(),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                encoding="utf-8",
                errors="replace",
                creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
            )
        except OSError as error:
            self._fail(f"{step.command[0]} cannot be started: {error.strerror or error}.")
            return
        self._reader = threading.Thread(target=self._read, args=(self._process,), daemon=True)
        self._reader.start()

    def _read(self, process: subprocess.Popen[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                self._heard.put(line.rstrip())

    def _fail(self, why: str) -> None:
        self.state = "failed"
        self.error = UserError(why, "Choose another Python (3.11 to 3.14 with its venv module) or folder, check the network, and try again.")

    def cancel(self) -> None:
        """End the running command; what is half made is made anew by the next set-up."""
        if self.state == "running":
            self.state = "cancelled"
        process, self._process = self._process, None
        if process is not None:
            process.kill()
            process.wait()


def check_environment(python: Path, root: Path) -> dict[str, Any]:
    """What the engine's own doctor says about a Python.

    Args:
        root: the folder that holds the `engine` package.

    Raises:
        UserError: it is no Python, cannot run the engine at all, or lacks packages (all are named).
    """
    remedy = "Set up the environment with the button in the preferences, or choose another Python."
    if not python.is_file():
        raise UserError(f"There is no Python at {python}.", remedy)
    try:
        done = subprocess.run(
            [str(python), "-m", "engine", "doctor", "--json"],
            cwd=root,
            env=clean_variables(),
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=CHECK_TIMEOUT,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
    except subprocess.TimeoutExpired as error:
        raise UserError(f"{python} did not answer within {CHECK_TIMEOUT:.0f} s.", remedy) from error
    except OSError as error:
        raise UserError(f"{python} cannot be started: {error.strerror or error}.", remedy) from error
    try:
        report = json.loads(done.stdout)
        missing = report["missing"]
    except (ValueError, KeyError, TypeError) as error:
        said = (done.stderr.strip() or done.stdout.strip() or "nothing").splitlines()[-1]
        raise UserError(f"{python} cannot run the engine: {said}", remedy) from error
    if missing:
        raise UserError(f"{python} lacks {', '.join(sorted(missing))}.", remedy)
    return report
