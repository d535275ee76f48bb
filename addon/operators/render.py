"""Splats beside Blender's own engines: compositing nodes, and a proxy in the way of light."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, FloatProperty, StringProperty

from .. import api, avatar, compositing, proxy
from ..feedback import reporting
from .target import OnAvatar, target


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
    shadows: BoolProperty(
        name="Shadows on Splats",
        description="Let shadows of the scene fall on the splats of avatars that have a shadow proxy; Cycles renders them in a scene of their own",
        default=False,
        options={"SKIP_SAVE"},
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
        shadows = self.shadows if self.properties.is_property_set("shadows") else None
        made = api.add_compositing(context.scene, connect=self.connect, layer=self.layer, shadows=shadows)
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
        if compositing.helper(context.scene) is not None:
            return True
        cls.poll_message_set("This scene's compositing has no splats")
        return False

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        api.remove_compositing(context.scene)
        return {"FINISHED"}


class AddProxy(OnAvatar, bpy.types.Operator):
    """Give the avatar an invisible stand-in, so that Cycles and EEVEE let it cast shadows and be seen in reflections. Run again, it changes the one there is"""

    bl_idname = "ua3dtalk.add_proxy"
    bl_label = "Add Shadow Proxy"
    bl_options = {"REGISTER", "UNDO"}

    size: FloatProperty(
        name="Size", description="Radius of the balls in standard deviations of their splats; larger closes holes", default=2.0, min=0.01, soft_max=4.0
    )
    opacity: FloatProperty(
        name="Least Opacity", description="Splats that are less opaque are left out", default=0.3, min=0.0, max=1.0, subtype="FACTOR"
    )
    in_viewport: BoolProperty(name="In Viewports", description="Have it in 3D views too; else in renders only", default=False)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        api.add_proxy(target(self, context), size=self.size, opacity=self.opacity, in_viewport=self.in_viewport)
        if not context.scene.render.use_lock_interface:
            self.report({"WARNING"}, "Switch Render > Lock Interface on: else a render beside the window leaves the proxy at the frame shown")
        return {"FINISHED"}


class RemoveProxy(OnAvatar, bpy.types.Operator):
    """Remove the avatar's stand-in for shadows and reflections"""

    bl_idname = "ua3dtalk.remove_proxy"
    bl_label = "Remove Shadow Proxy"
    bl_options = {"REGISTER", "UNDO"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Says why it cannot run."""
        if not super().poll(context):
            return False
        if any(proxy.of(obj) for obj in avatar.avatars(context.scene.objects)):
            return True
        cls.poll_message_set("No avatar here has a proxy")
        return False

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        api.remove_proxy(target(self, context))
        return {"FINISHED"}


CLASSES = (AddCompositing, RemoveCompositing, AddProxy, RemoveProxy)
