"""The demo script from the outside, as `build.py demo` runs it: a whole shot, and a second run that keeps the first one's work."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import write_sound  # noqa: E402

from support import ROOT, engine_python  # noqa: E402

SECONDS, FRAMES = 0.8, 20


def demo(zip_path: Path, out: Path, *options: str | Path, **env: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a Blender of its own, with a user folder of its own."""
    command = [sys.executable, ROOT / "addon" / "scripts" / "demo.py", "--zip", zip_path, "--out", out, "--size", "64", *options]
    own = {"BLENDER_USER_RESOURCES": str(out.with_name("user")), "UA3DTALK_PYTHON": str(engine_python()), **env}
    return subprocess.run([str(c) for c in command], capture_output=True, text=True, env={**os.environ, **own})


def pixels(path: Path) -> np.ndarray:
    image = bpy.data.images.load(str(path))
    values = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(values)
    bpy.data.images.remove(image)
    return values


def key_frames(blend: Path, slider: str) -> list[float]:
    """Frames at which the avatar of a file has keys for a slider, with value above zero."""
    with bpy.data.libraries.load(str(blend)) as (there, wanted):
        wanted.actions = list(there.actions)
    action = wanted.actions[0]
    curves = action.fcurves if hasattr(action, "fcurves") else action.layers[0].strips[0].channelbags[0].fcurves
    curve = next(c for c in curves if c.data_path == f"ua3dtalk.{slider}")
    found = [point.co.x for point in curve.keyframe_points if point.co.y > 0]
    bpy.data.actions.remove(action)
    return found


@pytest.fixture(scope="module")
def shot(zip_path: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str | Path], str]:
    """(folder, options, what it printed) of a first run with the bundled avatar and a sound of one's own."""
    folder = tmp_path_factory.mktemp("demo")
    sound = write_sound(folder / "speech.wav", SECONDS)
    options: list[str | Path] = ["--audio", sound]
    done = demo(zip_path, folder / "out", *options)
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "out", options, done.stdout


def test_leaves_a_whole_shot(shot: tuple[Path, list[str | Path], str], extension: str) -> None:
    out, _, said = shot
    assert f"baked {FRAMES} frames" in said and f"rendered {FRAMES} frames" in said
    frames = sorted((out / "frames").iterdir())
    assert [p.name for p in frames] == [f"{n:04d}.png" for n in range(1, FRAMES + 1)]
    pictures = [pixels(path) for path in (frames[0], frames[len(frames) // 2])]
    assert all(np.ptp(p) > 0.2 for p in pictures), "an empty picture"
    assert np.abs(pictures[0] - pictures[1]).max() > 0.02, "nothing moves"
    exr = next(out.glob("demo_passes_*.exr")).read_bytes()
    for name in (b"Composite.Combined", b"ViewLayer.Combined", b"ViewLayer.Depth.Z", b"ViewLayer.Uncertainty"):
        assert name in exr[:8192]
    sheet = pixels(out / "contact_sheet.png")
    assert np.ptp(sheet) > 0.5
    assert [len(key_frames(out / "demo.blend", name)) > 0 for name in ("happy", "angry")] == [True, True]
    for name in ("demo.blend", "frames", "contact_sheet.png", ".exr"):
        assert any(line.startswith("-- ") and line.rstrip().endswith(name) for line in said.splitlines()), f"{name} is not told"


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="no ffmpeg program is here")
def test_film_has_every_frame_and_the_sound(shot: tuple[Path, list[str | Path], str]) -> None:
    ask = ["ffprobe", "-v", "error", "-count_frames", "-show_entries", "stream=codec_type,nb_read_frames", "-of", "csv=p=0"]
    streams = subprocess.run([*ask, str(shot[0] / "demo.mp4")], capture_output=True, text=True).stdout.split()
    kinds = dict(line.split(",")[:2] for line in streams)
    assert int(kinds["video"]) == FRAMES and int(kinds["audio"]) > 0


def test_a_second_run_keeps_what_is_there(shot: tuple[Path, list[str | Path], str], zip_path: Path) -> None:
    """Also without ffmpeg, which is said; and a frame that is gone is rendered again."""
    out, options, _ = shot
    (out / "demo.mp4").unlink(missing_ok=True)
    (out / "frames" / "0007.png").unlink()
    before = {p.name: p.stat().st_mtime_ns for p in (out / "frames").iterdir()}
    done = demo(zip_path, out, *options, PATH="")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "baked 0 frames" in done.stdout and "there is no ffmpeg program" in done.stdout
    after = {p.name: p.stat().st_mtime_ns for p in (out / "frames").iterdir()}
    assert len(after) == FRAMES
    changed = {name for name, time in after.items() if before.get(name) != time}
    # With frames missing, the newest may have been cut short and is made again too.
    assert "0007.png" in changed and len(changed) <= 2


def test_what_is_missing_is_one_line(zip_path: Path, tmp_path: Path) -> None:
    done = demo(zip_path, tmp_path / "out", "--avatar", tmp_path / "nobody.safetensors")
    assert done.returncode == 1 and "nobody.safetensors" in done.stderr and "Traceback" not in done.stderr
