"""Videos of every kind to a data set folder: times, rotation, sound, refusals; for real where mediapipe and data are."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
import time
import wave
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.prepare.landmarks import LANDMARKS_68, PYTHON_VARIABLE, Tracker
from ua3dtalk.engine.prepare.pipeline import PrepareSettings, prepare
from ua3dtalk.engine.prepare.video import inspect, pictures, write_sound

from support import STAGE, engine_python, shared_data

needs_av = pytest.mark.skipif(importlib.util.find_spec("av") is None, reason="PyAV is not installed (engine/requirements-train.txt)")
needs_mediapipe = pytest.mark.skipif(
    importlib.util.find_spec("av") is None or importlib.util.find_spec("mediapipe") is None,
    reason="PyAV or mediapipe is not installed (engine/requirements-train.txt)",
)

# Videos


def film_file(
    path: Path, times: list[float], sound: float | None = 1.0, rotate: int = 0, size: tuple[int, int] = (64, 48), sound_start: float = 0.0
) -> Path:
    """A lossless video whose picture k is grey 4 + 4 k (a white corner on top left); a click train of 1 s period begins with the sound."""
    import av

    with av.open(str(path), "w") as container:
        video = container.add_stream("libx264", rate=1000, options={"crf": "0", "preset": "ultrafast", "bf": "0"})
        video.width, video.height, video.pix_fmt, video.time_base = *size, "yuv444p", Fraction(1, 1000)
        video.codec_context.time_base = Fraction(1, 1000)
        if rotate:
            video.set_display_rotation(rotate)
        audio = container.add_stream("pcm_s16le", rate=16000, layout="mono") if sound else None
        for k, t in enumerate(times):
            picture = np.full((size[1], size[0], 3), 4 + 4 * k % 200, np.uint8)
            picture[:8, :8] = 255
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts, frame.time_base = round(t * 1000), Fraction(1, 1000)
            container.mux(video.encode(frame))
        container.mux(video.encode(None))
        if audio is not None:
            samples = np.zeros(int(sound * 16000), np.int16)
            samples[::16000] = 20000
            frame = av.AudioFrame.from_ndarray(samples[None], format="s16", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = 16000, round(sound_start * 16000), Fraction(1, 16000)
            container.mux(audio.encode(frame))
            container.mux(audio.encode(None))
    return path


def shown(path: Path, **part: int) -> list[int]:
    """Which stored picture each resampled one is."""
    return [round((float(picture[20:, 20:].mean()) - 4) / 4) for _, picture in pictures(path, inspect(path), **part)]


@needs_av
@pytest.mark.parametrize("rate", [25, 30, 50, 24, 12.5])
def test_any_even_rate_becomes_25_by_the_nearest_picture(tmp_path: Path, rate: float) -> None:
    path = film_file(tmp_path / "v.mkv", [round(k / rate, 3) for k in range(40)])
    info = inspect(path)
    assert not info.variable and info.rate == pytest.approx(rate, rel=0.02) and info.pictures == 40
    got = shown(path)
    assert len(got) == pytest.approx(40 / rate * 25, abs=1)
    assert all(abs(index / rate - k / 25) <= 0.5 / rate + 2e-3 or index == 39 for k, index in enumerate(got))
    if rate == 25:
        assert got == list(range(40))


@needs_av
def test_variable_rate_goes_by_time_stamps(tmp_path: Path) -> None:
    times = [0.0, 0.04, 0.08, 0.12, 0.3, 0.34, 0.6, 0.7, 0.72, 0.74, 1.0]
    path = film_file(tmp_path / "v.mkv", [t + 0.5 for t in times])  # its first picture is time 0
    info = inspect(path)
    assert info.variable and info.start == pytest.approx(0.5)
    for k, index in enumerate(shown(path)):
        assert abs(times[index] - k / 25) <= min(abs(t - k / 25) for t in times) + 2e-3 or index == len(times) - 1
    assert shown(path, first=5, count=3) == shown(path)[5:8]


@needs_av
@pytest.mark.parametrize(("rotate", "corner"), [(0, (0, 0)), (90, (-1, 0)), (180, (-1, -1)), (270, (0, -1))])
def test_rotated_videos_stand_upright(tmp_path: Path, rotate: int, corner: tuple[int, int]) -> None:
    """`rotate` turns counter-clockwise: a corner on top left goes to the bottom left."""
    path = film_file(tmp_path / "v.mp4", [k / 25 for k in range(10)], sound=None, rotate=rotate)
    info = inspect(path)
    assert info.rotation == rotate % 360 and (info.width, info.height) == ((48, 64) if rotate % 180 else (64, 48))
    _, picture = next(pictures(path, info))
    assert picture.shape == (info.height, info.width, 3)
    assert picture[corner[0], corner[1]].min() > 200 and sum(int(picture[y, x, 0] > 200) for y in (0, -1) for x in (0, -1)) == 1


@needs_av
def test_sound_is_cut_and_shifted_with_the_pictures(tmp_path: Path) -> None:
    path = film_file(tmp_path / "v.mkv", [0.2 + k / 25 for k in range(100)], sound=4.0)
    info = inspect(path)

    def clicks(start: float, duration: float, shift: float = 0.0) -> list[float]:
        write_sound(path, info, start, duration, tmp_path / "s.wav", shift)
        with wave.open(str(tmp_path / "s.wav")) as file:
            assert (file.getframerate(), file.getnchannels(), file.getnframes()) == (16000, 1, round(duration * 16000))
            return [round(i / 16000, 3) for i in np.flatnonzero(np.frombuffer(file.readframes(10**7), "<i2") > 5000)]

    assert clicks(0.0, 2.0) == [0.8, 1.8]  # picture 0 is at 0.2 s of the sound
    assert clicks(1.0, 2.0) == [0.8, 1.8]
    assert clicks(0.0, 2.0, 0.1) == [0.9, 1.9]
    assert clicks(0.0, 6.0) == [0.8, 1.8, 2.8]  # silence where there is no sound any more


@needs_av
def test_videos_that_cannot_be_prepared_are_refused(tmp_path: Path) -> None:
    silent = film_file(tmp_path / "silent.mkv", [k / 25 for k in range(10)], sound=None)
    (tmp_path / "text.mp4").write_text("no video")
    with wave.open(str(tmp_path / "only.wav"), "wb") as file:
        file.setnchannels(1), file.setsampwidth(2), file.setframerate(16000)
        file.writeframes(b"\0" * 32000)
    good = film_file(tmp_path / "good.mkv", [k / 25 for k in range(10)])
    full = tmp_path / "full"
    full.mkdir()
    (full / "holiday.txt").write_text("mine")
    for video, out, settings, words in (
        (tmp_path / "none.mp4", "a", PrepareSettings(), "no such file"),
        (tmp_path / "text.mp4", "b", PrepareSettings(), "cannot be read as a video"),
        (tmp_path / "only.wav", "c", PrepareSettings(), "holds no pictures"),
        (silent, "d", PrepareSettings(), "has no sound"),
        (silent, "e", PrepareSettings(sound=tmp_path / "none.wav"), "no such file"),
        (good, "full", PrepareSettings(), "not empty"),
        (good, "f", PrepareSettings(start=5), "lasts 0.40 s"),
        (good, "g", PrepareSettings(start=3, end=2), "not a part"),
        (good, "h", PrepareSettings(size=8), "too small"),
        (good, "i", PrepareSettings(focal=-1), "not a focal length"),
    ):
        with pytest.raises(UserError, match=words) as refusal:
            prepare(video, tmp_path / out, settings)
        assert refusal.value.remedy and "\n" not in str(refusal.value)
    assert [p.name for p in full.iterdir()] == ["holiday.txt"] and not any((tmp_path / name).exists() for name in "abcde")


def test_without_pyav_one_line_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(UserError, match="requirements-train.txt"):
        inspect(tmp_path / "v.mp4")


# The landmark process


def test_a_python_without_mediapipe_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="cannot be started"):
        Tracker(tmp_path / "python")
    broken = tmp_path / "site"
    (broken / "mediapipe").mkdir(parents=True)
    (broken / "mediapipe" / "__init__.py").write_text("raise ImportError('broken for the test')")
    monkeypatch.setenv("PYTHONPATH", str(broken))
    monkeypatch.setenv(PYTHON_VARIABLE, sys.executable)
    with pytest.raises(UserError, match="broken for the test") as refusal:
        Tracker()
    assert "--landmark-python" in refusal.value.remedy and "mediapipe==0.10.21" in refusal.value.remedy


def test_the_68_landmarks_are_different_points() -> None:
    assert LANDMARKS_68.shape == (68,) and len(set(LANDMARKS_68.tolist())) == 68


# For real


@pytest.fixture(scope="module")
def talk() -> Path:
    return shared_data("portrait", "talk_20s_450.mp4")


@needs_mediapipe
def test_a_real_video_becomes_a_data_set(talk: Path, tmp_path: Path, measured) -> None:
    out, shown = tmp_path / "data", tmp_path / "shown.csv"
    shown.write_text("time,happy\n0,0\n4,1\n")
    result = prepare(talk, out, PrepareSettings(size=160, end=4.0, emotions=shown))
    data = read_data(out)
    assert np.allclose(data.emotion[:, 1], np.arange(100) / 100, atol=1e-3) and not data.emotion[:, 2:].any() and data.labels is None
    assert result["pictures"] == 100 and result["tracked"] == "100 of 100" and data.width == data.height == 160
    assert (len(data.splits["train"]), len(data.splits["val"])) == (90, 10)
    measured(f"prepare, 4 s of talk_20s_450 at 160 px: reprojection {result['reprojection_px']} px, {result['reprojection_of_face']:.2%} of the face")
    assert result["reprojection_of_face"] < 0.006
    frame = data.splits["train"][40]
    masks, points = data.masks(frame), data.landmarks[frame.number]
    assert all(masks.face[int(y), int(x)] for x, y in points[[27, 30, 33]]) and 0.1 < masks.face.mean() < 0.4
    assert masks.torso.mean() > 0.1 and masks.hair.mean() > 0.02 and masks.neck.mean() > 0.005
    nose = data.K @ (frame.viewmat[:3, :3] @ np.array([0, -0.02, 0.117]) + frame.viewmat[:3, 3])
    assert np.abs(nose[:2] / nose[2] - points[30]).max() < 5
    assert data.aus.shape == (100, 6) and data.aus[:, 5].max() > 0.9, "it blinks"
    with wave.open(str(data.sound)) as file:
        assert file.getnframes() == 64000
    page = (out / "report.html").read_text("utf-8")
    assert "Only 4 s" in page and all((out / "report" / f"{name}.jpg").is_file() for name in ("overlays", "worst", "poses", "parts"))
    assert not (out / ".prepare").exists()
    with pytest.raises(UserError, match="is a data set already"):
        prepare(talk, out, PrepareSettings(size=160, end=4.0))


@needs_mediapipe
def test_a_killed_run_goes_on_to_the_same_result(talk: Path, tmp_path: Path) -> None:
    settings = ["--size", "96", "--end", "3.2", "--json"]

    def start(out: Path, *more: str) -> subprocess.Popen:
        command = [str(engine_python()), "-m", "ua3dtalk.engine", "prepare", str(talk), str(out), *settings, *more]
        return subprocess.Popen(command, cwd=STAGE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    killed, whole = tmp_path / "killed", tmp_path / "whole"
    running = start(killed)
    while len(list(killed.glob("gt_imgs/*.jpg"))) < 20 and running.poll() is None:
        time.sleep(0.02)
    running.kill()
    running.communicate()
    assert 20 <= len(list(killed.glob("gt_imgs/*.jpg"))) < 80
    with pytest.raises(UserError, match="transforms_train.json"):
        read_data(killed)
    other = start(killed, "--start", "0.2")
    assert other.communicate()[1].startswith("error:") and other.returncode == 1, "other settings do not mix in"
    kept = {p.name: p.stat().st_mtime_ns for p in killed.glob("gt_imgs/*.jpg")}
    for out in (killed, whole):
        again = start(out)
        text, errors = again.communicate()
        assert again.returncode == 0, errors
        assert json.loads(text.splitlines()[-1])["pictures"] == 80
    assert all((killed / "gt_imgs" / name).stat().st_mtime_ns == then for name, then in kept.items()), "what was there is not written again"
    for path in sorted(p.relative_to(whole) for p in whole.rglob("*") if p.is_file()):
        assert (killed / path).read_bytes() == (whole / path).read_bytes(), path


@needs_mediapipe
def test_real_faces_none_and_two(talk: Path, tmp_path: Path) -> None:
    import av

    info = inspect(talk)
    frames = [picture[::2, ::2] for _, picture in pictures(talk, info, 0, 80)]

    def save(name: str, shots: list[np.ndarray]) -> Path:
        with av.open(str(tmp_path / name), "w") as container:
            video = container.add_stream("libx264", rate=25, options={"preset": "ultrafast"})
            video.width, video.height, video.pix_fmt = shots[0].shape[1] // 2 * 2, shots[0].shape[0] // 2 * 2, "yuv420p"
            for picture in shots:
                cut = np.ascontiguousarray(picture[: video.height, : video.width])
                container.mux(video.encode(av.VideoFrame.from_ndarray(cut, format="rgb24")))
            container.mux(video.encode(None))
        return tmp_path / name

    sound = tmp_path / "s.wav"
    write_sound(talk, info, 0, 3.2, sound)
    settings = PrepareSettings(sound=sound)
    two = save("two.mp4", [np.concatenate([f, f[:, ::-1]], 1) for f in frames])
    with pytest.raises(UserError, match="two faces"):
        prepare(two, tmp_path / "two", settings)
    result = prepare(two, tmp_path / "one", replace(settings, largest_face=True))
    assert result["pictures"] == 80 and "A second face in" in result["notes"][0]
    assert np.ptp(read_data(tmp_path / "one").landmarks[:, 30, 0]) < 60, "one of them is followed, not each in turn"
    with pytest.raises(UserError, match="no face is found"):
        prepare(save("none.mp4", [np.rot90(f[:60, :60], 2) for f in frames]), tmp_path / "none", settings)
