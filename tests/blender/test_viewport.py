"""Avatars in the 3D viewport: what is shown, at which frame, and that nothing ever reaches Blender's draw loop."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bpy
import numpy as np
import pytest
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).parent))

import splat_cases as cases  # noqa: E402
from render_cases import Source, avatar, close, display, into_framebuffer, load, region_of, shot, source  # noqa: E402, F401


def draw_viewport(load: Callable[[str], ModuleType], target: str, matrices: tuple[np.ndarray, np.ndarray] | None = None,
                  clip_planes: np.ndarray | None = None, space: bpy.types.SpaceView3D | None = None, **options: Any) -> np.ndarray:
    """`viewport.draw_region` into a framebuffer of its own, with a 3D viewport of the start-up file."""
    space = space or next(a.spaces.active for s in bpy.data.screens for a in s.areas if a.type == "VIEW_3D")
    region, data = region_of(*(matrices or (VIEW, PROJECTION)), 96, 64)
    if clip_planes is not None:
        data.use_clip_planes, data.clip_planes = True, clip_planes
    depsgraph = bpy.context.evaluated_depsgraph_get()
    return into_framebuffer(lambda: load("addon.draw.viewport").draw_region(depsgraph, space, region, data, target, **options))


VIEW, PROJECTION = cases.look(3.0), cases.perspective(96, 64)


@pytest.fixture
def viewport(shot: bpy.types.Scene, load: Callable[[str], ModuleType]) -> Iterator[ModuleType]:
    cases.gpu_context()
    module = load("addon.draw.viewport")
    yield module
    module.remove()


def test_viewport_shows_the_current_frame(viewport: ModuleType, source: Source, load: Callable[[str], ModuleType]) -> None:
    for frame, subframe in ((0, 0.0), (9, 0.5), (4, 0.0)):
        bpy.context.scene.frame_set(frame, subframe=subframe)
        obj = bpy.data.objects["avatar"]
        splats = source(obj, frame + subframe).at(np.array(obj.matrix_world))
        expected = cases.rasterise([splats], VIEW, PROJECTION, 96, 64)
        close(draw_viewport(load, "display"), expected.combined)
        close(display(draw_viewport(load, "scene_linear")), expected.combined)
        assert viewport.problems() == ()


def test_viewport_says_what_is_missing_and_draws_the_rest(viewport: ModuleType, source: Source, load: Callable[[str], ModuleType],
                                                          capsys: pytest.CaptureFixture) -> None:
    source.last = 5
    bpy.context.scene.frame_set(7)
    assert not draw_viewport(load, "display").any()
    assert viewport.problems() == ("avatar: frame 7 is not baked",)
    draw_viewport(load, "display")
    assert capsys.readouterr().out.count("frame 7 is not baked") == 1, "printed once, not with every redraw"
    source.stands_in = True
    assert draw_viewport(load, "display").any()
    assert viewport.problems() == ("avatar: not baked yet",)
    bpy.context.scene.frame_set(5)
    assert draw_viewport(load, "display").any()
    assert viewport.problems() == ()


def test_viewport_never_raises(viewport: ModuleType, source: Source, load: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(*_: Any, **__: Any) -> None:
        raise MemoryError("no room on the GPU")

    with monkeypatch.context() as patch:
        patch.setattr(viewport, "draw_view", fails)
        draw_viewport(load, "display")
        assert viewport.problems() == ("Drawing failed: no room on the GPU",)
    assert draw_viewport(load, "display").any() and viewport.problems() == ()


def test_viewport_hides_what_is_hidden(viewport: ModuleType, load: Callable[[str], ModuleType]) -> None:
    obj = bpy.data.objects["avatar"]
    assert draw_viewport(load, "display").any()
    obj.hide_set(True)
    assert not draw_viewport(load, "display").any()
    obj.hide_set(False)
    obj.hide_render = True
    assert draw_viewport(load, "display").any(), "hidden in renders only"
    obj.hide_viewport = True
    assert not draw_viewport(load, "display").any()
    obj.hide_viewport = False
    space = next(a.spaces.active for s in bpy.data.screens for a in s.areas if a.type == "VIEW_3D")
    space.show_object_viewport_mesh = False
    assert not draw_viewport(load, "display").any(), "the viewport's filter of object types"
    space.show_object_viewport_mesh = True
    hidden = bpy.data.collections.new("hidden")
    bpy.context.scene.collection.children.link(hidden)
    hidden.objects.link(obj)
    bpy.context.scene.collection.objects.unlink(obj)
    assert draw_viewport(load, "display").any()
    bpy.context.view_layer.layer_collection.children["hidden"].hide_viewport = True
    assert not draw_viewport(load, "display").any()


def test_viewport_of_other_quantities(viewport: ModuleType, load: Callable[[str], ModuleType]) -> None:
    look = load("addon.draw.source").ViewportLook
    color = draw_viewport(load, "display")
    for name in ("branch", "object", "depth", "uncertainty"):
        found = draw_viewport(load, "display", look=look(name, (0.0, 0.02) if name == "uncertainty" else (2.0, 4.0)))
        assert np.allclose(found[..., 3], color[..., 3], atol=1e-5) and np.abs(found - color).max() > 0.1


def test_rendered_mode(viewport: ModuleType, source: Source, load: Callable[[str], ModuleType]) -> None:
    """`view_draw`, called as Blender calls it (which it does with a window only): scene linear, over the world's colour."""
    scene = bpy.context.scene
    world = bpy.data.worlds.new("world")
    world.color = 0.2, 0.3, 0.4
    if not world.node_tree:
        world.use_nodes = True
    world.node_tree.nodes.clear()
    scene.world = world
    region, data = region_of(VIEW, PROJECTION, 96, 64)
    space = next(a.spaces.active for s in bpy.data.screens for a in s.areas if a.type == "VIEW_3D")
    context = SimpleNamespace(space_data=space, region=region, region_data=data)
    view_draw = load("addon.render_engine").UA3DTalkRenderEngine.view_draw
    scene.frame_set(6)
    obj = bpy.data.objects["avatar"]
    expected = cases.rasterise([source(obj, 6.0).at(np.array(obj.matrix_world))], VIEW, PROJECTION, 96, 64).combined
    alpha = expected[..., 3:]
    straight = np.divide(expected[..., :3], alpha, out=np.zeros_like(expected[..., :3]), where=alpha > 0)
    decoded = np.where(straight <= 0.04045, straight / 12.92, ((straight + 0.055) / 1.055) ** 2.4)
    linear = np.concatenate([decoded * alpha, alpha], axis=2)
    for transparent in (True, False):
        scene.render.film_transparent = transparent
        depsgraph = bpy.context.evaluated_depsgraph_get()
        found = into_framebuffer(lambda: view_draw(SimpleNamespace(_meshes=None), context, depsgraph))
        assert viewport.problems() == ()
        behind = np.zeros(4) if transparent else np.array([0.2, 0.3, 0.4, 1.0])
        difference = np.abs(found - (linear + (1 - alpha) * behind))
        assert difference.max() < 0.02 and difference.mean() < 1e-3


def test_views_of_every_kind(viewport: ModuleType, source: Source, load: Callable[[str], ModuleType]) -> None:
    """Orthographic, close with a wide lens, and clipped near and far; several objects, one of them mirrored, one an instance."""
    obj = bpy.data.objects["avatar"]
    mirrored = avatar("avatar.mirrored")
    mirrored.location, mirrored.scale, mirrored.rotation_euler = (-0.5, 0.3, 0.2), (-0.6, 0.9, 0.5), (0.2, 0.4, 1.0)
    group = bpy.data.collections.new("group")
    inside = avatar("avatar.inside", group)
    empty = bpy.data.objects.new("instancer", None)
    empty.instance_type, empty.instance_collection = "COLLECTION", group
    empty.location, empty.scale = (0.5, -0.2, 0.1), (0.5, 0.5, -0.5)
    bpy.context.scene.collection.objects.link(empty)
    bpy.context.view_layer.update()
    splats = [source(obj, 0.0).at(np.array(m)) for m in (obj.matrix_world, mirrored.matrix_world, empty.matrix_world @ inside.matrix_world)]
    for view, projection in (
        (cases.look(5.0, 2.0, -0.4), cases.parallel(96, 64, 2.6)),
        (cases.look(1.5), cases.perspective(96, 64, 0.6, (0.3, -0.2))),
    ):
        expected = cases.rasterise(splats, view, projection, 96, 64).combined
        assert expected[..., 3].max() > 0.9
        close(draw_viewport(load, "display", (view, projection)), expected)
        assert viewport.problems() == ()
    # The view's own clip range, and the planes of Clip Region (Alt B).
    near, far = 2.8, 3.1
    world = [one.means @ one.matrix_world[:3, :3].T.astype(np.float32) + one.matrix_world[:3, 3].astype(np.float32) for one in splats]
    for kept, options in (
        ([(-(w @ VIEW[2, :3] + VIEW[2, 3]) > near) & (-(w @ VIEW[2, :3] + VIEW[2, 3]) < far) for w in world],
         {"matrices": (VIEW, cases.perspective(96, 64, near=near, far=far))}),
        ([(w[:, 0] >= 0.1) & (w[:, 2] <= 0.2) for w in world],
         {"clip_planes": np.array([[1, 0, 0, -0.1], [0, 0, -1, 0.2], [0, 1, 0, 9], [0, -1, 0, 9], [0, 0, 0, -1], [0, 0, 0, -1.0]])}),
    ):
        chosen = [one.__class__(**{**{n: getattr(one, n)[k] for n in source.arrays}, "matrix_world": one.matrix_world})
                  for one, k in zip(splats, kept)]
        assert 20 < sum(map(len, chosen)) < 400
        close(draw_viewport(load, "display", **options), cases.rasterise(chosen, VIEW, PROJECTION, 96, 64).combined)


def test_local_view(viewport: ModuleType, load: Callable[[str], ModuleType]) -> None:
    """What is not in a viewport's local view is not drawn in it."""
    one, other = bpy.data.objects["avatar"], avatar("avatar.second")
    other.location.x = 0.8
    window = bpy.context.window_manager.windows[0]
    area = next(a for a in window.screen.areas if a.type == "VIEW_3D")
    region, space = next(r for r in area.regions if r.type == "WINDOW"), area.spaces.active
    both = draw_viewport(load, "display", space=space)
    other.hide_set(True)
    alone = draw_viewport(load, "display", space=space)
    other.hide_set(False)
    assert np.abs(alone - both).max() > 0.3
    bpy.context.view_layer.update()
    one.select_set(True)
    other.select_set(False)
    with bpy.context.temp_override(window=window, area=area, region=region):
        bpy.ops.view3d.localview(frame_selected=False)
        assert space.local_view is not None
        if not one.local_view_get(space):
            bpy.ops.view3d.localview(frame_selected=False)
            pytest.skip("this Blender puts nothing into a local view without a window")
        assert np.array_equal(draw_viewport(load, "display", space=space), alone)
        bpy.ops.view3d.localview(frame_selected=False)
    assert np.array_equal(draw_viewport(load, "display", space=space), both)


def test_rendered_mode_hides_splats_behind_meshes(viewport: ModuleType, load: Callable[[str], ModuleType]) -> None:
    """As a render does; the meshes are read again where something changed."""
    scene = bpy.context.scene
    scene.render.film_transparent = True
    plane = bpy.data.objects.new("plane", bpy.data.meshes.new("plane"))
    plane.data.from_pydata([(-9, -9, 0), (9, -9, 0), (9, 9, 0), (-9, 9, 0)], [], [(0, 1, 2, 3)])
    scene.collection.objects.link(plane)
    plane.matrix_world = Matrix(np.linalg.inv(VIEW).tolist()) @ Matrix.Translation((0, 0, -1.5))  # between the camera and the avatar
    space = next(a.spaces.active for s in bpy.data.screens for a in s.areas if a.type == "VIEW_3D")
    region, data = region_of(VIEW, PROJECTION, 96, 64)
    context, drawer = SimpleNamespace(space_data=space, region=region, region_data=data), SimpleNamespace(_meshes=None)
    engine = load("addon.render_engine").UA3DTalkRenderEngine

    def draws() -> bool:
        depsgraph = bpy.context.evaluated_depsgraph_get()
        found = into_framebuffer(lambda: engine.view_draw(drawer, context, depsgraph))
        assert viewport.problems() == ()
        return bool(found.any())

    assert not draws()
    kept = drawer._meshes
    assert not draws() and drawer._meshes is kept, "read once"
    plane.hide_set(True)
    engine.view_update(drawer, context, bpy.context.evaluated_depsgraph_get())
    assert draws()
    plane.hide_set(False)
    engine.view_update(drawer, context, bpy.context.evaluated_depsgraph_get())
    assert not draws()
    scene.ua3dtalk_render.meshes_hide_splats = False
    assert draws()
