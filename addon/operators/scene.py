"""Import and sound: what changes the scene."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import bpy
from bpy.props import BoolProperty, CollectionProperty, EnumProperty, FloatProperty, StringProperty
from bpy_extras.io_utils import ImportHelper

from ...engine.errors import UserError
from .. import api, avatar, compat, frames
from ..draw.viewport import ENGINE
from ..feedback import reporting
from .target import OnAvatar, target

_AXES = [(axis, axis, f"Along {axis}") for axis in ("+X", "-X", "+Y", "-Y", "+Z", "-Z")]


class ImportAvatar(bpy.types.Operator, ImportHelper):
    """Import a talking 3D Gaussian head (.safetensors), 3D Gaussians (.ply, .spz, .splat) or a checkpoint (.pth)"""

    bl_idname = "ua3dtalk.import_avatar"
    bl_label = "Import UA-3DTalk Avatar"
    bl_options = {"REGISTER", "UNDO"}

    filename_ext = ".safetensors"
    filter_glob: StringProperty(default="*.safetensors;*.ply;*.spz;*.splat;*.pth;*.pt", options={"HIDDEN"})
    files: CollectionProperty(type=bpy.types.OperatorFileListElement, options={"HIDDEN", "SKIP_SAVE"})
    directory: StringProperty(subtype="DIR_PATH", options={"HIDDEN", "SKIP_SAVE"})
    name: StringProperty(name="Name", description="Of the object; the avatar's own by default", options={"SKIP_SAVE"})
    up: EnumProperty(name="Up", description="Up axis of what is no .safetensors: the others do not say (.spz is always +Y)", items=_AXES, default="+Y")
    front: EnumProperty(name="Front", description="Axis along which the face looks, of what is no .safetensors (from COLMAP often -Z)", items=_AXES, default="+Z")
    metres: FloatProperty(name="Metres", description="Metres a unit of what is no .safetensors", default=1.0, min=1e-6, max=1e6)
    pixel_size: FloatProperty(
        name="Trained Pixel", description="What a pixel covered at the face in the pictures that what is no .safetensors was trained on: it keeps that"
        " look at any size. 0: not known", default=0.0, min=0.0, max=0.1, precision=5, step=0.01, subtype="DISTANCE", unit="LENGTH",
    )  # fmt: skip

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Dropped files are imported at once; else a file is asked for."""
        if self.files and self.directory:
            return self.execute(context)
        return super().invoke(context, event)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        paths = [Path(self.directory) / item.name for item in self.files if item.name] if self.directory else []
        for path in paths or [Path(self.filepath)]:
            obj = api.import_avatar(path, self.name, up=self.up, front=self.front, metres_per_unit=self.metres, pixel_size=self.pixel_size)
            self.report({"INFO"}, f"Imported {obj.name}: {len(obj.data.points):,} Gaussians")
        return {"FINISHED"}


class UA3DTALK_FH_avatar(bpy.types.FileHandler):
    """Avatars dropped into a 3D view or the outliner."""

    bl_idname = "UA3DTALK_FH_avatar"
    bl_label = "UA-3DTalk Avatar"
    bl_import_operator = "ua3dtalk.import_avatar"
    bl_file_extensions = ".safetensors;.pth;.spz;.splat"

    @classmethod
    def poll_drop(cls, context: bpy.types.Context) -> bool:
        return context.area is not None and context.area.type in {"VIEW_3D", "OUTLINER"}


class ReloadAvatar(OnAvatar, bpy.types.Operator):
    """Show what the avatar's file holds now, after the file was changed or another was chosen"""

    bl_idname = "ua3dtalk.reload_avatar"
    bl_label = "Reload Avatar"
    bl_options = {"REGISTER", "UNDO"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        avatar.reload(obj)
        frames.show(obj, context.scene, again=True)
        return {"FINISHED"}


class About(OnAvatar, bpy.types.Operator):
    """Show all that the avatar's file says of itself: provenance, consent, licence"""

    bl_idname = "ua3dtalk.about"
    bl_label = "About This Avatar"
    bl_options = {"REGISTER"}

    @reporting
    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        self._text = avatar.about(target(self, context))
        return context.window_manager.invoke_popup(self, width=600)

    def draw(self, context: bpy.types.Context) -> None:
        column = self.layout.column(align=True)
        for line in self._text.splitlines():
            for part in textwrap.wrap(line, 96) or [""]:
                column.label(text=part)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        self.report({"INFO"}, avatar.about(target(self, context)))
        return {"FINISHED"}


class AttachAudio(OnAvatar, bpy.types.Operator):
    """Choose a sound file as the avatar's speech"""

    bl_idname = "ua3dtalk.attach_audio"
    bl_label = "Attach Sound File"
    bl_options = {"REGISTER", "UNDO"}

    filepath: StringProperty(name="File", subtype="FILE_PATH", options={"SKIP_SAVE"})
    filter_sound: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_movie: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    filter_folder: BoolProperty(default=True, options={"HIDDEN", "SKIP_SAVE"})
    at_current: BoolProperty(name="At Current Frame", description="Begin at the current frame", default=False)
    frame: FloatProperty(
        name="Frame", description="Scene frame at which the sound begins; the scene's first frame by default", options={"SKIP_SAVE"}
    )
    as_strip: BoolProperty(
        name="Add Strip", description="Add a sound strip to the sequencer, so that it is heard and can be moved and trimmed", default=True
    )

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        context.window_manager.fileselect_add(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        frame = self.frame if self.properties.is_property_set("frame") else None
        if frame is None and self.at_current:
            frame = context.scene.frame_current
        api.attach_audio(target(self, context), self.filepath, frame, as_strip=self.as_strip)
        return {"FINISHED"}


def _strip_items(self: Any, context: bpy.types.Context | None) -> list[tuple[str, str, str]]:
    # Blender keeps no copy of the texts: they must stay alive here.
    global _strips
    scene = context.scene if context is not None else None
    names = sorted(strip.name for strip in compat.sound_strips(scene)) if scene is not None else []
    _strips = [(name, name, f"Speak what {name} plays") for name in names]
    return _strips


_strips: list[tuple[str, str, str]] = []


class AttachStrip(OnAvatar, bpy.types.Operator):
    """Let the avatar speak what a sound strip of the sequencer plays, with its offset and trims"""

    bl_idname = "ua3dtalk.attach_strip"
    bl_label = "Attach Sound Strip"
    bl_options = {"REGISTER", "UNDO"}
    bl_property = "choice"

    strip: StringProperty(name="Strip", description="Name of the sound strip", options={"SKIP_SAVE"})
    choice: EnumProperty(name="Strip", items=_strip_items, options={"HIDDEN", "SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not super().poll(context):
            return False
        if compat.sound_strips(context.scene):
            return True
        cls.poll_message_set("The sequencer has no sound strip; attach a sound file instead")
        return False

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if self.strip:
            return self.execute(context)
        context.window_manager.invoke_search_popup(self)
        return {"RUNNING_MODAL"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        api.attach_audio(target(self, context), strip=self.strip or self.choice)
        return {"FINISHED"}


class UseRenderEngine(bpy.types.Operator):
    """Render this scene with UA-3DTalk's own engine. Nothing else of the scene is changed"""

    bl_idname = "ua3dtalk.use_render_engine"
    bl_label = "Use UA-3DTalk Splats Engine"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if context.scene.render.engine != ENGINE:
            return True
        cls.poll_message_set("The scene renders with it already")
        return False

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        try:
            context.scene.render.engine = ENGINE
        except TypeError as error:
            raise UserError("The render engine is not registered.", "Switch the extension off and on.") from error
        return {"FINISHED"}


CLASSES = (ImportAvatar, UA3DTALK_FH_avatar, ReloadAvatar, About, AttachAudio, AttachStrip, UseRenderEngine)
