"""Splats and Cycles or EEVEE in one picture, by nodes beside the user's: rendered, and looked at pixel by pixel."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from addon_cases import api, avatars, number_cache  # noqa: E402, F401
from exr import read_exr  # noqa: E402
from render_cases import Source, compositor, exr_output, load, shot, source  # noqa: E402, F401

SIZE = 64
ACROSS = 4.0
"""World units that the picture is wide."""
RED, GREEN, BLUE = np.eye(3)


Shipped = Callable[[str], ModuleType]


@pytest.fixture
def verbs(load: Shipped) -> ModuleType:
    return load("addon.compositing")


@pytest.fixture
def stage(shot: bpy.types.Scene, source: Source) -> bpy.types.Scene:
    """A red ball, of splats one in another, at the origin, seen along +Y; a green box hides its right half, a blue wall is behind."""
    scene = shot
    source.arrays = red_ball()
    camera = scene.camera
    camera.location, camera.rotation_euler = (0.0, -5.0, 0.0), (np.pi / 2, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", ACROSS
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.render.film_transparent = False
    block("box", (1.0, -2.0, 0.0), (2.0, 0.5, 2.0), GREEN)
    block("wall", (0.0, 2.0, 0.0), (8.0, 0.1, 8.0), BLUE)
    use(scene, "CYCLES")
    return scene


def red_ball(count: int = 16) -> dict[str, np.ndarray]:
    red = np.where(RED, 0.5, -0.5) / 0.28209479177387814
    return {
        "means": np.zeros((count, 3), np.float32), "quats": np.float32([[1, 0, 0, 0]] * count),
        "scales": np.full((count, 3), 0.3, np.float32), "opacities": np.ones(count, np.float32),
        "sh": np.tile(red, (count, 1, 1)).astype(np.float32), "branch": np.zeros(count, np.uint8),
        "uncertainty": np.zeros((count, 2), np.float32),
    }  # fmt: skip


def block(name: str, at: tuple[float, float, float], size: tuple[float, float, float], color: np.ndarray) -> bpy.types.Object:
    """A box that shines in a colour, so that no light matters."""
    corners = np.array([(x, y, z) for x in (-0.5, 0.5) for y in (-0.5, 0.5) for z in (-0.5, 0.5)]) * size
    faces = [(0, 1, 3, 2), (4, 6, 7, 5), (0, 4, 5, 1), (2, 3, 7, 6), (0, 2, 6, 4), (1, 5, 7, 3)]
    mesh = bpy.data.meshes.new(name)
    mesh.from_pydata(corners.tolist(), [], faces)
    material = bpy.data.materials.new(name)
    if not material.node_tree:
        material.use_nodes = True
    nodes = material.node_tree.nodes
    nodes.clear()
    shine = nodes.new("ShaderNodeEmission")
    shine.inputs["Color"].default_value = (*color, 1.0)
    material.node_tree.links.new(shine.outputs[0], nodes.new("ShaderNodeOutputMaterial").inputs["Surface"])
    mesh.materials.append(material)
    obj = bpy.data.objects.new(name, mesh)
    obj.location = at
    bpy.context.scene.collection.objects.link(obj)
    return obj


def use(scene: bpy.types.Scene, engine: str) -> None:
    scene.render.engine = engine
    if engine == "CYCLES":
        scene.cycles.samples, scene.cycles.use_denoising, scene.cycles.use_adaptive_sampling = 4, False, False
    else:
        scene.eevee.taa_render_samples = 1


def eevee() -> str:
    known = {item.identifier for item in bpy.types.RenderSettings.bl_rna.properties["engine"].enum_items}
    return "BLENDER_EEVEE_NEXT" if "BLENDER_EEVEE_NEXT" in known else "BLENDER_EEVEE"


def picture(path: Path) -> np.ndarray:
    """What the compositor made, [h,w,4], of an EXR file."""
    channels = read_exr(path)
    prefix = next((name[:-1] for name in channels if name.endswith("Composite.Combined.R")), "ViewLayer.Combined.")
    return np.stack([channels[prefix + c] for c in "RGBA"], axis=2)


def render(scene: bpy.types.Scene) -> np.ndarray:
    bpy.ops.render.render(write_still=True, scene=scene.name)
    return picture(Path(bpy.path.abspath(scene.render.filepath)))


def at(image: np.ndarray, x: float, z: float) -> np.ndarray:
    """The pixel of a world point in the plane of the picture."""
    return image[int((z / ACROSS + 0.5) * SIZE), int((x / ACROSS + 0.5) * SIZE), :3]


def check_stage(found: np.ndarray) -> None:
    """Splats before the wall, behind the box; what is none of them untouched."""
    assert np.abs(at(found, -0.1, 0.1) - RED).max() < 1e-3, "the ball covers the wall"
    assert np.abs(at(found, 0.2, 0.1) - GREEN).max() < 1e-3, "the box covers the ball"
    assert np.abs(at(found, 1.8, 0.9) - GREEN).max() < 1e-3
    assert np.abs(at(found, -1.8, -1.5) - BLUE).max() < 1e-3


def both_alone(scene: bpy.types.Scene, tmp_path: Path) -> np.ndarray:
    """The scene by its own engine, and by ours with a transparent film, put together here; no node is asked."""
    kept = scene.render.engine, scene.render.filepath, scene.render.film_transparent, scene.render.use_compositing
    scene.render.use_compositing = False
    try:
        scene.render.filepath = str(tmp_path / "plain.exr")
        plain = render(scene)
        scene.render.engine, scene.render.film_transparent = "UA3DTALK", True
        scene.render.filepath = str(tmp_path / "splats.exr")
        splats = render(scene)
    finally:
        scene.render.engine, scene.render.filepath, scene.render.film_transparent, scene.render.use_compositing = kept
    assert splats[..., 3].max() > 0.9
    return splats + (1 - splats[..., 3:]) * plain


def same(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape and np.abs(found - expected).max() < 2e-3


def drawn(tree: bpy.types.NodeTree, leave_out: str = "") -> tuple[set, set]:
    """Nodes and links of a tree, as they can be compared."""
    kept = [node for node in tree.nodes if not leave_out or leave_out not in node]
    names = {node.name for node in kept}
    nodes = {(node.name, node.bl_idname, node.label, tuple(node.location), node.mute) for node in kept}
    ends = [(one.from_node.name, one.from_socket.identifier, one.to_node.name, one.to_socket.identifier) for one in tree.links]
    return nodes, {one for one in ends if one[0] in names and one[2] in names}


def users_nodes(scene: bpy.types.Scene) -> bpy.types.NodeTree:
    """What a user may have: a darkened picture into the output, and a viewer."""
    tree, output = compositor(scene)
    layers = tree.nodes.new("CompositorNodeRLayers")
    layers.scene = scene
    blur = tree.nodes.new("CompositorNodeBlur")
    blur.mute = True
    tree.links.new(layers.outputs["Image"], next(one for one in blur.inputs if one.type == "RGBA"))
    tree.links.new(blur.outputs[0], output)
    tree.links.new(blur.outputs[0], tree.nodes.new("CompositorNodeViewer").inputs[0])
    return tree


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_the_combined_picture(stage: bpy.types.Scene, verbs: ModuleType, engine: str, tmp_path: Path) -> None:
    use(stage, engine if engine == "CYCLES" else eevee())
    made = verbs.add(stage)
    assert made.connected and not made.notes and made.result.node.label == "Scene and Splats"
    found = render(stage)
    check_stage(found)
    same(found, both_alone(stage, tmp_path))


def test_what_is_there_stays(stage: bpy.types.Scene, verbs: ModuleType) -> None:
    tree = users_nodes(stage)
    before, plain = drawn(tree), render(stage)
    made = verbs.add(stage)
    assert made.tree == tree and not made.connected and "connect the node 'Scene and Splats'" in made.notes[0]
    assert drawn(tree, verbs.PART) == before
    assert np.array_equal(render(stage), plain), "the output is what it was"
    frame = next(node for node in tree.nodes if node.bl_idname == "NodeFrame")
    assert frame.label == "UA-3DTalk: scene and splats" and made.result.node.parent == frame
    assert verbs.add(stage, connect=True).connected
    check_stage(render(stage))
    nodes, links = drawn(tree, verbs.PART)
    assert nodes == before[0] and before[1] - links and len(before[1] - links) == 1, "but for the one link that was asked for"


def test_a_second_run_finds_its_own(stage: bpy.types.Scene, verbs: ModuleType) -> None:
    made = verbs.add(stage)
    once, scenes = drawn(made.tree), len(bpy.data.scenes)
    again = verbs.add(stage)
    assert drawn(again.tree) == once and len(bpy.data.scenes) == scenes == 2 and again.splats == made.splats and again.connected
    # What the user put between, moved and muted stays; what he deleted comes again.
    between = made.tree.nodes.new("CompositorNodeBlur")
    between.mute = True
    over = made.result.node
    into = next(one for one in between.inputs if one.type == "RGBA")
    foreground = [one for one in over.inputs if one.type == "RGBA"][1]
    made.tree.links.new(foreground.links[0].from_socket, into)
    made.tree.links.new(between.outputs[0], foreground)
    over.location.x += 300
    kept = drawn(made.tree)
    assert drawn(verbs.add(stage).tree) == kept
    made.tree.nodes.remove(next(node for node in made.tree.nodes if node.get(verbs.PART) == "scene"))
    bpy.data.scenes.remove(made.splats)
    repaired = verbs.add(stage)
    repaired.tree.nodes.remove(between)
    assert verbs.add(stage).connected
    check_stage(render(stage))


def test_removed_without_a_trace(stage: bpy.types.Scene, verbs: ModuleType) -> None:
    tree = users_nodes(stage)
    before, scenes = drawn(tree), set(bpy.data.scenes)
    verbs.add(stage)
    assert verbs.remove(stage) and drawn(tree) == before and set(bpy.data.scenes) == scenes
    assert not verbs.remove(stage)


def test_a_scene_without_nodes_is_without_them_again(stage: bpy.types.Scene, verbs: ModuleType, load: Shipped) -> None:
    """An empty tree that stayed in use would render nothing."""
    compat, groups = load("addon.compat"), set(bpy.data.node_groups)
    before = render(stage)
    for _ in range(2):
        assert compat.compositor_tree(stage) is None
        assert verbs.add(stage).connected
        check_stage(render(stage))
        assert verbs.remove(stage) and not compat.compositor_in_use(stage)
        assert set(bpy.data.node_groups) == groups
        np.testing.assert_allclose(render(stage), before, atol=1e-3)
    made = verbs.add(stage)
    blur = made.tree.nodes.new("CompositorNodeBlur")
    assert verbs.remove(stage) and compat.compositor_tree(stage).nodes[blur.name], "what the user put there stays"


def test_a_tree_that_is_switched_off_stays_off(stage: bpy.types.Scene, verbs: ModuleType) -> None:
    users_nodes(stage)
    stage.render.use_compositing = False
    made = verbs.add(stage)
    assert not stage.render.use_compositing and any("switched off" in note for note in made.notes)
    assert verbs.add(stage, connect=True).notes == [] and stage.render.use_compositing
    check_stage(render(stage))


def test_the_operator_and_undo(api: ModuleType, avatars: Path, verbs: ModuleType) -> None:
    assert not bpy.ops.ua3dtalk.add_compositing.poll()
    scene = bpy.context.scene
    api.import_avatar(avatars / "static.safetensors")
    scene.render.engine = "CYCLES"
    bpy.ops.ed.undo_push(message="before")
    assert bpy.ops.ua3dtalk.add_compositing() == {"FINISHED"}
    bpy.ops.ed.undo_push(message="added")
    assert verbs.helper(scene) is not None
    bpy.ops.ed.undo()
    scene = bpy.context.scene
    assert verbs.helper(scene) is None and len(bpy.data.scenes) == 1
    bpy.ops.ed.redo()
    scene = bpy.context.scene
    assert verbs.helper(scene) is not None and verbs.helper(scene).background_set == scene
    assert bpy.ops.ua3dtalk.remove_compositing() == {"FINISHED"} and len(bpy.data.scenes) == 1
    assert not bpy.ops.ua3dtalk.remove_compositing.poll()


def in_a_part(scene: bpy.types.Scene) -> None:
    scene.render.use_border = scene.render.use_crop_to_border = True
    scene.render.border_min_x, scene.render.border_max_x, scene.render.border_min_y, scene.render.border_max_y = 0.25, 0.75, 0.25, 0.875


def smaller(scene: bpy.types.Scene) -> None:
    scene.render.resolution_percentage, scene.render.pixel_aspect_x = 75, 1.5


def other_camera(scene: bpy.types.Scene) -> None:
    camera = bpy.data.objects.new("other", bpy.data.cameras.new("other"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (-2.0, -5.0, 1.0), (1.4, 0.0, -0.3)
    scene.camera = camera


def moved_and_later(scene: bpy.types.Scene) -> None:
    """Animated camera and head, at a fraction of a frame, in remapped time."""
    for frame in (0, 20):
        scene.camera.location.x = frame / 20
        scene.camera.keyframe_insert("location", frame=frame)
    scene.render.frame_map_old, scene.render.frame_map_new = 100, 50
    scene.frame_set(5, subframe=0.5)


def blurred(scene: bpy.types.Scene) -> None:
    """The head and a box fly by while the shutter is open."""
    scene.render.use_motion_blur, scene.render.motion_blur_shutter, scene.render.motion_blur_position = True, 0.8, "START"
    for obj in (bpy.data.objects["avatar"], bpy.data.objects["box"]):
        for frame in (0, 1):
            obj.location.z = 0.6 * frame
            obj.keyframe_insert("location", frame=frame)
    scene.frame_set(0)


def more_in_the_scene(scene: bpy.types.Scene) -> None:
    """A collection that came later, one of its boxes before the head; another is hidden."""
    for name, x in (("shown", -0.4), ("hidden", -0.9)):
        collection = bpy.data.collections.new(name)
        scene.collection.children.link(collection)
        box = block(name, (x, -2.0, -0.5), (0.3, 0.3, 0.3), GREEN)
        scene.collection.objects.unlink(box)
        collection.objects.link(box)
    scene.view_layers[0].layer_collection.children["hidden"].exclude = True


@pytest.mark.parametrize("change", [in_a_part, smaller, other_camera, moved_and_later, blurred, more_in_the_scene])
def test_what_changes_afterwards_counts(
    stage: bpy.types.Scene, verbs: ModuleType, change: Callable[[bpy.types.Scene], None], tmp_path: Path
) -> None:
    verbs.add(stage)
    change(stage)
    same(render(stage), both_alone(stage, tmp_path))


def test_markers_switch_both_cameras(stage: bpy.types.Scene, verbs: ModuleType, tmp_path: Path) -> None:
    first = stage.camera
    other_camera(stage)
    for frame, camera in ((3, stage.camera), (0, first), (5, first)):
        stage.timeline_markers.new(f"{frame}", frame=frame).camera = camera
    verbs.add(stage)
    stage.frame_start, stage.frame_end = 2, 5
    stage.render.filepath = str(tmp_path / "f_")
    bpy.ops.render.render(animation=True)
    for frame in range(2, 6):
        stage.frame_set(frame)
        same(picture(tmp_path / f"f_{frame:04d}.exr"), both_alone(stage, tmp_path))


def test_view_layers(stage: bpy.types.Scene, verbs: ModuleType, load: Shipped) -> None:
    other = stage.view_layers.new("Other")
    made = verbs.add(stage, layer="Other")
    node = next(node for node in made.tree.nodes if node.get(verbs.PART) == "scene")
    assert node.layer == "Other"
    verbs.add(stage)
    assert node.layer == "Other", "what was chosen stays"
    with pytest.raises(load("engine.errors").UserError, match="no view layer 'Third'"):
        verbs.add(stage, layer="Third")
    assert other.name in stage.view_layers


def test_what_cannot_be_combined_says_why(stage: bpy.types.Scene, verbs: ModuleType, load: Shipped) -> None:
    made = verbs.add(stage)
    with pytest.raises(load("engine.errors").UserError, match="is a part of the compositing of Scene"):
        verbs.add(made.splats)
    with pytest.raises(load("engine.errors").UserError, match="No avatar of Scene has a proxy"):
        verbs.add(stage, shadows=True)
    verbs.remove(stage)
    stage.render.engine = "UA3DTALK"
    with pytest.raises(load("engine.errors").UserError, match="Choose Cycles or EEVEE"):
        verbs.add(stage)
    assert len(bpy.data.scenes) == 1, "nothing was begun"


@pytest.fixture
def lit_head(api: ModuleType, avatars: Path, scene: bpy.types.Scene, tmp_path: Path) -> bpy.types.Scene:
    """A head that does not move, from the front, with a proxy and in a sun from the camera's side; a board behind the camera
    keeps the sun from the lower half."""
    api.add_proxy(api.import_avatar(avatars / "static.safetensors"), size=6.0, opacity=0.0)
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    camera.location, camera.rotation_euler = (0.0, -1.0, 0.0), (np.pi / 2, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 0.3
    sun = bpy.data.objects.new("sun", bpy.data.lights.new("sun", "SUN"))
    sun.rotation_euler, sun.data.angle = (np.pi / 2, 0.0, 0.0), 0.0
    for obj in (camera, sun):
        scene.collection.objects.link(obj)
    block("board", (0.0, -3.0, -1.0), (4.0, 0.1, 2.0), np.zeros(3))
    scene.camera = camera
    scene.render.resolution_x = scene.render.resolution_y = SIZE
    scene.render.film_transparent = True
    use(scene, "CYCLES")
    exr_output(scene, tmp_path / "lit.exr")
    return scene


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_shadows_fall_on_splats_where_asked_for(lit_head: bpy.types.Scene, verbs: ModuleType, engine: str) -> None:
    use(lit_head, engine if engine == "CYCLES" else eevee())
    made = verbs.add(lit_head)
    plain, before = render(lit_head), drawn(made.tree)
    made = verbs.add(lit_head, shadows=True)
    assert made.shadows is not None and made.shadows.cycles.samples == lit_head.cycles.samples
    shaded = render(lit_head)
    assert np.allclose(shaded[..., 3], plain[..., 3], atol=1e-3), "shadows take light, not substance"
    seen = plain[..., 1] > 0.05
    kept = shaded[..., 1][seen] / plain[..., 1][seen]
    upper = (np.nonzero(seen)[0] > SIZE / 2 + 2)
    lower = (np.nonzero(seen)[0] < SIZE / 2 - 2)
    assert upper.sum() > 100 and lower.sum() > 100
    assert kept.max() < 1.001 and np.median(kept[upper]) > 0.97 and np.median(kept[lower]) < 0.1
    assert verbs.add(lit_head).shadows is not None, "as it is"
    made = verbs.add(lit_head, shadows=False)
    assert made.shadows is None and drawn(made.tree) == before and len(bpy.data.scenes) == 2
    same(render(lit_head), plain)


def test_the_shadow_scene_changes_nothing_of_the_first(lit_head: bpy.types.Scene, verbs: ModuleType, api: ModuleType) -> None:
    """The proxy is seen in the shadow scene alone."""
    plain = render(lit_head)
    made = verbs.add(lit_head, shadows=True)
    lit_head.render.use_compositing = False
    same(render(lit_head), plain)
    exr_output(made.shadows, Path(lit_head.render.filepath).with_name("shadows.exr"))
    made.shadows.render.use_compositing = False
    bpy.ops.render.render(write_still=True, scene=made.shadows.name)
    caught = next(v for k, v in read_exr(Path(made.shadows.render.filepath)).items() if k.endswith("Shadow Catcher.G"))
    assert caught[: SIZE // 2 - 2].min() < 0.05 and np.median(caught[SIZE // 2 + 2 :]) > 0.95
