"""The render engine in Blender itself: cameras, frames, passes into compositor and files, colours, and clear errors."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import splat_cases as cases  # noqa: E402
from exr import read_exr  # noqa: E402
from render_cases import (  # noqa: E402, F401
    Source, avatar, close, compositor, display, load, png_output, read_passes, reference, render, shot, source, straight_on,
)


def setup_none(scene: bpy.types.Scene) -> None:
    pass


def setup_shift(scene: bpy.types.Scene) -> None:
    scene.camera.data.shift_x, scene.camera.data.shift_y, scene.camera.data.lens = 0.2, -0.1, 35.0


def setup_portrait_and_aspect(scene: bpy.types.Scene) -> None:
    scene.render.resolution_x, scene.render.resolution_y = 60, 90
    scene.render.pixel_aspect_x, scene.render.pixel_aspect_y = 1.0, 1.4


def setup_wide_aspect(scene: bpy.types.Scene) -> None:
    scene.render.pixel_aspect_x = 1.7


def setup_percentage(scene: bpy.types.Scene) -> None:
    scene.render.resolution_x, scene.render.resolution_y, scene.render.resolution_percentage = 133, 91, 75


def setup_parallel(scene: bpy.types.Scene) -> None:
    scene.camera.data.type, scene.camera.data.ortho_scale, scene.camera.data.shift_x = "ORTHO", 2.2, 0.1


def setup_scaled_camera_and_object(scene: bpy.types.Scene) -> None:
    scene.camera.scale = 2.0, 0.5, 3.0
    obj = bpy.data.objects["avatar"]
    obj.location, obj.rotation_euler, obj.scale = (0.1, 0.3, -0.1), (0.3, 0.5, 1.0), (0.8, -1.2, 0.6)


@pytest.mark.parametrize("setup", [setup_none, setup_shift, setup_portrait_and_aspect, setup_wide_aspect, setup_percentage,
                                   setup_parallel, setup_scaled_camera_and_object])
def test_camera(shot: bpy.types.Scene, source: Source, setup: Callable[[bpy.types.Scene], None]) -> None:
    setup(shot)
    found = render(shot)
    size = [int(r * shot.render.resolution_percentage / 100) for r in (shot.render.resolution_x, shot.render.resolution_y)]
    obj = bpy.data.objects["avatar"]
    expected = reference(shot, [source(obj, 0.0).at(np.array(obj.matrix_world))], *size)
    assert expected.weight.max() > 0.9
    close(display(found["Combined"]), expected.combined)
    seen = expected.weight[..., 0] > 0.02
    depth = (expected.depth_sum / np.maximum(expected.weight, 1e-9))[..., 0]
    assert np.abs(found["Depth"] - depth)[seen].mean() < 1e-3 * depth[seen].max()
    nothing = found["Combined"][..., 3] == 0
    assert nothing.any() and (found["Depth"][nothing] > 9e9).all() and (found["Depth"][~nothing] < 10).all()
    doubt = (expected.uncertainty_sum / np.maximum(expected.weight, 1e-9))
    for number, name in enumerate(("Aleatoric", "Epistemic")):
        assert np.abs(found[name] - doubt[..., number])[seen].mean() < 1e-3 * doubt.max()
    assert np.allclose(found["Uncertainty"], found["Aleatoric"] + found["Epistemic"])


def test_clipping(shot: bpy.types.Scene, source: Source) -> None:
    shot.camera.data.clip_start, shot.camera.data.clip_end = 2.9, 3.2
    found = render(shot)
    obj = bpy.data.objects["avatar"]
    view = np.linalg.inv(np.array(shot.camera.matrix_world))
    depth = -(source.arrays["means"] @ view[2, :3] + view[2, 3])
    kept = (depth > 2.9) & (depth < 3.2)
    assert 20 < kept.sum() < 200
    chosen = source.make(**{name: value[kept] for name, value in source.arrays.items()}, matrix_world=np.array(obj.matrix_world))
    close(display(found["Combined"]), reference(shot, [chosen], 96, 64).combined)


@pytest.mark.parametrize("crop", [True, False])
def test_border(shot: bpy.types.Scene, crop: bool) -> None:
    whole = render(shot)
    shot.render.use_border, shot.render.use_crop_to_border = True, crop
    shot.render.border_min_x, shot.render.border_max_x = 0.23, 0.71
    shot.render.border_min_y, shot.render.border_max_y = 0.31, 0.88
    part = render(shot)
    x0, x1, y0, y1 = int(0.23 * 96), int(0.71 * 96), int(0.31 * 64), int(0.88 * 64)
    for name in ("Combined", "Depth", "Epistemic"):
        inside = part[name] if crop else part[name][y0:y1, x0:x1]
        assert inside.shape[:2] == (y1 - y0, x1 - x0)
        assert np.abs(inside - whole[name][y0:y1, x0:x1]).max() <= 1e-4 * np.abs(whole[name]).max()
    if not crop:
        outside = part["Combined"].copy()
        outside[y0:y1, x0:x1] = 0
        assert not outside.any()


def test_each_frame_shows_its_own_gaussians(shot: bpy.types.Scene, source: Source) -> None:
    frame_in = straight_on(shot)
    for frame, subframe in ((1, 0.0), (7, 0.0), (7, 0.5), (7, 0.25), (12, 0.0), (3, 0.0)):
        shot.frame_set(frame, subframe=subframe)
        source.asked.clear()
        assert frame_in(render(shot)["Combined"]) == pytest.approx(frame + subframe, abs=0.02)
        assert {asked for _, asked in source.asked} == {frame + subframe}


def test_animation_writes_each_frame_in_its_file(shot: bpy.types.Scene, tmp_path: Path) -> None:
    frame_in = straight_on(shot)
    shot.frame_start, shot.frame_end, shot.frame_step = 2, 8, 2
    shot.render.filepath = str(tmp_path / "frame_")
    bpy.ops.render.render(animation=True)
    written = sorted(tmp_path.glob("frame_*.exr"))
    assert [p.stem for p in written] == ["frame_0002", "frame_0004", "frame_0006", "frame_0008"]
    for path, frame in zip(written, (2, 4, 6, 8)):
        assert frame_in(read_passes(path)["Combined"]) == pytest.approx(frame, abs=0.02)


def test_animated_objects_are_where_they_are_at_the_frame(shot: bpy.types.Scene, source: Source) -> None:
    obj = bpy.data.objects["avatar"]
    for frame in (0, 10):
        obj.location.z = frame / 20
        obj.keyframe_insert("location", frame=frame)
    shot.frame_set(6, subframe=0.5)
    found = render(shot)
    matrix = np.array(obj.matrix_world)
    assert 0.1 < matrix[2, 3] < 0.45
    close(display(found["Combined"]), reference(shot, [source(obj, 6.5).at(matrix)], 96, 64).combined)


def test_time_remapping_counts(shot: bpy.types.Scene, source: Source) -> None:
    shot.render.frame_map_old, shot.render.frame_map_new = 100, 200
    shot.frame_set(8)
    source.asked.clear()
    render(shot)
    assert {frame for _, frame in source.asked} == {shot.frame_current_final} == {4.0}


def test_all_visible_avatars_and_instances(shot: bpy.types.Scene, source: Source) -> None:
    second = avatar("avatar.second")
    second.location, second.scale = (-0.5, 0.5, 0.2), (0.5, 0.5, 0.5)
    hidden = avatar("avatar.hidden")
    hidden.hide_render = True
    group = bpy.data.collections.new("group")
    inside = avatar("avatar.inside", group)
    inside.location.z = 0.3
    for number, x in enumerate((0.6, 0.9)):
        empty = bpy.data.objects.new(f"instancer {number}", None)
        empty.instance_type, empty.instance_collection = "COLLECTION", group
        empty.location, empty.rotation_euler, empty.scale = (x, 0.4, -0.6), (0, 0, 0.5), (0.4, 0.4, 0.4)
        shot.collection.objects.link(empty)
    source.asked.clear()
    found = render(shot)
    assert sorted(name for name, _ in source.asked) == ["avatar", "avatar.inside", "avatar.second"], "once each"
    matrices = [np.array(bpy.data.objects["avatar"].matrix_world), np.array(second.matrix_world)]
    local = cases.translate(0, 0, 0.3)
    matrices += [np.array(bpy.data.objects[f"instancer {n}"].matrix_world) @ local for n in (0, 1)]
    splats = source(bpy.data.objects["avatar"], 0.0)
    close(display(found["Combined"]), reference(shot, [splats.at(m) for m in matrices], 96, 64).combined)


def test_view_layers_show_their_own(shot: bpy.types.Scene) -> None:
    avatar("avatar.second", other := bpy.data.collections.new("other")).location.x = 0.7
    shot.collection.children.link(other)
    shot.view_layers[0].layer_collection.children["other"].exclude = True
    layer = shot.view_layers.new("both")
    layer.use_pass_z = False
    bpy.ops.render.render(write_still=True)
    first, both = (read_passes(Path(shot.render.filepath), name) for name in ("ViewLayer", "both"))
    assert both["Combined"][..., 3].sum() > 1.2 * first["Combined"][..., 3].sum()
    assert "Depth" in first and "Depth" not in both and "Epistemic" in both


def test_opaque_film_shows_the_world(shot: bpy.types.Scene) -> None:
    transparent = render(shot)["Combined"]
    world = bpy.data.worlds.new("world")
    world.color = 0.1, 0.2, 0.4
    shot.world = world
    if not world.node_tree:
        world.use_nodes = True
    background = next(n for n in world.node_tree.nodes if n.bl_idname == "ShaderNodeBackground")
    background.inputs["Color"].default_value, background.inputs["Strength"].default_value = (0.3, 0.2, 0.1, 1.0), 2.0
    shot.render.film_transparent = False
    opaque = render(shot)["Combined"]
    assert (opaque[..., 3] == 1).all()
    expected = transparent[..., :3] + (1 - transparent[..., 3:]) * np.float32([0.6, 0.4, 0.2])
    assert np.abs(opaque[..., :3] - expected).max() < 1e-5


def test_trained_colours_under_the_standard_view(shot: bpy.types.Scene, source: Source, tmp_path: Path) -> None:
    """The PNG shows what the avatar was trained on, to the last bit but one; under AgX it does not (and that is said)."""
    source.arrays["opacities"][:] = 1.0
    trained = display(render(shot)["Combined"])
    solid = trained[..., 3] > 0.995
    assert solid.sum() > 300
    pictures = {}
    for transform in ("Standard", "AgX"):
        shot.view_settings.view_transform = transform
        png_output(shot, tmp_path / f"{transform}.png")
        bpy.ops.render.render(write_still=True)
        image = bpy.data.images.load(shot.render.filepath)
        pictures[transform] = np.array(image.pixels[:]).reshape(64, 96, 4)
    difference = np.abs(pictures["Standard"][..., :3] - np.clip(trained[..., :3] / np.maximum(trained[..., 3:], 1e-9), 0, 1))
    assert difference[solid].max() <= 1.01 / 255
    assert np.abs(pictures["AgX"] - pictures["Standard"])[solid].max() > 0.05


@pytest.mark.parametrize("name", ["Combined", "Depth", "Uncertainty", "Aleatoric", "Epistemic"])
def test_passes_reach_the_compositor(shot: bpy.types.Scene, name: str) -> None:
    direct = render(shot)[name]
    tree, picture = compositor(shot)
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = shot
    socket = "Image" if name == "Combined" else name
    assert socket in {s.name for s in layers.outputs if s.enabled}
    tree.links.new(layers.outputs[socket], picture)
    bpy.ops.render.render(write_still=True)
    channels = read_exr(Path(shot.render.filepath))
    composed = next(v for k, v in channels.items() if k.endswith("Composite.Combined.R") or k == "R")
    assert np.array_equal(composed, direct[..., 0] if name == "Combined" else direct)
    assert direct.std() > 0


def test_missing_frames_are_errors_and_write_nothing(shot: bpy.types.Scene, source: Source, tmp_path: Path) -> None:
    source.last = 5
    shot.frame_set(6)
    shot.render.filepath = str(tmp_path / "missing.exr")
    with pytest.raises(RuntimeError, match="frame 6: avatar: frame 6 is not baked"):
        bpy.ops.render.render(write_still=True)
    source.stands_in = True
    with pytest.raises(RuntimeError, match="frame 6: avatar: not baked yet"):
        bpy.ops.render.render(write_still=True)
    shot.frame_start, shot.frame_end = 4, 8
    shot.render.filepath = str(tmp_path / "anim_")
    with pytest.raises(RuntimeError, match="frame 6: avatar: not baked yet"):
        bpy.ops.render.render(animation=True)
    assert sorted(p.name for p in tmp_path.glob("*.exr")) == ["anim_0004.exr", "anim_0005.exr"]
    shot.frame_set(5)
    shot.render.filepath = str(tmp_path / "after.exr")
    assert render(shot)["Combined"].any(), "and the next render works"


def test_what_cannot_be_rendered_says_why(shot: bpy.types.Scene) -> None:
    shot.camera.data.type = "PANO"
    with pytest.raises(RuntimeError, match="camera of type PANO"):
        bpy.ops.render.render()
    shot.camera.data.type = "PERSP"
    shot.render.use_multiview = True
    with pytest.raises(RuntimeError, match="stereo"):
        bpy.ops.render.render()


def test_no_avatar_is_a_warning_not_a_crash(shot: bpy.types.Scene, capfd: pytest.CaptureFixture) -> None:
    bpy.data.objects["avatar"].hide_render = True
    found = render(shot)
    assert not found["Combined"].any() and (found["Depth"] > 9e9).all()
    assert "shows no avatar to the render" in "".join(capfd.readouterr())


def test_a_source_that_fails_in_any_way_does_not_end_blender(shot: bpy.types.Scene, load: Callable[[str], ModuleType]) -> None:
    def broken(obj: bpy.types.Object, frame: float) -> None:
        raise KeyError("odd")

    load("addon.draw.source").set_sources(broken)
    with pytest.raises(RuntimeError, match="odd"):
        bpy.ops.render.render()
    load("addon.draw.source").set_sources(None)
    with pytest.raises(RuntimeError, match="not ready"):
        bpy.ops.render.render()
