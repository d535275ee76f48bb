"""Bakes: taken forward step by step by whoever waits for them (a modal operator, a script, a test)."""

from __future__ import annotations

import itertools
import time
from pathlib import Path

import bpy
import numpy as np

from ..engine.errors import Cancelled, UserError
from ..engine.shot import Shot, save_shot
from ..engine.worker.client import Job
from . import avatar, frames, session
from .core.paths import PENDING_FILE, SHOT_FILE, clear_cache, is_cache, is_temporary, new_cache_name, take_along
from .core.timing import nearest_first
from .places import folder_of
from .shots import shot_of

_generations = itertools.count(1)
_runs: dict[int, BakeRun] = {}


class BakeRun:
    """One bake of one object on its way.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        done, total, text: progress, in frames. result: what the engine says when done. error: when failed.

    Raises:
        UserError: the shot cannot be made, the engine has no environment, or the folder cannot be written.
    """

    def __init__(self, obj: bpy.types.Object, scene: bpy.types.Scene, only: np.ndarray | None = None) -> None:
        self.uid, self.object_name = obj.session_uid, obj.name
        self.state, self.error = "running", None
        self.done, self.total, self.text = 0, 0, "starting the engine"
        self.result: dict[str, object] = {}
        shot = shot_of(obj, scene, only)
        client = session.client()
        self.folder = own_folder(obj)
        self.total = len(shot)
        save_shot(_portable(shot), self.folder / PENDING_FILE)
        self._job: Job = client.request(
            "bake",
            {
                "shot": str(self.folder / PENDING_FILE),
                "out": str(self.folder),
                "order": nearest_first(shot.frames, scene.frame_current),
            },
            (f"bake {self.uid}", next(_generations)),
        )
        _runs[self.uid] = self

    def step(self, wait: float = 0.0) -> bool:
        """Take in what the engine said, waiting for at most `wait` seconds. True while it goes on."""
        if self.state != "running":
            return False
        self._job.client.pump(wait)
        job = self._job
        if job.total:
            self.done, self.total, self.text = job.done, job.total, job.text
        if job.state == "running":
            return True
        self.state, self.error, self.result = job.state, job.error, job.result
        if job.state == "done":
            try:
                (self.folder / PENDING_FILE).replace(self.folder / SHOT_FILE)
            except OSError:
                pass  # it only tells later reasons apart
        else:
            (self.folder / PENDING_FILE).unlink(missing_ok=True)
        _runs.pop(self.uid, None)
        self._follow_file()
        return False

    def _follow_file(self) -> None:
        """Where the file was saved elsewhere meanwhile, bring the bake there now that nobody writes it any more."""
        obj = next((obj for obj in avatar.avatars(bpy.data.objects) if obj.session_uid == self.uid), None)
        if obj is None or folder_of(obj) == self.folder:
            return
        frames.pool.close(self.folder)
        try:
            take_along(self.folder, folder_of(obj), move=is_temporary(self.folder))
        except UserError as error:
            self.error, self.state = error, "failed"

    def cancel(self) -> None:
        """Ask the engine to stop after the frames it is at; `step` sees the end."""
        self.text = "stopping"
        self._job.cancel()

    def abandon(self) -> None:
        """Cancel without waiting, as when another file is loaded."""
        self._job.cancel()
        self.state = "cancelled"
        _runs.pop(self.uid, None)

    def finish(self) -> dict[str, object]:
        """The engine's result. Raises UserError where it failed, Cancelled where it was stopped."""
        if self.state == "cancelled":
            raise Cancelled()
        if self.error is not None:
            raise self.error
        return self.result

    def wait(self) -> dict[str, object]:
        """Block until it ends (scripts, background mode); a line of progress now and then. Raises as `finish`."""
        told = time.monotonic()
        while self.step(0.05):
            if time.monotonic() - told > 2.0:
                told = time.monotonic()
                print(f"UA-3DTalk: {self.object_name}: {self.done} of {self.total} frames, {self.text}", flush=True)
        return self.finish()


def run_of(obj: bpy.types.Object) -> BakeRun | None:
    """The bake of this object that is on its way."""
    return _runs.get(obj.session_uid)


def running() -> list[BakeRun]:
    """All bakes on their way."""
    return list(_runs.values())


def is_written(folder: Path) -> bool:
    """True while a bake goes on in the folder."""
    return any(run.folder == folder for run in running())


def abandon_all() -> None:
    """Before another file is loaded or the extension is switched off."""
    for run in running():
        run.abandon()


def own_folder(obj: bpy.types.Object) -> Path:
    """The folder that this object alone bakes into.

    A duplicate shows its original's bake until one of the two is baked; that one gets a copy of its own then.

    Raises:
        UserError: the object is linked, or the copy cannot be made.
    """
    if obj.library is not None:
        raise UserError(f"{obj.name} is linked from {obj.library.filepath}.", "Bake it in its own file, or make it local.")
    properties = obj.ua3dtalk
    if not properties.cache_name:
        properties.cache_name = new_cache_name(obj.name)
    folder = folder_of(obj)
    shared = [other for other in avatar.avatars(bpy.data.objects) if other != obj and folder_of(other) == folder]
    if not shared:
        return folder
    properties.cache_name = new_cache_name(obj.name)
    properties.cache_path = ""
    own = folder_of(obj)
    take_along(folder, own, move=False)
    if obj.data.users > 1:
        obj.data = obj.data.copy()  # an Alt+D duplicate shows frames of its own from now on
    return own


def clear(obj: bpy.types.Object) -> bool:
    """Remove the object's bake from disk; True where there was one. Other objects that show it lose it too.

    Raises:
        UserError: a bake is running, or files cannot be removed.
    """
    folder = folder_of(obj)
    if is_written(folder):
        raise UserError(f"{obj.name} is being baked.", "Cancel the bake first.")
    if not is_cache(folder):
        return False
    frames.pool.close(folder)
    return clear_cache(folder)


def _portable(shot: Shot) -> Shot:
    """Absolute paths: the worker has another working directory."""
    shot.avatar = shot.avatar.absolute()
    shot.sound = None if shot.sound is None else shot.sound.absolute()
    return shot
