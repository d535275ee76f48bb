"""What the tests of render engine and viewport share: avatars that tell the frame, a shot, its passes, the slow reference."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import bpy
import gpu
import numpy as np
import pytest

import splat_cases as cases
from exr import read_exr

LARGEST, MEAN = 2 / 255, 0.2 / 255
STEP = 0.02
"""World units that an avatar of `Source` moves along x in a frame."""


@pytest.fixture(scope="module")
def load(shipped: Callable[[str], ModuleType]) -> Callable[[str], ModuleType]:
    return shipped


@dataclass
class Source:
    """A frame source: avatars are the objects named `avatar*`; their splats move with the frame, frames over `last` are missing."""

    make: Callable[..., Any]
    last: float = 1000.0
    stands_in: bool = False
    asked: list[tuple[str, float]] = field(default_factory=list)
    arrays: dict[str, np.ndarray] = field(default_factory=lambda: cases.random_arrays(250, 4, 11, spread=0.5))

    def __call__(self, obj: bpy.types.Object, frame: float) -> Any:
        if not obj.name.startswith("avatar"):
            return None
        self.asked.append((obj.name, frame))
        if frame > self.last and not self.stands_in:
            raise RuntimeError(f"frame {frame:g} is not baked")
        means = self.arrays["means"] + np.float32([STEP * frame, 0, 0])
        return self.make(**{**self.arrays, "means": means}, note="not baked yet" if frame > self.last else "")


@pytest.fixture
def source(load: Callable[[str], ModuleType]) -> Iterator[Source]:
    """Delivers frames in place of the add-on's own source."""
    module = load("addon.draw.source")
    kept = module._frame_source, module._look_source
    made = Source(load("addon.draw.splats").Splats)
    module.set_sources(made)
    yield made
    module.set_sources(*kept)


@pytest.fixture
def shot(scene: bpy.types.Scene, source: Source, tmp_path: Path) -> bpy.types.Scene:
    """One avatar before a camera: 96x64, transparent film, all passes, frame 0, output to an uncompressed multilayer EXR."""
    avatar("avatar")
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (0.4, -3.0, 0.5), (1.4, 0.1, 0.15)
    scene.camera = camera
    scene.render.engine = "UA3DTALK"
    scene.render.resolution_x, scene.render.resolution_y = 96, 64
    scene.render.film_transparent = True
    scene.render.dither_intensity = 0.0
    scene.view_layers[0].use_pass_z = True
    scene.frame_set(0)
    exr_output(scene, tmp_path / "out.exr")
    return scene


def avatar(name: str, collection: bpy.types.Collection | None = None) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(name)
    obj = bpy.data.objects.new(name, mesh)
    (collection or bpy.context.scene.collection).objects.link(obj)
    return obj


def exr_output(scene: bpy.types.Scene, path: Path) -> None:
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "MULTI_LAYER_IMAGE"
        settings.use_exr_interleave = True
    settings.file_format, settings.exr_codec, settings.color_depth = "OPEN_EXR_MULTILAYER", "NONE", "32"
    scene.render.filepath = str(path)


def png_output(scene: bpy.types.Scene, path: Path) -> None:
    settings = scene.render.image_settings
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format, settings.color_mode, settings.color_depth = "PNG", "RGBA", "8"
    scene.render.filepath = str(path)


def render(scene: bpy.types.Scene) -> dict[str, np.ndarray]:
    """Render to the scene's EXR file: Combined [h,w,4] and the other passes [h,w]."""
    bpy.ops.render.render(write_still=True)
    return read_passes(Path(scene.render.filepath))


def read_passes(path: Path, layer: str = "ViewLayer") -> dict[str, np.ndarray]:
    channels = read_exr(path)
    found = {"Combined": np.stack([channels[f"{layer}.Combined.{c}"] for c in "RGBA"], axis=2)}
    for name in channels:
        if name.startswith(f"{layer}.") and ".Combined." not in name:
            found[name.split(".")[1]] = channels[name]
    return found


def display(combined: np.ndarray) -> np.ndarray:
    """Scene linear, premultiplied -> display-referred sRGB, premultiplied: what the avatar was trained on."""
    alpha = combined[..., 3:].astype(np.float64)
    c = np.divide(combined[..., :3], alpha, out=np.zeros_like(combined[..., :3], dtype=np.float64), where=alpha > 0)
    c = np.where(c <= 0.0031308, 12.92 * c, 1.055 * np.maximum(c, 1e-9) ** (1 / 2.4) - 0.055)
    return np.concatenate([c * alpha, alpha], axis=2)


def reference(scene: bpy.types.Scene, splats: list, width: int, height: int) -> cases.Reference:
    """The plain rasteriser with a camera made from the focal length's definition, not from Blender's matrix."""
    camera, render_settings = scene.camera, scene.render
    ax, ay = render_settings.pixel_aspect_x, render_settings.pixel_aspect_y
    lens = camera.data
    wide = width * ax >= height * ay
    # Camera units (a sensor for perspective, the view for parallel) to pixels, along the longer side.
    pixels = width if wide else height * ay / ax
    focal = pixels * (lens.lens / lens.sensor_width if lens.type == "PERSP" else 1 / lens.ortho_scale)
    fx, fy = focal, focal * ax / ay
    shift_x, shift_y = lens.shift_x * pixels, lens.shift_y * pixels * ax / ay
    p = np.zeros((4, 4))
    p[0, 0], p[1, 1], p[2, 2] = 2 * fx / width, 2 * fy / height, -1.0
    if lens.type == "PERSP":
        p[0, 2], p[1, 2], p[3, 2] = 2 * shift_x / width, 2 * shift_y / height, -1.0
    else:
        p[0, 3], p[1, 3], p[3, 3] = -2 * shift_x / width, -2 * shift_y / height, 1.0
    world = np.array(camera.matrix_world, dtype=np.float64)
    world[:3, :3] /= np.linalg.norm(world[:3, :3], axis=0)
    return cases.rasterise(splats, np.linalg.inv(world), p, width, height)


def close(found: np.ndarray, expected: np.ndarray) -> None:
    assert found.shape == expected.shape
    difference = np.abs(found - expected)
    assert difference.max() <= LARGEST and difference.mean() <= MEAN, f"{difference.max() * 255:.3f} {difference.mean() * 255:.4f} /255"


def compositor(scene: bpy.types.Scene) -> tuple[bpy.types.NodeTree, bpy.types.NodeSocket]:
    """An empty compositor and the socket that leads to the picture."""
    if hasattr(scene, "compositing_node_group"):
        tree = bpy.data.node_groups.new("Compositing", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        scene.compositing_node_group = tree
        return tree, tree.nodes.new("NodeGroupOutput").inputs["Image"]
    scene.use_nodes = True
    scene.node_tree.nodes.clear()
    return scene.node_tree, scene.node_tree.nodes.new("CompositorNodeComposite").inputs["Image"]


def centre_of(combined: np.ndarray) -> float:
    """Where along the image's width the alpha lies, px."""
    alpha = combined[..., 3]
    return float((alpha * (np.arange(alpha.shape[1]) + 0.5)).sum() / alpha.sum())


def straight_on(scene: bpy.types.Scene) -> Callable[[np.ndarray], float]:
    """A parallel camera along +Y, 4 units wide; returns what tells the frame from a picture."""
    camera = scene.camera
    camera.location, camera.rotation_euler = (0.5, -5.0, 0.0), (np.pi / 2, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", 4.0
    scene.frame_set(0)
    start = centre_of(render(scene)["Combined"])
    return lambda combined: (centre_of(combined) - start) / 96 * 4.0 / STEP


def region_of(view: np.ndarray, projection: np.ndarray, width: int, height: int) -> tuple[Any, Any]:
    """Region and its 3D data, as Blender would hold them for a window of this size."""
    data = SimpleNamespace(view_matrix=view, window_matrix=projection, use_clip_planes=False, clip_planes=np.zeros((6, 4)))
    return SimpleNamespace(width=width, height=height), data


def into_framebuffer(draw: Callable[[], None], width: int = 96, height: int = 64) -> np.ndarray:
    """What draw() leaves in an empty framebuffer with an empty depth."""
    color = gpu.types.GPUTexture((width, height), format="RGBA32F")
    depths = gpu.types.GPUTexture((width, height), format="DEPTH_COMPONENT32F",
                                  data=gpu.types.Buffer("FLOAT", width * height, np.ones(width * height, np.float32)))
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,), depth_slot=depths)
    with buffer.bind():
        buffer.clear(color=(0.0, 0.0, 0.0, 0.0))
        draw()
        pixels = gpu.types.Buffer("FLOAT", width * height * 4)
        buffer.read_color(0, 0, width, height, 4, 0, "FLOAT", data=pixels)
    return np.frombuffer(pixels, np.float32).reshape(height, width, 4).copy()
