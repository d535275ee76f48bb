"""One picture everywhere: the demo avatar, baked, as Blender renders it and as the engine's own rasteriser does, from five cameras."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest
from mathutils import Matrix

sys.path.insert(0, str(Path(__file__).parent))

import splat_cases as cases  # noqa: E402
from addon_cases import write_sound  # noqa: E402
from exr import read_exr  # noqa: E402
from render_cases import close, display, exr_output, into_framebuffer, load, read_passes, region_of  # noqa: E402, F401

from support import STAGE, engine_python  # noqa: E402

WIDTH, HEIGHT, FIRST = 192, 256, 4
AVATAR = STAGE / "ua3dtalk" / "addon" / "assets" / "demo_avatar.safetensors"
# Degrees to the avatar's left, degrees from above, metres from the head's middle, mm on 36 mm, shift of the lens in image heights.
CAMERAS = {
    "front": (0, 0, 1.0, 60, (0, 0)), "three quarters": (40, 10, 1.0, 60, (0, 0)), "profile, shifted": (90, -15, 0.9, 60, (0.1, -0.2)),
    "close, wide, from above": (-25, 35, 0.35, 24, (0, 0)), "behind": (170, 5, 1.2, 85, (0, 0)),
}  # fmt: skip


def world_of(turn: float, rise: float, distance: float) -> np.ndarray:
    """matrix_world of a camera that looks at the head's middle, as float32, which is what Blender keeps."""
    turn, rise = np.radians((turn, rise))
    back = np.array([np.sin(turn) * np.cos(rise), -np.cos(turn) * np.cos(rise), np.sin(rise)])
    right = np.array([np.cos(turn), np.sin(turn), 0.0])
    world = np.eye(4)
    world[:3, :3], world[:3, 3] = np.stack([right, np.cross(back, right), back], axis=1), back * distance + [0, 0, -0.02]
    return np.array(Matrix(world.tolist()))


def camera_entry(number: int, world: np.ndarray, lens: float, shift: tuple[float, float]) -> dict:
    """The camera in the engine's words. Its sensor is along the longer side, the height here."""
    view = np.diag([1.0, -1.0, -1.0, 1.0]) @ np.linalg.inv(world)
    focal = lens / 36.0 * HEIGHT
    K = [[focal, 0, WIDTH / 2 - shift[0] * HEIGHT], [0, focal, HEIGHT / 2 + shift[1] * HEIGHT], [0, 0, 1]]
    return {"frame": number, "viewmat": view.tolist(), "K": K}


def engine_run(*arguments: str | Path) -> None:
    command = [engine_python(), "-m", "engine", *arguments]
    done = subprocess.run([str(c) for c in command], cwd=STAGE / "ua3dtalk", capture_output=True, text=True, env=dict(os.environ))
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, np.ndarray]]]:
    """A cache of the demo avatar, and what the engine draws of each of its frames from another camera."""
    folder = tmp_path_factory.mktemp("engine")
    keys = [{"frame": FIRST, "emotion": "angry", "intensity": 1.0}]
    (folder / "emotion.json").write_text(json.dumps({"fps": 25, "keys": keys}))
    cameras = [camera_entry(FIRST + number, world_of(*c[:3]), *c[3:]) for number, c in enumerate(CAMERAS.values())]
    (folder / "camera.json").write_text(json.dumps({"width": WIDTH, "height": HEIGHT, "frames": cameras}))
    sound = write_sound(folder / "speech.wav", 0.5)
    cache, last = folder / "cache", FIRST + len(CAMERAS) - 1
    engine_run("bake", "--avatar", AVATAR, "--audio", sound, "--emotion", folder / "emotion.json",
               "--frames", f"{FIRST}:{last}", "--threads", "1", "--out", cache)  # fmt: skip
    engine_run("render", "--cache", cache, "--camera", folder / "camera.json", "--format", "exr", "--threads", "1", "--out", folder / "out")
    found = [read_exr(path) for path in sorted((folder / "out").glob("*.exr"))]
    assert len(found) == len(CAMERAS)
    return cache, found


@pytest.fixture
def head(scene: bpy.types.Scene, shipped: Callable[[str], ModuleType], pictures: tuple[Path, list], tmp_path: Path) -> bpy.types.Scene:
    """The demo avatar with that cache, before a camera of this size."""
    head = shipped("addon.api").import_avatar(AVATAR)
    head.ua3dtalk.cache_path = str(pictures[0])
    scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(scene.camera)
    scene.render.engine, scene.render.film_transparent = "UA3DTALK", True
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.view_layers[0].use_pass_z = True
    exr_output(scene, tmp_path / "out.exr")
    return scene


@pytest.mark.parametrize("number", range(len(CAMERAS)), ids=CAMERAS)
def test_same_picture(head: bpy.types.Scene, pictures: tuple[Path, list], load: Callable[[str], ModuleType],
                      measured: Callable[[str], None], number: int) -> None:
    """The render, the viewport's solid mode and its Rendered mode: at most 2/255 off anywhere, 0.2/255 in the mean."""
    turn, rise, distance, lens, shift = list(CAMERAS.values())[number]
    camera = head.camera
    camera.matrix_world = Matrix(world_of(turn, rise, distance).tolist())
    camera.data.lens, (camera.data.shift_x, camera.data.shift_y) = lens, shift
    head.frame_set(FIRST + number)
    wanted = pictures[1][number]
    expected = display(np.stack([wanted[c] for c in "RGBA"], axis=2))
    assert expected[..., 3].mean() > 0.1 and expected[..., :3].std() > 0.05

    bpy.ops.render.render(write_still=True)
    found = read_passes(Path(head.render.filepath))
    rendered = display(found["Combined"])
    close(rendered, expected)
    seen = wanted["A"] > 0.02
    assert np.abs(found["Depth"] - wanted["Z"])[seen].max() < 2e-3
    for name in ("Aleatoric", "Epistemic"):
        assert np.abs(found[name] - wanted[name])[seen].mean() < 1e-3 * wanted[name].max()
        assert wanted[name].max() > 0

    cases.gpu_context()
    view = np.linalg.inv(np.array(camera.matrix_world))
    depsgraph = bpy.context.evaluated_depsgraph_get()
    projection = np.array(camera.evaluated_get(depsgraph).calc_matrix_camera(depsgraph, x=WIDTH, y=HEIGHT), dtype=np.float64)
    region, data = region_of(view, projection, WIDTH, HEIGHT)
    space = next(a.spaces.active for s in bpy.data.screens for a in s.areas if a.type == "VIEW_3D")
    viewport = load("addon.draw.viewport")
    drawn = into_framebuffer(lambda: viewport.draw_region(depsgraph, space, region, data, "display"), WIDTH, HEIGHT)
    linear = into_framebuffer(lambda: viewport.draw_region(depsgraph, space, region, data, "scene_linear"), WIDTH, HEIGHT)
    viewport.remove()
    assert viewport.problems() == ()
    close(drawn, expected)
    close(display(linear), expected)
    off = np.abs(rendered - expected) * 255
    measured(f"{list(CAMERAS)[number]}: largest {off.max():.2f}/255, mean {off.mean():.4f}/255 from the engine's rasteriser")
