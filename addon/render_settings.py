"""Settings of the render engine, `Scene.ua3dtalk_render` and `ViewLayer.ua3dtalk_passes`, and their panels."""

from __future__ import annotations

import bpy
from bpy.props import BoolProperty, IntProperty, PointerProperty

from .draw.viewport import ENGINE


class RenderProperties(bpy.types.PropertyGroup):
    """How the engine renders a scene. Blender's own settings of motion blur, film and output count besides."""

    meshes_hide_splats: BoolProperty(
        name="Meshes Hide Splats",
        description="Leave out splats behind the meshes of the scene: the picture has alpha 0 there and fits over one of Cycles or EEVEE",
        default=True,
        options=set(),
    )
    mesh_samples: IntProperty(
        name="Edge Samples",
        description="How often meshes are drawn for the splats that they hide, each time moved by a part of a pixel: more make smoother edges",
        default=8, min=1, max=64, options=set(),
    )  # fmt: skip
    motion_blur_samples: IntProperty(
        name="Samples",
        description="Moments within the time that the shutter is open, of which the picture is the mean",
        default=12, min=1, max=256, options=set(),
    )  # fmt: skip


class PassProperties(bpy.types.PropertyGroup):
    """Passes of a view layer that take time and are made only if wanted."""

    use_depth_median: BoolProperty(
        name="Depth (Median)",
        description="Pass DepthMedian: depth of the splat by which half of a pixel's alpha is reached. Unlike the expected depth it is "
        "never between two surfaces",
        options=set(),
    )
    use_emotion: BoolProperty(
        name="Emotion Weight", description="Pass EmotionWeight: how much of the motion comes from the emotion, 0 to 1", options=set()
    )
    use_alpha: BoolProperty(
        name="Splat Alpha", description="Pass SplatAlpha: the avatars' alpha, also where the film is not transparent", options=set()
    )


class _EnginePanel:
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    COMPAT_ENGINES = {ENGINE}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.engine in cls.COMPAT_ENGINES


class RENDER_PT_ua3dtalk_film(_EnginePanel, bpy.types.Panel):
    """Film, and what meshes do."""

    bl_label = "Film"
    bl_context = "render"

    def draw(self, context: bpy.types.Context) -> None:
        """Rows."""
        self.layout.use_property_split = True
        settings = context.scene.ua3dtalk_render
        self.layout.prop(context.scene.render, "film_transparent", text="Transparent")
        self.layout.prop(settings, "meshes_hide_splats")
        column = self.layout.column()
        column.active = settings.meshes_hide_splats
        column.prop(settings, "mesh_samples")


class RENDER_PT_ua3dtalk_motion_blur(_EnginePanel, bpy.types.Panel):
    """Blender's motion blur settings, and ours."""

    bl_label = "Motion Blur"
    bl_context = "render"
    bl_options = {"DEFAULT_CLOSED"}

    def draw_header(self, context: bpy.types.Context) -> None:
        """The switch."""
        self.layout.prop(context.scene.render, "use_motion_blur", text="")

    def draw(self, context: bpy.types.Context) -> None:
        """Rows."""
        self.layout.use_property_split = True
        render = context.scene.render
        self.layout.active = render.use_motion_blur
        self.layout.prop(render, "motion_blur_position", text="Position")
        self.layout.prop(render, "motion_blur_shutter", text="Shutter")
        self.layout.prop(context.scene.ua3dtalk_render, "motion_blur_samples")


class VIEWLAYER_PT_ua3dtalk_passes(_EnginePanel, bpy.types.Panel):
    """Passes of this engine."""

    bl_label = "Passes"
    bl_context = "view_layer"

    def draw(self, context: bpy.types.Context) -> None:
        """Rows."""
        self.layout.use_property_split = True
        layer, settings = context.view_layer, context.view_layer.ua3dtalk_passes
        column = self.layout.column(heading="Data")
        column.prop(layer, "use_pass_z", text="Depth (Expected)")
        column.prop(settings, "use_depth_median")
        column.prop(settings, "use_alpha")
        column.prop(settings, "use_emotion")
        column.prop(layer, "use_pass_object_index")
        column = self.layout.column(heading="Cryptomatte")
        column.prop(layer, "use_pass_cryptomatte_object", text="Object")
        levels = column.column()
        levels.active = layer.use_pass_cryptomatte_object
        levels.prop(layer, "pass_cryptomatte_depth", text="Levels")
        self.layout.label(text="Uncertainty, Aleatoric and Epistemic are always rendered")


CLASSES = (
    RenderProperties, PassProperties, RENDER_PT_ua3dtalk_film, RENDER_PT_ua3dtalk_motion_blur, VIEWLAYER_PT_ua3dtalk_passes,
)  # fmt: skip


def register() -> None:
    """Give scenes and view layers their settings; the classes are registered already."""
    bpy.types.Scene.ua3dtalk_render = PointerProperty(type=RenderProperties, name="UA-3DTalk Render")
    bpy.types.ViewLayer.ua3dtalk_passes = PointerProperty(type=PassProperties, name="UA-3DTalk Passes")


def unregister() -> None:
    """Take the settings away; what .blend files hold of them stays in them."""
    for owner, name in ((bpy.types.Scene, "ua3dtalk_render"), (bpy.types.ViewLayer, "ua3dtalk_passes")):
        if hasattr(owner, name):
            delattr(owner, name)
