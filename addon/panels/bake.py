"""Bake, display, engine."""

from __future__ import annotations

import bpy

from ...engine.errors import UserError
from .. import baking, frames, live, session, status
from ..display import ON_A_RAMP
from ..draw import viewport
from ..places import folder_of
from ..preferences import draw_environment
from .layout import lines


def draw_live(layout: bpy.types.UILayout, obj: bpy.types.Object) -> None:
    """The switch of live editing, in the header."""
    layout.prop(obj.ua3dtalk, "live", toggle=True, icon="PLAY")


def draw_bake(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Range, progress, what is out of date and why."""
    settings = obj.ua3dtalk
    layout.row().prop(settings, "bake_range", expand=True)
    if settings.bake_range == "CUSTOM":
        row = layout.row(align=True)
        row.prop(settings, "bake_start")
        row.prop(settings, "bake_end")
    run = baking.run_of(obj)
    if run is not None:
        row = layout.row(align=True)
        row.progress(factor=run.done / max(run.total, 1), text=f"{run.done} of {run.total}: {run.text}")
        row.operator("ua3dtalk.cancel_bake", text="", icon="X")
    else:
        row = layout.row(align=True)
        row.operator("ua3dtalk.bake", icon="REC")
        row.operator("ua3dtalk.bake", text="Bake All").all = True
    column = layout.column(align=True)
    report = status.report(obj)
    for number, line in enumerate(status.lines(obj)):
        lines(column, line, ("CHECKMARK" if report and report.fresh else "ERROR") if number == 0 else "BLANK1")
    if line := live.line(obj):
        lines(column, line, "TIME" if line.endswith(("starts", "way")) else "BLANK1")
    try:
        now = frames.shown(obj, context.scene.frame_current_final)
        if not now.baked:
            lines(column, f"Shown at rest: {now.why}", "INFO")
        if len(now.means) != len(obj.data.points):
            lines(column, "The bake is of another avatar than this object: reload the avatar", "ERROR")
    except UserError as error:
        lines(column, str(error), "ERROR")
    row = layout.row(align=True)
    row.operator("ua3dtalk.check", icon="VIEWZOOM")
    row.operator("ua3dtalk.export_shot", text="", icon="EXPORT")
    row.operator("ua3dtalk.open_place", text="", icon="FILE_FOLDER").place = "CACHE"
    row.operator("ua3dtalk.clear_cache", text="", icon="TRASH")
    layout.prop(settings, "cache_path")
    if not settings.cache_path:
        lines(layout.column(align=True), str(folder_of(obj)))


def draw_display(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """What the 3D views show."""
    settings = context.scene.ua3dtalk_display
    layout.prop(settings, "display", text="")
    if settings.display in ON_A_RAMP:
        row = layout.row(align=True)
        row.prop(settings, "low")
        row.prop(settings, "high")
        row.operator("ua3dtalk.fit_ramp", text="", icon="DRIVER_DISTANCE")
    layout.prop(context.scene, "sync_mode", text="Playback")
    for line in viewport.problems():
        lines(layout, line, "ERROR")


def draw_engine(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Process, environment, device, log."""
    client = session.current()
    state = client.state if client is not None else "stopped"
    icons = {"stopped": "RADIOBUT_OFF", "starting": "TIME", "ready": "RADIOBUT_ON", "failed": "ERROR"}
    column = layout.column(align=True)
    column.label(text=f"Engine: {state}", icon=icons[state])
    if client is not None and state == "ready":
        column.label(text=f"Device {client.info.get('device')}, {client.info.get('threads')} threads, process {client.pid}")
    if client is not None and client.error is not None:
        lines(column, str(client.error), "ERROR")
    row = layout.row(align=True)
    row.operator("ua3dtalk.start_engine", text="Start", icon="PLAY")
    row.operator("ua3dtalk.stop_engine", text="Stop", icon="SNAP_FACE")
    row.operator("ua3dtalk.open_place", text="Log", icon="TEXT").place = "LOG"
    draw_environment(layout)
    layout.operator("preferences.addon_show", text="Preferences", icon="PREFERENCES").module = session.PACKAGE
