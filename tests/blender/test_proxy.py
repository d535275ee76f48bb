"""The proxy: shadows of a head in Cycles and EEVEE with it and none without, at every frame, in no camera's sight, and gone
without a trace."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from addon_cases import api, avatars, number_cache  # noqa: E402, F401
from exr import read_exr  # noqa: E402
from render_cases import exr_output  # noqa: E402

Shipped = Callable[[str], ModuleType]
ACROSS, WIDTH, HEIGHT = 8.0, 384, 16


@pytest.fixture
def room(api: ModuleType, avatars: Path, scene: bpy.types.Scene, shipped: Shipped, tmp_path: Path) -> bpy.types.Scene:
    """A white floor seen from above, light from straight above; at frame f the head's moving half lies at x = f."""
    head = api.import_avatar(avatars / "head.safetensors", name="Head")
    floor = bpy.data.meshes.new("floor")
    floor.from_pydata([(-9, -9, -1), (9, -9, -1), (9, 9, -1), (-9, 9, -1)], [], [(0, 1, 2, 3)])
    scene.collection.objects.link(bpy.data.objects.new("floor", floor))
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.data.energy, sun.data.angle = 1.0, 0.0
    scene.collection.objects.link(sun)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.location, camera.data.type, camera.data.ortho_scale = (ACROSS / 2 - 1, 0.0, 9.0), "ORTHO", ACROSS
    scene.collection.objects.link(camera)
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    use(scene, "CYCLES")
    exr_output(scene, tmp_path / "room.exr")
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "room.blend"))
    number_cache(shipped, head, range(7))
    return bpy.context.scene


def use(scene: bpy.types.Scene, engine: str) -> None:
    known = {item.identifier for item in bpy.types.RenderSettings.bl_rna.properties["engine"].enum_items}
    if engine == "CYCLES":
        scene.render.engine = engine
        scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.use_adaptive_sampling = 4, False, False
    else:
        scene.render.engine = "BLENDER_EEVEE_NEXT" if "BLENDER_EEVEE_NEXT" in known else "BLENDER_EEVEE"
        scene.eevee.taa_render_samples = 4


def head_of(scene: bpy.types.Scene) -> bpy.types.Object:
    return scene.objects["Head"]


def floor_light(path: Path) -> np.ndarray:
    channels = read_exr(path)
    return next(v for k, v in channels.items() if k.endswith("Combined.G"))


def light(scene: bpy.types.Scene) -> np.ndarray:
    """How bright the floor is, [h,w]."""
    bpy.ops.render.render(write_still=True, scene=scene.name)
    return floor_light(Path(scene.render.filepath))


def shadow_at(with_proxy: np.ndarray, without: np.ndarray) -> float:
    """Where along x the shadow lies that one of two pictures has, what rests at the origin left out."""
    missing = np.clip(without - with_proxy, 0.0, None).sum(axis=0)
    x = (np.arange(WIDTH) + 0.5) / WIDTH * ACROSS - 1.0
    missing = np.where(x > 0.4, missing, 0.0)
    assert missing.sum() > without.mean(), "there is a shadow"
    return float((missing * x).sum() / missing.sum())


def points_of(made: bpy.types.Object) -> int:
    """How many points the 3D views' dependency graph has of a proxy."""
    geometry = made.evaluated_get(bpy.context.evaluated_depsgraph_get()).evaluated_geometry()
    return 0 if geometry.pointcloud is None else len(geometry.pointcloud.points)


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_a_shadow_with_it_and_none_without(room: bpy.types.Scene, api: ModuleType, engine: str) -> None:
    use(room, engine)
    room.frame_set(3)
    head_of(room).hide_render = True
    bare = light(room)
    head_of(room).hide_render = False
    without = light(room)
    assert np.abs(without - bare).max() < 0.2 * bare.mean(), "the points themselves are next to nothing"
    made = api.add_proxy(head_of(room), size=6.0)  # large enough for EEVEE's few samples
    assert not made.visible_camera
    found = light(room)
    assert (bare - found).max() > 0.5 * bare.mean()
    assert shadow_at(found, bare) == pytest.approx(3, abs=0.1)
    assert api.remove_proxy(head_of(room))
    assert np.abs(light(room) - without).max() < 1e-4


def test_it_follows_every_frame_of_an_animation(room: bpy.types.Scene, api: ModuleType, tmp_path: Path) -> None:
    bare = light(room)
    api.add_proxy(head_of(room), size=4.0)
    room.frame_set(6)
    room.frame_start, room.frame_end, room.frame_step = 1, 5, 2
    room.render.filepath = str(tmp_path / "anim" / "f_####")
    bpy.ops.render.render(animation=True)
    places = {int(p.stem[-4:]): shadow_at(floor_light(p), bare) for p in (tmp_path / "anim").glob("*.exr")}
    assert places == pytest.approx({1: 1, 3: 3, 5: 5}, abs=0.1)
    room.render.filepath = str(tmp_path / "still.exr")
    for frame in (4, 2):
        room.frame_set(frame)
        assert shadow_at(light(room), bare) == pytest.approx(frame, abs=0.1)


def test_it_follows_the_object(room: bpy.types.Scene, api: ModuleType) -> None:
    room.frame_set(4)
    bare = light(room)
    api.add_proxy(head_of(room), size=4.0)
    head_of(room).location.x = -1.5
    assert shadow_at(light(room), bare) == pytest.approx(2.5, abs=0.1)
    head_of(room).hide_render = True
    assert np.abs(light(room) - bare).max() < 0.2 * bare.mean(), "a hidden head is in nobody's light"


def test_no_camera_sees_it_and_mirrors_do(room: bpy.types.Scene, api: ModuleType) -> None:
    """Nothing of the floor's unshadowed parts changes under the camera; a mirror shows the head's colours."""
    room.frame_set(3)
    mirror = bpy.data.materials.new("mirror")
    if mirror.node_tree is None:
        mirror.use_nodes = True
    nodes = mirror.node_tree.nodes
    nodes.clear()
    gloss = nodes.new("ShaderNodeBsdfGlossy")
    gloss.inputs["Roughness"].default_value = 0.0
    mirror.node_tree.links.new(gloss.outputs[0], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
    room.objects["floor"].data.materials.append(mirror)
    # From below the head: it stands between the mirror and the light, and throws back what comes from under it.
    room.objects["sun"].rotation_euler = np.pi, 0.0, 0.0
    room.objects["sun"].data.use_shadow = False
    room.objects["floor"].visible_shadow = False
    without = light(room)
    made = api.add_proxy(head_of(room))
    found = light(room)
    assert found.max() > 0.02 and found.sum() > 20 * without.sum(), "the mirror shows it"
    made.visible_glossy = False
    assert light(room).sum() < 0.05 * found.sum(), "and nothing else does"


def test_size_and_opacity(room: bpy.types.Scene, api: ModuleType) -> None:
    room.frame_set(3)
    bare = light(room)
    shadows = []
    for size, opacity in ((1.0, 0.3), (3.0, 0.3), (3.0, 0.9), (3.0, 1.0)):
        api.add_proxy(head_of(room), size=size, opacity=opacity)
        shadows.append(np.clip(bare - light(room), 0, None).sum())
    assert shadows[1] > 1.5 * shadows[0] and shadows[2] < shadows[1] and shadows[3] < 0.2 * shadows[1]
    assert len(head_of(room).children) == 1, "one proxy, changed"


def test_in_viewports_only_when_asked_for(room: bpy.types.Scene, api: ModuleType) -> None:
    made = api.add_proxy(head_of(room), opacity=0.0)
    assert points_of(made) == 0
    api.add_proxy(head_of(room), opacity=0.0, in_viewport=True)
    bpy.context.view_layer.update()
    assert points_of(made) == len(head_of(room).data.points)


def test_it_goes_without_a_trace(room: bpy.types.Scene, api: ModuleType, avatars: Path) -> None:
    def everything() -> dict[str, set[str]]:
        kinds = ("objects", "meshes", "materials", "node_groups", "actions", "collections")
        return {kind: {one.name for one in getattr(bpy.data, kind)} for kind in kinds}

    before = everything()
    api.add_proxy(head_of(room))
    other = api.import_avatar(avatars / "other.safetensors", name="Other")
    api.add_proxy(other)
    assert len(bpy.data.node_groups) == len(before["node_groups"]) + 1, "both use one group"
    assert api.remove_proxy(other) and not api.remove_proxy(other)
    assert api.remove_proxy(head_of(room))
    bpy.data.objects.remove(other)
    assert everything() == before


def test_undo_and_a_saved_file(room: bpy.types.Scene, api: ModuleType, shipped: Shipped, tmp_path: Path) -> None:
    bpy.ops.ed.undo_push(message="before")
    bpy.context.view_layer.objects.active = head_of(room)
    assert bpy.ops.ua3dtalk.add_proxy(size=2.5) == {"FINISHED"}
    bpy.ops.ed.undo_push(message="added")
    bpy.ops.ed.undo()
    assert not bpy.context.scene.objects["Head"].children
    bpy.ops.ed.redo()
    assert shipped("addon.proxy").of(bpy.context.scene.objects["Head"]) is not None
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "room.blend"))
    scene = bpy.context.scene
    api.remove_proxy(head_of(scene))
    scene.frame_set(5)
    bare = light(scene)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "room.blend"))
    scene = bpy.context.scene
    scene.frame_set(5)
    assert shadow_at(light(scene), bare) == pytest.approx(5, abs=0.1)
    assert bpy.ops.ua3dtalk.remove_proxy() == {"FINISHED"}
    assert not bpy.ops.ua3dtalk.remove_proxy.poll()


def test_what_cannot_be_done_says_why(room: bpy.types.Scene, api: ModuleType) -> None:
    with pytest.raises(api.UserError, match="out of range"):
        api.add_proxy(head_of(room), size=0.0)
    with pytest.raises(api.UserError, match="no UA-3DTalk avatar"):
        api.add_proxy(room.objects["floor"])


def test_what_a_frame_costs(room: bpy.types.Scene, api: ModuleType, shipped: Shipped, measured: Callable[[str], None]) -> None:
    """Told, not asserted: the proxy of the bundled avatar, brought to a new frame."""
    demo = Path(shipped("addon").__file__).parent / "assets" / "demo_avatar.safetensors"
    head = api.import_avatar(demo)
    made = api.add_proxy(head, in_viewport=True)
    bpy.context.view_layer.update()
    began = time.process_time()
    for _ in range(10):
        head.data.update_tag()
        bpy.context.view_layer.update()
    spent = (time.process_time() - began) / 10
    count = points_of(made)
    measured(f"proxy: {spent * 1000:.1f} ms a frame for {count} of {len(head.data.points)} points")
    assert 0 < count <= len(head.data.points)
