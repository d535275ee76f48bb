"""The uncertainty of a bake over time, drawn at the foot of the Graph Editor, and under it what moves the face.

A column for each baked frame: how many times its usual the uncertainty is; the lower third shows the views' shares, one on the other.
Nothing is written into the scene, so nothing of it can be edited, keyed or undone by mistake.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import blf
import bpy
import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader

from ..core.trust import STANDS_OUT, VIEW_WORDS, Trust, region_label


@dataclass(frozen=True, eq=False)
class Graph:
    """What is drawn: a bake's Trust, the quantity, and the region ("": whichever is furthest from its usual)."""

    trust: Trust
    quantity: str
    region: str


GraphSource = Callable[[], Graph | None]
"""What the active context shows, or None. Quick: asked at every redraw; the same Trust object for unchanged data."""

HEIGHT = 130.0
"""Of the band, in units of Blender's interface; never more than a third of the editor."""
SHARE_PART, BAR_PART = 0.32, 0.52
"""Parts of the band's height: the shares at its foot, the columns over them, the rest for words."""
LEAST_TOP = 2.0
"""Times the usual that fit into the band at least: an even bake is to look even."""
# Colours that people without colour vision tell apart by their lightness (Okabe and Ito), in the order of the views.
SHARE_COLORS = ((0.0, 0.27, 0.5, 0.7), (0.84, 0.37, 0.0, 0.7), (0.35, 0.7, 0.9, 0.7), (0.95, 0.9, 0.4, 0.7))
# Keys and curves lie under the band and are to be seen through it.
USUAL_COLOR, HIGH_COLOR = (0.62, 0.62, 0.62, 0.45), (1.0, 1.0, 1.0, 0.6)
_BACK, _LINE = (0.08, 0.08, 0.08, 0.55), (0.0, 0.0, 0.0, 0.9)

_source: GraphSource | None = None
_handler: Any = None
_batch: tuple[tuple[object, ...], Any] | None = None
_said = ""


def quads(graph: Graph) -> tuple[np.ndarray, np.ndarray, float]:
    """Rectangles [Q,4] (x0, y0, x1, y1; x in scene frames, y from 0 to 1 over the band), their colours [Q,4], and
    the times the usual that a full column stands for."""
    trust, frames = graph.trust, graph.trust.frames.astype(np.float64)
    score = trust.score(graph.quantity, graph.region)
    top = max(LEAST_TOP, float(score.max(initial=0.0)))
    bars = np.stack([frames - 0.5, np.full(len(frames), SHARE_PART), frames + 0.5, SHARE_PART + BAR_PART * score / top], axis=1)
    colors = np.where((score >= STANDS_OUT)[:, None], HIGH_COLOR, USUAL_COLOR)
    shares = _shares(trust, graph.region)
    steps = np.concatenate([np.zeros((len(frames), 1)), np.cumsum(shares, axis=1)], axis=1) * (SHARE_PART * 0.94)
    parts, part_colors = [bars], [colors]
    for view in range(shares.shape[1]):
        parts.append(np.stack([frames - 0.5, steps[:, view], frames + 0.5, steps[:, view + 1]], axis=1))
        part_colors.append(np.tile(SHARE_COLORS[view % len(SHARE_COLORS)], (len(frames), 1)))
    return np.concatenate(parts), np.concatenate(part_colors), top


def _shares(trust: Trust, region: str) -> np.ndarray:
    """[F,V] of a region; without one, the mean over the regions that move."""
    if region:
        return trust.shares[:, trust.regions.index(region)]
    moves = trust.shares.any(axis=(0, 2))
    return trust.shares[:, moves].mean(axis=1) if moves.any() else np.zeros((len(trust), len(trust.views)))


def _rectangles(program: gpu.types.GPUShader, places: np.ndarray, colors: np.ndarray) -> Any:
    corners = places[:, [0, 1, 2, 1, 2, 3, 0, 1, 2, 3, 0, 3]].reshape(-1, 2).astype(np.float32)
    return batch_for_shader(program, "TRIS", {"pos": corners, "color": np.repeat(colors, 6, axis=0).astype(np.float32)})


def draw_band(graph: Graph, left: float, right: float, width: float, height: float) -> float:
    """Draw into the active framebuffer, whose projection is in pixels.

    Args:
        left, right: scene frames at the band's left and right edge; width, height: of the band, px.

    Returns:
        The times the usual that a full column stands for.
    """
    global _batch
    program = gpu.shader.from_builtin("SMOOTH_COLOR")
    key = (graph.trust, graph.quantity, graph.region)
    if _batch is None or any(a is not b and a != b for a, b in zip(_batch[0], key)):
        places, colors, top = quads(graph)
        _batch = (key, (_rectangles(program, places, colors), top))
    bars, top = _batch[1]
    usual = SHARE_PART + BAR_PART / top
    flat = np.array([[0.0, 0.0, 1.0, 1.0]]), np.array([_BACK])
    line = np.array([[0.0, usual - 0.5 / height, 1.0, usual + 0.5 / height]]), np.array([_LINE])
    program.bind()
    gpu.state.blend_set("ALPHA")
    try:
        with gpu.matrix.push_pop():
            gpu.matrix.scale((width, height))
            _rectangles(program, *flat).draw(program)
        with gpu.matrix.push_pop():
            gpu.matrix.scale((width / (right - left), height))
            gpu.matrix.translate((-left, 0.0))
            bars.draw(program)
        with gpu.matrix.push_pop():
            gpu.matrix.scale((width, height))
            _rectangles(program, *line).draw(program)
    finally:
        gpu.state.blend_set("NONE")
    return top


def labels(graph: Graph, top: float) -> list[tuple[str, tuple[float, ...] | None]]:
    """Words over the columns, from the left: (text, colour of the square before it; None for none)."""
    name = region_label(graph.region) if graph.region else "Worst region"
    mean = _shares(graph.trust, graph.region).mean(axis=0) if len(graph.trust) else np.zeros(len(graph.trust.views))
    views = zip(graph.trust.views, mean.tolist(), SHARE_COLORS)
    return [
        (f"{name}: {graph.quantity}, up to {top:.1f} times its usual (the line)", None),
        *((f"{VIEW_WORDS[view]} {100 * share:.0f} %", color) for view, share, color in views if share > 0),
    ]


def add(source: GraphSource) -> None:
    """Draw in all Graph Editors from now on what `source` says; calling it again changes nothing."""
    global _handler, _source
    _source = source
    if _handler is None and not bpy.app.background:
        _handler = bpy.types.SpaceGraphEditor.draw_handler_add(_on_draw, (), "WINDOW", "POST_PIXEL")


def remove() -> None:
    """Stop drawing."""
    global _handler, _source, _batch
    if _handler is not None:
        bpy.types.SpaceGraphEditor.draw_handler_remove(_handler, "WINDOW")
    _handler = _source = _batch = None


def _on_draw() -> None:
    global _said
    context = bpy.context
    try:
        graph = _source() if _source is not None and context.space_data.mode != "DRIVERS" else None
        if graph is not None and len(graph.trust):
            draw_in(graph, context.region, context.preferences.system.ui_scale)
    except Exception as error:  # noqa: BLE001 - an exception in a draw handler would come again with every redraw
        if str(error) != _said:
            _said = str(error)
            traceback.print_exc()


def draw_in(graph: Graph, region: bpy.types.Region, scale: float) -> None:
    """Draw the band and its labels at the foot of an editor's region. scale: of Blender's interface."""
    height = min(HEIGHT * scale, region.height / 3)
    left, right = (region.view2d.region_to_view(x, 0)[0] for x in (0, region.width))
    top = draw_band(graph, left, right, region.width, height)
    size, x, y = 11.0 * scale, 8.0 * scale, height - 15.0 * scale
    blf.size(0, size)
    blf.color(0, 1.0, 1.0, 1.0, 1.0)
    for text, color in labels(graph, top):
        if color is not None:
            _square(x, y - 1.0, size, color)
            x += size + 4.0 * scale
        blf.position(0, x, y, 0.0)
        blf.draw(0, text)
        x += blf.dimensions(0, text)[0] + 14.0 * scale


def _square(x: float, y: float, size: float, color: tuple[float, ...]) -> None:
    program = gpu.shader.from_builtin("SMOOTH_COLOR")
    program.bind()
    _rectangles(program, np.array([[x, y, x + size, y + size]]), np.array([color])).draw(program)
