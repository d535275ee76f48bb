"""Live editing: the frame under the playhead follows every edit, then the others outwards, in the background.

What is shown live are ordinary frames of the object's own bake, each with its key: they stay where they are right, and a
value that was dragged over its F-curve without being keyed leaves a frame that counts as out of date afterwards.

Nothing is asked of the engine while the animation plays, a render or a bake runs; the engine does one thing at a time.
"""

from __future__ import annotations

import itertools
import math
import os
import time
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..engine.cache import SHOT_FILE
from ..engine.errors import UserError
from ..engine.shot import Shot, frame_keys, save_shot
from ..engine.worker.client import Job
from . import avatar, baking, compat, curves, feedback, frames, idle, session, status
from .core.paths import is_cache, take_along, temporary_folder
from .core.playback import baked_keys
from .core.states import MISSING, OUTDATED, outwards
from .draw import strip
from .places import folder_of

SLICE = 0.002
"""Seconds of work between two of Blender's own rounds."""
SOON, POLL, RARELY = 0.004, 0.03, 0.25
"""Seconds between two looks: while the user waits for a frame, while frames come in the background, while nothing does."""
PAUSE = 0.02
"""Seconds without an edit after which a frame that is being computed gives way to what is wanted now. Before, it is let
finish: a slider that is dragged without a pause would else never show anything."""
FILL_AFTER = 0.3
"""Seconds without an edit until the frames around are computed."""
CHUNK = 64
"""Frames asked for at a time in the background."""
AGAIN_AFTER, MOST_FAILURES = 5.0, 3
"""Seconds until an engine that ended is tried again, and how often without a new edit."""
TEND_EVERY = 5.0
CACHES_IDLE, ENGINE_IDLE = 300.0, 900.0
"""Seconds without use after which open caches are closed, and the engine's process is ended, to free their memory."""


@dataclass
class _Order:
    """Frames that the engine has been asked for.

    Attributes:
        left: those that are not there yet, in their order, and their keys.
        at_playhead: asked for as the one frame that the user looks at; again: in the place of another one.
    """

    uid: int
    folder: Path
    file: Path
    job: Job
    left: dict[int, bytes]
    at_playhead: bool
    again: bool


@dataclass(frozen=True)
class _Want:
    """The frame under the playhead as it is to be."""

    frame: int
    shot: Shot
    key: bytes


_order: _Order | None = None
_dropped: list[_Order] = []
_wants: dict[int, tuple[tuple[int, float], _Want | None]] = {}
_lines: dict[int, str] = {}
_copies: dict[int, Future[bool]] = {}
_due: set[int] = set()
_as_loaded: dict[int, tuple[int, bytes] | None] | None = None
_touched = _not_before = _tended = _drawn_at = 0.0
_rests_at, _rests_here = -1, -1.0
_failures = 0
_numbers = itertools.count(1)
_threads = ThreadPoolExecutor(1, "ua3dtalk files")
_shown_states: dict[int, np.ndarray] = {}


# ------------------------------------------------------------------------------------------------------ from Blender


def register() -> None:
    """Work from now on."""
    idle.start(tick)


def unregister() -> None:
    """Let go of everything."""
    idle.stop()
    forget_all()


def tick() -> float:
    """What the timer calls: seconds until the next call."""
    scene = bpy.context.scene
    return RARELY if scene is None else step(scene)


def hurry(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph | None) -> None:
    """Called right after Blender has evaluated an edit or another frame: the engine is at it while Blender draws."""
    if not bpy.app.background and scene == bpy.context.scene:
        _hear(scene)
        if _may_ask():
            _ask(scene, depsgraph)
        idle.wake()


def loaded() -> None:
    """Another file is there: nothing is computed before the user does something."""
    global _as_loaded
    _as_loaded = dict.fromkeys(obj.session_uid for obj in avatar.avatars(bpy.data.objects))


def rest() -> None:
    """Nothing until the next edit, as the user has stopped it; another frame under the playhead is still computed."""
    global _rests_at, _rests_here
    _rests_at, _rests_here = status.edits(), bpy.context.scene.frame_current_final
    if _order is not None:
        _drop()


def forget_all() -> None:
    """As another file is loaded or the extension is switched off."""
    global _as_loaded, _rests_at, _not_before, _failures
    if _order is not None:
        _drop()
    _clean(everything=True)
    for memory in (_wants, _lines, _copies, _shown_states, _due):
        memory.clear()
    _as_loaded, _rests_at, _not_before, _failures = None, -1, 0.0, 0


def line(obj: bpy.types.Object) -> str:
    """What the panel says of an avatar: what is on its way, or why nothing is; empty where there is nothing to say."""
    if not obj.ua3dtalk.live:
        return ""
    if obj.session_uid in _lines:
        return _lines[obj.session_uid]
    if _order is None or _order.uid != obj.session_uid or not _order.left:
        return ""
    if _order.job.client.state == "starting":
        return "Live: the engine starts"
    return f"Live: frame {next(iter(_order.left))}" if _order.at_playhead else f"Live: {len(_order.left)} frames on their way"


# ------------------------------------------------------------------------------------------------------- the work


def step(scene: bpy.types.Scene) -> float:
    """One slice of work, a few milliseconds: take in what the engine said, ask for what is wanted. Seconds until the next."""
    end = time.perf_counter() + SLICE
    _hear(scene)
    if not _may_ask():
        if _order is not None and not _is_playing():
            _drop()
        return POLL if _order is not None else RARELY
    _ask(scene, None)
    _show_due(scene)
    looks = status.step(scene, max(end - time.perf_counter(), SLICE / 4))
    if time.perf_counter() < end:
        _show_states(scene)
        _tend()
    if _order is None and min(status.since_edit(), time.monotonic() - _touched) > FILL_AFTER:
        _fill(scene)
    if _order is not None and _order.at_playhead or any(wanted is not None for _, wanted in _wants.values()):
        return SOON
    return SOON if looks else POLL if _order is not None or status.since_edit() < FILL_AFTER else RARELY


def _may_ask() -> bool:
    return not (frames.is_rendering() or compat.render_is_running() or baking.running() or _is_playing())


def _is_playing() -> bool:
    manager = bpy.context.window_manager
    return any(window.screen.is_animation_playing for window in manager.windows) if manager else False


def _ask(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph | None) -> None:
    """Ask for the frame under the playhead of the first avatar that does not show it."""
    global _touched
    depsgraph = depsgraph or bpy.context.view_layer.depsgraph
    token = (status.edits(), scene.frame_current_final)
    if token == (_rests_at, _rests_here):
        return
    for obj in status.avatars_in(scene):
        known = _wants.get(obj.session_uid)
        if known is None or known[0] != token:
            if known is None or known[0][1] != token[1]:
                _touched = time.monotonic()
            waits, found = _look(obj, scene, depsgraph)
            if waits:
                continue
            known = _wants[obj.session_uid] = (token, found)
        want = known[1]
        if want is None:
            continue
        if _is_there(obj, want):
            _wants[obj.session_uid] = (token, None)
            _due.add(obj.session_uid)
            continue
        if _order is None:
            _send(obj, want.shot, [want.key], True)
        elif not _order.at_playhead:
            _send(obj, want.shot, [want.key], True)
        elif _order.uid == obj.session_uid and _order.left == {want.frame: want.key}:
            pass  # on its way
        elif not _order.again and min(status.since_edit(), time.monotonic() - _touched) >= PAUSE:
            _send(obj, want.shot, [want.key], True, again=True)
        return


def _look(obj: bpy.types.Object, scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph | None) -> tuple[bool, _Want | None]:
    """(it cannot be told yet, the frame that the user is to see where there is one)."""
    global _as_loaded
    if not obj.ua3dtalk.live or obj.library is not None:
        return False, None
    try:
        if avatar.load(avatar.file_of(obj)).is_static:
            return False, None
        setting = status.setting(obj, scene)
        if setting is None:
            return True, None
        place = scene.frame_current_final
        frame = math.floor(place + 1e-6)
        number = np.array([frame], np.int32)
        values = curves.now(obj, depsgraph) if abs(place - frame) < 1e-4 else curves.sample_some(obj, number, 0.0)
    except (UserError, curves.NeedsTheScene):
        return False, None  # the panel says so in the lines of what is out of date
    shot = setting.shot(number, values)
    want = _Want(frame, shot, frame_keys(shot)[0].tobytes())
    if _as_loaded is not None and obj.session_uid in _as_loaded:
        first = _as_loaded[obj.session_uid] = _as_loaded[obj.session_uid] or (frame, want.key)
        if first == (frame, want.key):
            return False, None
    _as_loaded = None
    return False, want


def _is_there(obj: bpy.types.Object, want: _Want) -> bool:
    """True where the frame is baked like that, or cannot be."""
    if want.key in status.watched(obj).failed:
        return True
    return baked_keys(frames.pool, folder_of(obj))[0].get(want.frame) == want.key


def _fill(scene: bpy.types.Scene) -> None:
    """Ask for frames around the playhead."""
    if _as_loaded is not None or _rests_at == status.edits():
        return
    here = scene.frame_current
    for obj in status.avatars_in(scene):
        known = status.watched(obj)
        if not obj.ua3dtalk.live or obj.library is not None or known.problem or known.is_dirty:
            continue
        numbers, states = status.states(obj)
        wanted = ((states == OUTDATED) | (states == MISSING)) & known.table.known
        # The frame that is looked at may have a value dragged over its F-curve: that stays until the user leaves it.
        wanted &= numbers != here
        rows = np.flatnonzero(wanted)
        if not len(rows):
            if known.table.is_complete:
                _keep_shot(obj, known)
            continue
        rows = np.sort(rows[outwards(numbers[rows], here)[:CHUNK]])
        _send(obj, known.table.shot(rows), [key.tobytes() for key in known.table.keys[rows]], False)
        return


def _send(obj: bpy.types.Object, shot: Shot, keys: list[bytes], at_playhead: bool, again: bool = False) -> None:
    global _order, _not_before
    uid = obj.session_uid
    if time.monotonic() < _not_before or (_rests_at == status.edits() and not at_playhead) or not _has_own_folder(obj):
        return
    try:
        client = session.client()
        file = temporary_folder("live") / f"{os.getpid()}-{next(_numbers)}.safetensors"
        save_shot(baking.portable(shot), file, durable=False)
    except UserError as error:
        _lines[uid], _not_before = f"Live: {error.message}", time.monotonic() + AGAIN_AFTER
        return
    if _order is not None:
        _drop()
    rows = outwards(shot.frames, bpy.context.scene.frame_current).tolist()
    left = {int(shot.frames[row]): keys[row] for row in rows}
    parameters = {"shot": str(file), "out": str(folder_of(obj)), "order": list(left)}
    job = client.request("bake", parameters, baking.new_generation(uid))
    _order = _Order(uid, folder_of(obj), file, job, left, at_playhead, again)
    _lines.pop(uid, None)
    status.set_computing(uid, left)


def _has_own_folder(obj: bpy.types.Object) -> bool:
    """A duplicate that is edited gets a copy of what it shows, made by a thread; False until it is there."""
    global _not_before
    at_work = _copies.get(obj.session_uid)
    if at_work is None:
        folder, original = baking.claim_folder(obj)
        if original is None or not is_cache(original):
            return True
        at_work = _copies[obj.session_uid] = _threads.submit(take_along, original, folder, False)
    if not at_work.done():
        return False
    del _copies[obj.session_uid]
    try:
        at_work.result()
    except UserError as error:
        _lines[obj.session_uid], _not_before = f"Live: {error.message}", time.monotonic() + AGAIN_AFTER
        return False
    return True


def _drop() -> None:
    """Stop what is on its way; what of it is finished stays."""
    global _order
    assert _order is not None
    _order.job.cancel()
    _dropped.append(_order)
    status.set_computing(_order.uid, ())
    _order = None


def _hear(scene: bpy.types.Scene) -> None:
    """Take in what the engine said, and show the frame under the playhead when it is there."""
    _clean()
    order = _order
    if order is None:
        return
    order.job.client.pump()
    obj = next((obj for obj in status.avatars_in(scene) if obj.session_uid == order.uid), None)
    if order.job.frames:
        came, here = set(order.job.frames), scene.frame_current_final
        order.job.frames.clear()
        for frame in came:
            order.left.pop(frame, None)
        if obj is not None:
            status.set_computing(order.uid, order.left)
            if {math.floor(here + 1e-6), math.ceil(here - 1e-6)} & came and not frames.is_rendering():
                _due.add(order.uid)
                _show_due(scene)
    if order.job.state != "running":
        _end(order, obj)
    elif obj is None or not obj.ua3dtalk.live or folder_of(obj) != order.folder:
        _drop()


def _end(order: _Order, obj: bpy.types.Object | None) -> None:
    global _order, _not_before, _rests_at, _failures
    _order = None
    _dropped.append(order)
    status.set_computing(order.uid, ())
    if obj is None:
        return
    job, known, failed = order.job, status.watched(obj), list(order.left.values())
    if job.state == "done":
        baked = baked_keys(frames.pool, order.folder)[0]
        failed = [key for frame, key in order.left.items() if baked.get(frame) != key]
        why, _failures = "The engine baked something else.", 0
    elif job.state == "failed" and job.error is not None:
        why = job.error.message
        _lines[order.uid] = f"Live: {why}"
        if job.client.state == "failed":
            # The engine itself ended, perhaps by the frame that it was at; the others are tried again.
            failed, _failures, _not_before = failed[:1], _failures + 1, time.monotonic() + AGAIN_AFTER
        if job.client.state != "failed" or _failures >= MOST_FAILURES:
            _rests_at = status.edits()
    else:
        if job.client.state == "stopped":
            rest()  # the user has stopped the engine
        return
    known.failed.update(dict.fromkeys(failed, why))


def _show_due(scene: bpy.types.Scene) -> None:
    if not _due:
        return
    for obj in status.avatars_in(scene):
        if obj.session_uid in _due:
            frames.show(obj, scene)
    _due.clear()
    feedback.tag_redraw(views_only=True)


def _clean(everything: bool = False) -> None:
    """Remove the files of orders that are over."""
    for order in list(_dropped):
        if order.job.state == "running" and not everything:
            order.job.client.pump()
        if everything or order.job.state != "running":
            _dropped.remove(order)
            try:
                order.file.unlink(missing_ok=True)
            except OSError:
                pass  # still open on the other side; the temporary folder is the system's to clear


def _keep_shot(obj: bpy.types.Object, known: status.Watched) -> None:
    """All is baked: this is the shot of the last whole bake, by which later edits are told apart in words."""
    shot, folder = known.table.shot(), folder_of(obj)
    if known.report is None or not known.report.fresh or known.kept == known.table.version:
        return
    known.kept = known.table.version

    def keep() -> None:
        if is_cache(folder):
            save_shot(baking.portable(shot), folder / SHOT_FILE)

    _threads.submit(keep)


def _show_states(scene: bpy.types.Scene) -> None:
    """Have the strips drawn again where they have changed, but not at every frame that comes."""
    global _drawn_at
    if time.monotonic() - _drawn_at < 0.15:
        return
    _drawn_at = time.monotonic()
    changed = False
    for obj in status.avatars_in(scene):
        found = status.states(obj)[1]
        if _shown_states.get(obj.session_uid) is not found:
            _shown_states[obj.session_uid] = found
            changed = True
    if changed:
        strip.tag_redraw()
        feedback.tag_redraw(panels_only=True)


def _tend() -> None:
    """Now and then: free what has not been used for a while."""
    global _tended
    if time.monotonic() - _tended < TEND_EVERY:
        return
    _tended = time.monotonic()
    status.forget_gone()
    frames.pool.close_idle(CACHES_IDLE)
    if _order is None and not baking.running():
        session.end_idle(ENGINE_IDLE)
