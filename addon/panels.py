"""The sidebar's tab 'UA-3DTalk', and the same panels in the object data properties. Both draw what is here."""

from __future__ import annotations

import textwrap
from typing import Any

import bpy
import bpy.utils.previews

from ..engine.avatar import EMOTIONS
from ..engine.errors import UserError
from . import audio, avatar, baking, frames, session, status
from .core.channels import AU_CHANNELS
from .draw import viewport
from .places import folder_of
from .preferences import draw_environment

_previews: Any = None


def register() -> None:
    """A place for thumbnails."""
    global _previews
    _previews = bpy.utils.previews.new()


def unregister() -> None:
    """Free the thumbnails."""
    global _previews
    if _previews is not None:
        bpy.utils.previews.remove(_previews)
        _previews = None


def _lines(layout: bpy.types.UILayout, text: str, icon: str = "NONE", most: int = 8) -> None:
    """Text in as many lines as the region's width asks for, at most `most`."""
    region = bpy.context.region
    width = region.width if region is not None and region.width > 1 else 300
    signs = max(20, int(width / (7.0 * (bpy.context.preferences.system.ui_scale or 1.0))) - 8)
    lines = textwrap.wrap(text, signs, break_long_words=True)
    if len(lines) > most:
        lines = [*lines[: most - 1], f"{lines[most - 1]} ..."]
    for number, line in enumerate(lines):
        layout.label(text=line, icon=icon if number == 0 or icon == "NONE" else "BLANK1")


def _thumbnail(loaded: Any) -> int:
    """Icon of an avatar's picture; 0 where it has none."""
    pixels = loaded.thumbnail
    if pixels is None or _previews is None:
        return 0
    if loaded.hash not in _previews:
        made = _previews.new(loaded.hash)
        upright = pixels[::-1].astype("float32") / 255
        made.image_size = (pixels.shape[1], pixels.shape[0])
        made.image_pixels_float = upright.ravel().tolist()
        rows, columns = ([side * i // 32 for i in range(32)] for side in pixels.shape[:2])
        made.icon_size = (32, 32)
        made.icon_pixels_float = upright[rows][:, columns].ravel().tolist()
    return _previews[loaded.hash].icon_id


def draw_avatar(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Who it is, how many Gaussians, provenance, consent."""
    column = layout.column(align=True)
    row = column.row(align=True)
    row.prop(obj.ua3dtalk, "avatar_path", text="")
    row.operator("ua3dtalk.reload_avatar", text="", icon="FILE_REFRESH")
    try:
        loaded = avatar.load(avatar.file_of(obj))
    except UserError as error:
        _lines(column, str(error), "ERROR")
        return
    icon = _thumbnail(loaded)
    if icon:
        layout.template_icon(icon_value=icon, scale=5.0)
    column = layout.column(align=True)
    column.label(text=loaded.meta.name, icon="USER")
    counts = ", ".join(f"{branch} {loaded.count(branch):,}" for branch in loaded.branches)
    column.label(text=f"{len(obj.data.points):,} Gaussians")
    column.label(text=f"({counts})")
    if loaded.hash != obj.ua3dtalk.avatar_hash:
        _lines(column, "The file is another one than was imported: reload it", "ERROR")
    if loaded.is_static:
        column.label(text="Static: it has no networks to move it", icon="INFO")
    for title, text in (("From", loaded.meta.provenance), ("Consent", loaded.meta.consent), ("Licence", loaded.meta.licence)):
        if text:
            _lines(column, f"{title}: {text}", most=2)
    column.operator("ua3dtalk.about", icon="INFO")


def draw_sound(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Strip or file, and where it lies."""
    settings = obj.ua3dtalk
    layout.row().prop(settings, "sound_source", expand=True)
    row = layout.row(align=True)
    row.operator("ua3dtalk.attach_audio", text="Sound File", icon="FILE_SOUND")
    row.operator("ua3dtalk.attach_strip", text="Sound Strip", icon="SEQUENCE")
    column = layout.column(align=True)
    if settings.sound_source == "FILE":
        column.prop(settings, "sound_path", text="")
        column.prop(settings, "sound_start")
    if settings.sound_source == "NONE":
        column.label(text="No sound: the mouth stays closed", icon="INFO")
        return
    try:
        if settings.sound_source == "STRIP":
            strip = audio.find_strip(obj, context.scene)
            column.label(text=strip.name if strip else settings.strip_name, icon="SOUND" if strip else "ERROR")
        place = audio.placement(obj, context.scene)
        first, last = place.frames()
        column.label(text=f"Heard from frame {first} to {last}")
    except (UserError, ValueError) as error:
        _lines(column, str(error), "ERROR")


def draw_emotion(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Sliders, and keys."""
    settings = obj.ua3dtalk
    layout.use_property_split = True
    box = layout.box()
    column = box.column(align=True)
    column.use_property_split = False
    column.prop(settings, "key_emotion", text="")
    row = column.row(align=True)
    row.prop(settings, "key_intensity")
    row.prop(settings, "key_blend")
    column.operator("ua3dtalk.key_emotion", icon="KEY_HLT")
    column.operator_menu_enum("ua3dtalk.key_preset", "preset", text="Key Preset Here")
    column = layout.column(align=True)
    for name in EMOTIONS:
        column.prop(settings, name)
    column = layout.column(align=True)
    column.prop(settings, "intensity")
    column.prop(settings, "mix")


def draw_face(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Blinks, brows and eyes."""
    settings = obj.ua3dtalk
    layout.use_property_split = True
    column = layout.column(align=True)
    for name in reversed(AU_CHANNELS):
        column.prop(settings, name)
    for flag, seed in (("auto_blinks", "blink_seed"), ("auto_brows", "brow_seed")):
        column = layout.column(align=True)
        column.prop(settings, flag)
        row = column.row()
        row.active = getattr(settings, flag)
        row.prop(settings, seed)


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
        _lines(column, line, ("CHECKMARK" if report and report.fresh else "ERROR") if number == 0 else "BLANK1")
    try:
        now = frames.shown(obj, context.scene.frame_current_final)
        if not now.baked:
            _lines(column, f"Shown at rest: {now.why}", "INFO")
        if len(now.means) != len(obj.data.points):
            _lines(column, "The bake is of another avatar than this object: reload the avatar", "ERROR")
    except UserError as error:
        _lines(column, str(error), "ERROR")
    row = layout.row(align=True)
    row.operator("ua3dtalk.check", icon="VIEWZOOM")
    row.operator("ua3dtalk.open_place", text="", icon="FILE_FOLDER").place = "CACHE"
    row.operator("ua3dtalk.clear_cache", text="", icon="TRASH")
    layout.prop(settings, "cache_path")
    if not settings.cache_path:
        _lines(layout.column(align=True), str(folder_of(obj)))


def draw_display(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """What the 3D views show, and what renders with."""
    settings = context.scene.ua3dtalk_display
    layout.prop(settings, "display", text="")
    if settings.display not in ("COLOR", "BRANCH", "OBJECT"):
        row = layout.row(align=True)
        row.prop(settings, "low")
        row.prop(settings, "high")
    for line in viewport.problems():
        _lines(layout, line, "ERROR")
    if context.scene.render.engine != viewport.ENGINE:
        layout.operator("ua3dtalk.use_render_engine", icon="RESTRICT_RENDER_OFF")


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
        _lines(column, str(client.error), "ERROR")
    row = layout.row(align=True)
    row.operator("ua3dtalk.start_engine", text="Start", icon="PLAY")
    row.operator("ua3dtalk.stop_engine", text="Stop", icon="SNAP_FACE")
    row.operator("ua3dtalk.open_place", text="Log", icon="TEXT").place = "LOG"
    draw_environment(layout)
    layout.operator("preferences.addon_show", text="Preferences", icon="PREFERENCES").module = session.PACKAGE


class _Sidebar:
    bl_space_type = "VIEW_3D"
    bl_region_type = "UI"
    bl_category = "UA-3DTalk"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return avatar.is_avatar(context.object)


class _Data:
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "data"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return avatar.is_avatar(context.object)


class VIEW3D_PT_ua3dtalk_none(bpy.types.Panel):
    """Shown where no avatar is active: says what to do."""

    bl_label = "UA-3DTalk"
    bl_space_type, bl_region_type, bl_category = "VIEW_3D", "UI", "UA-3DTalk"

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return not avatar.is_avatar(context.object)

    def draw(self, context: bpy.types.Context) -> None:
        there = avatar.avatars(context.scene.objects)
        _lines(self.layout.column(align=True), "Select an avatar" if there else "The scene has no avatar", "INFO")
        self.layout.operator("ua3dtalk.import_avatar", text="Import Avatar", icon="IMPORT")


class DATA_PT_ua3dtalk(_Data, bpy.types.Panel):
    """Parent of the panels in the object data properties."""

    bl_label = "UA-3DTalk"

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.label(text=context.object.name, icon="USER")


_PARTS = (
    ("avatar", "Avatar", draw_avatar, False),
    ("sound", "Sound", draw_sound, False),
    ("emotion", "Emotion", draw_emotion, False),
    ("bake", "Bake", draw_bake, False),
    ("face", "Blinks and Brows", draw_face, True),
    ("display", "Display", draw_display, True),
    ("engine", "Engine", draw_engine, True),
)


def _panel(base: type, prefix: str, name: str, label: str, draw: Any, closed: bool, parent: str) -> type:
    def draw_panel(self: bpy.types.Panel, context: bpy.types.Context) -> None:
        draw(self.layout, context, context.object)

    content = {"bl_label": label, "bl_options": {"DEFAULT_CLOSED"} if closed else set(), "draw": draw_panel, "__doc__": draw.__doc__}
    if parent:
        content["bl_parent_id"] = parent
    return type(f"{prefix}_PT_ua3dtalk_{name}", (base, bpy.types.Panel), content | {"__module__": __name__})


CLASSES = (
    VIEW3D_PT_ua3dtalk_none,
    *(_panel(_Sidebar, "VIEW3D", *part, "") for part in _PARTS),
    DATA_PT_ua3dtalk,
    *(_panel(_Data, "DATA", *part, "DATA_PT_ua3dtalk") for part in _PARTS),
)
