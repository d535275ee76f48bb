"""Keys and curves: what "key emotion here" sets, and that every way of sampling gives the same."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]
FRAMES = np.arange(-5, 60)


@pytest.fixture
def head(api: ModuleType, avatars: Path) -> bpy.types.Object:
    return api.import_avatar(avatars / "head.safetensors")


def keys(api: ModuleType, obj: bpy.types.Object, name: str) -> dict[float, float]:
    curve = api.compat.fcurve(obj, f"ua3dtalk.{name}")
    return {round(p.co.x, 3): round(p.co.y, 4) for p in curve.keyframe_points}


def test_key_emotion_here(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene) -> None:
    scene.frame_set(20)
    head.ua3dtalk.key_blend, head.ua3dtalk.key_emotion = 5, "HAPPY"
    assert bpy.ops.ua3dtalk.key_emotion() == {"FINISHED"}
    assert keys(api, head, "neutral") == {15: 1, 20: 0} and keys(api, head, "happy") == {15: 0, 20: 1}
    assert keys(api, head, "intensity") == {15: 1, 20: 1}
    assert len(api.compat.fcurves(head)) == 9
    assert head.ua3dtalk.happy == 1 and head.ua3dtalk.neutral == 0
    assert bpy.ops.ua3dtalk.key_emotion(emotion="ANGRY", frame=40, intensity=0.5, blend=8) == {"FINISHED"}
    assert keys(api, head, "happy") == {15: 0, 20: 1, 32: 1, 40: 0} and keys(api, head, "angry") == {15: 0, 20: 0, 32: 0, 40: 1}
    assert keys(api, head, "intensity") == {15: 1, 20: 1, 32: 1, 40: 0.5}
    assert head.ua3dtalk.happy == pytest.approx(1), "the sliders show the current frame, not the key's"
    scene.frame_set(40)
    assert head.ua3dtalk.angry == 1 and head.ua3dtalk.intensity == 0.5


def test_a_key_into_a_running_change(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene) -> None:
    api.key_emotion(head, "happy", frame=20, blend=10)
    for frame in (23, 26):
        head.ua3dtalk.sad = 0.2
        head.keyframe_insert("ua3dtalk.sad", frame=frame)
    at_22 = api.compat.fcurve(head, "ua3dtalk.happy").evaluate(22)
    api.key_emotion(head, {"sad": 0.6, "fear": 0.2}, frame=30, blend=8)
    assert keys(api, head, "sad")[30] == 0.6 and set(keys(api, head, "sad")) == {10, 20, 22, 30}, "keys inside the blend are gone"
    assert keys(api, head, "happy")[22] == pytest.approx(at_22, abs=1e-4) and keys(api, head, "fear")[30] == 0.2


def test_presets_and_wrong_arguments(head: bpy.types.Object, api: ModuleType) -> None:
    assert bpy.ops.ua3dtalk.key_preset(preset="FURIOUS", frame=10, blend=0) == {"FINISHED"}
    assert keys(api, head, "angry") == {9: 0, 10: 1} and keys(api, head, "disgusted") == {9: 0, 10: 0.3}
    for emotion, message in (("joy", "joy"), ({"happy": 3}, "happy")):
        with pytest.raises(api.UserError, match=message):
            api.key_emotion(head, emotion)
    with pytest.raises(api.UserError, match="out of range"):
        api.key_emotion(head, "happy", intensity=9)
    with pytest.raises(api.UserError, match="no UA-3DTalk avatar"):
        api.key_emotion(bpy.data.objects.new("Cube", None), "happy")


def test_keying_can_be_undone(head: bpy.types.Object, api: ModuleType) -> None:
    name = head.name
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ua3dtalk.key_emotion(emotion="SAD", frame=10)
    bpy.ops.ed.undo_push(message="keyed")
    bpy.ops.ed.undo()
    assert not api.compat.fcurves(bpy.data.objects[name])


def animate(api: ModuleType, obj: bpy.types.Object) -> None:
    api.key_emotion(obj, "happy", frame=10, blend=6)
    api.key_emotion(obj, "angry", frame=40, blend=17, intensity=1.7)
    for frame, value in ((3, 0.0), (5, 1.0), (8, 0.1)):
        obj.ua3dtalk.blink = value
        obj.keyframe_insert("ua3dtalk.blink", frame=frame)
    curve = api.compat.fcurve(obj, "ua3dtalk.blink")
    curve.modifiers.new("CYCLES")
    for point in curve.keyframe_points:
        point.interpolation = "ELASTIC"  # overshoots 0..1: Blender cuts it, and so must we


def stepped(shipped: Shipped, obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray) -> dict[str, np.ndarray]:
    return shipped("addon.curves")._step(obj, scene, np.asarray(frames, np.float64))


def test_reading_curves_is_what_stepping_gives(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    animate(api, head)
    curves = shipped("addon.curves")
    scene.frame_set(33, subframe=0.25)
    assert not curves.needs_stepping(head)
    for frames in (FRAMES, np.array([1.5, 4.25, 37.75])):
        read, slow = curves.sample(head, scene, frames), stepped(shipped, head, scene, frames)
        for name in read:
            assert np.allclose(read[name], slow[name], atol=1e-6), name
    assert read["intensity"].max() > 1.0
    assert (scene.frame_current, scene.frame_subframe) == (33, 0.25), "the scene is back where it was"


def test_muted_curves_do_not_act(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    animate(api, head)
    api.compat.fcurve(head, "ua3dtalk.happy").mute = True
    scene.frame_set(1)
    head.ua3dtalk.happy = 0.33
    read = shipped("addon.curves").sample(head, scene, FRAMES)
    assert np.allclose(read["happy"], 0.33) and read["angry"].max() > 0.9


def test_drivers_are_sampled_by_stepping(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    animate(api, head)
    driver = head.driver_add("ua3dtalk.lid_raise").driver
    driver.type, driver.expression = "SCRIPTED", "frame / 100"
    curves = shipped("addon.curves")
    assert curves.needs_stepping(head)
    scene.frame_set(7)
    values = curves.sample(head, scene, np.array([0, 10, 50, 200]))
    assert np.allclose(values["lid_raise"], [0, 0.1, 0.5, 1.0]) and values["happy"][1] == pytest.approx(1)
    assert scene.frame_current == 7
    driver = head.driver_add("ua3dtalk.happy").driver
    driver.type, driver.expression = "SCRIPTED", "0.5"
    with pytest.raises(api.UserError, match="driven"):
        api.key_emotion(head, "happy", frame=5)


def test_nla_strips_are_sampled_by_stepping(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    animate(api, head)
    curves = shipped("addon.curves")
    direct = curves.sample(head, scene, FRAMES)
    data = head.animation_data
    action = data.action
    slot = getattr(data, "action_slot", None)
    track = data.nla_tracks.new()
    first = int(action.frame_range[0])
    strip = track.strips.new("Emotion", first + 20, action)
    if slot is not None:
        strip.action_slot = slot
    data.action = None
    assert curves.needs_stepping(head)
    moved = curves.sample(head, scene, FRAMES + 20)
    inside = (FRAMES >= first) & (FRAMES <= int(action.frame_range[1]))
    for name in ("happy", "angry", "intensity"):
        assert np.allclose(moved[name][inside], direct[name][inside], atol=1e-5), name


def test_keys_follow_a_new_action_slot(head: bpy.types.Object, api: ModuleType, avatars: Path, scene: bpy.types.Scene, shipped: Shipped) -> None:
    """Two objects in one action: each reads its own slot."""
    other = api.import_avatar(avatars / "other.safetensors")
    api.key_emotion(head, "happy", frame=10)
    data = other.animation_data_create()
    data.action = head.animation_data.action
    if not hasattr(data, "action_slot"):
        pytest.skip("this Blender has no action slots")
    data.action_slot = data.action.slots.new("OBJECT", other.name)
    api.key_emotion(other, "sad", frame=30)
    sample = shipped("addon.curves").sample
    mine, theirs = sample(head, scene, np.array([50])), sample(other, scene, np.array([50]))
    assert (mine["happy"][0], mine["sad"][0]) == (1, 0) and (theirs["happy"][0], theirs["sad"][0]) == (0, 1)
