"""Avatars in the 3D viewport: a draw handler for the solid and material modes, and the drawing of the Rendered mode.

Errors never reach Blender's draw loop: they are kept in `problems`, for a panel to show, and printed once.
"""

from __future__ import annotations

import traceback
from typing import Any, Literal

import bpy
import numpy as np

from . import shader
from .batch import SplatBatch, View
from .image import Target, draw_view
from .meshes import Meshes
from .scene import avatars_in, from_rec709
from .source import ViewportLook, look_in

ENGINE = "UA3DTALK"
"""`bl_idname` of the render engine, which draws its own viewport mode."""

_batch = SplatBatch()
_handler: Any = None
_problems: tuple[str, ...] = ()


def problems() -> tuple[str, ...]:
    """Why the last redraw did not show everything, one line each; empty where all is well."""
    return _problems


def add() -> None:
    """Draw avatars in all 3D viewports from now on; calling it again changes nothing."""
    global _handler
    if _handler is None and not bpy.app.background:
        _handler = bpy.types.SpaceView3D.draw_handler_add(_on_post_view, (), "WINDOW", "POST_VIEW")


def remove() -> None:
    """Stop drawing and free all GPU memory."""
    global _handler
    if _handler is not None:
        bpy.types.SpaceView3D.draw_handler_remove(_handler, "WINDOW")
        _handler = None
    _batch.update([])
    _batch.free()
    shader.release()
    _report([])


def draw_region(depsgraph: bpy.types.Depsgraph, space: bpy.types.SpaceView3D, region: bpy.types.Region,
                region_data: bpy.types.RegionView3D, target: Target, look: ViewportLook = ViewportLook(),
                hidden_by: Meshes | Literal["framebuffer"] | None = "framebuffer") -> None:
    """Draw the avatars that a viewport shows into the active framebuffer; what is wrong goes to `problems`.

    Local view, local collections and the viewport's filter of object types count. target, hidden_by: as for `image.draw_view`.
    """
    try:
        found = avatars_in(depsgraph, depsgraph.scene_eval.frame_current_final, lambda obj: obj.visible_in_viewport_get(space))
        lines = found.problems
        if found.splats:
            _batch.update(found.splats)
            planes = np.array(region_data.clip_planes)[:4] if region_data.use_clip_planes else None
            view = View(np.array(region_data.view_matrix, dtype=np.float64), np.array(region_data.window_matrix, dtype=np.float64),
                        region.width, region.height, clip_planes=planes)
            draw_view(_batch, view, target, look.display, look.value_range, from_rec709(), hidden_by)
        else:
            # Nothing on screen keeps no memory on the GPU.
            _batch.update([])
            _batch.free()
    except Exception as error:  # noqa: BLE001 - an exception in a draw handler would come again with every redraw
        lines = [f"Drawing failed: {error}"]
        if (lines[0],) != _problems:
            traceback.print_exc()
    _report(lines)


def _on_post_view() -> None:
    context = bpy.context
    space = context.space_data
    if space.shading.type == "RENDERED" and context.scene.render.engine == ENGINE:
        return
    depsgraph = context.view_layer.depsgraph
    if depsgraph is not None:
        draw_region(depsgraph, space, context.region, context.region_data, "overlay", _look(context.scene))


def _look(scene: bpy.types.Scene) -> ViewportLook:
    try:
        return look_in(scene)
    except Exception as error:  # noqa: BLE001 - as above
        _report([f"Drawing failed: {error}"])
        return ViewportLook()


def _report(lines: list[str]) -> None:
    global _problems
    for line in lines:
        if line not in _problems:
            print(f"UA-3DTalk viewport: {line}")
    _problems = tuple(lines)
