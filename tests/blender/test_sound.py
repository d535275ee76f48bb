"""The avatar's sound: where strips are heard (against Blender's own mixdown), attaching, renaming, what is missing."""

from __future__ import annotations

import shutil
import subprocess
import sys
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, write_sound  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]


@pytest.fixture
def head(api: ModuleType, avatars: Path) -> bpy.types.Object:
    return api.import_avatar(avatars / "head.safetensors")


@pytest.fixture
def speech(tmp_path: Path) -> Path:
    return write_sound(tmp_path / "speech.wav", seconds=4.0, rate=48000, syllables=False)


def mixdown(blend: Path) -> tuple[np.ndarray, int]:
    """What Blender plays of a file: samples of one channel, and their rate.

    In a process of its own: what was rendered or mixed before in a process can shift a mixdown by a buffer of 1024 samples.
    """
    mix = blend.with_suffix(".wav")
    script = (
        "import os, sys, bpy\n"
        "bpy.ops.wm.open_mainfile(filepath=sys.argv[1])\n"
        "bpy.ops.sound.mixdown(filepath=sys.argv[2], container='WAV', codec='PCM', format='S16')\n"
        "os._exit(0)\n"
    )
    subprocess.run([sys.executable, "-c", script, str(blend), str(mix)], check=True, capture_output=True)
    return samples(mix)


def samples(path: Path) -> tuple[np.ndarray, int]:
    """First channel and rate of a WAV file."""
    with wave.open(str(path)) as file:
        data = np.frombuffer(file.readframes(file.getnframes()), "<i2").reshape(-1, file.getnchannels())
        return data[:, 0].astype(np.float64), file.getframerate()


def heard_at(scene: bpy.types.Scene, mixed: np.ndarray, rate: int, sound: Path, frame: int) -> float | None:
    """The second of `sound` that Blender plays at a scene frame, found in its own mixdown; None in silence."""
    original, original_rate = samples(sound)
    assert rate == original_rate, "the mixdown is to keep the rate"
    fps = scene.render.fps / scene.render.fps_base
    piece = mixed[round((frame - scene.frame_start) / fps * rate) :][:2048]
    if np.abs(piece[: int(rate / fps) // 2]).max() < 50:
        return None
    return int(np.correlate(original, piece, "valid").argmax()) / rate


def arrange(scene: bpy.types.Scene, strip: Any, left: int, right: int, offset: float) -> None:
    """Cut handles and shift the sound. Blender's sound system hears of it when the file is loaded again."""
    if hasattr(strip, "left_handle_offset"):
        strip.left_handle_offset, strip.right_handle_offset = left, right
    else:
        strip.frame_offset_start, strip.frame_offset_end = left, right
    strip.sound_offset = offset


@pytest.mark.parametrize(
    ("fps", "base", "start", "left", "right", "offset"),
    [
        (25, 1.0, 1, 0, 0, 0.0), (25, 1.0, -20, 0, 0, 0.0), (25, 1.0, 10, 20, 5, 0.0), (25, 1.0, 10, 20, 0, 0.5),
        (24, 1.001, 10, 0, 0, 0.0), (24, 1.001, 10, 20, 0, 0.5), (30, 1.0, 10, 20, 5, 0.0),
    ],
)  # fmt: skip
def test_the_time_of_each_frame_is_what_blender_plays(
    head: bpy.types.Object, scene: bpy.types.Scene, api: ModuleType, shipped: Shipped, speech: Path, tmp_path: Path,
    fps: int, base: float, start: int, left: int, right: int, offset: float,
) -> None:  # fmt: skip
    scene.render.fps, scene.render.fps_base, scene.frame_start, scene.frame_end = fps, base, 1, 120
    scene.render.ffmpeg.audio_mixrate = 48000
    strip = api.attach_audio(head, speech, frame=start)
    arrange(scene, strip, left, right, offset)
    name = head.name
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    bpy.ops.wm.open_mainfile(filepath=str(tmp_path / "shot.blend"))
    scene = bpy.context.scene
    audio = shipped("addon.audio")
    place = audio.placement(bpy.data.objects[name], scene)
    times = place.times(np.arange(0, 121), audio.fps_of(scene))
    first, last = place.frames()
    mixed, rate = mixdown(tmp_path / "shot.blend")
    for frame in (max(first, 1) + 1, 35, 60):
        assert heard_at(scene, mixed, rate, speech, frame) == pytest.approx(times[frame], abs=2e-4), frame
    assert np.flatnonzero(np.isfinite(times)).tolist() == list(range(max(first, 0), min(last, 120) + 1))
    if first > 2:
        assert heard_at(scene, mixed, rate, speech, first - 2) is None


def test_attaching_a_file_makes_a_strip_in_a_free_channel(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path) -> None:
    first = api.attach_audio(head, speech, frame=1)
    assert bpy.ops.ua3dtalk.attach_audio(filepath=str(speech), frame=40) == {"FINISHED"}
    second = api.compat.sound_strips(scene)[-1] if api.compat.sound_strips(scene)[-1] != first else api.compat.sound_strips(scene)[0]
    assert {first.channel, second.channel} == {1, 2}
    assert head.ua3dtalk.strip_name == second.name and api.audio.find_strip(head, scene) == second
    api.attach_audio(head, strip=first.name)
    assert api.audio.find_strip(head, scene) == first


def test_a_renamed_and_a_copied_strip(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path) -> None:
    strip = api.attach_audio(head, speech, frame=7)
    strip.name = "Take 2"
    assert api.audio.find_strip(head, scene) == strip and api.audio.placement(head, scene).start == 7
    copy = api.audio.add_strip(scene, speech, 60)
    copy[api.audio.MARK] = strip[api.audio.MARK]  # what Blender's duplicate does
    copy.name = head.ua3dtalk.strip_name
    api.attach_audio(head, strip="Take 2")
    assert api.audio.placement(head, scene).start == 7
    api.compat.strips(scene).remove(strip)
    assert api.audio.placement(head, scene).start == 60, "the copy is what is left"
    api.compat.strips(scene).remove(copy)
    with pytest.raises(api.UserError, match="Take 2.*is gone"):
        api.audio.placement(head, scene)


def test_a_file_without_a_strip(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path) -> None:
    assert api.attach_audio(head, speech, frame=10.5, as_strip=False) is None
    assert not api.compat.sound_strips(scene) and head.ua3dtalk.sound_source == "FILE"
    place = api.audio.placement(head, scene)
    assert place.frames() == (11, 110) and place.times(np.array([11]), 25)[0] == pytest.approx(0.02)


def test_what_cannot_be_attached(head: bpy.types.Object, api: ModuleType, tmp_path: Path, speech: Path) -> None:
    (tmp_path / "text.wav").write_text("no sound at all")
    for path, said in ((tmp_path / "none.wav", "no sound file"), (tmp_path / "text.wav", "cannot read")):
        with pytest.raises(RuntimeError, match=said):
            bpy.ops.ua3dtalk.attach_audio(filepath=str(path))
    with pytest.raises(RuntimeError, match="whole frame"):
        bpy.ops.ua3dtalk.attach_audio(filepath=str(speech), frame=1.5)
    assert head.ua3dtalk.sound_source == "NONE" and not api.compat.sound_strips(bpy.context.scene)


def test_meta_strips_cut(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path) -> None:
    strip = api.attach_audio(head, speech, frame=10)
    every = api.compat.strips(scene)
    meta = every.new_meta("Meta", 2, 1)
    strip.move_to_meta(meta)
    assert api.audio.find_strip(head, scene) is not None, "strips inside of a meta strip are found"
    names = ("left_handle", "right_handle") if hasattr(meta, "left_handle") else ("frame_final_start", "frame_final_end")
    setattr(meta, names[1], 80)
    setattr(meta, names[0], 30)
    place = api.audio.placement(head, scene)
    assert place.start == 10 and place.frames() == (30, 79)


def test_missing_and_relative_files(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path, tmp_path: Path) -> None:
    bpy.ops.wm.save_as_mainfile(filepath=str(tmp_path / "shot.blend"))
    strip = api.attach_audio(head, speech, frame=1)
    assert strip.sound.filepath.startswith("//")
    path, first = api.audio.sound_hash(head, scene)
    assert path.resolve() == speech and len(first) == 64
    shutil.copy(write_sound(tmp_path / "other.wav", seed=5), speech)
    assert api.audio.sound_hash(head, scene)[1] != first
    speech.unlink()
    with pytest.raises(api.UserError, match="speech.wav"):
        api.stale(head)
    with pytest.raises(RuntimeError, match="speech.wav"):
        bpy.ops.ua3dtalk.bake()


def test_packed_sound(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path) -> None:
    strip = api.attach_audio(head, speech, frame=1)
    before = api.audio.sound_hash(head, scene)[1]
    strip.sound.pack()
    speech.unlink()
    path, after = api.audio.sound_hash(head, scene)
    assert after == before and path.is_file() and path != speech
    path.unlink()


def test_retimed_strips_are_refused(head: bpy.types.Object, api: ModuleType, scene: bpy.types.Scene, speech: Path) -> None:
    strip = api.attach_audio(head, speech, frame=1)
    strip.select = True
    scene.sequence_editor.active_strip = strip
    window = bpy.context.window_manager.windows[0]
    area = window.screen.areas[0]
    area.type = "SEQUENCE_EDITOR"
    if hasattr(window.workspace, "sequencer_scene"):
        window.workspace.sequencer_scene = scene
    region = next(region for region in area.regions if region.type == "WINDOW")
    with bpy.context.temp_override(window=window, area=area, region=region, scene=scene):
        assert bpy.ops.sequencer.retiming_key_add(timeline_frame=20) == {"FINISHED"}
    with pytest.raises(api.UserError, match="retimed"):
        api.audio.placement(head, scene)
    with pytest.raises(RuntimeError, match="retimed"):
        bpy.ops.ua3dtalk.check()
