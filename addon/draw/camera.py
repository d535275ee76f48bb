"""The camera of a render, and the moments and shifts of which its picture is the mean."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """Camera of a render: view_matrix, projection_matrix [4,4], the whole image's size and the part (x, y, w, h) rendered, px."""

    view_matrix: NDArray[np.float64]
    projection_matrix: NDArray[np.float64]
    width: int
    height: int
    part: tuple[int, int, int, int]


@dataclass(frozen=True)
class Sample:
    """One of the pictures that are averaged: scene frame (its fraction is the subframe), weight, shift of the meshes in px."""

    frame: float
    weight: float
    shift: tuple[float, float]


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


def samples_of(scene: bpy.types.Scene, has_meshes: bool) -> list[Sample]:
    """The samples of the scene's current frame; one, at the frame and without a shift, where neither blur nor meshes ask for more.

    With motion blur they lie evenly in the time that the shutter is open, at the middles of equal parts; Blender's shutter curve
    gives their weights, whose sum is 1. The shifts fill the pixel evenly, whatever their number.
    """
    settings, render = scene.ua3dtalk_render, scene.render
    blur = settings.motion_blur_samples if render.use_motion_blur else 1
    count = max(blur, settings.mesh_samples if has_meshes else 1)
    steps = np.arange(count)
    moments = np.full(count, scene.frame_current + scene.frame_subframe)
    weights = np.ones(count)
    if render.use_motion_blur:
        opening = {"START": 0.0, "CENTER": -0.5, "END": -1.0}[render.motion_blur_position]
        part = (steps + 0.5) / count
        moments = moments + (opening + part) * render.motion_blur_shutter
        curve = render.motion_blur_shutter_curve
        curve.initialize()
        weights = np.maximum([curve.evaluate(curve.curves[0], at) for at in part], 0.0)
        if not weights.sum() > 0.0:
            weights = np.ones(count)
    shifts = np.zeros((count, 2))
    if has_meshes and count > 1:
        # Roberts's R2 sequence: even coverage of a square by any number of points.
        shifts = (0.5 + np.outer(steps, (0.7548776662466927, 0.5698402909980532))) % 1.0 - 0.5
    weights = weights / weights.sum()
    return [Sample(float(m), float(w), (float(x), float(y))) for m, w, (x, y) in zip(moments, weights, shifts)]
