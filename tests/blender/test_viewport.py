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

sys.path.insert(0, str(Path(__file__).parent))

import splat_cases as cases  # noqa: E402
from render_cases import Source, close, display, into_framebuffer, load, region_of, shot, source  # noqa: E402, F401


def draw_viewport(load: Callable[[str], ModuleType], target: str, **options: Any) -> np.ndarray:
    """`viewport.draw_region` into a framebuffer of its own, with the 3D viewport of the start-up screen."""
    space = next(a.spaces.active for s in bpy.data.screens for a in s.areas if a.type == "VIEW_3D")
    region, data = region_of(VIEW, PROJECTION, 96, 64)
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
