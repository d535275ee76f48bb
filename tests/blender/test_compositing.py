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
from render_cases import STEP, Source, exr_output, load, shot, source  # noqa: E402, F401

SIZE = 64
ACROSS = 4.0
"""World units that the picture is wide."""
RED, GREEN, BLUE = np.eye(3)


@pytest.fixture
def verbs(load: Callable[[str], ModuleType]) -> ModuleType:
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


@pytest.mark.parametrize("engine", ["CYCLES", "EEVEE"])
def test_the_combined_picture(stage: bpy.types.Scene, verbs: ModuleType, engine: str, tmp_path: Path) -> None:
    use(stage, engine if engine == "CYCLES" else eevee())
    alone = render(stage)
    made = verbs.add(stage)
    assert made.connected and not made.notes
    found = render(stage)
    check_stage(found)
    exr_output(made.splats, tmp_path / "splats.exr")
    splats = render(made.splats)
    assert 0.05 < splats[..., 3].mean() < 0.5
    expected = splats + (1 - splats[..., 3:]) * alone
    assert np.abs(found - expected).max() < 2e-3, "splats over the scene, and nothing else"
