"""A thin strip under the time ruler of timeline and dope sheet: what each frame of the active avatar is.

The states differ in height and place as well as in colour and lightness, so that they are told apart without colour vision.
Nothing is looked up while drawing, and nothing is built anew unless states have changed.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from typing import Any

import bpy
import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader

from ..core.states import BAKED, COMPUTING, FAILED, MISSING, OUTDATED, UNKNOWN

StateSource = Callable[[], tuple[np.ndarray, np.ndarray] | None]
"""Frames [F] and states [F] of what the active context shows, or None; the same array of states while nothing changes."""

HEIGHT = 6.0
"""Units of Blender's interface."""
RULER = 23.0
"""Height of the time ruler above it."""
_BACK = (0.04, 0.04, 0.04, 0.7)
LOOKS: dict[int, tuple[tuple[float, float, float, float], tuple[tuple[float, float], ...]]] = {
    BAKED: ((0.0, 0.62, 0.45, 1.0), ((0.0, 1.0),)),  # full
    OUTDATED: ((0.94, 0.67, 0.0, 1.0), ((0.0, 0.5),)),  # the lower half
    COMPUTING: ((0.75, 0.9, 1.0, 1.0), ((0.5, 1.0),)),  # the upper half
    MISSING: ((0.5, 0.5, 0.5, 1.0), ((0.0, 0.17),)),  # a line
    FAILED: ((0.84, 0.2, 0.1, 1.0), ((0.0, 0.34), (0.66, 1.0))),  # two lines
}
"""Colour, and the parts of the strip's height that are filled."""

_source: StateSource | None = None
_handler: Any = None
_batch: tuple[np.ndarray, Any] | None = None
_said = ""


def runs(frames: np.ndarray, states: np.ndarray) -> list[tuple[int, int, int]]:
    """(state, first frame, last frame) of each stretch of equal states; frames that follow each other, unknown ones left out."""
    if not len(frames):
        return []
    breaks = np.flatnonzero((np.diff(states.astype(np.int16)) != 0) | (np.diff(frames) != 1)) + 1
    firsts, lasts = np.r_[0, breaks], np.r_[breaks - 1, len(frames) - 1]
    return [(int(states[a]), int(frames[a]), int(frames[b])) for a, b in zip(firsts, lasts) if states[a] != UNKNOWN]


def quads(frames: np.ndarray, states: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles [Q,4] (x0, y0, x1, y1; x in scene frames, y from 0 to 1 over the strip) and their colours [Q,4]."""
    boxes, colors = [], []
    for state, first, last in runs(frames, states):
        color, parts = LOOKS[state]
        for (low, high), fill in (((0.0, 1.0), _BACK), *((part, color) for part in parts)):
            boxes.append((first - 0.5, low, last + 0.5, high))
            colors.append(fill)
    return np.array(boxes, np.float32).reshape(-1, 4), np.array(colors, np.float32).reshape(-1, 4)


def draw(frames: np.ndarray, states: np.ndarray, left: float, right: float, width: float, bottom: float, height: float) -> None:
    """Draw into the active framebuffer, whose matrices count pixels.

    Args:
        frames, states: [F].
        left, right: scene frames (fractions) at the region's two edges; width: of the region.
        bottom, height: of the strip.
    """
    global _batch
    if right <= left:
        return
    shader = gpu.shader.from_builtin("FLAT_COLOR")
    if _batch is None or _batch[0] is not states:
        boxes, colors = quads(frames, states)
        corners = np.zeros((len(boxes), 4, 3), np.float32)
        corners[..., :2] = boxes[:, [0, 1, 2, 1, 2, 3, 0, 3]].reshape(-1, 4, 2)
        triangles = 4 * np.arange(len(boxes), dtype=np.int32)[:, None, None] + np.array([[0, 1, 2], [0, 2, 3]], np.int32)
        content = {"pos": corners.reshape(-1, 3), "color": np.repeat(colors, 4, axis=0)}
        made = batch_for_shader(shader, "TRIS", content, indices=triangles.reshape(-1, 3)) if len(boxes) else None
        _batch = (states, made)
    if _batch[1] is None:
        return
    blend = gpu.state.blend_get()
    gpu.state.blend_set("ALPHA")
    with gpu.matrix.push_pop():
        gpu.matrix.translate((-left * width / (right - left), bottom))
        gpu.matrix.scale((width / (right - left), height))
        shader.bind()
        _batch[1].draw(shader)
    gpu.state.blend_set(blend)


def add(source: StateSource) -> None:
    """Draw what `source` gives in timelines and dope sheets from now on."""
    global _source, _handler
    _source = source
    if _handler is None and not bpy.app.background:
        _handler = bpy.types.SpaceDopeSheetEditor.draw_handler_add(_on_draw, (), "WINDOW", "POST_PIXEL")


def remove() -> None:
    """Draw no more, and free what is on the GPU."""
    global _source, _handler, _batch
    if _handler is not None:
        bpy.types.SpaceDopeSheetEditor.draw_handler_remove(_handler, "WINDOW")
    _source = _handler = _batch = None


def tag_redraw() -> None:
    """Ask for a new drawing of the strips."""
    manager = bpy.context.window_manager
    for window in manager.windows if manager else ():
        for area in window.screen.areas:
            if area.type == "DOPESHEET_EDITOR":
                for region in area.regions:
                    if region.type == "WINDOW":
                        region.tag_redraw()


def _on_draw() -> None:
    global _said, _batch
    try:
        found = _source() if _source is not None else None
        if found is None:
            _batch = None  # nothing on screen keeps no memory on the GPU
            return
        region = bpy.context.region
        scale = bpy.context.preferences.system.ui_scale
        left, right = (region.view2d.region_to_view(x, 0)[0] for x in (0, region.width))
        draw(*found, left, right, region.width, region.height - (RULER + HEIGHT) * scale, HEIGHT * scale)
    except Exception as error:  # noqa: BLE001 - it would come again with every redraw
        if str(error) != _said:
            _said = str(error)
            traceback.print_exc()
