"""Bakes from Blender by a real engine process: offsets, what is out of date, duplicates, kills, cancels, refusals."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, engine, positions, write_sound  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]


@pytest.fixture
def head(api: ModuleType, engine: ModuleType, avatars: Path, tmp_path: Path) -> bpy.types.Object:
    """A talking avatar with its speech from frame 1 on, in a saved file."""
    obj = api.import_avatar(avatars / "head.safetensors")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    api.attach_audio(obj, write_sound(tmp_path / "speech.wav", seconds=2.0), frame=1)
    return obj


def frames_of(shipped: Shipped, obj: bpy.types.Object, numbers: range) -> np.ndarray:
    """[F,N,3] means of the object's cache."""
    pool, folder = shipped("addon.frames").pool, shipped("addon.places").folder_of(obj)
    return np.stack([pool.frame(folder, frame)[1].means for frame in numbers])


def test_bake_blocks_reports_and_shows(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    rest = positions(head)
    assert api.stale(head).lines() == ["Not baked: 20 frames"]
    assert bpy.ops.ua3dtalk.bake() == {"FINISHED"}
    assert api.stale(head).lines() == ["Up to date: 20 frames"]
    baked = frames_of(shipped, head, range(1, 21))
    assert np.isfinite(baked).all() and np.ptp(baked, axis=0).max() > 1e-6, "nothing moves"
    scene.frame_set(8)
    assert np.allclose(positions(head), baked[7]) and not np.allclose(positions(head), rest)
    assert bpy.ops.ua3dtalk.bake("INVOKE_DEFAULT") == {"FINISHED"}, "in background mode invoking blocks too"
    assert api.bake(head) | {"seconds": 0} == {"computed": 0, "moved": 0, "up_to_date": 20, "seconds": 0, "cache": str(shipped("addon.places").folder_of(head))}


def test_a_strip_that_moves_takes_its_frames_along(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    head.ua3dtalk.auto_blinks = False
    scene.frame_end = 40
    api.bake(head)
    before = frames_of(shipped, head, range(1, 41))
    strip = api.audio.find_strip(head, scene)
    name = "content_start" if hasattr(strip, "content_start") else "frame_start"
    setattr(strip, name, 11)
    report = api.stale(head)
    assert set(report.outdated) and "the sound's place" in report.reasons
    result = api.bake(head)
    assert result["computed"] <= 1, "frames that only moved are not computed again; one without sound may be"
    after = frames_of(shipped, head, range(1, 41))
    assert np.array_equal(after[10:], before[:30]), "off by one, or not the same frames"
    assert np.ptp(after[:10], axis=0).max() == 0, "silence before the strip"


@pytest.mark.parametrize(("fps", "base"), [(24, 1.001), (60, 1.0)])
def test_any_frame_rate(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped, fps: int, base: float) -> None:
    scene.render.fps, scene.render.fps_base = fps, base
    head.ua3dtalk.bake_range = "AUDIO"
    shot = shipped("addon.shots").shot_of(head, scene)
    assert shot.times[0] == 0 and np.allclose(np.diff(shot.times), base / fps) and shot.times[-1] < 2.0 <= shot.times[-1] + base / fps + 1e-9
    result = api.bake(head)
    assert result["computed"] == len(shot) and shot.fps == pytest.approx(fps / base)


def test_only_what_changed_is_baked_again(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    api.bake(head)
    api.key_emotion(head, "angry", frame=15, blend=4)
    report = api.stale(head)
    assert report.outdated == tuple(range(12, 21)) and report.reasons == ("emotion",)
    result = api.bake(head)
    assert result["computed"] == 9 and result["up_to_date"] == 11
    head.ua3dtalk.brow_lower = 0.5
    assert api.stale(head).reasons == ("brows and eyes",) and len(api.stale(head).outdated) == 20
    head.ua3dtalk.brow_lower = 0.0
    assert api.stale(head).fresh, "what was put back is up to date"
    scene.frame_end = 23
    assert api.stale(head).missing == (21, 22, 23)
    assert api.bake(head)["computed"] == 3
    head.ua3dtalk.auto_blinks = not head.ua3dtalk.auto_blinks
    scene.frame_end = 100
    assert "blinks" in api.stale(head).reasons or api.stale(head).outdated == ()


def test_another_sound_and_another_avatar_are_told(head: bpy.types.Object, api: ModuleType, avatars: Path, tmp_path: Path) -> None:
    api.bake(head)
    write_sound(tmp_path / "speech.wav", seed=9)
    os.utime(tmp_path / "speech.wav", ns=(1, 1))
    assert api.stale(head).reasons[0] == "the sound file"
    api.bake(head)
    head.ua3dtalk.avatar_path = str(avatars / "other.safetensors")
    assert api.stale(head).reasons[0] == "the avatar's file"
    bpy.ops.ua3dtalk.reload_avatar()
    assert api.bake(head)["computed"] == 20 and api.stale(head).fresh


def test_ranges(head: bpy.types.Object, api: ModuleType) -> None:
    settings = head.ua3dtalk
    settings.bake_range, settings.bake_start, settings.bake_end = "CUSTOM", -2, 3
    assert api.bake(head)["computed"] == 6 - 2, "the three silent frames are one"
    assert bpy.ops.ua3dtalk.bake(first=30, last=32) == {"FINISHED"}
    with pytest.raises(RuntimeError, match="both"):
        bpy.ops.ua3dtalk.bake(first=30)
    settings.bake_end = -9
    with pytest.raises(RuntimeError, match="Nothing to bake"):
        bpy.ops.ua3dtalk.bake()
    settings.bake_range = "AUDIO"
    assert api.stale(head).total == 50
    settings.sound_source = "NONE"
    with pytest.raises(RuntimeError, match="no sound"):
        bpy.ops.ua3dtalk.bake()


def test_baking_all_and_a_static_one(head: bpy.types.Object, api: ModuleType, avatars: Path, scene: bpy.types.Scene) -> None:
    api.import_avatar(avatars / "other.safetensors")
    static = api.import_avatar(avatars / "static.safetensors")
    assert bpy.ops.ua3dtalk.bake(all=True) == {"FINISHED"}
    assert all(api.stale(obj).fresh for obj in bpy.data.objects)
    rest = positions(static)
    scene.frame_set(10)
    assert np.allclose(positions(static), rest)


def test_a_duplicate_gets_its_own_bake(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    api.bake(head)
    before = frames_of(shipped, head, range(1, 21))
    bpy.context.view_layer.objects.active = head
    bpy.ops.object.duplicate()
    copy = bpy.context.object
    assert api.stale(copy).fresh, "it shows its original's bake"
    copy.ua3dtalk.happy = 1.0
    result = api.bake(copy)
    assert result["computed"] == 20 and api.stale(copy).fresh
    assert api.stale(head).fresh and np.array_equal(frames_of(shipped, head, range(1, 21)), before)
    assert not np.allclose(frames_of(shipped, copy, range(1, 21)), before)


def test_an_unsaved_file_bakes_and_is_saved(api: ModuleType, engine: ModuleType, avatars: Path, tmp_path: Path, shipped: Shipped) -> None:
    obj = api.import_avatar(avatars / "head.safetensors")
    api.bake(obj, (1, 3))
    assert tmp_path not in shipped("addon.places").folder_of(obj).parents
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert shipped("addon.places").folder_of(obj).parent == tmp_path / "ua3dtalk_cache"
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    assert api.bake(bpy.data.objects[0], (1, 3))["computed"] == 0


def long_run(head: bpy.types.Object, shipped: Shipped, scene: bpy.types.Scene, frames: int = 4000):
    """A bake of enough frames to be met half-way, taken to where some are done."""
    head.ua3dtalk.auto_blinks = False
    for name, frame, value in (("happy", 1, 0.0), ("happy", frames, 1.0)):
        setattr(head.ua3dtalk, name, value)
        head.keyframe_insert(f"ua3dtalk.{name}", frame=frame)
    run = shipped("addon.baking").BakeRun(head, scene, np.arange(1, frames + 1))
    while run.step(0.05) and run.done < 40:
        pass
    assert run.state == "running" and 40 <= run.done < frames, "it is to be met half-way"
    return run


def test_kill_the_engine_half_way_and_go_on(head: bpy.types.Object, api: ModuleType, engine: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    run = long_run(head, shipped, scene)
    killed = engine.current().pid
    os.kill(killed, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    while run.step(0.05):
        pass
    assert run.state == "failed" and "goes on where it stopped" in str(run.error)
    assert engine.state() == "failed"
    with pytest.raises(api.UserError, match="The engine"):
        run.finish()
    folder = shipped("addon.places").folder_of(head)
    kept = shipped("addon.frames").pool.reader(folder).frames()
    assert 40 <= len(kept) < 4000
    whole = frames_of(shipped, head, kept[:20])
    # The next bake starts a new engine by itself and computes only what is missing.
    last = int(kept[-1]) + 30
    result = api.bake(head, (1, last))
    assert engine.current().pid != killed and result["up_to_date"] == len(kept[kept <= last])
    assert result["computed"] == last - result["up_to_date"] - result["moved"] and result["computed"] > 0
    assert np.array_equal(frames_of(shipped, head, kept[:20]), whole)


def test_an_engine_that_died_while_nobody_asked_is_replaced(head: bpy.types.Object, api: ModuleType, engine: ModuleType) -> None:
    api.bake(head, (1, 3))
    client = engine.current()
    killed = client.pid
    os.kill(killed, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    client._process.wait(30)
    result = api.bake(head, (1, 6))
    assert result["up_to_date"] == 3 and result["computed"] + result["moved"] == 3 and engine.current().pid != killed


def test_cancel_leaves_a_usable_bake(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    run = long_run(head, shipped, scene)
    with pytest.raises(RuntimeError, match="being baked already"):
        bpy.ops.ua3dtalk.bake()
    with pytest.raises(api.UserError, match="being baked already"):
        api.bake(head)
    with pytest.raises(RuntimeError, match="being baked"):
        bpy.ops.ua3dtalk.clear_cache()
    assert bpy.ops.ua3dtalk.cancel_bake() == {"FINISHED"}
    while run.step(0.05):
        pass
    assert run.state == "cancelled"
    folder = shipped("addon.places").folder_of(head)
    kept = shipped("addon.frames").pool.reader(folder).frames()
    assert 40 <= len(kept) < 4000
    scene.frame_set(int(kept[5]))
    assert np.allclose(positions(head), frames_of(shipped, head, [int(kept[5])])[0])
    assert not run._file.exists() and not (folder / "writing.lock").exists()
    assert api.bake(head, (1, 20))["up_to_date"] == 20


def test_stopping_the_engine_and_loading_a_file_end_bakes(head: bpy.types.Object, engine: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    run = long_run(head, shipped, scene)
    assert bpy.ops.ua3dtalk.stop_engine() == {"FINISHED"}
    assert run.state == "cancelled" and engine.state() == "stopped"
    run = long_run(head, shipped, scene, 8000)
    bpy.ops.wm.read_homefile(use_empty=True)
    assert run.state == "cancelled" and not shipped("addon.baking").running()


def test_saving_while_it_bakes(api: ModuleType, engine: ModuleType, avatars: Path, scene: bpy.types.Scene, tmp_path: Path, shipped: Shipped) -> None:
    obj = api.import_avatar(avatars / "head.safetensors")
    api.attach_audio(obj, write_sound(tmp_path / "speech.wav", seconds=20.0), frame=1)
    run = long_run(obj, shipped, scene)
    old = run.folder
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    new = shipped("addon.places").folder_of(obj)
    assert new != old and (old / "header.json").exists() and not new.exists(), "nothing is moved under the writer's hands"
    done = run.done
    while run.step(0.05) and run.done <= done:
        pass
    assert run.state == "running" and run.done > done, "it goes on"
    run.cancel()
    while run.step(0.05):
        pass
    assert not old.exists() and len(shipped("addon.frames").pool.reader(new).frames()) >= done
    assert api.bake(obj, (1, 20))["computed"] == 0


def test_frames_from_here_on_come_first(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    scene.frame_set(3000)
    run = long_run(head, shipped, scene)
    frames = shipped("addon.frames").pool.reader(run.folder).frames()
    assert frames.min() == 3000
    run.abandon()


def test_missing_files_are_named(head: bpy.types.Object, api: ModuleType, avatars: Path, scene: bpy.types.Scene, tmp_path: Path) -> None:
    api.bake(head)
    head.ua3dtalk.avatar_path = str(tmp_path / "gone.safetensors")
    for call in (bpy.ops.ua3dtalk.bake, bpy.ops.ua3dtalk.check):
        with pytest.raises(RuntimeError, match="gone.safetensors"):
            call()
    before = positions(head)
    scene.frame_set(12)
    assert not np.allclose(positions(head), before), "the bake still plays"


def test_a_folder_that_cannot_be_written(head: bpy.types.Object, api: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    head.ua3dtalk.cache_path = str(tmp_path / "file" / "cache")
    with pytest.raises(RuntimeError, match="Cannot write"):
        bpy.ops.ua3dtalk.bake()


def test_clearing(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, shipped: Shipped) -> None:
    rest = positions(head)
    with pytest.raises(RuntimeError, match="has no bake"):
        bpy.ops.ua3dtalk.clear_cache()
    api.bake(head)
    scene.frame_set(9)
    assert not np.allclose(positions(head), rest)
    assert bpy.ops.ua3dtalk.clear_cache() == {"FINISHED"}
    assert np.allclose(positions(head), rest) and not shipped("addon.places").folder_of(head).exists()


def test_starting_and_asking_the_engine(head: bpy.types.Object, engine: ModuleType, measured: Callable[[str], None]) -> None:
    engine.stop()
    started = time.perf_counter()
    assert bpy.ops.ua3dtalk.start_engine() == {"FINISHED"}
    measured(f"engine: ready after {time.perf_counter() - started:.1f} s")
    assert engine.state() == "ready" and engine.current().info["device"] in ("cpu", "cuda")
    with pytest.raises(RuntimeError, match="is running"):
        bpy.ops.ua3dtalk.start_engine()
    assert bpy.ops.ua3dtalk.check_environment() == {"FINISHED"}


def test_a_whole_shot_by_the_api(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, tmp_path: Path) -> None:
    """Keys, bake and render in the order of api's own example; the scene's render settings are as they were."""
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera, camera.location.y, camera.rotation_euler.x = camera, -0.5, np.pi / 2
    scene.render.resolution_x = scene.render.resolution_y = 32
    engine = scene.render.engine
    api.key_emotion(head, "happy", frame=3, blend=2)
    api.bake(head, (1, 4))
    api.render(tmp_path / "frame-###", frame_range=(2, 4))
    assert sorted(p.name for p in tmp_path.glob("frame-*")) == ["frame-002.png", "frame-003.png", "frame-004.png"]
    assert (scene.render.engine, scene.frame_start, scene.frame_end) == (engine, 1, 20)
    with pytest.raises(api.UserError, match="not baked"):
        api.render(tmp_path / "late-###", frame_range=(4, 6))
