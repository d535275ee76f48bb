"""Which faults there are, how often each happens, and what they happen to."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Any

from . import blender, disk, farm, worker
from .case import Case
from .ground import Ground

FAULTS: dict[str, tuple[int, str, Callable[[Case, Any], None]]] = {
    "kill-worker-baking": (65, "desk", worker.kill_baking),
    "kill-worker-live": (40, "desk", worker.kill_live),
    "kill-worker-starting": (15, "desk", worker.kill_starting),
    "hung-worker": (3, "desk", worker.hung_long),
    "hung-worker-that-goes-on": (8, "desk", worker.hung_short),
    "worker-of-another-version": (4, "desk", worker.other_version),
    "rapid-edits": (2, "desk", worker.rapid_edits),
    "little-memory": (12, "desk", worker.little_memory),
    "full-disk": (20, "disk_desk", disk.full_disk),
    "read-only-folder": (10, "disk_desk", disk.read_only),
    "folder-deleted": (16, "desk", disk.deleted),
    "data-lost": (16, "desk", disk.spoilt),
    "files-times-jump": (8, "desk", disk.times_jump),
    "clock-jumps": (4, "clock_desk", disk.clock_jumps),
    "lock-left-behind": (16, "desk", disk.locks_of_others),
    "two-bakes-one-folder": (8, "desk", disk.two_bakes),
    "race-for-a-dead-lock": (5, "desk", disk.race_for_a_dead_lock),
    "kill-blender-baking": (50, "studio", blender.kill_blender),
    "kill-worker-of-blender": (10, "studio", blender.kill_worker),
    "kill-worker-of-blender-live": (10, "studio", blender.kill_live_worker),
    "hung-worker-of-blender": (4, "studio", blender.hung_worker),
    "slider-edits": (1, "studio", blender.slider_edits),
    "two-blenders": (6, "studio", blender.two_blenders),
    "two-bakes-of-one-object": (6, "studio", blender.two_bakes),
    "kill-farm-workers": (6, "farm", farm.kill_workers),
}
"""Name -> how often, what it happens to (an attribute of Campaign), and what happens."""


MOUNTS = "UA3DTALK_FAULT_MOUNTS"
"""Environment variable: this process may mount, and nobody else sees it."""


class LeftOut(Exception):
    """A fault cannot be made to happen here."""


class Campaign:
    """Everything that faults happen to, made when it is asked for first; use as a context manager."""

    def __init__(self, folder: Path, mark: str, python: Path, root: Path) -> None:
        self._made = ExitStack()
        self.ground = Ground(folder, mark, python, root)

    def happen(self, case: Case) -> None:
        """Have a fault happen."""
        _, target, fault = FAULTS[case.fault]
        fault(case, getattr(self, target))

    @cached_property
    def desk(self) -> worker.Desk:
        """A client with its worker."""
        desk = worker.Desk(self.ground)
        self._made.callback(desk.stop)
        return desk

    @cached_property
    def studio(self) -> blender.Studio:
        """Blender with an avatar."""
        if not blender.PYTHON.exists():
            raise LeftOut(".venv/blender is absent; `python3 build.py test` makes it")
        if "desk" in self.__dict__:
            self.desk.stop()  # it would be found as a process left behind
        studio = blender.Studio(self.ground)
        self._made.callback(studio.close)
        return studio

    @property
    def farm(self) -> Ground:
        """What farms bake, where Dask is installed."""
        if importlib.util.find_spec("distributed") is None:
            raise LeftOut("distributed is not installed")
        return self.ground

    @property
    def disk_desk(self) -> worker.Desk:
        """The same, where disks of our own can be mounted."""
        if MOUNTS not in os.environ:
            raise LeftOut("nothing can be mounted here")
        return self.desk

    @property
    def clock_desk(self) -> worker.Desk:
        """The same, where clocks can be made to jump."""
        if disk.FAKETIME is None:
            raise LeftOut("libfaketime is not installed")
        return self.desk

    def __enter__(self) -> Campaign:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._made.close()
