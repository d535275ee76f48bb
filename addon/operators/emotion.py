"""Keys: an emotion, a performance, a blink; copies of them; the voice's own emotion as keys."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, EnumProperty, FloatProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from ...engine.errors import UserError
from .. import api, automatic, avatar
from ..core.channels import INTENSITY_MAX
from ..core.performance import CHANNEL_SETS
from ..core.presets import PRESETS
from ..feedback import reporting, tag_redraw
from ..properties import DECAY_ITEMS, EMOTION_ITEMS, PERFORMANCE_ITEMS
from .target import OnAvatar, Ranged, target


class _Keys(OnAvatar):
    """What the ways of keying share. What is not given comes from the panel's settings, the frame from the scene."""

    intensity: FloatProperty(name="Intensity", description="How strong", min=0.0, max=INTENSITY_MAX, options={"SKIP_SAVE"})
    frame: FloatProperty(name="Frame", description="At which the emotion is fully there; the current one by default", options={"SKIP_SAVE"})
    blend: FloatProperty(name="Blend", description="Frames that the change takes, ending at the frame", min=0.0, options={"SKIP_SAVE"})

    def given(self, obj: bpy.types.Object) -> dict[str, float]:
        """Arguments of api.key_emotion."""
        asked = self.properties.is_property_set
        settings = obj.ua3dtalk
        found = {
            "intensity": self.intensity if asked("intensity") else settings.key_intensity,
            "blend": self.blend if asked("blend") else settings.key_blend,
        }
        return found | ({"frame": self.frame} if asked("frame") else {})


class KeyEmotion(_Keys, bpy.types.Operator):
    """Key all emotion sliders here, blending over from what they were before"""

    bl_idname = "ua3dtalk.key_emotion"
    bl_label = "Key Emotion Here"
    bl_options = {"REGISTER", "UNDO"}

    emotion: EnumProperty(name="Emotion", items=EMOTION_ITEMS, options={"SKIP_SAVE"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        emotion = self.emotion if self.properties.is_property_set("emotion") else obj.ua3dtalk.key_emotion
        api.key_emotion(obj, emotion, scene=context.scene, **self.given(obj))
        return {"FINISHED"}


class KeyPreset(_Keys, bpy.types.Operator):
    """Key a mixture of emotions here, blending over from what they were before"""

    bl_idname = "ua3dtalk.key_preset"
    bl_label = "Key Preset"
    bl_options = {"REGISTER", "UNDO"}

    preset: EnumProperty(
        name="Preset", items=[(p.identifier, p.label, p.tooltip) for p in PRESETS], options={"SKIP_SAVE"}
    )

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        api.key_preset(obj, self.preset, scene=context.scene, **self.given(obj))
        return {"FINISHED"}


class KeyPerformance(OnAvatar, bpy.types.Operator):
    """Key an emotion that comes, is fully there at the current frame, stays and goes"""

    bl_idname = "ua3dtalk.key_performance"
    bl_label = "Key Performance Here"
    bl_options = {"REGISTER", "UNDO"}

    emotion: EnumProperty(name="Emotion", items=PERFORMANCE_ITEMS, options={"SKIP_SAVE"})
    intensity: FloatProperty(name="Intensity", description="How strong", min=0.0, max=INTENSITY_MAX, options={"SKIP_SAVE"})
    frame: FloatProperty(name="Frame", description="At which it is fully there; the current one by default", options={"SKIP_SAVE"})
    onset: FloatProperty(name="Onset", description="Frames until it is fully there", min=0.0, options={"SKIP_SAVE"})
    apex: FloatProperty(name="Apex", description="Frames for which it stays", min=0.0, options={"SKIP_SAVE"})
    release: FloatProperty(name="Release", description="Frames until it is gone", min=0.0, options={"SKIP_SAVE"})
    decay: EnumProperty(name="Decay", description="How it goes", items=DECAY_ITEMS, options={"SKIP_SAVE"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        settings = obj.ua3dtalk
        from_panel = {"emotion": settings.performance, "intensity": settings.key_intensity, "decay": settings.key_decay}
        if not settings.usual_timing:
            from_panel |= {"onset": settings.key_onset, "apex": settings.key_apex, "release": settings.key_release}
        names = ("emotion", "intensity", "frame", "onset", "apex", "release", "decay")
        given = {name: getattr(self, name) for name in names if self.properties.is_property_set(name)}
        api.key_performance(obj, scene=context.scene, **(from_panel | given))
        return {"FINISHED"}


class KeyBlink(OnAvatar, bpy.types.Operator):
    """Key a blink: the eyes are closed at the current frame"""

    bl_idname = "ua3dtalk.key_blink"
    bl_label = "Key Blink Here"
    bl_options = {"REGISTER", "UNDO"}

    frame: FloatProperty(name="Frame", description="At which the eyes are closed; the current one by default", options={"SKIP_SAVE"})
    length: FloatProperty(name="Length", description="Seconds in all", min=0.01, max=60.0, options={"SKIP_SAVE"})
    amount: FloatProperty(name="Amount", description="1 closes the eyes fully", default=1.0, min=0.01, max=1.0, options={"SKIP_SAVE"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        asked = self.properties.is_property_set
        length = self.length if asked("length") else obj.ua3dtalk.blink_length
        api.key_blink(obj, self.frame if asked("frame") else None, length, self.amount, context.scene)
        return {"FINISHED"}


class CopyPerformance(OnAvatar, bpy.types.Operator):
    """Copy the keys of the active avatar to the other selected avatars, or to a new take of its own"""

    bl_idname = "ua3dtalk.copy_performance"
    bl_label = "Copy Performance"
    bl_options = {"REGISTER", "UNDO"}

    to: StringProperty(name="To", description="Name of the avatar that gets it; the selected ones by default", options={"SKIP_SAVE"})
    offset: FloatProperty(name="Offset", description="Frames by which the copy comes later", subtype="TIME")
    channels: EnumProperty(
        name="What", description="Which sliders are copied", items=[one[:3] for one in CHANNEL_SETS], options={"ENUM_FLAG"}, default={"EMOTION"}
    )
    new_take: BoolProperty(name="New Take", description="Into a new action; the one that was there is kept and can be chosen again")
    take: StringProperty(name="Take", description="Name of the new take; after the avatar where it is empty")

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_props_dialog(self)

    def _targets(self, context: bpy.types.Context, source: bpy.types.Object) -> list[bpy.types.Object]:
        if self.to:
            found = bpy.data.objects.get(self.to)
            if not avatar.is_avatar(found):
                raise UserError(f"There is no avatar object {self.to!r}.", "Check the name in the outliner.")
            return [found]
        others = [obj for obj in avatar.avatars(context.selected_objects) if obj != source]
        if not others and self.new_take:
            return [source]
        if not others:
            raise UserError("No other avatar is selected.", "Select those that are to get it, the one that has it last; or copy into a new take.")
        return others

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        source = target(self, context)
        found = self._targets(context, source)
        count = api.copy_performance(source, found, self.offset, self.channels, self.take if self.new_take else None, context.scene)
        self.report({"INFO"}, f"{count} curves copied to {', '.join(obj.name for obj in found)}")
        return {"FINISHED"}


class _Voice(OnAvatar):
    """Asks the engine what a voice carries, without stopping Blender where it has a window."""

    def question(self, context: bpy.types.Context) -> automatic.Listening:
        """What is asked."""
        return automatic.Listening(target(self, context), context.scene)

    def answered(self, context: bpy.types.Context, voice: automatic.Voice) -> None:
        """What is done with the answer."""
        raise NotImplementedError

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        self._listening = self.question(context)
        self.answered(context, self._listening.wait())
        return {"FINISHED"}

    @reporting
    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        self._listening = self.question(context)
        self._timer = context.window_manager.event_timer_add(0.1, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if event.type == "ESC":
            self.cancel(context)
            return {"CANCELLED"}
        if event.type != "TIMER" or self._listening.step():
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        self.answered(context, self._listening.wait())
        tag_redraw(panels_only=True)
        return {"FINISHED"}

    def cancel(self, context: bpy.types.Context) -> None:
        """The user or Blender ends it."""
        self._listening.cancel()
        context.window_manager.event_timer_remove(self._timer)


class ReadVoice(_Voice, bpy.types.Operator):
    """Listen to the voice: which emotion it carries at each frame, and how sure that is"""

    bl_idname = "ua3dtalk.read_voice"
    bl_label = "Listen to the Voice"
    bl_options = {"REGISTER"}

    def answered(self, context: bpy.types.Context, voice: automatic.Voice) -> None:
        """It is kept for the panel already."""
        self.report({"INFO"}, f"Confidence {100 * voice.confidence.min():.0f} to {100 * voice.confidence.max():.0f} %")


class AutomaticToKeys(Ranged, _Voice, bpy.types.Operator):
    """Turn the emotion that the voice carries into a few keys that can be edited, used from then on as keyed"""

    bl_idname = "ua3dtalk.automatic_to_keys"
    bl_label = "Automatic Emotion to Keys"
    bl_options = {"REGISTER", "UNDO"}

    tolerance: FloatProperty(name="Tolerance", description="How far the keys may be off", min=0.001, max=1.0, options={"SKIP_SAVE"})
    keep: BoolProperty(name="Keep What Is Keyed", description="Mix it with what was keyed, as the slider Keyed says; else that is replaced")

    def question(self, context: bpy.types.Context) -> automatic.Listening:
        self._object = target(self, context).name
        numbers = api.frame_numbers(self.range())
        return automatic.Listening(target(self, context), context.scene, numbers)

    def answered(self, context: bpy.types.Context, voice: automatic.Voice) -> None:
        obj = bpy.data.objects.get(self._object)
        if not avatar.is_avatar(obj):
            raise UserError(f"{self._object} is gone.")
        tolerance = self.tolerance if self.properties.is_property_set("tolerance") else obj.ua3dtalk.key_tolerance
        done = automatic.to_keys(obj, context.scene, self._listening, voice, tolerance, self.keep)
        self.report({"INFO"}, f"{obj.name}: {done}")


class KeyEmotionFile(Ranged, bpy.types.Operator, ImportHelper):
    """Key what an emotion file says: a table (.csv), key frames of Audio2Face, or an emotion file of our own (.json)"""

    bl_idname = "ua3dtalk.key_emotion_file"
    bl_label = "Key Emotion File"
    bl_options = {"REGISTER", "UNDO"}

    filter_glob: StringProperty(default="*.csv;*.json", options={"HIDDEN"})
    tolerance: FloatProperty(name="Tolerance", description="How far the keys may be off", min=0.001, max=1.0, options={"SKIP_SAVE"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        tolerance = self.tolerance if self.properties.is_property_set("tolerance") else obj.ua3dtalk.key_tolerance
        self.report({"INFO"}, f"{obj.name}: {api.key_emotion_file(obj, self.filepath, self.range(), tolerance, context.scene)}")
        return {"FINISHED"}


CLASSES = (KeyEmotion, KeyPreset, KeyPerformance, KeyBlink, KeyEmotionFile, CopyPerformance, ReadVoice, AutomaticToKeys)
