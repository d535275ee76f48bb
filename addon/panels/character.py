"""Who the avatar is, and what it says."""

from __future__ import annotations

from typing import Any

import bpy
import bpy.utils.previews

from ...engine.errors import UserError
from .. import audio, avatar
from .layout import lines

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
        lines(column, str(error), "ERROR")
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
        lines(column, "The file is another one than was imported: reload it", "ERROR")
    if loaded.is_static:
        column.label(text="Static: it has no networks to move it", icon="INFO")
    for title, text in (("From", loaded.meta.provenance), ("Consent", loaded.meta.consent), ("Licence", loaded.meta.licence)):
        if text:
            lines(column, f"{title}: {text}", most=2)
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
        lines(column, str(error), "ERROR")
