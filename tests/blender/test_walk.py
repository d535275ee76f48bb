"""The walk of tests/window without a window: one file from import to render, and what an edit, its undo and its redo mean for a bake."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, engine, positions, write_sound  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]


def the_head() -> bpy.types.Object:
    """Undo and loading make new objects."""
    return next(obj for obj in bpy.context.scene.objects if obj.ua3dtalk.is_avatar)


def edit(name: str, value: float) -> None:
    """Move a slider as the panel does: the value, and a step of undo after it."""
    setattr(the_head().ua3dtalk, name, value)
    bpy.ops.ed.undo_push(message=name)


def test_bounds_are_those_of_the_points(api: ModuleType, avatars: Path, shipped: Shipped) -> None:
    """What 'View Selected' frames and what a click on the box hits."""
    head = api.import_avatar(avatars / "head.safetensors")
    bpy.context.view_layer.update()
    extent = np.ptp(positions(head), axis=0)
    assert (np.array(head.dimensions) >= extent - 1e-5).all()
    # Blender adds a radius: the points' own, or before 5.1 the one that points had when the cloud was made.
    assert np.allclose(head.dimensions, extent, atol=2 * 0.0101)
    low, high = np.min(head.bound_box, axis=0), np.max(head.bound_box, axis=0)
    assert np.allclose((low + high) / 2, (positions(head).min(axis=0) + positions(head).max(axis=0)) / 2, atol=1e-4)


def test_a_day(
    api: ModuleType, engine: ModuleType, avatars: Path, scene: bpy.types.Scene, tmp_path: Path, shipped: Shipped
) -> None:
    bpy.ops.ed.undo_push(message="start")
    assert bpy.ops.ua3dtalk.import_avatar(filepath=str(avatars / "head.safetensors")) == {"FINISHED"}
    blend = tmp_path / "shot.blend"
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    assert bpy.ops.ua3dtalk.attach_audio(filepath=str(write_sound(tmp_path / "speech.wav"))) == {"FINISHED"}
    edit("happy", 0.7)
    assert bpy.ops.ua3dtalk.bake() == {"FINISHED"}
    assert api.stale(the_head()).fresh

    # An edit, its undo and its redo; the bake is never touched.
    edit("sad", 0.6)
    assert len(api.stale(the_head()).outdated) == 20 and api.stale(the_head()).reasons == ("emotion",)
    assert bpy.ops.ed.undo() == {"FINISHED"}
    assert the_head().ua3dtalk.sad == 0 and the_head().ua3dtalk.happy == pytest.approx(0.7) and api.stale(the_head()).fresh
    assert bpy.ops.ed.redo() == {"FINISHED"}
    assert the_head().ua3dtalk.sad == pytest.approx(0.6) and len(api.stale(the_head()).outdated) == 20
    assert bpy.ops.ed.undo() == {"FINISHED"}

    scene = bpy.context.scene
    scene.frame_set(14)
    happy = positions(the_head())
    scene.frame_set(5)
    assert np.abs(positions(the_head()) - happy).max() > 0
    scene.frame_set(14)
    edit("happy", 0.0)
    edit("angry", 0.8)
    assert bpy.ops.ua3dtalk.bake() == {"FINISHED"}
    angry = positions(the_head())
    assert np.abs(angry - happy).max() > 0, "another emotion moves nothing"

    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(blend))
    scene = bpy.context.scene
    assert api.stale(the_head()).fresh and scene.frame_current == 14 and np.array_equal(positions(the_head()), angry)

    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler, scene.camera = (0.0, -0.8, 0.0), (np.pi / 2, 0.0, 0.0), camera
    scene.render.resolution_x = scene.render.resolution_y = 64
    scene.render.film_transparent = True
    api.render(tmp_path / "still.png", animation=False)
    picture = bpy.data.images.load(str(tmp_path / "still.png"))
    alpha = np.array(picture.pixels).reshape(-1, 4)[:, 3]
    assert 0.01 < (alpha > 0.5).mean() < 0.99, "the head is not in the picture"
