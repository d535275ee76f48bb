"""Work in the background of Blender's own: one timer that calls it again as soon as it asks for, or when it is woken."""

from __future__ import annotations

import traceback
from collections.abc import Callable

import bpy

_AFTER_AN_ERROR = 5.0

_work: Callable[[], float] | None = None
_busy = False
_woken = False


def start(work: Callable[[], float]) -> None:
    """Call `work` from now on whenever Blender has time; it returns the seconds until it wants to be called again.

    In background mode nothing is called: Blender has no event loop there.
    """
    global _work
    _work = work
    if not bpy.app.background and not bpy.app.timers.is_registered(_tick):
        bpy.app.timers.register(_tick, first_interval=0.5, persistent=True)


def stop() -> None:
    """Call it no more."""
    global _work
    _work = None
    if not bpy.app.background and bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)


def wake() -> None:
    """There is something to do: call the work with Blender's next round."""
    global _woken
    _woken = True
    if bpy.app.background or _busy or _work is None:
        return
    if bpy.app.timers.is_registered(_tick):
        bpy.app.timers.unregister(_tick)
    bpy.app.timers.register(_tick, first_interval=0.0, persistent=True)


def _tick() -> float | None:
    global _busy, _woken
    if _work is None:
        return None
    _busy, _woken = True, False
    try:
        pause = _work()
    except Exception:  # noqa: BLE001 - Blender would never call the timer again
        traceback.print_exc()
        _woken, pause = False, _AFTER_AN_ERROR
    finally:
        _busy = False
    return 0.0 if _woken else pause
