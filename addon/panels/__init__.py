"""The sidebar's tab 'UA-3DTalk', and the same panels in the object data properties. Both draw what is here."""

from __future__ import annotations

from typing import Any

import bpy

from .. import avatar
from . import bake, character, emotion, render, trust
from .character import register, unregister
from .layout import lines

__all__ = ["CLASSES", "register", "unregister"]


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
        lines(self.layout.column(align=True), "Select an avatar" if there else "The scene has no avatar", "INFO")
        self.layout.operator("ua3dtalk.import_avatar", text="Import Avatar", icon="IMPORT")


class DATA_PT_ua3dtalk(_Data, bpy.types.Panel):
    """Parent of the panels in the object data properties."""

    bl_label = "UA-3DTalk"

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.label(text=context.object.name, icon="USER")


_PARTS = (
    ("avatar", "Avatar", character.draw_avatar, False, ""),
    ("sound", "Sound", character.draw_sound, False, ""),
    ("emotion", "Emotion", emotion.draw_emotion, False, ""),
    ("performance", "Performance", emotion.draw_performance, True, "emotion"),
    ("voice", "From the Voice", emotion.draw_voice, True, "emotion"),
    ("face", "Blinks and Brows", emotion.draw_face, True, ""),
    ("strength", "Strength and Timing", emotion.draw_strength, True, ""),
    ("bake", "Bake", bake.draw_bake, False, ""),
    ("trust", "Where to Trust It", trust.draw_trust, True, ""),
    ("display", "Display", bake.draw_display, True, ""),
    ("render", "Render", render.draw_render, True, ""),
    ("engine", "Engine", bake.draw_engine, True, ""),
)
"""(name, label, what draws it, closed at first, name of the panel that it belongs to)."""
_HEADERS = {"bake": bake.draw_live}
"""Name of a panel -> what draws into its header."""


def _panel(base: type, prefix: str, top: str, name: str, label: str, draw: Any, closed: bool, parent: str) -> type:
    def draw_panel(self: bpy.types.Panel, context: bpy.types.Context) -> None:
        draw(self.layout, context, context.object)

    content = {"bl_label": label, "bl_options": {"DEFAULT_CLOSED"} if closed else set(), "draw": draw_panel, "__doc__": draw.__doc__}
    if name in _HEADERS:
        content["draw_header_preset"] = lambda self, context: _HEADERS[name](self.layout, context.object)
    if parent or top:
        content["bl_parent_id"] = f"{prefix}_PT_ua3dtalk_{parent}" if parent else top
    return type(f"{prefix}_PT_ua3dtalk_{name}", (base, bpy.types.Panel), content | {"__module__": __name__})


CLASSES = (
    VIEW3D_PT_ua3dtalk_none,
    *(_panel(_Sidebar, "VIEW3D", "", *part) for part in _PARTS),
    DATA_PT_ua3dtalk,
    *(_panel(_Data, "DATA", "DATA_PT_ua3dtalk", *part) for part in _PARTS),
)
