"""Which engine renders the scene, and what lets the splats be in the picture of another."""

from __future__ import annotations

import bpy

from .. import compositing, proxy
from ..draw.viewport import ENGINE
from .layout import lines


def draw_render(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Our engine, or the scene's with splats by the compositor; the proxy."""
    scene = context.scene
    if scene.render.engine == ENGINE:
        lines(layout, "This scene renders splats alone; choose Cycles or EEVEE to have them in its picture", "INFO")
    else:
        layout.operator("ua3dtalk.use_render_engine", icon="RESTRICT_RENDER_OFF")
        row = layout.row(align=True)
        is_there = compositing.helper(scene) is not None
        row.operator("ua3dtalk.add_compositing", text="Update Compositing" if is_there else "Add to Compositing", icon="NODE_COMPOSITING")
        if is_there:
            row.operator("ua3dtalk.remove_compositing", text="", icon="X")
            shaded = compositing.helper(scene, compositing.SHADOWS) is not None
            shadows = layout.operator(
                "ua3dtalk.add_compositing", text="No Shadows on Splats" if shaded else "Shadows on Splats", icon="LIGHT_SUN"
            )
            shadows.shadows = not shaded
    row = layout.row(align=True)
    has_proxy = proxy.of(obj) is not None
    row.operator("ua3dtalk.add_proxy", text="Change Shadow Proxy" if has_proxy else "Add Shadow Proxy", icon="LIGHT_POINT")
    if has_proxy:
        row.operator("ua3dtalk.remove_proxy", text="", icon="X")
