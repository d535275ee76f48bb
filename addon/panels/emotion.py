"""Emotion, performances, the voice's own emotion, blinks and brows, strengths."""

from __future__ import annotations

import bpy
import numpy as np

from ...engine.avatar import EMOTIONS
from ...engine.errors import UserError
from .. import audio, automatic
from ..core.channels import AU_CHANNELS, STRENGTH_CHANNELS
from ..core.performance import usual_timing
from ..core.presets import weights_of
from .layout import lines

_NAMED = 0.05
"""Weight from which an automatic emotion is named."""


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


def draw_performance(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """An emotion with onset, apex and release; copies."""
    settings = obj.ua3dtalk
    layout.use_property_split = True
    column = layout.column(align=True)
    column.prop(settings, "performance", text="Emotion")
    column.prop(settings, "key_intensity")
    column = layout.column(align=True)
    column.prop(settings, "usual_timing")
    if settings.usual_timing:
        usual = usual_timing(weights_of(settings.performance)).frames(audio.fps_of(context.scene))
        lines(column, "Onset {:.0f}, apex {:.0f}, release {:.0f} frames".format(*usual))
    else:
        for name in ("key_onset", "key_apex", "key_release"):
            column.prop(settings, name)
    layout.prop(settings, "key_decay")
    layout.operator("ua3dtalk.key_performance", icon="KEY_HLT")
    layout.operator("ua3dtalk.copy_performance", icon="COPYDOWN")
    layout.operator("ua3dtalk.key_emotion_file", icon="FILE_FOLDER")


def draw_voice(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """The emotion that the voice carries: what it is here, how sure that is, and its keys."""
    settings = obj.ua3dtalk
    layout.use_property_split = True
    if settings.sound_source == "NONE":
        lines(layout, "No sound: there is no voice to listen to", "INFO")
        return
    if settings.mix >= 1.0:
        lines(layout, "Not used: the slider Keyed is at 1", "INFO")
    try:
        here = automatic.heard(obj, context.scene, context.scene.frame_current_final)
    except UserError as error:
        lines(layout, str(error), "ERROR")
        return
    if here is None:
        layout.operator("ua3dtalk.read_voice", icon="SPEAKER")
    else:
        weights, confidence = here
        column = layout.column(align=True)
        column.progress(factor=float(np.clip(confidence, 0, 1)), text=f"Confidence here: {100 * confidence:.0f} %")
        named = [f"{name} {weights[i]:.2f}" for i, name in enumerate(EMOTIONS) if weights[i] >= _NAMED]
        lines(column, "Heard here: " + ", ".join(named))
    layout.prop(settings, "key_tolerance")
    layout.operator("ua3dtalk.automatic_to_keys", icon="KEY_HLT")


def draw_face(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Blinks, brows and eyes."""
    settings = obj.ua3dtalk
    layout.use_property_split = True
    column = layout.column(align=True)
    for name in reversed(AU_CHANNELS):
        column.prop(settings, name)
    row = layout.row(align=True)
    row.use_property_split = False
    row.operator("ua3dtalk.key_blink", icon="KEY_HLT")
    row.prop(settings, "blink_length")
    for flag, seed in (("auto_blinks", "blink_seed"), ("auto_brows", "brow_seed")):
        column = layout.column(align=True)
        column.prop(settings, flag)
        row = column.row()
        row.active = getattr(settings, flag)
        row.prop(settings, seed)


def draw_strength(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """How far each part of the face moves, and when."""
    settings = obj.ua3dtalk
    layout.use_property_split = True
    column = layout.column(align=True)
    for name in STRENGTH_CHANNELS:
        column.prop(settings, name)
    column = layout.column(align=True)
    column.active = settings.sound_source != "NONE"
    column.prop(settings, "smoothing")
    column.prop(settings, "sound_lead")
