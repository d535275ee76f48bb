"""What the panels say of each avatar's bake. Looked up a moment after something changed, never while drawing."""

from __future__ import annotations

import bpy

from ..engine.errors import UserError
from . import avatar, curves, frames, shots
from .core.stale import StaleReport
from .feedback import tag_redraw

_DELAY = 0.4
_reports: dict[int, tuple[StaleReport | None, list[str]]] = {}


def check(obj: bpy.types.Object, scene: bpy.types.Scene) -> StaleReport:
    """Look now, and keep the answer for the panel. Raises UserError where it cannot be told."""
    try:
        report = shots.stale(obj, scene)
    except UserError as error:
        _reports[obj.session_uid] = (None, [error.message, error.remedy])
        raise
    _reports[obj.session_uid] = (report, report.lines())
    return report


def lines(obj: bpy.types.Object) -> list[str]:
    """What was found last, as short lines."""
    return _reports.get(obj.session_uid, (None, ["Not checked yet"]))[1]


def report(obj: bpy.types.Object) -> StaleReport | None:
    """What was found last."""
    return _reports.get(obj.session_uid, (None, []))[0]


def changed() -> None:
    """Something that a bake may depend on has changed: look again in a moment."""
    if bpy.app.background:
        return
    if bpy.app.timers.is_registered(look):
        bpy.app.timers.unregister(look)
    bpy.app.timers.register(look, first_interval=_DELAY)


def look() -> None:
    """Look at all avatars of the scene now."""
    frames.forget(bpy.data.objects)
    alive = {obj.session_uid for obj in bpy.data.objects}
    for uid in set(_reports) - alive:
        del _reports[uid]
    scene = bpy.context.scene
    if scene is None or frames.is_rendering():
        return
    for obj in avatar.avatars(scene.objects):
        if curves.needs_stepping(obj):
            # To step through the scene behind the user's back would disturb what they do.
            _reports[obj.session_uid] = (None, ["Drivers or NLA move the sliders:", "press Check to see what is out of date"])
            continue
        try:
            check(obj, scene)
        except UserError:
            pass
    tag_redraw(panels_only=True)


def forget_all() -> None:
    """As another file is loaded or the extension is switched off."""
    _reports.clear()
    if not bpy.app.background and bpy.app.timers.is_registered(look):
        bpy.app.timers.unregister(look)
