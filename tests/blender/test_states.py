"""What each frame is, after every kind of edit, held against keys that come from stepping through the scene; and the strip."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy
import gpu
import numpy as np
import pytest
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, engine, write_sound  # noqa: E402, F401
from splat_cases import gpu_context  # noqa: E402

Shipped = Callable[[str], ModuleType]


@pytest.fixture
def head(api: ModuleType, engine: ModuleType, avatars: Path, tmp_path: Path) -> bpy.types.Object:
    """A talking avatar with keys, baked from frame 1 to 20, that is not live."""
    (tmp_path / "head.safetensors").write_bytes((avatars / "head.safetensors").read_bytes())
    obj = api.import_avatar(tmp_path / "head.safetensors")
    obj.ua3dtalk.live = False
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    api.attach_audio(obj, write_sound(tmp_path / "speech.wav", seconds=2.0), frame=1)
    for name, points in {"happy": ((2, 0.0), (12, 1.0)), "sad": ((5, 0.5), (18, 0.0)), "intensity": ((1, 1.0),)}.items():
        for frame, value in points:
            setattr(obj.ua3dtalk, name, value)
            obj.keyframe_insert(f"ua3dtalk.{name}", frame=frame)
    bpy.context.scene.frame_set(7)
    api.bake(obj)
    return obj


def settle(shipped: Shipped, obj: bpy.types.Object, scene: bpy.types.Scene) -> np.ndarray:
    """The states once Blender has had time, told in slices as the timer asks for them."""
    live, status = shipped("addon.live"), shipped("addon.status")
    end = time.monotonic() + 30
    time.sleep(status._GLANCE_EVERY)
    while status.step(scene, live.SLICE) or status.watched(obj).is_dirty:
        assert time.monotonic() < end, status.lines(obj)
        time.sleep(0.005)
    frames, found = status.states(obj)
    assert frames.tolist() == list(range(scene.frame_start, scene.frame_end + 1))
    return found


def truth(shipped: Shipped, obj: bpy.types.Object, scene: bpy.types.Scene) -> np.ndarray:
    """The same from the scene itself, frame by frame."""
    states = shipped("addon.core.states")
    frames = np.arange(scene.frame_start, scene.frame_end + 1)
    values = shipped("addon.curves")._step(obj, scene, frames)
    keys = shipped("engine.shot").frame_keys(shipped("addon.shots").setting_of(obj, scene).shot(frames, values))
    reader = shipped("engine.cache").CacheReader(shipped("addon.places").folder_of(obj))
    baked = reader.keys()
    found = [states.MISSING if f not in baked else states.BAKED if baked[f] == k.tobytes() else states.OUTDATED for f, k in zip(frames.tolist(), keys)]
    return np.array(found, np.uint8)


def curve(shipped: Shipped, obj: bpy.types.Object, name: str = "happy") -> Any:
    return shipped("addon.compat").fcurve(obj, f"ua3dtalk.{name}")


def push_down(obj: bpy.types.Object, at: int) -> Any:
    data = obj.animation_data
    strip = data.nla_tracks.new().strips.new("Take", at, data.action)
    if hasattr(strip, "action_slot"):
        strip.action_slot = data.action.slots[0]
    data.action = None
    return strip


def drive(obj: bpy.types.Object, expression: str) -> Any:
    driver = obj.driver_add("ua3dtalk.lid_raise").driver
    driver.type, driver.expression = "SCRIPTED", expression
    return driver


def sound_strip(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> tuple[Any, str]:
    strip = shipped("addon.audio").find_strip(obj, scene)
    return strip, "content_start" if hasattr(strip, "content_start") else "frame_start"


def edit_key(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    curve(shipped, obj).keyframe_points[1].co.y = 0.6


def edit_place_of_key(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    curve(shipped, obj).keyframe_points[1].co.x = 15


def edit_interpolation(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    curve(shipped, obj).keyframe_points[0].interpolation = "CONSTANT"


def edit_new_key(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    obj.ua3dtalk.fear = 0.4
    obj.keyframe_insert("ua3dtalk.fear", frame=9)


def edit_modifier(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    curve(shipped, obj).modifiers.new("NOISE").strength = 2.0


def edit_setting_of_a_modifier(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    modifier = curve(shipped, obj).modifiers.new("NOISE")
    modifier.strength = 0.0
    bpy.context.view_layer.update()
    settle(shipped, obj, scene)
    modifier.strength = 1.0


def edit_mute(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    curve(shipped, obj).mute = True
    settle(shipped, obj, scene)
    scene.frame_set(9)  # Blender says nothing of it before


def edit_driver(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    drive(obj, "max(0, frame - 10) / 20")


def edit_expression(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    driver = drive(obj, "0")
    bpy.context.view_layer.update()
    settle(shipped, obj, scene)
    driver.expression = "0.3"


def edit_what_drives(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    rig = bpy.data.objects.new("Rig", None)
    scene.collection.objects.link(rig)
    driver = drive(obj, "x")
    variable = driver.variables.new()
    variable.name, variable.type, variable.targets[0].id = "x", "TRANSFORMS", rig
    bpy.context.view_layer.update()
    settle(shipped, obj, scene)
    rig.location.x = 0.4


def edit_nla(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    push_down(obj, 6)


def edit_nla_strip(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    strip = push_down(obj, 1)
    bpy.context.view_layer.update()
    settle(shipped, obj, scene)
    strip.scale = 1.7


def edit_strip(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    strip, name = sound_strip(obj, scene, shipped)
    setattr(strip, name, 4)


def edit_fps(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    scene.render.fps = 30


def edit_range(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    scene.frame_start, scene.frame_end = -3, 26


def edit_blinks(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    obj.ua3dtalk.auto_brows = True
    scene.frame_end = 100


def edit_engine_setting(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    obj.ua3dtalk.smoothing = 0.05


def edit_lead(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    obj.ua3dtalk.sound_lead = 50


def edit_avatar_file(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    """Replaced behind Blender's back."""
    path = shipped("addon.avatar").file_of(obj)
    path.write_bytes((Path(os.environ["AVATARS"]) / "other.safetensors").read_bytes())


def edit_sound_file(obj: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    write_sound(shipped("addon.audio").sound_file(obj, scene), seconds=2.0, seed=5)


EDITS = [value for name, value in sorted(globals().items()) if name.startswith("edit_")]


@pytest.mark.parametrize("edit", EDITS, ids=lambda edit: edit.__name__)
def test_states_are_exact_after_an_edit_and_its_undo(
    edit: Callable[..., None], head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, avatars: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AVATARS", str(avatars))
    states, name = shipped("addon.core.states"), head.name
    bpy.context.view_layer.update()
    assert (settle(shipped, head, scene) == states.BAKED).all()
    bpy.ops.ed.undo_push(message="before")
    edit(head, scene, shipped)
    bpy.context.view_layer.update()
    found = settle(shipped, head, scene)
    here = (scene.frame_current, scene.frame_subframe)
    expected = truth(shipped, head, scene)
    assert here == (scene.frame_current, scene.frame_subframe)
    assert np.array_equal(found, expected), (found, expected)
    assert (found != states.BAKED).any(), "the edit changed nothing"
    report = shipped("addon.status").report(head)
    assert (len(report.missing), len(report.outdated)) == ((found == states.MISSING).sum(), (found == states.OUTDATED).sum())
    if edit in (edit_avatar_file, edit_sound_file):
        return
    bpy.ops.ed.undo_push(message="after")
    bpy.ops.ed.undo()
    bpy.context.view_layer.update()
    head, scene = bpy.data.objects[name], bpy.context.scene
    found = settle(shipped, head, scene)
    assert np.array_equal(found, truth(shipped, head, scene)) and (found == states.BAKED).all()


def test_edits_that_nobody_was_told_of_are_found(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    states = shipped("addon.core.states")
    assert (settle(shipped, head, scene) == states.BAKED).all()
    quiet = curve(shipped, head, "intensity")
    modifier = quiet.modifiers.new("NOISE")  # tells nobody; Blender itself sees it with the next edit
    assert (settle(shipped, head, scene) == states.OUTDATED).all()
    quiet.modifiers.remove(modifier)
    assert (settle(shipped, head, scene) == states.BAKED).all()
    points = curve(shipped, head).keyframe_points
    flat = np.empty(2 * len(points))
    points.foreach_get("co", flat)
    flat[3] = 0.4
    points.foreach_set("co", flat)  # tells nobody
    head.animation_data.action.update_tag()
    scene.frame_set(11)
    assert np.array_equal(settle(shipped, head, scene), truth(shipped, head, scene))


def test_frames_on_their_way_and_failed_ones(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    states, status = shipped("addon.core.states"), shipped("addon.status")
    scene.frame_end = 3000
    head.ua3dtalk.auto_blinks = False
    curve(shipped, head).keyframe_points[1].co.x = 3000
    bpy.context.view_layer.update()
    settle(shipped, head, scene)
    run = shipped("addon.baking").BakeRun(head, scene)
    while run.step(0.02) and run.done < 40:
        pass
    found = status.states(head)[1]
    assert (found == states.COMPUTING).sum() > 1000 and (found == states.BAKED).sum() >= 40
    assert set(np.unique(found)) == {states.BAKED, states.COMPUTING}
    run.cancel()
    while run.step(0.02):
        pass
    found = status.states(head)[1]
    assert (found == states.COMPUTING).sum() == 0 and {states.BAKED, states.MISSING} <= set(np.unique(found))
    watched = status.watched(head)
    watched.failed[watched.table.keys[-1].tobytes()] = "for a reason"
    assert status.states(head)[1][-1] == states.FAILED


def test_what_cannot_be_told_is_not_told(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    status = shipped("addon.status")
    settle(shipped, head, scene)
    path = shipped("addon.avatar").file_of(head)
    path.rename(path.with_suffix(".gone"))
    time.sleep(status._GLANCE_EVERY)
    for _ in range(60):
        status.step(scene, shipped("addon.live").SLICE)
        time.sleep(0.005)
    assert "Cannot read" in status.lines(head)[0] and len(status.states(head)[0]) == 0 and status.shown()[1].size == 0
    path.with_suffix(".gone").rename(path)
    assert (settle(shipped, head, scene) == shipped("addon.core.states").BAKED).all(), "it is found again by itself"


def test_a_long_range_is_looked_at_in_slices(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, measured: Callable[[str], None]) -> None:
    status = shipped("addon.status")
    scene.frame_end = 3000
    for drivers in (False, True):
        if drivers:
            drive(head, "frame / 3000")
        bpy.context.view_layer.update()
        time.sleep(status.SETTLED)
        longest = steps = 0
        more = True
        while more:
            began = time.thread_time()
            more = status.step(scene, shipped("addon.live").SLICE)
            longest, steps = max(longest, time.thread_time() - began), steps + 1
        assert steps > 5, "it was done in one go"
        measured(f"states: 3000 frames {'with a driver ' if drivers else ''}in {steps} slices, the longest {longest * 1000:.1f} ms of processor time")


# ---------------------------------------------------------------------------------------------------------------- strip


def test_the_strip_looks_different_in_each_state_without_colour(scene: bpy.types.Scene, shipped: Shipped) -> None:
    strip, states = shipped("addon.draw.strip"), shipped("addon.core.states")
    scene.camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(scene.camera)
    gpu_context()
    every = [states.BAKED, states.OUTDATED, states.COMPUTING, states.MISSING, states.FAILED]
    frames = np.arange(101, 101 + 6)
    found = np.array([*every, states.UNKNOWN], np.uint8)
    width, height = 60, 20
    target = gpu.types.GPUOffScreen(width, height, format="RGBA32F")
    try:
        with target.bind():
            framebuffer = gpu.state.active_framebuffer_get()
            framebuffer.clear(color=(0.2, 0.2, 0.2, 1.0))
            with gpu.matrix.push_pop(), gpu.matrix.push_pop_projection():
                gpu.matrix.load_identity()
                gpu.matrix.load_projection_matrix(Matrix([[2 / width, 0, 0, -1], [0, 2 / height, 0, -1], [0, 0, -1, 0], [0, 0, 0, 1]]))
                strip.draw(frames, found, 100.5, 106.5, width, 4, 12)
            pixels = framebuffer.read_color(0, 0, width, height, 4, 0, "FLOAT")
        pixels.dimensions = width * height * 4
        image = np.array(pixels, np.float32).reshape(height, width, 4)
    finally:
        target.free()
        strip.remove()
    columns = image[:, 5::10, :3]  # the middle of each frame
    grey = columns @ np.array([0.2126, 0.7152, 0.0722])
    assert np.allclose(columns[:4], 0.2) and np.allclose(columns[16:], 0.2), "it is 12 px high and starts at 4"
    assert np.allclose(columns[:, 5], 0.2), "nothing is drawn where nothing is known"
    inside = grey[4:16, :5]
    shapes = {tuple((inside[:, state] > 0.12).tolist()) for state in range(5)}
    assert len(shapes) == 5, "two states have one shape"
    assert (inside[:, 0] > 0.12).all() and np.ptp(inside[:, 0]) < 1e-3
    assert np.array_equal(image[5, 0:10], np.repeat(image[5, :1], 10, axis=0)), "a frame reaches from half to half"


def test_the_strip_joins_equal_frames(shipped: Shipped) -> None:
    strip = shipped("addon.draw.strip")
    frames = np.array([1, 2, 3, 4, 6, 7])
    assert strip.runs(frames, np.array([0, 0, 1, 1, 1, 255], np.uint8)) == [(0, 1, 2), (1, 3, 4), (1, 6, 6)]
    assert strip.runs(frames[:0], np.zeros(0, np.uint8)) == []
    boxes, colors = strip.quads(np.arange(1, 10001), np.zeros(10000, np.uint8))
    assert len(boxes) == len(colors) == 2 and boxes[0].tolist() == [0.5, 0.0, 10000.5, 1.0]
