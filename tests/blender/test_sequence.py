"""The right frame every time: rendered pictures of a bake whose splats tell their frame, in every order and manner, alone and
in a picture with Cycles, in this process and in one that only opens the saved file, as on a farm."""

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

sys.path.insert(0, str(Path(__file__).parent))

from addon_cases import api, avatars, number_cache, write_sound  # noqa: E402, F401
from exr import read_exr  # noqa: E402
from render_cases import exr_output  # noqa: E402

Shipped = Callable[[str], ModuleType]

LAST, ACROSS, WIDTH, HEIGHT = 24, 26.0, 520, 8
CLOSE = 0.05
"""Frames: a pixel is as wide as this, and the number is told from hundreds of them."""


@pytest.fixture
def film(api: ModuleType, avatars: Path, shipped: Shipped, scene: bpy.types.Scene, tmp_path: Path) -> bpy.types.Scene:
    """A saved file: a head whose moving splats lie at x = frame, baked for frames 0 to 24; 20 pixels are a frame."""
    head = api.import_avatar(avatars / "head.safetensors")
    api.attach_audio(head, write_sound(tmp_path / "speech.wav"))  # a sequencer with sound alone renders nothing
    camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
    scene.collection.objects.link(camera)
    camera.location, camera.rotation_euler = (ACROSS / 2 - 1, -5.0, 0.0), (np.pi / 2, 0.0, 0.0)
    camera.data.type, camera.data.ortho_scale = "ORTHO", ACROSS
    scene.camera = camera
    scene.render.resolution_x, scene.render.resolution_y = WIDTH, HEIGHT
    scene.render.film_transparent = True
    scene.frame_start, scene.frame_end = 3, 8
    scene.render.engine = "UA3DTALK"
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "film.blend"))
    number_cache(shipped, head, range(LAST + 1))
    exr_output(scene, tmp_path / "frames" / "f_####")
    bpy.ops.wm.save_mainfile()
    return bpy.context.scene


def number_in(path: Path) -> float:
    """The frame that a picture shows: where its alpha lies along x, what rests at the origin left out."""
    channels = read_exr(path)
    alpha = next(v for k, v in channels.items() if k.endswith(("Composite.Combined.A", "ViewLayer.Combined.A"))).sum(axis=0)
    x = (np.arange(WIDTH) + 0.5) / WIDTH * ACROSS - 1.0
    alpha = np.where(x > 0.4, alpha, 0.0)
    assert alpha.sum() > 1.0, "there is something to see"
    centre = float((alpha * x).sum() / alpha.sum())
    assert alpha[np.abs(x - centre) > 0.4].sum() < 0.01 * alpha.sum(), "one frame, not a mixture of several"
    return centre


def written(folder: Path) -> dict[int, float]:
    """File number -> the frame that it shows."""
    return {int(path.stem.split("_")[-1]): number_in(path) for path in sorted(folder.glob("f_*.exr"))}


def animation(scene: bpy.types.Scene) -> dict[int, float]:
    folder = Path(scene.render.filepath).parent
    for path in folder.glob("*.exr"):
        path.unlink()
    bpy.ops.render.render(animation=True, scene=scene.name)
    return written(folder)


def still(scene: bpy.types.Scene) -> float:
    kept, scene.render.filepath = scene.render.filepath, str(Path(scene.render.filepath).with_name("still.exr"))
    try:
        bpy.ops.render.render(write_still=True, scene=scene.name)
        return number_in(Path(scene.render.filepath))
    finally:
        scene.render.filepath = kept


def with_cycles(scene: bpy.types.Scene, api: ModuleType) -> None:
    """The scene's own picture by Cycles, the splats by the compositor."""
    scene.render.engine = "CYCLES"
    scene.cycles.samples, scene.cycles.use_denoising = 1, False
    api.add_compositing(scene)


@pytest.fixture(params=["splats", "combined"])
def manner(request: pytest.FixtureRequest, film: bpy.types.Scene, api: ModuleType) -> bpy.types.Scene:
    """The film rendered by our engine alone, and put together with Cycles' picture."""
    if request.param == "combined":
        with_cycles(film, api)
    return film


def test_a_range(manner: bpy.types.Scene) -> None:
    assert animation(manner) == pytest.approx({f: f for f in range(3, 9)}, abs=CLOSE)


def test_a_range_with_steps_that_begins_elsewhere(manner: bpy.types.Scene) -> None:
    manner.frame_set(20)
    manner.frame_start, manner.frame_end, manner.frame_step = 2, 14, 4
    assert animation(manner) == pytest.approx({f: f for f in (2, 6, 10, 14)}, abs=CLOSE)
    assert manner.frame_current == 20, "and the user is where he was"


def test_stills_in_any_order(manner: bpy.types.Scene) -> None:
    for frame in (7, 2, 24, 1, 13, 13, 12):
        manner.frame_set(frame)
        assert still(manner) == pytest.approx(frame, abs=CLOSE)
    manner.frame_current = 5  # set, as by a script that renders at once, without an update
    assert still(manner) == pytest.approx(5, abs=CLOSE)


def test_fractions_of_frames(manner: bpy.types.Scene) -> None:
    for frame, part in ((4, 0.5), (9, 0.25), (4, 0.75), (4, 0.0)):
        manner.frame_set(frame, subframe=part)
        assert still(manner) == pytest.approx(frame + part, abs=CLOSE)


def test_time_remapping(manner: bpy.types.Scene) -> None:
    manner.render.frame_map_old, manner.render.frame_map_new = 100, 200
    manner.frame_start, manner.frame_end, manner.frame_step = 4, 9, 1
    assert animation(manner) == pytest.approx({f: f / 2 for f in range(4, 10)}, abs=CLOSE)
    manner.render.frame_map_new = 50
    assert animation(manner) == pytest.approx({f: f * 2 for f in range(4, 10)}, abs=CLOSE)


def test_stills_between_animations(manner: bpy.types.Scene) -> None:
    """What one render leaves behind is not what the next one shows."""
    manner.frame_start, manner.frame_end = 6, 7
    assert animation(manner) == pytest.approx({6: 6, 7: 7}, abs=CLOSE)
    manner.frame_set(2)
    assert still(manner) == pytest.approx(2, abs=CLOSE)
    assert animation(manner) == pytest.approx({6: 6, 7: 7}, abs=CLOSE)


def test_a_bake_that_changed_is_seen(film: bpy.types.Scene, shipped: Shipped, api: ModuleType) -> None:
    (head,) = (obj for obj in film.objects if obj.type == "POINTCLOUD")
    film.frame_set(4)
    assert still(film) == pytest.approx(4, abs=CLOSE)
    number_cache(shipped, head, range(LAST), add=1.0)
    assert still(film) == pytest.approx(5, abs=CLOSE)


def test_two_heads(film: bpy.types.Scene, shipped: Shipped, api: ModuleType, avatars: Path) -> None:
    """Each shows its own bake: the second's is two frames ahead."""
    (first,) = (obj for obj in film.objects if obj.type == "POINTCLOUD")
    other = api.import_avatar(avatars / "other.safetensors", name="Other")
    number_cache(shipped, other, range(LAST + 1), add=2.0)
    for frame in (3, 11):
        film.frame_set(frame)
        other.hide_render = True
        assert still(film) == pytest.approx(frame, abs=CLOSE)
        other.hide_render, first.hide_render = False, True
        assert still(film) == pytest.approx(frame + 2, abs=CLOSE)
        first.hide_render = False


FARM = """
import json, os, sys
import bpy
import addon_utils

given = json.loads(sys.argv[1])
bpy.ops.preferences.addon_enable(module=given["module"])
bpy.ops.wm.open_mainfile(filepath=given["file"])
scene = bpy.context.scene
for first, last in given["ranges"]:  # a farm gives each machine a piece, in any order
    scene.frame_start, scene.frame_end = first, last
    bpy.ops.render.render(animation=True)
for frame in given["frames"]:
    scene.frame_set(frame)
    scene.render.filepath = given["still"] + f"{frame:04d}.exr"
    bpy.ops.render.render(write_still=True)
addon_utils.disable_all()  # as Blender does at its end: whoever crashes here fails on a farm
sys.stdout.flush()
os._exit(0)
"""


def test_a_saved_file_in_another_process(manner: bpy.types.Scene, extension: str, tmp_path: Path) -> None:
    manner.frame_set(17)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    frames = tmp_path / "frames"
    given = {"module": extension, "file": str(tmp_path / "film.blend"), "ranges": [(9, 11), (4, 5)], "frames": [21, 2], "still": str(frames / "f_")}
    done = subprocess.run([sys.executable, "-c", FARM, json.dumps(given)], capture_output=True, text=True, env=dict(os.environ), timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert written(frames) == pytest.approx({f: f for f in (2, 4, 5, 9, 10, 11, 21)}, abs=CLOSE)


def test_a_file_opened_again_here(manner: bpy.types.Scene, tmp_path: Path) -> None:
    manner.frame_set(9)
    bpy.ops.wm.save_mainfile()
    bpy.ops.wm.read_homefile(use_empty=True)
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "film.blend"))
    scene = bpy.data.scenes[0]
    assert still(scene) == pytest.approx(9, abs=CLOSE)
    scene.frame_start, scene.frame_end = 20, 21
    assert animation(scene) == pytest.approx({20: 20, 21: 21}, abs=CLOSE)
