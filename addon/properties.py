"""What an avatar object carries, `Object.ua3dtalk`, and what a scene's 3D views show of avatars."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, IntProperty, PointerProperty, StringProperty

from ..engine.avatar import EMOTIONS, REGIONS
from ..engine.errors import UserError
from ..engine.shot import SMOOTHING_MAX
from . import display, frames, status
from .core.channels import CHANNELS, INTENSITY_MAX, STRENGTH_CHANNELS
from .core.performance import DECAYS
from .core.presets import PRESETS
from .core.trust import QUANTITIES, region_label
from .feedback import tag_redraw

_MAX_FRAME = 1048574  # Blender's own limit
_PATH = {"PATH_SUPPORTS_BLEND_RELATIVE"}
EMOTION_ITEMS = [(name.upper(), name.capitalize(), f"Key {name}") for name in EMOTIONS]
"""For operators and properties that name one emotion."""
PERFORMANCE_ITEMS = [
    *((name, label, f"Perform {label.lower()}") for name, label, _ in EMOTION_ITEMS),
    *((preset.identifier, preset.label, preset.tooltip) for preset in PRESETS),
]
"""One emotion or preset."""
DECAY_ITEMS = [decay[:3] for decay in DECAYS]
QUANTITY_ITEMS = [
    ("TOTAL", "Total", "Aleatoric and epistemic together"),
    ("ALEATORIC", "Aleatoric", "Uncertainty that lies in the data: the same speech can look different"),
    ("EPISTEMIC", "Epistemic", "Uncertainty of the networks themselves: unlike what they were trained on"),
]
assert tuple(item[0].lower() for item in QUANTITY_ITEMS) == QUANTITIES
REGION_ITEMS = [
    ("ALL", "Any Region", "Whichever region is furthest from its usual"),
    *((name.upper(), region_label(name), f"The {region_label(name).lower()} alone") for name in REGIONS),
]


def _changed(self: AvatarProperties, context: bpy.types.Context) -> None:
    """Not all of Blender's edits of these properties reach the dependency graph."""
    status.changed(self.id_data)


def _draw_again(self: DisplayProperties, context: bpy.types.Context) -> None:
    tag_redraw()


def _show_another(self: DisplayProperties, context: bpy.types.Context) -> None:
    """Something else is shown: on a ramp that fits it, where that can be told."""
    try:
        display.fit_ramp(self.id_data, context.region_data)
    except UserError:
        pass  # the ramp stays, the button says why
    tag_redraw()


def _show_again(self: AvatarProperties, context: bpy.types.Context) -> None:
    frames.show(self.id_data, context.scene)
    status.changed(self.id_data)


_SETTING = {"options": set(), "update": _changed}
_FILE = {"options": _PATH, "update": _changed}


class AvatarProperties(bpy.types.PropertyGroup):
    """Settings and sliders of one avatar. The sliders of core.channels.CHANNELS are added below; they alone are animatable."""

    is_avatar: BoolProperty(name="Avatar", description="This object is a UA-3DTalk avatar", options={"HIDDEN"})
    avatar_path: StringProperty(
        name="File", description="The avatar file; may be relative to the .blend (//)", subtype="FILE_PATH", **_FILE
    )
    avatar_hash: StringProperty(name="Hash", description="Of the avatar file as it was when imported", options={"HIDDEN"})

    cache_path: StringProperty(
        name="Cache",
        description="Folder of the bake. Empty: ua3dtalk_cache beside the .blend (a temporary folder until the file is saved)",
        subtype="DIR_PATH",
        options=_PATH,
        update=_show_again,
    )
    cache_name: StringProperty(name="Cache Name", description="Folder name of the automatic cache", options={"HIDDEN"})

    sound_source: EnumProperty(
        name="Sound",
        description="Where the speech comes from",
        items=[
            ("NONE", "None", "No sound: the mouth stays closed; emotion, blinks and brows still act"),
            ("STRIP", "Strip", "A sound strip of the sequencer, with its offset and trims"),
            ("FILE", "File", "A sound file that starts at a frame, without a strip"),
        ],
        default="NONE",
        **_SETTING,
    )
    strip_name: StringProperty(name="Strip", description="The sound strip; it is found again when renamed", **_SETTING)
    strip_id: StringProperty(name="Strip Mark", description="Custom property by which the strip is found", options={"HIDDEN"})
    sound_path: StringProperty(name="Sound File", description="The speech; may be relative to the .blend", subtype="FILE_PATH", **_FILE)
    sound_start: FloatProperty(
        name="Start", description="Scene frame at which the file begins", default=1.0, subtype="TIME", **_SETTING
    )

    sound_lead: FloatProperty(
        name="Lead (ms)", description="Milliseconds by which the mouth is ahead of the sound; below 0 it comes after it. 20 to 60 often look best",
        default=0.0, min=-1000.0, max=1000.0, soft_min=-200.0, soft_max=200.0, step=500, precision=0, **_SETTING,
    )  # fmt: skip
    smoothing: FloatProperty(
        name="Smoothing", description="Seconds over which what the sound says is averaged; 0 is off. Calms trembling, and softens quick lips",
        default=0.0, min=0.0, max=SMOOTHING_MAX, soft_max=0.2, step=1, precision=3, unit="TIME_ABSOLUTE", **_SETTING,
    )  # fmt: skip

    auto_blinks: BoolProperty(
        name="Automatic Blinks", description="Blink by itself every few seconds, besides what is keyed", default=True, **_SETTING
    )
    blink_seed: IntProperty(name="Seed", description="Other seeds blink at other times", default=0, min=0, **_SETTING)
    auto_brows: BoolProperty(
        name="Automatic Brows", description="Small brow raises while time goes on, besides what is keyed", **_SETTING
    )
    brow_seed: IntProperty(name="Seed", description="Other seeds raise the brows at other times", default=0, min=0, **_SETTING)

    live: BoolProperty(
        name="Live",
        description="Show every edit at once: the frame under the playhead is computed first, then those around it, in the background",
        default=True,
        **_SETTING,
    )

    bake_range: EnumProperty(
        name="Range",
        description="Which frames are baked",
        items=[
            ("SCENE", "Scene", "The scene's frame range"),
            ("AUDIO", "Sound", "Where the sound is heard"),
            ("CUSTOM", "Custom", "The frames given here"),
        ],
        default="SCENE",
        **_SETTING,
    )
    bake_start: IntProperty(
        name="First", description="First frame to bake", default=1, min=-_MAX_FRAME, max=_MAX_FRAME, subtype="TIME", **_SETTING
    )
    bake_end: IntProperty(
        name="Last", description="Last frame to bake", default=250, min=-_MAX_FRAME, max=_MAX_FRAME, subtype="TIME", **_SETTING
    )

    key_emotion: EnumProperty(name="Emotion", description="What `Key Emotion Here` keys", items=EMOTION_ITEMS, default="HAPPY", options=set())
    key_intensity: FloatProperty(
        name="Intensity", description="How strong", default=1.0, min=0.0, max=INTENSITY_MAX, soft_max=1.0, subtype="FACTOR", options=set()
    )
    key_blend: FloatProperty(
        name="Blend", description="Frames that the change into the emotion takes, ending here", default=10.0, min=0.0, soft_max=100.0,
        subtype="TIME", options=set(),
    )  # fmt: skip

    performance: EnumProperty(
        name="Performance", description="What `Key Performance Here` keys", items=PERFORMANCE_ITEMS, default="SURPRISED", options=set()
    )
    usual_timing: BoolProperty(
        name="Usual Timing", description="Let the emotion come and go as such an emotion usually does", default=True, options=set()
    )
    key_onset: FloatProperty(
        name="Onset", description="Frames until it is fully there, which it is at the current frame", default=10.0, min=0.0, soft_max=100.0,
        subtype="TIME", options=set(),
    )  # fmt: skip
    key_apex: FloatProperty(
        name="Apex", description="Frames for which it stays", default=25.0, min=0.0, soft_max=250.0, subtype="TIME", options=set()
    )
    key_release: FloatProperty(
        name="Release", description="Frames until the face is again as it would have been", default=20.0, min=0.0, soft_max=250.0,
        subtype="TIME", options=set(),
    )  # fmt: skip
    key_decay: EnumProperty(name="Decay", description="How it goes", items=DECAY_ITEMS, default="SMOOTH", options=set())
    key_tolerance: FloatProperty(
        name="Tolerance", description="How far the keys may be from the automatic emotion: more gives fewer keys", default=0.03,
        min=0.001, max=0.5, soft_max=0.2, precision=3, options=set(),
    )  # fmt: skip
    blink_length: FloatProperty(
        name="Length", description="Seconds that a keyed blink takes in all", default=0.32, min=0.05, max=5.0, soft_max=1.0, step=1,
        unit="TIME_ABSOLUTE", options=set(),
    )  # fmt: skip


for _channel in CHANNELS:
    AvatarProperties.__annotations__[_channel.name] = FloatProperty(
        name=_channel.label,
        description=_channel.tooltip,
        default=_channel.default,
        min=0.0,
        max=_channel.high,
        soft_max=_channel.high if _channel.name in STRENGTH_CHANNELS else 1.0,
        subtype="FACTOR",
        options={"ANIMATABLE"},
        update=_changed,
    )


class DisplayProperties(bpy.types.PropertyGroup):
    """What the 3D views show of the avatars of a scene: `Scene.ua3dtalk_display`. Renders have passes instead."""

    display: EnumProperty(
        name="Show",
        description="What the 3D views show of each Gaussian",
        items=[
            ("COLOR", "Colour", "The avatar as it looks"),
            ("UNCERTAINTY", "Uncertainty", "How unsure the avatar is of itself: aleatoric and epistemic together"),
            ("ALEATORIC", "Aleatoric", "Uncertainty that lies in the data: the same speech can look different"),
            ("EPISTEMIC", "Epistemic", "Uncertainty of the networks themselves: unlike what they were trained on"),
            ("SHARE_AUDIO", "Share of the Sound", "How much of the motion comes from the sound"),
            ("SHARE_EXP", "Share of the Expression", "How much of the motion comes from the expression that goes with the sound"),
            ("SHARE_STYLE", "Share of the Tone", "How much of the motion comes from the tone of voice"),
            ("SHARE_EMOTION", "Share of the Emotion", "How much of the motion comes from the emotion"),
            ("DEPTH", "Depth", "Distance from the view"),
            ("BRANCH", "Branch", "Face and mouth Gaussians"),
            ("OBJECT", "Object", "Each avatar in one colour"),
        ],
        default="COLOR",
        options=set(),
        update=_show_another,
    )
    low: FloatProperty(name="From", description="Value shown in the ramp's first colour", default=0.0, precision=4, options=set(), update=_draw_again)
    high: FloatProperty(name="To", description="Value shown in the ramp's last colour", default=1.0, precision=4, options=set(), update=_draw_again)

    graph: BoolProperty(
        name="In the Graph Editor", description="Draw the uncertainty of the active avatar's bake, and what moves it, at the foot of the Graph Editor",
        options=set(), update=_draw_again,
    )  # fmt: skip
    quantity: EnumProperty(
        name="Uncertainty", description="Which uncertainty is looked at; epistemic differs most from frame to frame",
        items=QUANTITY_ITEMS, default="EPISTEMIC", options=set(), update=_draw_again,
    )  # fmt: skip
    region: EnumProperty(
        name="Region", description="Part of the face that is looked at", items=REGION_ITEMS, default="ALL", options=set(), update=_draw_again
    )


CLASSES = (AvatarProperties, DisplayProperties)


def register() -> None:
    """The classes are registered already."""
    bpy.types.Object.ua3dtalk = PointerProperty(type=AvatarProperties, name="UA-3DTalk")
    bpy.types.Scene.ua3dtalk_display = PointerProperty(type=DisplayProperties, name="UA-3DTalk Display")


def unregister() -> None:
    """Take the property away; what .blend files hold of it stays in them."""
    for owner, name in ((bpy.types.Object, "ua3dtalk"), (bpy.types.Scene, "ua3dtalk_display")):
        if hasattr(owner, name):
            delattr(owner, name)
