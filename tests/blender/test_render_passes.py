"""Renders with meshes, motion blur, and the passes that a view layer asks for, in Blender itself."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import splat_cases as cases  # noqa: E402
from exr import read_attributes, read_exr  # noqa: E402
from render_cases import (  # noqa: E402, F401
    STEP, Source, avatar, centre_of, close, compositor, display, load, read_passes, reference, render, shot, source, straight_on,
)


def mesh(name: str, vertices: Any, faces: Any) -> bpy.types.Object:
    data = bpy.data.meshes.new(name)
    data.from_pydata(vertices, [], faces)
    obj = bpy.data.objects.new(name, data)
    bpy.context.scene.collection.objects.link(obj)
    return obj


def wall(y: float, left: float = -50.0, right: float = 50.0) -> bpy.types.Object:
    """A plane that faces the camera of `straight_on`, 50 units high, at a depth of y + 5 from it."""
    return mesh("wall", [(left, y, -50), (right, y, -50), (right, y, 50), (left, y, 50)], [(0, 1, 2, 3)])


def half_hidden(scene: bpy.types.Scene, source: Source, depth: float = 5.0) -> cases.Reference:
    """What is to be seen of the avatar before the camera of `straight_on` with a wall behind its left half."""
    behind = np.full((64, 96), np.inf)
    behind[:, :48] = depth
    obj = bpy.data.objects["avatar"]
    camera = scene.camera
    view = np.linalg.inv(np.array(camera.matrix_world))
    half = camera.data.ortho_scale / 2
    projection = np.diag([1 / half, 96 / 64 / half, -1.0, 1.0])
    return cases.rasterise([source(obj, scene.frame_current).at(np.array(obj.matrix_world))], view, projection, 96, 64, behind)


def test_meshes_hold_out_splats(shot: bpy.types.Scene, source: Source) -> None:
    straight_on(shot)
    whole = render(shot)
    # The middle of the image, between two pixels, is at x = 0.5.
    wall(0.0, right=0.5)
    hidden = render(shot)
    expected = half_hidden(shot, source)
    assert (expected.combined[:, :48, 3].max(), whole["Combined"][:, :48, 3].min()) != (0, 0)
    close(display(hidden["Combined"]), expected.combined)
    assert np.allclose(hidden["Combined"][:, 48:], whole["Combined"][:, 48:], atol=1e-6), "the mean of equal pictures"
    seen = expected.weight[..., 0] > 0.02
    depth = expected.depth_sum[..., 0] / np.maximum(expected.weight[..., 0], 1e-9)
    assert np.abs(hidden["Depth"] - depth)[seen].mean() < 1e-3 * depth.max()
    assert hidden["Depth"][:, :48][seen[:, :48]].max() <= 5.0 + 1e-5
    bpy.data.objects["wall"].location.y = -2.0
    found = render(shot)
    assert not found["Combined"][:, :48].any() and (found["Depth"][:, :48] > 9e9).all() and not found["Epistemic"][:, :48].any()
    shot.ua3dtalk_render.meshes_hide_splats = False
    assert np.array_equal(render(shot)["Combined"], whole["Combined"])


def test_edges_of_meshes_are_smooth(shot: bpy.types.Scene) -> None:
    """A vertical edge 0.3 of the way into a pixel: its splats are seen by what is left of it, as in an engine that samples pixels."""
    straight_on(shot)
    whole = render(shot)["Combined"][..., 3]
    pixel = 4.0 / 96
    wall(-3.0, right=0.5 + 0.3 * pixel)
    shot.ua3dtalk_render.mesh_samples = 1
    assert not render(shot)["Combined"][:, :48].any()
    shot.ua3dtalk_render.mesh_samples = 64
    found = render(shot)["Combined"][..., 3]
    solid = whole[:, 48] > 0.3
    assert solid.sum() > 5
    assert found[solid, 48] / whole[solid, 48] == pytest.approx(0.7, abs=0.03)
    assert not found[:, :48].any() and np.allclose(found[:, 49:], whole[:, 49:], atol=1e-6)


def test_what_counts_as_a_mesh(shot: bpy.types.Scene) -> None:
    """Curves, texts, metaballs, modifiers and instances hide splats; hidden objects, and those no camera sees, do not."""
    straight_on(shot)

    def hides(before: bool = True) -> bool:
        found = render(shot)["Combined"][..., 3]
        assert found[:, :10].max() < 0.01
        return not found[20:44, 40:56].any()

    def removed(obj: bpy.types.Object) -> None:
        bpy.data.objects.remove(obj)
        assert not hides()

    assert not hides()
    one = wall(-2.0)
    assert hides()
    for name in ("hide_render", "visible_camera"):
        setattr(one, name, not getattr(one, name))
        assert not hides(), name
        setattr(one, name, not getattr(one, name))
    only = bpy.data.collections.new("indirect")
    shot.collection.children.link(only)
    only.objects.link(one)
    shot.collection.objects.unlink(one)
    assert hides()
    shot.view_layers[0].layer_collection.children["indirect"].indirect_only = True
    assert not hides()
    removed(one)

    text = bpy.data.objects.new("text", bpy.data.curves.new("text", "FONT"))
    text.data.body, text.data.size = "\u2588", 30.0  # a block that fills the picture
    shot.collection.objects.link(text)
    text.rotation_euler, text.location = (np.pi / 2, 0, 0), (-6.0, -2.0, -5.0)
    assert hides()
    removed(text)

    ball = bpy.data.objects.new("ball", bpy.data.metaballs.new("ball"))
    ball.data.elements.new().radius = 4.0
    ball.data.render_resolution = 0.5
    shot.collection.objects.link(ball)
    ball.location.y = -1.5
    assert hides()
    removed(ball)

    curve = bpy.data.objects.new("curve", bpy.data.curves.new("curve", "CURVE"))
    curve.data.dimensions, curve.data.bevel_depth = "3D", 2.0
    line = curve.data.splines.new("POLY")
    line.points.add(1)
    line.points[0].co, line.points[1].co = (0.5, -3, -20, 1), (0.5, -3, 20, 1)
    shot.collection.objects.link(curve)
    assert hides()
    removed(curve)

    narrow = wall(-2.0, -30.0, -29.0)
    assert not hides()
    array = narrow.modifiers.new("array", "ARRAY")
    array.count = 60
    assert hides(), "with its modifiers"
    narrow.modifiers.remove(array)
    group = bpy.data.collections.new("group")
    group.objects.link(narrow)
    shot.collection.objects.unlink(narrow)
    assert not hides()
    empty = bpy.data.objects.new("instancer", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    empty.location, empty.scale = (29.5, 0, 0), (1.0, 1.0, 1.0)
    shot.collection.objects.link(empty)
    empty.location.x, empty.scale.x = 30 * 8, 8.0
    assert hides(), "an instance"


def test_opaque_film_and_border_with_meshes(shot: bpy.types.Scene) -> None:
    straight_on(shot)
    wall(0.0, right=0.513)
    whole = render(shot)["Combined"]
    shot.render.use_border, shot.render.use_crop_to_border = True, True
    shot.render.border_min_x, shot.render.border_max_x, shot.render.border_min_y, shot.render.border_max_y = 0.25, 0.75, 0.25, 0.8
    part = render(shot)["Combined"]
    assert part.shape[:2] == (int(0.8 * 64) - 16, 48) and np.abs(part - whole[16:int(0.8 * 64), 24:72]).max() < 1e-4
    shot.render.use_border, shot.render.film_transparent = False, False
    assert (render(shot)["Combined"][..., 3] == 1).all()


def test_passes_are_there_where_asked_for(shot: bpy.types.Scene, source: Source) -> None:
    more = {"DepthMedian", "SplatAlpha", "EmotionWeight", "IndexOB"}
    assert not more & set(render(shot))
    layer = shot.view_layers[0]
    settings = layer.ua3dtalk_passes
    settings.use_depth_median = settings.use_alpha = settings.use_emotion = layer.use_pass_object_index = True
    second = avatar("avatar.second")
    second.location = 0.4, 0.6, 0.3
    bpy.data.objects["avatar"].pass_index, second.pass_index = 3, 250
    found = render(shot)
    assert more < set(found)
    objs = [bpy.data.objects["avatar"], second]
    expected = reference(shot, [source(obj, 0.0).at(np.array(obj.matrix_world)) for obj in objs], 96, 64)
    alpha = expected.weight[..., 0]
    close(found["SplatAlpha"], alpha)
    seen = found["SplatAlpha"] > 0
    assert ((found["DepthMedian"] < 100) == seen).all()
    assert (np.abs(found["DepthMedian"] - expected.median_depth[..., 0])[seen & (alpha > 0)] < 1e-4).mean() > 0.99
    numbers = np.where(seen, np.array([3, 250])[expected.median_avatar[..., 0].astype(int)], 0)
    assert (found["IndexOB"] == numbers).mean() > 0.995 and {0, 3, 250} == set(np.unique(found["IndexOB"]))
    share = expected.shares_sum[..., 3] / np.maximum(alpha, 1e-9)
    assert np.abs(found["EmotionWeight"] - share)[alpha > 0.02].mean() < 1e-3
    shot.render.film_transparent = False
    opaque = render(shot)
    assert (opaque["Combined"][..., 3] == 1).all() and np.array_equal(opaque["SplatAlpha"], found["SplatAlpha"])


@pytest.mark.parametrize("name", ["DepthMedian", "SplatAlpha", "EmotionWeight", "IndexOB", "CryptoObject00"])
def test_more_passes_reach_the_compositor(shot: bpy.types.Scene, name: str) -> None:
    layer = shot.view_layers[0]
    settings = layer.ua3dtalk_passes
    settings.use_depth_median = settings.use_alpha = settings.use_emotion = True
    layer.use_pass_object_index = layer.use_pass_cryptomatte_object = True
    bpy.data.objects["avatar"].pass_index = 7
    render(shot)
    whole = read_exr(Path(shot.render.filepath))
    tree, picture = compositor(shot)
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = shot
    tree.links.new(next(s for s in layers.outputs if s.name == name and s.enabled), picture)
    bpy.ops.render.render(write_still=True)
    channels = read_exr(Path(shot.render.filepath))
    composed = next(v for k, v in channels.items() if k.endswith("Composite.Combined.R") or k == "R")
    first = next(v for k, v in whole.items() if k in (f"ViewLayer.{name}.R", f"ViewLayer.{name}.X", f"ViewLayer.{name}.Z"))
    assert first.std() > 0 and np.array_equal(composed, first)


def test_cryptomatte(shot: bpy.types.Scene, source: Source, load: Callable[[str], ModuleType]) -> None:
    """Coverage of each object is exact, its number is the hash that Blender makes of the name, and its node finds it."""
    layer = shot.view_layers[0]
    layer.use_pass_cryptomatte_object, layer.pass_cryptomatte_depth = True, 4
    second = avatar("avatar.zw\u00f6lf")
    second.location = 0.4, 0.6, 0.3
    found = render(shot)
    assert {k for k in found if k.startswith("Crypto")} == {"CryptoObject00", "CryptoObject01"}
    path = Path(shot.render.filepath)
    objs = [bpy.data.objects["avatar"], second]
    expected = reference(shot, [source(obj, 0.0).at(np.array(obj.matrix_world)) for obj in objs], 96, 64)
    matte = load("addon.draw.cryptomatte")
    numbers = [matte.identifier(obj.name) for obj in objs]
    channels = read_exr(path)
    pairs = [(channels[f"ViewLayer.CryptoObject00.{a}"], channels[f"ViewLayer.CryptoObject00.{b}"]) for a, b in ("RG", "BA")]
    for which, number in enumerate(numbers):
        coverage = sum(np.where(ids == number, parts, 0.0) for ids, parts in pairs)
        close(coverage, expected.coverage[..., which])
    assert (pairs[0][1] >= pairs[1][1]).all() and not channels["ViewLayer.CryptoObject01.G"].any()
    fields = {k: v for k, v in read_attributes(path).items() if k.startswith("cryptomatte/")}
    (name,) = (v for k, v in fields.items() if k.endswith("/name"))
    assert name == "ViewLayer.CryptoObject"
    (manifest,) = (v for k, v in fields.items() if k.endswith("/manifest"))
    assert f'"{second.name}":"{int(numbers[1].view(np.uint32)):08x}"' in manifest

    tree, picture = compositor(shot)
    node = tree.nodes.new("CompositorNodeCryptomatteV2")
    node.source, node.scene, node.layer_name, node.matte_id = "RENDER", shot, "ViewLayer.CryptoObject", second.name
    tree.links.new(node.outputs["Matte"], picture)
    bpy.ops.render.render(write_still=True)
    channels = read_exr(path)
    composed = next(v for k, v in channels.items() if k.endswith("Composite.Combined.R") or k == "R")
    close(composed, expected.coverage[..., 1])


def test_hash_is_murmur3(load: Callable[[str], ModuleType]) -> None:
    """Published values of MurmurHash3_x86_32 with seed 0."""
    murmur3 = load("addon.draw.cryptomatte").murmur3
    assert murmur3("") == 0 and murmur3("hello") == 0x248BFA47
    assert murmur3("hello, world") == 0x149BBB7F and murmur3("The quick brown fox jumps over the lazy dog") == 0x2E4FF723


@pytest.mark.parametrize(("position", "middle"), [("START", 0.5), ("CENTER", 0.0), ("END", -0.5)])
def test_motion_blur_covers_the_shutter(shot: bpy.types.Scene, source: Source, position: str, middle: float) -> None:
    frame_in = straight_on(shot)
    shot.frame_set(8)
    sharp = render(shot)
    shot.render.use_motion_blur, shot.render.motion_blur_shutter, shot.render.motion_blur_position = True, 4.0, position
    shot.ua3dtalk_render.motion_blur_samples = 8
    source.asked.clear()
    blurred = render(shot)
    moments = sorted({frame for _, frame in source.asked} - {8.0})
    assert moments == pytest.approx([8 + 4 * middle - 2 + 0.25 + 0.5 * n for n in range(8)])
    assert frame_in(blurred["Combined"]) == pytest.approx(8 + 4 * middle, abs=0.05)
    assert shot.frame_current == 8 and shot.frame_subframe == 0
    for name in ("Depth", "Uncertainty", "Epistemic"):
        assert np.array_equal(blurred[name], sharp[name]), "of the frame itself"
    # The mean of the pictures at these moments, taken in scene linear light.
    shot.render.use_motion_blur = False
    pictures = []
    for moment in moments:
        shot.frame_set(int(moment), subframe=moment % 1)
        pictures.append(render(shot)["Combined"])
    assert np.abs(blurred["Combined"] - np.mean(pictures, axis=0)).max() < 1e-5
    assert np.abs(blurred["Combined"] - sharp["Combined"]).max() > 0.05


def test_motion_blur_of_camera_and_objects(shot: bpy.types.Scene, source: Source) -> None:
    frame_in = straight_on(shot)
    obj, camera = bpy.data.objects["avatar"], shot.camera
    for frame in (0, 10):
        obj.location.z, camera.location.x = frame / 10, 0.5 + frame * STEP
        obj.keyframe_insert("location", frame=frame)
        camera.keyframe_insert("location", frame=frame)
    for holder in (obj, camera):
        for curve in curves_of(holder):
            for point in curve.keyframe_points:
                point.interpolation = "LINEAR"
    shot.frame_set(5)
    shot.render.use_motion_blur, shot.render.motion_blur_shutter = True, 2.0
    shot.ua3dtalk_render.motion_blur_samples = 4
    blurred = render(shot)["Combined"]
    assert frame_in(blurred) == pytest.approx(0.0, abs=0.02), "the camera goes with the splats"
    shot.render.use_motion_blur = False
    pictures = []
    for moment in (4.25, 4.75, 5.25, 5.75):
        shot.frame_set(int(moment), subframe=moment % 1)
        pictures.append(render(shot)["Combined"])
    assert np.abs(blurred - np.mean(pictures, axis=0)).max() < 1e-4


def curves_of(obj: bpy.types.Object) -> Any:
    action = obj.animation_data.action
    return action.fcurves if hasattr(action, "fcurves") else action.layers[0].strips[0].channelbags[0].fcurves


def test_shutter_curve_weighs(shot: bpy.types.Scene) -> None:
    """A curve that is closed for the first half leaves the second."""
    frame_in = straight_on(shot)
    shot.frame_set(8)
    shot.render.use_motion_blur, shot.render.motion_blur_shutter, shot.render.motion_blur_position = True, 4.0, "START"
    shot.ua3dtalk_render.motion_blur_samples = 16
    curve = shot.render.motion_blur_shutter_curve
    line = curve.curves[0]
    while len(line.points) > 2:
        line.points.remove(line.points[1])
    line.points[0].location, line.points[1].location = (0.0, 0.0), (1.0, 1.0)
    for point in ((0.499, 0.0), (0.501, 1.0)):
        line.points.new(*point)
    for point in line.points:
        point.handle_type = "VECTOR"
    curve.update()
    assert frame_in(render(shot)["Combined"]) == pytest.approx(8 + 3, abs=0.1)


def test_motion_blur_at_the_ends_of_a_bake(shot: bpy.types.Scene, source: Source) -> None:
    """Where the bake ends while the shutter is open, the shape of the frame stays; what is not baked at all is still an error."""
    frame_in = straight_on(shot)
    source.last = 8.0
    shot.frame_set(8)
    shot.render.use_motion_blur, shot.render.motion_blur_shutter = True, 2.0
    shot.ua3dtalk_render.motion_blur_samples = 4
    # 7.25 and 7.75, then twice 8 in the place of 8.25 and 8.75.
    assert frame_in(render(shot)["Combined"]) == pytest.approx(7.75, abs=0.02)
    source.stands_in = True
    assert frame_in(render(shot)["Combined"]) == pytest.approx(7.75, abs=0.02)
    shot.frame_set(9)
    with pytest.raises(RuntimeError, match="frame 9: avatar: not baked yet"):
        bpy.ops.render.render()


def test_motion_blur_of_a_matte_and_of_meshes(shot: bpy.types.Scene) -> None:
    straight_on(shot)
    shot.frame_set(8)
    shot.view_layers[0].use_pass_cryptomatte_object = True
    moving = wall(-2.0)
    for frame, x in ((0, -58.0), (16, -42.0)):  # its edge goes from left to right by a unit a frame, in the middle at frame 8
        moving.location.x = x
        moving.keyframe_insert("location", frame=frame)
    for curve in curves_of(moving):
        for point in curve.keyframe_points:
            point.interpolation = "LINEAR"
    shot.render.use_motion_blur, shot.render.motion_blur_shutter = True, 1.0
    shot.ua3dtalk_render.motion_blur_samples, shot.ua3dtalk_render.mesh_samples = 16, 1
    render(shot)
    channels = read_exr(Path(shot.render.filepath))
    alpha, matte = channels["ViewLayer.Combined.A"], channels["ViewLayer.CryptoObject00.G"]
    assert np.abs(alpha - matte).max() < 1e-5 and alpha.max() > 0.5
    assert len(np.unique(np.round(alpha[32, 36:60], 3))) > 8, "a ramp where the edge was"


def test_linear_numbers_do_not_depend_on_the_view(shot: bpy.types.Scene) -> None:
    """Scene linear OpenEXR holds the trained colours' light, whatever the view transform."""
    plain = render(shot)["Combined"]
    for transform in ("AgX", "Filmic", "Raw"):
        shot.view_settings.view_transform = transform
        assert np.array_equal(render(shot)["Combined"], plain)


class Rows:
    """Stands in for a layout: every property that a panel shows is to be there."""

    def __init__(self) -> None:
        self.shown: list[str] = []

    def prop(self, owner: Any, name: str, **_: Any) -> None:
        getattr(owner, name)
        self.shown.append(name)

    def label(self, **_: Any) -> None:
        pass

    def column(self, **_: Any) -> "Rows":
        return self


def test_panels_show_the_settings(shot: bpy.types.Scene, load: Callable[[str], ModuleType]) -> None:
    rows = Rows()
    for panel in load("addon.render_settings").CLASSES:
        if issubclass(panel, bpy.types.Panel):
            assert panel.is_registered and "UA3DTALK" in panel.COMPAT_ENGINES
            for draw in (panel.draw, getattr(panel, "draw_header", None)):
                if draw is not None:
                    draw(SimpleNamespace(layout=rows), bpy.context)
    settings = load("addon.render_settings")
    ours = {*settings.RenderProperties.__annotations__, *settings.PassProperties.__annotations__}
    assert ours < set(rows.shown), "each setting has its row"
