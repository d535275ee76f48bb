"""Splats beside Blender's own engines: compositing nodes."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, StringProperty

from .. import api, avatar, compositing
from ..feedback import reporting


class AddCompositing(bpy.types.Operator):
    """Add compositing nodes that put the splats into the picture of Cycles or EEVEE, beside the nodes that are there. Run again, it brings its own nodes up to date"""

    bl_idname = "ua3dtalk.add_compositing"
    bl_label = "Add Splats to Compositing"
    bl_options = {"REGISTER", "UNDO"}

    connect: BoolProperty(
        name="Connect to Output",
        description="Let the combined picture be the output, in the place of what goes there now. A free output is taken in any case",
        default=False,
        options={"SKIP_SAVE"},
    )
    layer: StringProperty(
        name="View Layer", description="Whose picture the splats go over; the first that renders by default", options={"SKIP_SAVE"}
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Says why it cannot run."""
        if avatar.avatars(context.scene.objects):
            return True
        cls.poll_message_set("The scene has no avatar; import one with File > Import > UA-3DTalk Avatar")
        return False

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        made = api.add_compositing(context.scene, connect=self.connect, layer=self.layer)
        for line in made.notes:
            self.report({"INFO"}, line)
        return {"FINISHED"}


class RemoveCompositing(bpy.types.Operator):
    """Remove the nodes and the scene that `Add Splats to Compositing` made; all else stays"""

    bl_idname = "ua3dtalk.remove_compositing"
    bl_label = "Remove Splats from Compositing"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Says why it cannot run."""
        if compositing.splat_scene(context.scene) is not None:
            return True
        cls.poll_message_set("This scene's compositing has no splats")
        return False

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        api.remove_compositing(context.scene)
        return {"FINISHED"}


CLASSES = (AddCompositing, RemoveCompositing)
