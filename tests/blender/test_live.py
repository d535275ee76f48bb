"""Live editing with a real engine: what a timer calls in the window is called here by hand."""

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
LONG = 120.0
"""Seconds after which a test gives up waiting."""


class Desk:
    """An avatar, and a Blender that has time."""

    def __init__(self, shipped: Shipped, obj: bpy.types.Object, scene: bpy.types.Scene) -> None:
        self.live, self.status, self.frames = shipped("addon.live"), shipped("addon.status"), shipped("addon.frames")
        self.states = shipped("addon.core.states")
        self.shipped, self.name, self.scene_name = shipped, obj.name, scene.name
        self.longest = self.busiest = 0.0

    @property
    def obj(self) -> bpy.types.Object:
        return bpy.data.objects[self.name]

    @property
    def scene(self) -> bpy.types.Scene:
        return bpy.data.scenes[self.scene_name]

    @property
    def folder(self) -> Path:
        return self.shipped("addon.places").folder_of(self.obj)

    def keys(self) -> dict[int, bytes]:
        return self.shipped("addon.core.playback").baked_keys(self.frames.pool, self.folder)[0]

    def edit(self, **sliders: float) -> None:
        """Set sliders as a drag does, and let Blender evaluate them."""
        for name, value in sliders.items():
            setattr(self.obj.ua3dtalk, name, value)
        bpy.context.view_layer.update()

    def wanted(self) -> bytes:
        """The key that the frame under the playhead is to have, by a shot of what the sliders show."""
        shots, curves, shot = self.shipped("addon.shots"), self.shipped("addon.curves"), self.shipped("engine.shot")
        setting = shots.setting_of(self.obj, self.scene)
        made = setting.shot(np.array([self.scene.frame_current]), curves.now(self.obj, bpy.context.view_layer.depsgraph))
        return shot.frame_keys(made)[0].tobytes()

    def is_shown(self) -> bool:
        """The point cloud shows the frame under the playhead as it is to be."""
        here = self.scene.frame_current
        if self.keys().get(here) != self.wanted():
            return False
        return np.allclose(positions(self.obj), self.frames.pool.frame(self.folder, here)[1].means)

    def step(self) -> None:
        began, worked = time.perf_counter(), time.thread_time()
        self.live.step(self.scene)
        self.longest = max(self.longest, time.perf_counter() - began)
        self.busiest = max(self.busiest, time.thread_time() - worked)

    def until(self, done: Callable[[], bool]) -> None:
        end = time.monotonic() + LONG
        while not done():
            assert time.monotonic() < end, f"{self.status.lines(self.obj)} {self.live.line(self.obj)} {self.live._order}"
            self.step()
            time.sleep(0.002)

    def whole(self) -> bool:
        found = self.status.states(self.obj)[1]
        return len(found) > 0 and (found == self.states.BAKED).all()

    def rounds(self, count: int = 100) -> None:
        """Time in which nothing is expected."""
        for _ in range(count):
            self.step()
            time.sleep(0.01)


@pytest.fixture
def desk(api: ModuleType, engine: ModuleType, avatars: Path, scene: bpy.types.Scene, tmp_path: Path, shipped: Shipped) -> Desk:
    """A talking avatar with its speech from frame 1 on, in a saved file, nothing baked, frames 1 to 20."""
    obj = api.import_avatar(avatars / "head.safetensors")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    api.attach_audio(obj, write_sound(tmp_path / "speech.wav", seconds=2.0), frame=1)
    bpy.context.view_layer.update()
    shipped("addon.live").forget_all()
    return Desk(shipped, obj, scene)


def key(obj: bpy.types.Object, name: str, *points: tuple[float, float]) -> None:
    for frame, value in points:
        setattr(obj.ua3dtalk, name, value)
        obj.keyframe_insert(f"ua3dtalk.{name}", frame=frame)


def test_a_slider_shows_without_a_bake(desk: Desk, api: ModuleType, scene: bpy.types.Scene) -> None:
    rest = positions(desk.obj)
    scene.frame_set(8)
    desk.until(desk.is_shown)
    plain = positions(desk.obj)
    assert not np.allclose(plain, rest)
    desk.edit(happy=0.8)
    assert not desk.is_shown()
    desk.until(desk.is_shown)
    assert not np.allclose(positions(desk.obj), plain)
    desk.until(desk.whole)
    assert api.stale(desk.obj).fresh
    # Ordinary frames: a bake has nothing to add, and what it would make is what is there.
    live = desk.frames.pool.frame(desk.folder, 8)[1].means.copy()
    assert api.bake(desk.obj)["up_to_date"] == 20
    api.clear_cache(desk.obj)
    api.bake(desk.obj)
    assert np.array_equal(desk.frames.pool.frame(desk.folder, 8)[1].means, live)


def test_the_playhead_comes_first_then_outwards(desk: Desk, scene: bpy.types.Scene) -> None:
    desk.obj.ua3dtalk.auto_blinks = False
    key(desk.obj, "happy", (1, 0.0), (100, 1.0))  # each frame is one of its own
    scene.frame_end = 30
    scene.frame_set(12)
    desk.until(desk.whole)
    came = list(desk.keys())
    frames = np.arange(1, 31)
    assert came == frames[desk.states.outwards(frames, 12)].tolist() and came[:5] == [12, 13, 11, 14, 10]


def test_scrubbing_computes_what_is_looked_at(desk: Desk, scene: bpy.types.Scene) -> None:
    scene.frame_end = 500
    for frame in (40, 3, 900):  # the last lies outside of the range
        scene.frame_set(frame)
        desk.until(desk.is_shown)


def test_an_edit_stops_what_is_on_its_way(desk: Desk, scene: bpy.types.Scene) -> None:
    key(desk.obj, "happy", (1, 0.0), (4000, 1.0))
    scene.frame_end = 4000
    scene.frame_set(100)
    desk.until(lambda: desk.live._order is not None and not desk.live._order.at_playhead)
    old = desk.live._order
    assert len(old.left) == desk.live.CHUNK
    point = desk.shipped("addon.compat").fcurve(desk.obj, "ua3dtalk.happy").keyframe_points[1]
    point.co.y = 0.5  # as the graph editor moves a key
    bpy.context.view_layer.update()
    desk.until(lambda: desk.is_shown() and old.job.state != "running")
    assert old.job.state == "cancelled" and old.left, "it was stopped half-way"
    desk.until(lambda: not old.file.exists())
    desk.until(lambda: desk.live._order is not None and not desk.live._order.at_playhead)
    scene.frame_set(2000)
    desk.until(desk.is_shown)
    assert len(desk.keys()) < 500, "nobody waited for the others"


def test_a_drag_without_a_pause_shows_pictures_all_along(desk: Desk, scene: bpy.types.Scene) -> None:
    desk.until(desk.whole)
    shown = set()
    for number in range(1, 400):
        desk.edit(happy=number / 400)
        desk.step()
        shown.add(desk.keys()[scene.frame_current])
        time.sleep(0.003)
        if len(shown) > 5:
            break
    assert len(shown) > 5
    desk.until(desk.is_shown)


def test_a_value_that_is_not_keyed_does_not_stay(desk: Desk, scene: bpy.types.Scene) -> None:
    key(desk.obj, "happy", (1, 0.0), (20, 1.0))
    scene.frame_set(10)
    desk.until(desk.whole)
    as_keyed = desk.keys()[10]
    desk.edit(happy=0.05)
    desk.until(desk.is_shown)
    assert desk.keys()[10] == desk.wanted() != as_keyed, "the frame that is there says what it is"
    desk.rounds(60)
    frames, found = desk.status.states(desk.obj)
    assert found[frames == 10] == desk.states.OUTDATED and (np.delete(found, 9) == desk.states.BAKED).all()
    assert desk.is_shown(), "what is looked at is not taken away"
    assert desk.obj.ua3dtalk.happy == pytest.approx(0.05)
    scene.frame_set(11)
    desk.until(desk.whole)
    assert desk.keys()[10] == as_keyed


def test_drivers_and_the_nla_without_touching_the_scene(desk: Desk, scene: bpy.types.Scene) -> None:
    desk.obj.ua3dtalk.auto_blinks = False
    rig = bpy.data.objects.new("Rig", None)
    scene.collection.objects.link(rig)
    rig.location.x = 0.2
    driver = desk.obj.driver_add("ua3dtalk.happy").driver
    variable = driver.variables.new()
    variable.type, variable.targets[0].id, variable.targets[0].transform_type = "TRANSFORMS", rig, "LOC_X"
    driver.expression = f"{variable.name} + frame / 100"
    key(desk.obj, "sad", (1, 0.0), (10, 1.0))
    data = desk.obj.animation_data
    strip = data.nla_tracks.new().strips.new("Sad", 5, data.action)
    if hasattr(strip, "action_slot"):
        strip.action_slot = data.action.slots[0]
    data.action = None
    scene.frame_set(7)
    bpy.context.view_layer.update()
    seen: list[tuple[str, int]] = []

    def watch(changed: bpy.types.Scene, *_: object) -> None:
        seen.append((changed.name, changed.frame_current))

    bpy.app.handlers.frame_change_post.append(watch)
    try:
        desk.until(desk.whole)
    finally:
        bpy.app.handlers.frame_change_post.remove(watch)
    assert all(name != scene.name for name, _ in seen), "the user's playhead was moved"
    assert [one.name for one in bpy.data.scenes] == [scene.name] and {o.name for o in bpy.data.objects} == {desk.name, "Rig"}
    curves = desk.shipped("addon.curves")
    frames = np.arange(1, 21)
    real, ours = curves._step(desk.obj, scene, frames), curves.sample(desk.obj, scene, frames)
    assert all(np.allclose(real[name], ours[name], atol=1e-6) for name in real)
    assert np.ptp(ours["sad"]) > 0.5 and ours["happy"][0] == pytest.approx(0.21)
    before = desk.keys()[7]
    rig.location.x = 0.5
    bpy.context.view_layer.update()
    desk.until(lambda: desk.is_shown() and desk.keys()[7] != before)
    desk.until(desk.whole)
    edits = desk.status.edits()
    desk.rounds(30)
    assert desk.status.edits() == edits, "our own looking is taken for an edit"


def test_drivers_that_look_at_the_scene_are_said(desk: Desk, api: ModuleType, scene: bpy.types.Scene) -> None:
    driver = desk.obj.driver_add("ua3dtalk.happy").driver
    variable = driver.variables.new()
    variable.targets[0].id_type, variable.targets[0].id, variable.targets[0].data_path = "SCENE", scene, "frame_current"
    driver.expression = f"{variable.name} / 100"
    scene.frame_set(5)
    desk.until(desk.is_shown)
    desk.until(lambda: "Check" in " ".join(desk.status.lines(desk.obj)))
    assert len(desk.status.states(desk.obj)[0]) == 0, "what is not known is not shown as known"
    assert len(api.stale(desk.obj).missing) == 19 and scene.frame_current == 5
    assert api.bake(desk.obj)["computed"] == 19 and api.stale(desk.obj).fresh


def test_renders_and_bakes_have_the_engine_for_themselves(desk: Desk, api: ModuleType, scene: bpy.types.Scene) -> None:
    desk.until(desk.whole)
    desk.frames.set_rendering(True)
    try:
        desk.edit(happy=0.5)
        desk.rounds(60)
        assert desk.live._order is None and not desk.is_shown()
    finally:
        desk.frames.set_rendering(False)
    desk.until(desk.is_shown)
    run = desk.shipped("addon.baking").BakeRun(desk.obj, scene, np.arange(1, 300))
    desk.edit(sad=0.5)
    for _ in range(20):
        desk.step()
        assert desk.live._order is None
    while run.step(0.05):
        desk.step()
    assert run.state == "done"
    desk.until(desk.is_shown)


def test_no_engine_is_one_line(desk: Desk, engine: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    engine.stop()
    monkeypatch.delenv("UA3DTALK_PYTHON")
    for number in range(5):
        desk.edit(happy=number / 10)
        desk.rounds(5)
    assert "no Python environment" in desk.live.line(desk.obj) and desk.live._order is None
    printed = capsys.readouterr()
    assert "Traceback" not in printed.err + printed.out and engine.current() is None


def test_an_engine_that_ends_is_started_again(desk: Desk, engine: ModuleType, scene: bpy.types.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(desk.live, "AGAIN_AFTER", 0.1)
    key(desk.obj, "happy", (1, 0.0), (400, 1.0))
    scene.frame_end = 400
    desk.until(lambda: desk.live._order is not None and not desk.live._order.at_playhead and len(desk.keys()) > 5)
    killed = engine.current().pid
    os.kill(killed, signal.SIGKILL if hasattr(signal, "SIGKILL") else signal.SIGTERM)
    desk.until(lambda: desk.live.line(desk.obj).startswith("Live: The engine"))
    desk.until(lambda: (found := desk.status.states(desk.obj)[1]) is not None and ((found == desk.states.BAKED).sum() > 100))
    assert engine.current().pid != killed
    assert (desk.status.states(desk.obj)[1] == desk.states.FAILED).sum() <= 1, "only the one that it was at"
    desk.edit(sad=0.1)
    assert not (desk.status.states(desk.obj)[1] == desk.states.FAILED).any(), "an edit tries again"


def test_what_the_engine_refuses_is_failed_and_not_asked_again(desk: Desk) -> None:
    blocked = desk.folder
    blocked.parent.mkdir(parents=True, exist_ok=True)
    blocked.write_text("in the way")
    desk.edit(happy=0.3)
    desk.until(lambda: "Cannot write" in desk.live.line(desk.obj) or "Cannot" in desk.live.line(desk.obj))
    asked = next(desk.live._numbers)
    desk.rounds(100)
    assert next(desk.live._numbers) == asked + 1, "it goes on asking"
    frames, found = desk.status.states(desk.obj)
    assert found[frames == 1] == desk.states.FAILED
    blocked.unlink()
    desk.edit(happy=0.4)
    desk.until(desk.whole)


def test_opening_a_file_starts_nothing(desk: Desk, engine: ModuleType, scene: bpy.types.Scene, tmp_path: Path) -> None:
    bpy.ops.wm.save_mainfile()
    engine.stop()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.context.view_layer.update()
    desk.rounds(80)
    assert engine.current() is None and not desk.keys()
    assert desk.status.lines(desk.obj) == ["Not baked: 20 frames"], "what is missing is said all the same"
    desk.scene.frame_set(3)
    desk.until(desk.is_shown)
    desk.until(desk.whole)


def test_a_duplicate_gets_frames_of_its_own(desk: Desk, scene: bpy.types.Scene, shipped: Shipped) -> None:
    desk.until(desk.whole)
    before, folder = desk.keys(), desk.folder
    bpy.context.view_layer.objects.active = desk.obj
    bpy.ops.object.duplicate()
    copy = Desk(shipped, bpy.context.object, scene)
    copy.edit(happy=0.9)
    copy.until(copy.is_shown)
    assert copy.folder != folder and len(copy.keys()) == 20, "it brought along what it showed"
    copy.until(copy.whole)
    assert desk.keys() == before and desk.whole()


def test_switched_off_and_stopped_by_the_user(desk: Desk, engine: ModuleType, scene: bpy.types.Scene) -> None:
    desk.obj.ua3dtalk.live = False
    desk.edit(happy=0.5)
    desk.rounds(60)
    assert not desk.keys() and desk.live._order is None
    assert desk.status.lines(desk.obj) == ["Not baked: 20 frames"], "what is missing is said all the same"
    desk.obj.ua3dtalk.live = True
    scene.frame_end = 2000
    key(desk.obj, "happy", (1, 0.0), (2000, 1.0))
    desk.until(lambda: len(desk.keys()) > 3)
    bpy.ops.ua3dtalk.stop_engine()
    desk.rounds(80)
    assert engine.state() == "stopped", "it was started again against the user's will"
    desk.edit(sad=0.5)
    desk.until(desk.is_shown)
    assert bpy.ops.ua3dtalk.clear_cache() == {"FINISHED"}
    desk.rounds(80)
    assert not desk.keys(), "a bake that was cleared came back"
    scene.frame_set(9)
    desk.until(desk.is_shown)


def test_undo_shows_what_was(desk: Desk, scene: bpy.types.Scene) -> None:
    scene.frame_set(4)
    bpy.ops.ed.undo_push(message="before")
    desk.until(desk.whole)
    before, face = desk.wanted(), positions(desk.obj)
    desk.edit(angry=0.7)
    bpy.ops.ed.undo_push(message="angry")
    desk.until(desk.whole)
    bpy.ops.ed.undo()
    bpy.context.view_layer.update()
    assert desk.obj.ua3dtalk.angry == 0 and desk.wanted() == before
    desk.until(lambda: desk.is_shown() and desk.whole())
    assert np.array_equal(positions(desk.obj), face)


def test_what_is_not_used_is_freed_and_comes_back(desk: Desk, engine: ModuleType, scene: bpy.types.Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    scene.frame_set(5)
    desk.until(desk.whole)
    process = engine.current()._process
    for name, value in {"TEND_EVERY": 0.0, "CACHES_IDLE": 0.2, "ENGINE_IDLE": 0.3}.items():
        monkeypatch.setattr(desk.live, name, value)
    folder = desk.folder
    desk.rounds(80)
    assert folder not in desk.frames.pool.folders and engine.current() is None
    assert process.wait(20) is not None, "its memory is not freed"
    assert desk.whole(), "what is known stays known"
    assert not desk.frames.pool.folders
    scene.frame_set(7)
    assert desk.is_shown(), "it is opened again by whoever shows it"
    monkeypatch.setattr(desk.live, "ENGINE_IDLE", 900.0)
    desk.edit(happy=0.6)
    desk.until(desk.is_shown)


def test_edit_to_picture_and_the_longest_block(desk: Desk, scene: bpy.types.Scene, measured: Callable[[str], None]) -> None:
    """Told, not asserted: the machine may be busy."""
    key(desk.obj, "happy", (1, 0.0), (1000, 1.0))
    scene.frame_end = 1000
    desk.until(desk.is_shown)
    desk.until(lambda: desk.live._order is not None and not desk.live._order.at_playhead)
    desk.longest, desk.busiest, waits, works = 0.0, 0.0, [], []
    for number in range(20):
        began = time.perf_counter()
        desk.edit(sad=0.03 * (number + 1))
        while not desk.is_shown():
            before = time.perf_counter()
            desk.step()
            works.append(time.perf_counter() - before)
            time.sleep(0.002)
        waits.append(time.perf_counter() - began)
    measured(f"live: edit to picture {np.median(waits) * 1000:.1f} ms in the middle, at worst {max(waits) * 1000:.1f} ms (260 Gaussians)")
    measured(f"live: a step takes {np.median(works) * 1000:.2f} ms in the middle, at worst {max(works) * 1000:.1f} ms")
    end = time.monotonic() + 3
    while time.monotonic() < end:
        desk.step()
        time.sleep(0.004)
    measured(f"live: with 1000 frames to look at, the longest step takes {desk.busiest * 1000:.1f} ms of processor time, {desk.longest * 1000:.1f} ms in all")
    assert desk.is_shown()
