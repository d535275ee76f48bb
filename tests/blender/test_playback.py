"""Which frame is shown: whole frames, subframes, gaps, copies, saved and moved files, undo, deletion. Caches are real ones
whose frames tell their own number; the engine is not needed."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, number_cache, number_shown, positions  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]


@pytest.fixture
def head(api: ModuleType, avatars: Path, tmp_path: Path) -> bpy.types.Object:
    """An avatar in a saved file."""
    obj = api.import_avatar(avatars / "head.safetensors")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    return obj


def test_each_frame_shows_itself(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    number_cache(shipped, head, range(1, 31))
    for frame in (1, 2, 30, 17, 18, 1):
        scene.frame_set(frame)
        assert number_shown(shipped, head) == pytest.approx(frame, abs=1e-4)
    for frame, part in ((4, 0.5), (7, 0.25), (29, 0.75)):
        scene.frame_set(frame, subframe=part)
        assert number_shown(shipped, head) == pytest.approx(frame + part, abs=1e-3)


def test_the_source_of_the_draw_code_gives_the_same(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    number_cache(shipped, head, range(1, 6))
    frames = shipped("addon.frames")
    rows = shipped("addon.avatar").load(shipped("addon.avatar").file_of(head)).moving_rows()
    splats = frames.frame_source(head, 3.0)
    assert np.allclose(splats.means[rows, 0], 3, atol=1e-4) and splats.composite == "layered"
    assert splats.uncertainty.shape == (260, 2) and splats.uncertainty[rows].min() == pytest.approx(0.01, rel=1e-3)
    again = frames.frame_source(head, 3.0)
    for name in ("means", "quats", "scales", "opacities", "sh", "branch", "uncertainty"):
        assert getattr(splats, name) is getattr(again, name), f"{name} would be uploaded again"
    assert frames.frame_source(head, 4.0).sh is splats.sh
    assert frames.frame_source(bpy.data.objects.new("Empty", None), 3.0) is None


def test_the_trained_pixel_comes_from_the_bake_and_before_it_from_the_avatar(
    head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped
) -> None:
    frames, cache = shipped("addon.frames"), shipped("engine.cache.layout")
    assert frames.frame_source(head, 3.0).pixel_size == pytest.approx(5e-4), "at rest"
    folder = number_cache(shipped, head, range(1, 6))
    header = cache.read_header(folder)
    header.pixel_size = 0.002
    cache.write_header(folder, header)
    scene.frame_set(3)
    assert frames.frame_source(head, 3.0).pixel_size == pytest.approx(0.002)


def test_a_frame_that_is_not_baked_shows_rest_and_says_so(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    rest = positions(head)
    frames = shipped("addon.frames")
    assert frames.shown(head, 1).why == "Not baked yet"
    number_cache(shipped, head, [*range(1, 6), *range(10, 12)])
    scene.frame_set(3)
    assert number_shown(shipped, head) == pytest.approx(3, abs=1e-4)
    scene.frame_set(7)
    assert number_shown(shipped, head) is None and np.allclose(positions(head), rest, atol=1e-6)
    assert not frames.shown(head, 7).baked and "7 is not baked" in frames.shown(head, 7).why


def test_a_render_refuses_what_is_not_baked(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, avatars: Path) -> None:
    """In a render the frame source raises, a static avatar needs no bake, and afterwards the viewport shows rest again."""
    camera = bpy.data.objects.new("Camera", bpy.data.cameras.new("Camera"))
    scene.collection.objects.link(camera)
    scene.camera, camera.location.y, camera.rotation_euler.x = camera, -1, np.pi / 2
    scene.render.engine, scene.render.resolution_x, scene.render.resolution_y = "UA3DTALK", 16, 16
    number_cache(shipped, head, range(1, 4))
    scene.frame_set(9)
    with pytest.raises(RuntimeError, match="Frame 9 is not baked"):
        bpy.ops.render.render()
    assert shipped("addon.frames").frame_source(head, 9.0) is not None
    bpy.data.objects.remove(head)
    shipped("addon.api").import_avatar(avatars / "static.safetensors")
    assert bpy.ops.render.render() == {"FINISHED"}


def test_a_bake_that_grows_is_seen(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    number_cache(shipped, head, [1, 2])
    scene.frame_set(5)
    assert number_shown(shipped, head) is None
    number_cache(shipped, head, [5])
    scene.frame_set(6)
    scene.frame_set(5)
    assert number_shown(shipped, head) == pytest.approx(5, abs=1e-4)


def test_saved_loaded_and_opened_elsewhere(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path) -> None:
    folder = number_cache(shipped, head, range(1, 11))
    assert folder.parent == tmp_path / "ua3dtalk_cache"
    scene.frame_set(4)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    (obj,) = bpy.data.objects
    assert number_shown(shipped, obj) == pytest.approx(4, abs=1e-4)
    bpy.context.scene.frame_set(8)
    assert number_shown(shipped, obj) == pytest.approx(8, abs=1e-4)
    # On another machine: the folder as a whole, without the avatar's file.
    moved = tmp_path.with_name(tmp_path.name + "-elsewhere")
    obj.ua3dtalk.avatar_path = str(tmp_path / "nowhere.safetensors")
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    tmp_path.rename(moved)
    bpy.ops.wm.open_mainfile(filepath=str(moved / "shot.blend"))
    (obj,) = bpy.data.objects
    bpy.context.scene.frame_set(2)
    frames = shipped("addon.frames")
    assert frames.shown(obj, 2.0).baked and positions(obj)[0, 0] == pytest.approx(2, abs=1e-4)
    frames.set_rendering(True)
    try:
        assert frames.frame_source(obj, 9.0) is not None
    finally:
        frames.set_rendering(False)


def test_the_first_save_takes_the_bake_along(api: ModuleType, avatars: Path, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path) -> None:
    obj = api.import_avatar(avatars / "head.safetensors")
    temporary = number_cache(shipped, obj, range(1, 4))
    scene.frame_set(2)
    assert number_shown(shipped, obj) == pytest.approx(2, abs=1e-4) and tmp_path not in temporary.parents
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    folder = shipped("addon.places").folder_of(obj)
    assert folder.parent == tmp_path / "ua3dtalk_cache" and (folder / "header.json").exists() and not temporary.exists()
    scene.frame_set(3)
    assert number_shown(shipped, obj) == pytest.approx(3, abs=1e-4)


def test_save_as_copies_the_bake_and_keeps_relative_paths(
    api: ModuleType, avatars: Path, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "b" / "c").mkdir(parents=True)
    (tmp_path / "a" / "head.safetensors").write_bytes((avatars / "head.safetensors").read_bytes())
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "a" / "shot.blend"))
    bpy.context.preferences.filepaths.use_relative_paths = True
    obj = api.import_avatar(tmp_path / "a" / "head.safetensors")
    assert obj.ua3dtalk.avatar_path == "//head.safetensors"
    first = number_cache(shipped, obj, range(1, 4))
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "c" / "copy.blend"), copy=True)
    assert obj.ua3dtalk.avatar_path == "//head.safetensors" and shipped("addon.places").folder_of(obj) == first
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "b" / "c" / "shot.blend"))
    assert shipped("addon.avatar").file_of(obj).resolve() == tmp_path / "a" / "head.safetensors"
    assert obj.ua3dtalk.avatar_path.startswith("//")
    second = shipped("addon.places").folder_of(obj)
    assert second.parent == tmp_path / "b" / "c" / "ua3dtalk_cache" and (second / "header.json").exists()
    assert (first / "header.json").exists(), "the first file still has its bake"
    scene.frame_set(3)
    assert number_shown(shipped, obj) == pytest.approx(3, abs=1e-4)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "b" / "c" / "copy.blend"))
    assert shipped("addon.avatar").file_of(bpy.data.objects[0]).resolve() == tmp_path / "a" / "head.safetensors"


def test_a_linked_avatar_plays_from_its_own_file(
    head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path
) -> None:
    folder = number_cache(shipped, head, range(1, 11))
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    (tmp_path / "film").mkdir()
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film" / "film.blend"))
    with bpy.data.libraries.load(str(tmp_path / "shot.blend"), link=True, relative=True) as (there, here):
        here.objects = there.objects
    (linked,) = here.objects
    bpy.context.scene.collection.objects.link(linked)
    assert shipped("addon.places").folder_of(linked).resolve() == folder
    bpy.context.scene.frame_set(7)
    frames = shipped("addon.frames")
    rows = frames.pool.reader(shipped("addon.places").folder_of(linked)).moving
    assert np.allclose(frames.frame_source(linked, 7.0).means[rows, 0], 7, atol=1e-4)
    bpy.context.view_layer.objects.active = linked
    for call in (bpy.ops.ua3dtalk.bake, bpy.ops.ua3dtalk.clear_cache):
        with pytest.raises(RuntimeError, match="linked from"):
            call()


def test_several_avatars_and_renamed_objects(head: bpy.types.Object, api: ModuleType, avatars: Path, scene: bpy.types.Scene, shipped: Shipped) -> None:
    other = api.import_avatar(avatars / "other.safetensors", name="Other")
    number_cache(shipped, head, range(1, 11))
    number_cache(shipped, other, range(1, 11), add=100)
    head.name, other.name = "Renamed", "Test head"
    scene.frame_set(6)
    assert number_shown(shipped, head) == pytest.approx(6, abs=1e-3)
    assert number_shown(shipped, other) == pytest.approx(106, abs=1e-3)


def test_duplicates_share_until_one_is_baked(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    first = number_cache(shipped, head, range(1, 11))
    bpy.ops.object.duplicate(linked=True)  # Alt+D: they share their data too
    copy = bpy.context.object
    assert copy != head and copy.data == head.data
    scene.frame_set(5)
    assert number_shown(shipped, copy) == pytest.approx(5, abs=1e-4)
    own = shipped("addon.baking").own_folder(copy)
    assert own != first and copy.data != head.data and (own / "header.json").exists()
    assert shipped("addon.baking").own_folder(copy) == own and shipped("addon.baking").own_folder(head) == first
    number_cache(shipped, copy, range(1, 11), add=50)
    scene.frame_set(6)
    assert number_shown(shipped, copy) == pytest.approx(56, abs=1e-3)
    assert number_shown(shipped, head) == pytest.approx(6, abs=1e-3)


def test_deleted_objects_close_their_caches(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    frames = shipped("addon.frames")
    folder = number_cache(shipped, head, range(1, 4))
    scene.frame_set(2)
    assert folder in frames.pool.folders
    frames.forget(bpy.data.objects)
    assert folder in frames.pool.folders, "still used"
    bpy.data.objects.remove(head)
    scene.frame_set(3)
    frames.forget(bpy.data.objects)
    assert frames.pool.folders == set() and (folder / "header.json").exists(), "the bake itself stays for undo"


def test_undo_shows_the_current_frame(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    number_cache(shipped, head, range(1, 11))
    name = head.name
    scene.frame_set(3)
    bpy.ops.ed.undo_push(message="at 3")
    head.location.x = 7
    bpy.ops.ed.undo_push(message="moved")
    scene.frame_set(8)
    bpy.ops.ed.undo_push(message="at 8")
    bpy.ops.ed.undo()
    obj, scene = bpy.data.objects[name], bpy.context.scene
    assert obj.location.x == 7 and number_shown(shipped, obj) == pytest.approx(scene.frame_current, abs=1e-4)
    bpy.ops.ed.undo()
    obj, scene = bpy.data.objects[name], bpy.context.scene
    assert obj.location.x == 0 and number_shown(shipped, obj) == pytest.approx(scene.frame_current, abs=1e-4)
    scene.frame_set(9)
    assert number_shown(shipped, obj) == pytest.approx(9, abs=1e-4)


def test_a_deleted_avatar_comes_back_by_undo(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped) -> None:
    number_cache(shipped, head, range(1, 11))
    scene.frame_set(3)
    name = head.name
    bpy.ops.ed.undo_push(message="there")
    bpy.ops.object.delete()
    bpy.ops.ed.undo_push(message="gone")
    assert not bpy.data.objects
    bpy.ops.ed.undo()
    bpy.context.scene.frame_set(6)
    assert number_shown(shipped, bpy.data.objects[name]) == pytest.approx(6, abs=1e-4)


def test_a_bake_of_another_avatar_is_told(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, avatars: Path) -> None:
    number_cache(shipped, head, range(1, 4))
    head.ua3dtalk.avatar_path = str(avatars / "other.safetensors")
    number_cache(shipped, head, range(1, 4))
    scene.frame_set(2)  # 260 points cannot take 150 Gaussians: nothing is written, nothing breaks
    assert len(positions(head)) == 260
    assert len(shipped("addon.frames").frame_source(head, 2.0).means) == 150
    bpy.ops.ua3dtalk.reload_avatar()
    assert number_shown(shipped, head) == pytest.approx(2, abs=1e-4)


def test_playback_cost(head: bpy.types.Object, scene: bpy.types.Scene, shipped: Shipped, measured: Callable[[str], None]) -> None:
    """Told, not asserted."""
    import time

    number_cache(shipped, head, range(1, 51))
    frames = shipped("addon.frames")
    started = time.perf_counter()
    for frame in range(1, 51):
        scene.frame_current = frame
        frames.show(head, scene)
    measured(f"playback: {(time.perf_counter() - started) / 50 * 1000:.2f} ms a frame into the point cloud, {len(head.data.points)} Gaussians")
    assert number_shown(shipped, head) == pytest.approx(50, abs=1e-3)
