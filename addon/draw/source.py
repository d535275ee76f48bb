"""Where the drawn data come from: the add-on registers one function; viewport and render engine ask it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import bpy

from .image import Display
from .splats import Splats

FrameSource = Callable[[bpy.types.Object, float], Splats | None]
"""frame_source(object, frame) -> Splats of the object at a scene frame, or None where the object is no avatar.

object: the original (not evaluated) object; instances share their object's data. frame: scene frame with its fraction
(subframes; time remapping applied), what `Scene.frame_current_final` says. The splats' `matrix_world` is set by the caller.
Called for every object of the view on each redraw and from the render thread: fast for objects that are no avatars,
no operators, no writing to bpy data; the same array objects for data that have not changed (see `Splats`).
Where an avatar does not have this frame, the source says so, and never gives another one silently: either it returns what
may stand in for it with the reason in `Splats.note` (the viewport draws it and shows the reason, a render stops with it), or it raises
(`UserError` for what the user can put right) where there is nothing to draw at all.
"""


@dataclass(frozen=True)
class ViewportLook:
    """What the viewport shows of each splat; value_range: ends of the colour ramp for depth and the uncertainties."""

    display: Display = "color"
    value_range: tuple[float, float] = (0.0, 1.0)


LookSource = Callable[[bpy.types.Scene], ViewportLook]
"""look_source(scene) -> what to show in the viewport's modes."""

_frame_source: FrameSource | None = None
_look_source: LookSource | None = None


def set_sources(frames: FrameSource | None, look: LookSource | None = None) -> None:
    """Register the functions that viewport and render engine ask; None takes them away (nothing is drawn, and it is said)."""
    global _frame_source, _look_source
    _frame_source, _look_source = frames, look


def splats_at(obj: bpy.types.Object, frame: float) -> Splats | None:
    """What the registered source says. Raises RuntimeError where none is registered."""
    if _frame_source is None:
        raise RuntimeError("the add-on is not ready to deliver frames")
    return _frame_source(obj, frame)


def look_in(scene: bpy.types.Scene) -> ViewportLook:
    """What the viewport shows in a scene: colour, unless something else was registered."""
    return _look_source(scene) if _look_source else ViewportLook()
