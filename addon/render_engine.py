"""The render engine: avatars for the scene's camera, straight from the cache, with depth, uncertainty and object passes.

Colours: avatars are trained in display-referred sRGB and blended there. Combined is scene linear, as Blender expects: the
finished picture is decoded by the sRGB curve and taken to the file's working space. Under the view transform 'Standard'
the trained colours so come out exactly; under 'AgX' or 'Filmic' they are tone-mapped like any other render. Linear OpenEXR holds
the same numbers under any view transform.

Motion blur and the edges of meshes are means of several pictures, taken in scene linear light, premultiplied: as light falls
on a film. Combined and the Cryptomatte are such means; the other passes are of the frame itself, as a mean of depths or
object numbers would be of no object.
"""

from __future__ import annotations

from collections.abc import Iterator

import bpy
import gpu
import numpy as np
from numpy.typing import NDArray

from . import frames, render_settings
from .draw import cryptomatte, viewport
from .draw.batch import SplatBatch
from .draw.camera import Frame, Sample, frame_of, samples_of
from .draw.image import render_image
from .draw.meshes import Meshes
from .draw.scene import Found, avatars_in, from_rec709, world_color

Passes = dict[str, NDArray[np.float32]]

ALWAYS = ("Uncertainty", "Aleatoric", "Epistemic")
"""Passes that every render has besides Combined."""


class UA3DTalkRenderEngine(bpy.types.RenderEngine):
    """Renders all avatars that the view layer shows to a render, instances included; meshes are left to other engines, and hide splats.

    Passes, [always], (where the view layer asks): [Combined] (premultiplied, scene linear), [Uncertainty] (total), [Aleatoric],
    [Epistemic], (Depth), (DepthMedian), (SplatAlpha), (EmotionWeight), as `image.render_image` defines them; (IndexOB): Pass Index of
    the object that the median splat is of, 0 where there is none; (CryptoObject00 ...): Cryptomatte of the avatars' objects.
    """

    bl_idname = viewport.ENGINE
    bl_label = "UA-3DTalk Splats"
    bl_use_gpu_context = True
    bl_use_preview = False

    _meshes: Meshes | None = None
    """Of the viewport's Rendered mode, until something changes."""

    def update_render_passes(self, scene: bpy.types.Scene = None, renderlayer: bpy.types.ViewLayer = None) -> None:
        """Declare the passes, for the compositor's sockets."""
        for name, channels in passes_of(renderlayer).items():
            kind = "COLOR" if len(channels) == 4 else "VALUE"
            self.register_pass(scene, renderlayer, name, len(channels), channels, kind)

    def render(self, depsgraph: bpy.types.Depsgraph) -> None:
        """Render one frame of one view layer. What is missing is an error of the render, never an empty picture."""
        try:
            made = self._draw(depsgraph)
        except Exception as error:  # noqa: BLE001 - Blender prints a traceback and shows an empty picture otherwise
            # The report makes the operator fail, ends an animation here and keeps Blender from saving a picture that is not
            # there (it crashes with error_set alone); error_set puts the line into the render window.
            self.report({"ERROR"}, str(error))
            self.error_set(str(error))
            return
        if made is not None:
            self._write(*made, depsgraph.view_layer)

    def _draw(self, depsgraph: bpy.types.Depsgraph) -> tuple[Passes, Frame, list[str]] | None:
        """The passes, the camera, and the names of the avatars' objects; None where the user cancelled."""
        scene, layer = depsgraph.scene, depsgraph.view_layer
        camera = self.camera_override or depsgraph.scene_eval.camera
        now = depsgraph.scene_eval.frame_current_final
        frame, found = frame_of(camera, depsgraph), avatars_in(depsgraph, now)
        if found.problems:
            raise RuntimeError(f"frame {now:g}: " + "; ".join(found.problems))
        if not found.splats:
            self.report({"WARNING"}, f"View layer {layer.name} shows no avatar to the render")
        meshes = _meshes_of(depsgraph)
        samples = samples_of(scene, bool(meshes))
        averaged = {"Combined"} | ({"Coverage"} if layer.use_pass_cryptomatte_object else set())
        still = _wanted(layer) | (averaged if len(samples) == 1 else set())
        batch = SplatBatch()
        try:
            passes = _picture(found, frame, meshes, still, batch)
            if len(samples) > 1:
                means = self._mean(depsgraph, samples, averaged, (found, frame, meshes), batch)
                if means is None:
                    return None
                passes |= means
        finally:
            batch.free()
        names = [owner.name for owner in found.owners]
        if "Avatar" in passes:
            indices = np.array([*(owner.pass_index for owner in found.owners), 0], dtype=np.float32)
            passes["IndexOB"] = indices[passes.pop("Avatar").astype(np.intp)]  # -1, nothing there, takes the last one
        if "Coverage" in passes:
            passes |= cryptomatte.rank(names, passes.pop("Coverage"), layer.pass_cryptomatte_depth)
        if not scene.render.film_transparent:
            combined = passes["Combined"]
            combined[..., :3] += (1.0 - combined[..., 3:]) * np.array(world_color(depsgraph.scene_eval), dtype=np.float32)
            combined[..., 3] = 1.0
        return passes, frame, names

    def _mean(self, depsgraph: bpy.types.Depsgraph, samples: list[Sample], wanted: set[str], still: tuple[Found, Frame, Meshes],
              batch: SplatBatch) -> Passes | None:
        """Weighted mean of the passes over the samples; None where the user cancelled. still: the frame itself.

        Where an avatar has no data for a moment (before the first frame of its bake), it keeps the shape that it has at the frame.
        """
        scene = depsgraph.scene
        frame, now = scene.frame_current + scene.frame_subframe, depsgraph.scene_eval.frame_current_final
        moves = any(sample.frame != frame for sample in samples)
        means: Passes = {}
        with frames.paused():
            try:
                for number, sample in enumerate(samples):
                    if self.test_break():
                        return None
                    found, view, meshes = self._at(depsgraph, sample.frame, now) if moves else still
                    for name, values in _picture(found, view, meshes, wanted, batch, sample.shift).items():
                        if name in means and values.shape != means[name].shape:
                            raise RuntimeError("avatars appear or disappear while the shutter is open; switch Motion Blur off")
                        means[name] = means.get(name, 0.0) + np.float32(sample.weight) * values
                    self.update_progress((number + 1) / len(samples))
            finally:
                if moves:
                    self._go_to(frame)
        return means

    def _at(self, depsgraph: bpy.types.Depsgraph, moment: float, now: float) -> tuple[Found, Frame, Meshes]:
        self._go_to(moment)
        at = depsgraph.scene_eval.frame_current_final
        found = avatars_in(depsgraph, at, instead=now)
        if found.problems:
            raise RuntimeError(f"frame {at:g}: " + "; ".join(found.problems))
        return found, frame_of(self.camera_override or depsgraph.scene_eval.camera, depsgraph), _meshes_of(depsgraph)

    def _go_to(self, frame: float) -> None:
        whole = int(np.floor(frame))
        self.frame_set(whole, subframe=frame - whole)

    def _write(self, passes: Passes, frame: Frame, names: list[str], layer: bpy.types.ViewLayer) -> None:
        # Everything is computed by now: an exception before end_result would end Blender.
        flat = {name: np.ascontiguousarray(values, dtype=np.float32).ravel() for name, values in passes.items()}
        fields = cryptomatte.metadata(layer.name, names) if layer.use_pass_cryptomatte_object else {}
        for name, channels in passes_of(layer).items():
            self.add_pass(name, len(channels), channels, layer=layer.name)
        result = self.begin_result(0, 0, *frame.part[2:], layer=layer.name)
        try:
            for render_pass in result.layers[0].passes:
                if render_pass.name in flat:
                    render_pass.rect.foreach_set(flat[render_pass.name])
        finally:
            self.end_result(result)
        # Of the whole result: that of `begin_result` is but a part of it, whose metadata go nowhere.
        whole = self.get_result() if fields else None
        for field, value in fields.items():
            whole.stamp_data_add_field(field, value)

    def view_update(self, context: bpy.types.Context, depsgraph: bpy.types.Depsgraph) -> None:
        """Something changed, perhaps a mesh; all else is seen when it is drawn."""
        self._meshes = None

    def view_draw(self, context: bpy.types.Context, depsgraph: bpy.types.Depsgraph) -> None:
        """The viewport's Rendered mode: the same drawing, in scene linear colours, without motion blur and smoothed edges."""
        scene, space = depsgraph.scene_eval, context.space_data
        if not scene.render.film_transparent:
            gpu.state.active_framebuffer_get().clear(color=(*world_color(scene), 1.0))
        hides = depsgraph.scene.ua3dtalk_render.meshes_hide_splats
        if self._meshes is None and hides:
            self._meshes = Meshes(depsgraph, lambda obj: obj.visible_in_viewport_get(space))
        viewport.draw_region(depsgraph, space, context.region, context.region_data, "scene_linear",
                             hidden_by=self._meshes if hides else None)


def passes_of(layer: bpy.types.ViewLayer) -> dict[str, str]:
    """The passes of a view layer: name -> channels."""
    settings = layer.ua3dtalk_passes
    found = {"Combined": "RGBA"}
    found |= {"Depth": "Z"} if layer.use_pass_z else {}
    found |= {"DepthMedian": "Z"} if settings.use_depth_median else {}
    found |= dict.fromkeys(ALWAYS, "X")
    found |= {"SplatAlpha": "X"} if settings.use_alpha else {}
    found |= {"EmotionWeight": "X"} if settings.use_emotion else {}
    found |= {"IndexOB": "X"} if layer.use_pass_object_index else {}
    if layer.use_pass_cryptomatte_object:
        found |= dict.fromkeys(cryptomatte.pass_names(layer.pass_cryptomatte_depth), "RGBA")
    return found


def _wanted(layer: bpy.types.ViewLayer) -> set[str]:
    """What `render_image` is asked for the frame itself."""
    wanted = {name for name in passes_of(layer) if not name.startswith(cryptomatte.PASS)} - {"Combined", "IndexOB"}
    return wanted | ({"Avatar"} if layer.use_pass_object_index else set())


def _meshes_of(depsgraph: bpy.types.Depsgraph) -> Meshes | None:
    return Meshes(depsgraph) if depsgraph.scene.ua3dtalk_render.meshes_hide_splats else None


def _picture(found: Found, frame: Frame, meshes: Meshes | None, wanted: set[str], batch: SplatBatch,
             shift: tuple[float, float] = (0.0, 0.0)) -> Passes:
    """Passes [h,w,C] float32 of the rendered part, row 0 at the bottom. Needs a GPU context."""
    return render_image(found.splats, frame.view_matrix, frame.projection_matrix, frame.width, frame.height, frame.part,
                        sorted(wanted), "scene_linear", from_rec709(), batch, meshes=meshes, shift=shift)


def _panels() -> Iterator[type]:
    """Blender's panels that suit any engine (output, colour management, view layer ...)."""
    for panel in bpy.types.Panel.__subclasses__():
        if "BLENDER_RENDER" in getattr(panel, "COMPAT_ENGINES", ()):
            yield panel


CLASSES = (*render_settings.CLASSES, UA3DTalkRenderEngine)


def register() -> None:
    """Register the engine, its settings and panels, and show Blender's general panels with it."""
    for cls in CLASSES:
        bpy.utils.register_class(cls)
    render_settings.register()
    for panel in _panels():
        panel.COMPAT_ENGINES.add(viewport.ENGINE)


def unregister() -> None:
    """Undo `register`."""
    for panel in _panels():
        panel.COMPAT_ENGINES.discard(viewport.ENGINE)
    render_settings.unregister()
    for cls in reversed(CLASSES):
        bpy.utils.unregister_class(cls)
