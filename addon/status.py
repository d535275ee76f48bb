"""What each frame of each avatar is: baked, out of date, being computed, missing or failed; exact, by the frames' keys.

After an edit the whole range is sampled again in slices that the user does not feel, from the playhead outwards. Nothing
is looked up while drawing: panels and strips show what was found last.
"""

from __future__ import annotations

import os
import time
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from ..engine.cache import SHOT_FILE
from ..engine.errors import UserError
from ..engine.shot import Shot, frame_keys
from ..engine.shot.stale import StaleReport, stale_report
from . import avatar, baking, curves, frames, idle, shots
from .core.playback import baked_keys
from .core.states import FrameTable
from .places import folder_of

SETTLED = 0.15
"""Seconds after the last edit until the whole range is looked at: while a slider is dragged, it would be in vain."""
_REPORT_EVERY = 0.25
_GLANCE_EVERY = 0.5
_AT_ONCE = 128
_NOT_YET = ("Not checked yet",)


@dataclass
class Watched:
    """What is known of one avatar.

    Attributes:
        table: what its frames are to be.
        failed: keys that the engine could not compute, and why.
        computing: frames that the engine has been asked for in the background.
        report, lines: for the panel.
        problem: why its shot cannot be made, in lines; empty where it can.
        is_dirty: an edit has not been looked at yet.
        kept: version of the table whose shot is kept beside the bake.
    """

    name: str
    table: FrameTable = field(default_factory=FrameTable)
    failed: dict[bytes, str] = field(default_factory=dict)
    computing: Collection[int] = ()
    report: StaleReport | None = None
    lines: tuple[str, ...] = _NOT_YET
    problem: tuple[str, ...] = ()
    is_dirty: bool = True
    kept: int = -1
    _setting: shots.Setting | None = None
    _baked: tuple[Path, tuple[dict[int, bytes], str, str]] | None = None
    _moved_by: tuple[object, ...] = ()
    _needs_setting: bool = True
    _reported: tuple[object, ...] = ()
    _reported_at: float = 0.0
    _drawn: tuple[object, ...] = ()
    _states: np.ndarray = field(default_factory=lambda: np.empty(0, np.uint8))


_watched: dict[int, Watched] = {}
_names: list[tuple[int, str]] | None = None
_scene = 0
_edits = 0
_edited_at = 0.0
_compared = (0, 0.0)
_glanced_at = 0.0
_last_shots: dict[Path, tuple[object, Shot | None]] = {}


# --------------------------------------------------------------------------------------------------------- what is told


def changed(obj: bpy.types.Object | None = None) -> None:
    """Something that the bakes of all avatars may depend on has changed, or what that of one does."""
    global _edits, _edited_at, _names
    one = None if obj is None else _watched.get(obj.session_uid)
    for watched in _watched.values() if one is None else (one,):
        watched.is_dirty = watched._needs_setting = True
        watched.failed.clear()
    if one is None:
        _names = None
    _edits += 1
    _edited_at = time.monotonic()
    idle.wake()


def edits() -> int:
    """Rises with every edit."""
    return _edits


def since_edit() -> float:
    """Seconds since the last one."""
    return time.monotonic() - _edited_at


def avatars_in(scene: bpy.types.Scene) -> list[bpy.types.Object]:
    """The avatars of a scene, the active one first; without a look at each object of a large scene."""
    global _names, _scene
    found = []
    if _names is not None and _scene == scene.session_uid:
        found = [obj for uid, name in _names if (obj := scene.objects.get(name)) is not None and obj.session_uid == uid]
    if _names is None or _scene != scene.session_uid or len(found) != len(_names):
        found = avatar.avatars(scene.objects)
        _names, _scene = [(obj.session_uid, obj.name) for obj in found], scene.session_uid
    active = getattr(bpy.context, "object", None)
    return sorted(found, key=lambda obj: obj != active)


def watched(obj: bpy.types.Object) -> Watched:
    """What is known of an avatar."""
    found = _watched.get(obj.session_uid)
    if found is None:
        found = _watched[obj.session_uid] = Watched(obj.name)
    return found


def setting(obj: bpy.types.Object, scene: bpy.types.Scene) -> shots.Setting | None:
    """All of an avatar's shot but its sliders, as of the last edit; None while its files are being read by a thread.

    Raises:
        UserError: the avatar or its sound cannot be read.
    """
    known = watched(obj)
    if known._needs_setting or known._setting is None:
        known._setting = shots.setting_of(obj, scene, avatar.hash_soon)
        known._needs_setting = known._setting is None
    return known._setting


def states(obj: bpy.types.Object) -> tuple[np.ndarray, np.ndarray]:
    """The frames of an avatar's range [F], and core.states' state of each [F] uint8, as far as it is known."""
    known = watched(obj)
    run = baking.run_of(obj)
    computing = known.computing if run is None else run.left
    baked = _baked(obj, known)[0]
    made_from = (known.table.version, baked, computing, len(computing), len(known.failed))
    if made_from != known._drawn:
        known._drawn, known._states = made_from, known.table.states(baked, computing, known.failed)
    return known.table.frames, known._states


def shown() -> tuple[np.ndarray, np.ndarray] | None:
    """`states` of the active avatar, or of the scene's only one; None where neither is meant."""
    found = avatars_in(bpy.context.scene)
    if not found or len(found) > 1 and found[0] != getattr(bpy.context, "object", None):
        return None
    return states(found[0]) if found[0].session_uid in _watched else None


def set_computing(uid: int, numbers: Iterable[int]) -> None:
    """The engine has been asked for these frames of an avatar in the background."""
    if uid in _watched:
        _watched[uid].computing = frozenset(numbers)


def lines(obj: bpy.types.Object) -> list[str]:
    """What was found last, as short lines."""
    return list(_watched[obj.session_uid].lines if obj.session_uid in _watched else _NOT_YET)


def report(obj: bpy.types.Object) -> StaleReport | None:
    """What was found last."""
    return _watched[obj.session_uid].report if obj.session_uid in _watched else None


# ---------------------------------------------------------------------------------------------------------- looking


def step(scene: bpy.types.Scene, seconds: float) -> bool:
    """Look at the avatars of a scene for about so many seconds. True while there is more to look at."""
    end = time.perf_counter() + seconds
    _glance(scene)
    _compare(scene)
    if since_edit() < SETTLED:
        return True
    waits = False
    for obj in avatars_in(scene):
        known = watched(obj)
        if known.is_dirty and not _begin(obj, scene, known):
            waits = True
            continue
        while not known.table.is_complete:
            if time.perf_counter() >= end:
                return True
            _look(obj, scene, known, end - time.perf_counter())
        if not known.problem:
            if time.perf_counter() >= end:
                return True
            _tell(obj, known)
    return waits


def check(obj: bpy.types.Object, scene: bpy.types.Scene) -> StaleReport:
    """Look at one avatar now and as a whole, stepping through the scene where only that tells. Raises UserError."""
    known = watched(obj)
    try:
        now = shots.setting_of(obj, scene)
        numbers = shots.bake_frames(obj, scene)
        known.table.begin(numbers, numbers[0])
        assert now is not None
        known.table.put(now.shot(numbers, curves.sample(obj, scene, numbers)))
    except UserError as error:
        _give_up(known, (error.message, error.remedy))
        raise
    known._setting, known.is_dirty, known._needs_setting, known.problem, known._reported = now, False, False, (), ()
    known._moved_by = curves.signature(obj)
    _tell(obj, known)
    assert known.report is not None
    return known.report


def look() -> None:
    """Look at all avatars of the scene now, as `check` does, but not at those whose scene would have to be stepped through."""
    forget_gone()
    scene = bpy.context.scene
    if scene is None or frames.is_rendering():
        return
    for obj in avatar.avatars(scene.objects):
        try:
            check(obj, scene)
        except UserError:
            pass


def _begin(obj: bpy.types.Object, scene: bpy.types.Scene, known: Watched) -> bool:
    """Start looking at all of an avatar's frames; False where that has to wait for its files."""
    try:
        now = setting(obj, scene)
        if now is None:
            return False
        known.table.begin(shots.bake_frames(obj, scene), scene.frame_current_final)
        known.problem = ()
    except UserError as error:
        known._setting = None
        _give_up(known, (error.message, error.remedy))
    known.is_dirty, known._reported, known._moved_by = False, (), curves.signature(obj)
    return True


def _look(obj: bpy.types.Object, scene: bpy.types.Scene, known: Watched, seconds: float) -> None:
    numbers = known.table.pending(_AT_ONCE)
    assert known._setting is not None
    try:
        values = curves.sample_some(obj, numbers, seconds)
    except curves.NeedsTheScene:
        _give_up(known, ("Drivers look at the scene itself:", "press Check to see what is out of date"))
        return
    known.table.put(known._setting.shot(numbers[: len(values["intensity"])], values))


def _give_up(known: Watched, why: tuple[str, ...]) -> None:
    known.table.begin(np.empty(0, np.int32), 0)
    known.report, known.lines, known.problem = None, why, why
    known.is_dirty, known._reported = False, ()


def _tell(obj: bpy.types.Object, known: Watched) -> None:
    """Words for the panel, where something has changed; a few times a second at most."""
    folder = folder_of(obj)
    baked, avatar_hash, sound_hash = _baked(obj, known)
    told = (known.table.version, baked)
    if told == known._reported or (known._reported and time.monotonic() - known._reported_at < _REPORT_EVERY):
        return
    stamp, last = _stamp(folder / SHOT_FILE), _last_shots.get(folder)
    if last is None or last[0] != stamp:
        last = _last_shots[folder] = (stamp, shots.last_shot(folder))
    known.report = stale_report(known.table.shot(), baked, avatar_hash, sound_hash, last[1], known.table.keys)
    known.lines = tuple(known.report.lines())
    known._reported, known._reported_at = told, time.monotonic()


def _baked(obj: bpy.types.Object, known: Watched) -> tuple[dict[int, bytes], str, str]:
    """As core.playback.baked_keys; a cache that was closed as nobody uses it is not opened for this."""
    folder = folder_of(obj)
    if known._baked is None or known._baked[0] != folder or known.is_dirty or folder in frames.pool.folders or not known._baked[1][0]:
        known._baked = (folder, baked_keys(frames.pool, folder, in_passing=True))
    return known._baked[1]


def _glance(scene: bpy.types.Scene) -> None:
    """Now and then: what Blender tells nobody of, such as a file that was replaced, or a range that was dragged."""
    global _glanced_at
    if time.monotonic() - _glanced_at < _GLANCE_EVERY:
        return
    _glanced_at = time.monotonic()
    for obj in avatars_in(scene):
        known = watched(obj)
        if known.is_dirty:
            continue
        try:
            now = shots.setting_of(obj, scene, avatar.hash_soon)
            moved_by = curves.signature(obj)
            same = now == known._setting and moved_by == known._moved_by
            known._moved_by = moved_by
            if same and known.table.frames.size:
                same = np.array_equal(shots.bake_frames(obj, scene), known.table.frames)
        except UserError as error:
            same = known.problem == (error.message, error.remedy)
        if not same:
            changed(obj)


def _compare(scene: bpy.types.Scene) -> None:
    """At another frame and without an edit, what Blender shows is what was sampled; or it told nobody of an edit."""
    global _compared
    before, _compared = _compared, (_edits, scene.frame_current_final)
    if before[0] != _edits or before[1] == _compared[1] or scene.frame_subframe or bpy.context.view_layer is None:
        return
    here = np.array([scene.frame_current], np.int32)
    for obj in avatars_in(scene):
        known = watched(obj)
        expected = known.table.key(int(here[0]))
        if expected is not None and known._setting is not None:
            shot = known._setting.shot(here, curves.now(obj, bpy.context.view_layer.depsgraph))
            if frame_keys(shot)[0].tobytes() != expected:
                changed(obj)


def _stamp(path: Path) -> tuple[int, ...]:
    try:
        status = os.stat(path)
        return status.st_mtime_ns, status.st_size
    except OSError:
        return ()


def forget_gone() -> None:
    """Let go of what belongs to objects that are there no more, and of their caches."""
    frames.forget(bpy.data.objects)
    for uid in set(_watched) - {obj.session_uid for obj in bpy.data.objects}:
        del _watched[uid]


def forget_all() -> None:
    """As another file is loaded or the extension is switched off."""
    global _names
    _watched.clear()
    _last_shots.clear()
    _names = None
