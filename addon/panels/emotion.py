"""Emotion, blinks and brows."""

from __future__ import annotations

import bpy

from ...engine.avatar import EMOTIONS
from ..core.channels import AU_CHANNELS


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
