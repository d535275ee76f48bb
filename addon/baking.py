"""Bakes: taken forward step by step by whoever waits for them (a modal operator, a script, a test)."""

from __future__ import annotations

import itertools
import os
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import bpy
import numpy as np

from ..engine.cache import SHOT_FILE
from ..engine.errors import Cancelled, UserError
from ..engine.shot import Shot, save_shot
from ..engine.worker.client import Job
from . import avatar, curves, frames, session, shots
from .core.paths import clear_cache, is_cache, is_temporary, new_cache_name, take_along, temporary_folder
from .core.states import FrameTable
from .core.timing import nearest_first
from .places import folder_of

SLICE = 0.002
"""Seconds of work between two of Blender's own rounds."""
_AT_ONCE = 128
_generations = itertools.count(1)
_numbers = itertools.count(1)
_runs: dict[int, BakeRun] = {}


class BakeRun:
    """One bake of one object on its way: its sliders are sampled in slices, then the engine computes.

    Args:
        only: frames, instead of the object's own range.
        shot: what they are to be, where that was sampled already.

    Attributes:
        state: `running`, `done`, `failed` or `cancelled`.
        done, total, text: progress, in frames. left: frames that have not become readable yet.
        result: what the engine says when done. error: when failed.

    Raises:
        UserError: it is being baked already, the shot cannot be made, the engine has no environment, or the folder cannot be written.
    """

    def __init__(
        self, obj: bpy.types.Object, scene: bpy.types.Scene, only: np.ndarray | None = None, shot: Shot | None = None
    ) -> None:
        if run_of(obj) is not None:
            raise UserError(f"{obj.name} is being baked already.", "Wait for it, or cancel it.")
        self.uid, self.object_name, self._scene = obj.session_uid, obj.name, scene.name
        self.state, self.error = "running", None
        self.result: dict[str, object] = {}
        if shot is not None:
            only = shot.frames
        numbers = shots.bake_frames(obj, scene) if only is None else np.asarray(only, np.int32)
        self._setting = shots.setting_of(obj, scene, avatar.hash_soon)
        self._client = session.client()
        self._job: Job | None = None
        # Not in the cache folder: another Blender may bake there, too, and each engine is to read its own.
        self._file = temporary_folder("bake") / f"{os.getpid()}-{next(_numbers)}.safetensors"
        self._table = FrameTable()
        self._table.begin(numbers, numbers[0])
        if shot is not None:
            self._table.put(shot)
        self.folder = own_folder(obj)
        self.left = set(numbers.tolist())
        self._readable: list[int] = []
        self.done, self.total, self.text = 0, len(numbers), "looking at the sliders"
        _runs[self.uid] = self

    def step(self, wait: float = 0.0) -> bool:
        """Go on: with the sliders for a moment, or with what the engine said, waiting for at most `wait` seconds.

        True while it goes on.
        """
        if self.state != "running":
            return False
        try:
            if self._job is None and not self._sample(max(wait, SLICE)):
                return self.state == "running"
        except UserError as error:
            self.state, self.error = "failed", error
            self._let_go()
            return False
        job = self._job
        assert job is not None
        job.client.pump(wait)
        self.left.difference_update(job.frames)
        self._readable += job.frames
        job.frames.clear()
        if job.total:
            self.done, self.total, self.text = job.done, job.total, job.text
        if job.state == "running":
            return True
        self.state, self.error, self.result = job.state, job.error, job.result
        if job.state == "done":
            try:
                save_shot(portable(self._table.shot()), self.folder / SHOT_FILE, durable=False)
            except UserError:
                pass  # it only tells later reasons apart
        self._let_go()
        self._follow_file()
        return False

    def take_readable(self) -> list[int]:
        """Frames that have become readable since this was asked last."""
        taken, self._readable = self._readable, []
        return taken

    def _sample(self, seconds: float) -> bool:
        """Look at more of the sliders; True once all is sampled and the engine has been asked."""
        obj = next((obj for obj in avatar.avatars(bpy.data.objects) if obj.session_uid == self.uid), None)
        scene = bpy.data.scenes.get(self._scene)
        if obj is None or scene is None:
            self.abandon()
            return False
        if self._setting is None:
            self._setting = shots.setting_of(obj, scene, avatar.hash_soon)
            if self._setting is None:
                time.sleep(min(seconds, 0.001))
                return False
        end = time.perf_counter() + seconds
        while not self._table.is_complete:
            if time.perf_counter() > end:
                return False
            numbers = self._table.pending(_AT_ONCE)
            try:
                values = curves.sample_some(obj, numbers, end - time.perf_counter())
            except curves.NeedsTheScene:
                numbers = self._table.pending(self.total)
                values = curves.sample(obj, scene, numbers)
            self._table.put(self._setting.shot(numbers[: len(values["intensity"])], values))
        save_shot(portable(self._table.shot()), self._file, durable=False)
        self._job = self._client.request(
            "bake",
            {
                "shot": str(self._file),
                "out": str(self.folder),
                "order": nearest_first(self._table.frames, scene.frame_current),
            },
            new_generation(self.uid),
        )
        self.text = "starting the engine"
        return True

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
        if self._job is None:
            self.abandon()
            return
        self.text = "stopping"
        self._job.cancel()

    def abandon(self) -> None:
        """Cancel without waiting, as when another file is loaded."""
        if self._job is not None:
            self._job.cancel()
        self.state = "cancelled"
        self._let_go()

    def _let_go(self) -> None:
        """It is on its way no more."""
        _runs.pop(self.uid, None)
        with suppress(OSError):  # still open on the other side; the temporary folder is the system's to clear
            self._file.unlink(missing_ok=True)

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
    folder, original = claim_folder(obj)
    if original is not None:
        take_along(original, folder, move=False)
    return folder


def claim_folder(obj: bpy.types.Object) -> tuple[Path, Path | None]:
    """As `own_folder`, but that the copy is left to be made: the object's folder, and what is to be copied there or None.

    Raises:
        UserError: the object is linked.
    """
    if obj.library is not None:
        raise UserError(f"{obj.name} is linked from {obj.library.filepath}.", "Bake it in its own file, or make it local.")
    properties = obj.ua3dtalk
    if not properties.cache_name:
        properties.cache_name = new_cache_name(obj.name)
    folder = folder_of(obj)
    shared = [other for other in avatar.avatars(bpy.data.objects) if other != obj and folder_of(other) == folder]
    if not shared:
        return folder, None
    properties.cache_name = new_cache_name(obj.name)
    properties.cache_path = ""
    if obj.data.users > 1:
        obj.data = obj.data.copy()  # an Alt+D duplicate shows frames of its own from now on
    return folder_of(obj), folder


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


def portable(shot: Shot) -> Shot:
    """Absolute paths: the worker has another working directory."""
    return replace(shot, avatar=shot.avatar.absolute(), sound=None if shot.sound is None else shot.sound.absolute())


def new_generation(uid: int) -> tuple[str, int]:
    """For a request about the object `uid`: it stops the one before, within a frame."""
    return f"bake {uid}", next(_generations)
