"""The render engine: avatars for the scene's camera, straight from the cache, with depth and uncertainty passes.

Colours: avatars are trained in display-referred sRGB and blended there. Combined is scene linear, as Blender expects: the
finished picture is decoded by the sRGB curve and taken to the file's working space. Under the view transform 'Standard'
the trained colours so come out exactly; under 'AgX' or 'Filmic' they are tone-mapped like any other render.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import bpy
import gpu
import numpy as np
from numpy.typing import NDArray

from .draw import viewport
from .draw.image import render_image
from .draw.scene import Found, avatars_in, from_rec709, world_color

UNCERTAINTY_PASSES = ("Uncertainty", "Aleatoric", "Epistemic")


@dataclass(frozen=True)
class Frame:
    """Camera of a render: view_matrix, projection_matrix [4,4], the whole image's size and the part (x, y, w, h) rendered, px."""

    view_matrix: NDArray[np.float64]
    projection_matrix: NDArray[np.float64]
    width: int
    height: int
    part: tuple[int, int, int, int]


class UA3DTalkRenderEngine(bpy.types.RenderEngine):
    """Renders all avatars that the view layer shows to a render, instances included; meshes are left to other engines.

    Passes: Combined (premultiplied, scene linear), Depth (expected distance along the view axis; 1e10 where nothing is),
    Uncertainty (total), Aleatoric, Epistemic (expected values; 0 where nothing is).
    """

    bl_idname = viewport.ENGINE
    bl_label = "UA-3DTalk Splats"
    bl_use_gpu_context = True
    bl_use_preview = False

    def update_render_passes(self, scene: bpy.types.Scene = None, renderlayer: bpy.types.ViewLayer = None) -> None:
        """Declare the passes, for the compositor's sockets."""
        self.register_pass(scene, renderlayer, "Combined", 4, "RGBA", "COLOR")
        if renderlayer.use_pass_z:
            self.register_pass(scene, renderlayer, "Depth", 1, "Z", "VALUE")
        for name in UNCERTAINTY_PASSES:
            self.register_pass(scene, renderlayer, name, 1, "X", "VALUE")

    def render(self, depsgraph: bpy.types.Depsgraph) -> None:
        """Render one frame of one view layer. What is missing is an error of the render, never an empty picture."""
        try:
            frame = frame_of(self.camera_override or depsgraph.scene_eval.camera, depsgraph)
            found = avatars_in(depsgraph, depsgraph.scene_eval.frame_current_final)
            if found.problems:
                raise RuntimeError(f"frame {depsgraph.scene_eval.frame_current_final:g}: " + "; ".join(found.problems))
            if not found.splats:
                self.report({"WARNING"}, f"View layer {depsgraph.view_layer.name} shows no avatar to the render")
            passes = draw_passes(found, frame, depsgraph)
        except Exception as error:  # noqa: BLE001 - Blender prints a traceback and shows an empty picture otherwise
            # The report makes the operator fail, ends an animation here and keeps Blender from saving a picture that is not
            # there (it crashes with error_set alone); error_set puts the line into the render window.
            self.report({"ERROR"}, str(error))
            self.error_set(str(error))
            return
        self._write(passes, frame, depsgraph.view_layer.name)

    def _write(self, passes: dict[str, NDArray[np.float32]], frame: Frame, layer: str) -> None:
        # Everything is computed by now: an exception before end_result would end Blender.
        flat = {name: np.ascontiguousarray(values).ravel() for name, values in passes.items()}
        for name in UNCERTAINTY_PASSES:
            self.add_pass(name, 1, "X", layer=layer)
        result = self.begin_result(0, 0, *frame.part[2:], layer=layer)
        try:
            for render_pass in result.layers[0].passes:
                if render_pass.name in flat:
                    render_pass.rect.foreach_set(flat[render_pass.name])
        finally:
            self.end_result(result)

    def view_update(self, context: bpy.types.Context, depsgraph: bpy.types.Depsgraph) -> None:
        """Nothing is kept here: what changed is seen when it is drawn."""

    def view_draw(self, context: bpy.types.Context, depsgraph: bpy.types.Depsgraph) -> None:
        """The viewport's Rendered mode: the same drawing, in scene linear colours."""
        scene = depsgraph.scene_eval
        if not scene.render.film_transparent:
            gpu.state.active_framebuffer_get().clear(color=(*world_color(scene), 1.0))
        viewport.draw_region(depsgraph, context.space_data, context.region, context.region_data, "scene_linear")


def frame_of(camera: bpy.types.Object | None, depsgraph: bpy.types.Depsgraph) -> Frame:
    """The camera at the depsgraph's frame, with resolution percentage, pixel aspect, shift, sensor fit, clipping and border.

    Raises RuntimeError for what this engine cannot render: no camera, a panoramic one, stereo.
    """
    render = depsgraph.scene.render
    if camera is None:
        raise RuntimeError("the scene has no camera")
    camera = camera.evaluated_get(depsgraph)
    if camera.type != "CAMERA":
        raise RuntimeError(f"{camera.name} is no camera; splats can be rendered for cameras only")
    if camera.data.type not in ("PERSP", "ORTHO"):
        raise RuntimeError(f"{camera.name} is a camera of type {camera.data.type}; splats can be rendered for PERSP and ORTHO only")
    if render.use_multiview:
        raise RuntimeError("splats cannot be rendered in stereo; switch Stereoscopy off")
    # Whole numbers as Blender makes them, so that the sizes agree.
    width = render.resolution_x * render.resolution_percentage // 100
    height = render.resolution_y * render.resolution_percentage // 100
    projection = camera.calc_matrix_camera(depsgraph, x=width, y=height, scale_x=render.pixel_aspect_x, scale_y=render.pixel_aspect_y)
    world = np.array(camera.matrix_world, dtype=np.float64)
    # A camera's own scale does not count in Blender.
    world[:3, :3] /= np.linalg.norm(world[:3, :3], axis=0)
    part = (0, 0, width, height)
    if render.use_border:
        left, right = (int(np.float32(b) * np.float32(width)) for b in (render.border_min_x, render.border_max_x))
        low, high = (int(np.float32(b) * np.float32(height)) for b in (render.border_min_y, render.border_max_y))
        part = (left, low, right - left, high - low)
    return Frame(np.linalg.inv(world), np.array(projection, dtype=np.float64), width, height, part)


def draw_passes(found: Found, frame: Frame, depsgraph: bpy.types.Depsgraph) -> dict[str, NDArray[np.float32]]:
    """All passes of a render, [h,w,C] float32 of the rendered part, row 0 at the bottom. Needs a GPU context."""
    wanted = ["Combined", *UNCERTAINTY_PASSES]
    if depsgraph.view_layer.use_pass_z:
        wanted.append("Depth")
    passes = render_image(found.splats, frame.view_matrix, frame.projection_matrix, frame.width, frame.height, frame.part,
                          wanted, "scene_linear", from_rec709())
    scene = depsgraph.scene_eval
    if not scene.render.film_transparent:
        combined = passes["Combined"]
        combined[..., :3] += (1.0 - combined[..., 3:]) * np.array(world_color(scene), dtype=np.float32)
        combined[..., 3] = 1.0
    return passes


def _panels() -> Iterator[type]:
    """Blender's panels that suit any engine (output, colour management, view layer ...)."""
    for panel in bpy.types.Panel.__subclasses__():
        if "BLENDER_RENDER" in getattr(panel, "COMPAT_ENGINES", ()):
            yield panel


class RENDER_PT_ua3dtalk_film(bpy.types.Panel):
    """Film settings of this engine."""

    bl_label = "Film"
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "render"
    COMPAT_ENGINES = {viewport.ENGINE}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.engine in cls.COMPAT_ENGINES

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.prop(context.scene.render, "film_transparent", text="Transparent")


class VIEWLAYER_PT_ua3dtalk_passes(bpy.types.Panel):
    """Passes of this engine."""

    bl_label = "Passes"
    bl_space_type = "PROPERTIES"
    bl_region_type = "WINDOW"
    bl_context = "view_layer"
    COMPAT_ENGINES = {viewport.ENGINE}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return context.engine in cls.COMPAT_ENGINES

    def draw(self, context: bpy.types.Context) -> None:
        self.layout.prop(context.view_layer, "use_pass_z")
        self.layout.label(text="Uncertainty, Aleatoric and Epistemic are always rendered")


CLASSES = (UA3DTalkRenderEngine, RENDER_PT_ua3dtalk_film, VIEWLAYER_PT_ua3dtalk_passes)


def register() -> None:
    """Register the engine and its panels, and show Blender's general panels with it."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    for panel in _panels():
        panel.COMPAT_ENGINES.add(viewport.ENGINE)


def unregister() -> None:
    """Undo `register`."""
    for panel in _panels():
        panel.COMPAT_ENGINES.discard(viewport.ENGINE)
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
