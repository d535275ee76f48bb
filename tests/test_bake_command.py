"""`python -m engine bake` as farms call it: shot files, dry runs, checks, exit codes, JSON lines."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from support import STAGE
from support.avatars import static_avatar, talking_avatar

from ua3dtalk.engine.avatar import load_avatar, save_avatar
from ua3dtalk.engine.avatar.tensors import load_tensors, save_tensors
from ua3dtalk.engine.bake import Baker, Session
from ua3dtalk.engine.cache import SHOT_FILE, CacheReader
from ua3dtalk.engine.cache.check import check_cache
from ua3dtalk.engine.cache.layout import ENTRY, FRAME_FILES
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import EmotionCurves, Shot, compose_shot, save_shot
from ua3dtalk.engine.shot.document import write_document
from ua3dtalk.engine.shot.plan import check_bake, check_folder, plan_bake

SLOT = 50 * sum(channels * np.dtype(kind).itemsize for channels, kind in FRAME_FILES.values())


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("show")
    save_avatar(talking_avatar(), folder / "avatars" / "head.safetensors")
    save_avatar(talking_avatar(seed=1), folder / "avatars" / "other.safetensors")
    samples = np.random.default_rng(0).normal(size=16000) * (1 + np.sin(np.arange(16000) / 800)) * 0.1
    soundfile.write(folder / "s.wav", samples, 16000)
    soundfile.write(folder / "t.wav", samples[::-1], 16000)
    return folder


def shot_of(files: Path, avatar: str = "head", sound: str = "s") -> Shot:
    """25 frames; the last five, beyond the sound's second, are as silent as each other."""
    path = files / "avatars" / f"{avatar}.safetensors"
    emotion = EmotionCurves(blink_seed=None)
    return compose_shot(path, load_avatar(path).hash, files / f"{sound}.wav", 0.8, emotion, 25.0, (0, 24))


@pytest.fixture
def shot_file(files: Path, tmp_path: Path) -> Path:
    write_document(shot_of(files), tmp_path / "shot.json", output=tmp_path / "cache")
    return tmp_path / "shot.json"


def bake(*arguments: object) -> int:
    return main(["bake", *map(str, arguments), "--threads", "1", "--device", "cpu"])


def told(capsys: pytest.CaptureFixture[str]) -> list[dict[str, Any]]:
    """The JSON lines since the last call."""
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def tree(folder: Path) -> dict[str, tuple[int, int]]:
    return {str(p.relative_to(folder)): (p.stat().st_mtime_ns, p.stat().st_size) for p in sorted(folder.rglob("*"))}


def test_a_shot_file_is_baked_and_only_once(shot_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake("--shot", shot_file, "--json") == 0
    lines = told(capsys)
    assert lines[0]["event"] == "start" and lines[0]["shot"] == "shot" and (lines[0]["frames"], lines[0]["first"], lines[0]["last"]) == (25, 0, 24)
    assert {line["event"] for line in lines} == {"start", "frame", "progress", "result"}
    assert sorted(line["frame"] for line in lines if line["event"] == "frame") == list(range(25))
    result = lines[-1]
    assert result["event"] == "result" and result["ok"] and (result["computed"], result["moved"]) == (21, 4)
    assert list(CacheReader(shot_file.parent / "cache").frames()) == list(range(25))
    assert bake("--shot", shot_file, "--json", "--resume") == 0
    assert told(capsys)[-1]["up_to_date"] == 25


def test_the_file_and_its_shot_are_one_bake(files: Path, shot_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Baked in memory, as Blender does through the worker, then asked for by the file: nothing is left to do."""
    Baker(Session("cpu", 1), shot_of(files)).bake(shot_file.parent / "cache")
    assert bake("--shot", shot_file, "--dry-run", "--json") == 0
    assert told(capsys)[-1]["compute"] == []
    assert bake("--shot", shot_file, "--json") == 0
    assert told(capsys)[-1]["up_to_date"] == 25


def test_a_dry_run_says_what_and_why_and_writes_nothing(shot_file: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = tree(shot_file.parent)
    assert bake("--shot", shot_file, "--dry-run", "--json") == 0
    lines = told(capsys)
    assert [line["event"] for line in lines] == ["start", "result"]
    plan = lines[-1]
    assert plan["compute"] == list(range(21)) and plan["moved"] == list(range(21, 25)) and plan["missing"] == list(range(25))
    assert tree(shot_file.parent) == before
    assert bake("--shot", shot_file, "--json") == 0
    wrote = sum(size for name, (_, size) in tree(shot_file.parent / "cache").items() if name.startswith("store-") and name.count(os.sep))
    assert 0.8 * wrote < plan["bytes"] < 1.2 * wrote, "the estimate"
    shot = shot_of(files)
    shot.keyed[10:15, 1] = 0.5
    write_document(shot, shot_file, output=shot_file.parent / "cache")
    before = tree(shot_file.parent)
    told(capsys)
    assert bake("--shot", shot_file, "--dry-run", "--json") == 0
    plan = told(capsys)[-1]
    assert plan["compute"] == plan["out_of_date"] == list(range(10, 15)) and plan["reasons"] == ["emotion"] and plan["up_to_date"] == 20
    assert plan["bytes"] == 5 * (SLOT + ENTRY.itemsize) and tree(shot_file.parent) == before
    assert bake("--shot", shot_file, "--dry-run") == 0
    assert "5 (10-14)" in capsys.readouterr().out
    assert bake("--shot", shot_file, "--json") == 0
    assert told(capsys)[-1]["computed"] == 5


def test_ranges_of_a_shot(shot_file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake("--shot", shot_file, "--frames", "3:7", "--json") == 0
    assert told(capsys)[-1]["computed"] == 5
    assert not (shot_file.parent / "cache" / SHOT_FILE).exists(), "this was not all of the shot"
    assert bake("--shot", shot_file, "--frames", "5:9", "--json") == 0
    assert told(capsys)[-1]["computed"] == 2
    for wrong in ("20:30", "-3:4", "9:5", "a:b", "5"):
        assert bake("--shot", shot_file, f"--frames={wrong}") == 1
        assert len(capsys.readouterr().err.strip().splitlines()) == 1
    assert bake("--shot", shot_file, "--check", "--frames", "3:9", "--json") == 0
    assert told(capsys)[-1]["whole"] == 7
    assert bake("--shot", shot_file, "--check", "--json") == 1
    assert told(capsys)[-1]["missing"] == [0, 1, 2, *range(10, 25)]


def flip(path: Path, at: int) -> None:
    data = bytearray(path.read_bytes())
    data[at] ^= 0xFF
    path.write_bytes(data)


def test_a_check_finds_each_kind_of_fault(shot_file: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cache = shot_file.parent / "cache"
    assert bake("--shot", shot_file, "--json") == 0
    told(capsys)

    def check(*options: object) -> tuple[int, dict[str, Any]]:
        code = bake("--shot", shot_file, "--check", "--json", *options)
        return code, told(capsys)[-1]

    before = tree(cache)
    code, found = check()
    assert code == 0 and found["ok"] and (found["frames"], found["whole"], found["problems"]) == (25, 25, [])
    assert tree(cache) == before
    (store,) = cache.glob("store-*")
    reader = CacheReader(cache)
    slots = {int(entry["slot"]): frame for frame, entry in reader._index.entries.items()}
    for number, name in enumerate(FRAME_FILES):
        size = (store / name).stat().st_size // 21
        flip(store / name, size * (2 + number) + 1)
    code, found = check()
    assert code == 1 and not found["ok"] and found["damaged"] == sorted(slots[n] for n in (2, 3, 4)) and found["whole"] == 22
    assert main(["bake", "--out", str(cache), "--check", "--json"]) == 1
    assert told(capsys)[-1]["damaged"] == found["damaged"], "without a shot the checksums still tell"
    with open(store / "motion.bin", "r+b") as file:
        file.truncate((store / "motion.bin").stat().st_size - 1)
    assert check()[1]["damaged"] == [2, 3, 4, 20, 21, 22, 23, 24], "the silent frames share the last slot"
    (store / "shares.bin").unlink()
    code, found = check()
    assert len(found["damaged"]) == 25 and not found["missing"]


def test_a_check_knows_what_is_out_of_date_and_which_files_are_others(shot_file: Path, files: Path, tmp_path: Path) -> None:
    shot = shot_of(files)
    cache = tmp_path / "cache"
    Baker(Session("cpu", 1), shot).bake(cache)
    save_shot(shot, cache / SHOT_FILE)
    assert check_bake(cache, shot)["ok"]
    found = check_bake(cache, replace(shot, intensity=np.where(shot.frames < 3, np.float32(0.5), shot.intensity), keyed=shot.keyed + np.float32(0.1)))
    assert len(found["out_of_date"]) == 25 and found["reasons"] == ["emotion"] and not found["ok"]
    found = check_bake(cache, replace(shot, avatar_hash="0" * 64))
    assert any("has changed since" in line for line in found["problems"]) and len(found["out_of_date"]) == 25
    found = check_bake(cache, replace(shot, sound=tmp_path / "absent.wav"))
    assert found["problems"] == [f"There is no sound file {tmp_path / 'absent.wav'}."] and found["whole"] == 25 and not found["ok"]
    flip(cache / "header.json", 3)
    assert "not the header" in check_bake(cache, shot)["problems"][0] and len(check_bake(cache, shot)["missing"]) == 25
    found = check_bake(tmp_path / "nothing", shot)
    assert not found["ok"] and "no bake here" in found["problems"][0]


def test_what_does_not_move_is_held_against_the_avatar(files: Path, tmp_path: Path) -> None:
    """static.safetensors has no checksum of its own."""
    shot, cache = shot_of(files), tmp_path / "cache"
    Baker(Session("cpu", 1), shot).bake(cache)
    (static,) = cache.glob("store-*/static.safetensors")
    tensors, metadata = load_tensors(static)
    tensors = {name: np.array(values) for name, values in tensors.items()}
    tensors["opacities"][7] += 0.01
    save_tensors(static, tensors, metadata)
    found = check_bake(cache, shot)
    assert not found["ok"] and "is not the avatar's" in found["problems"][0]


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_no_damage_escapes_a_check(files: Path, tmp_path: Path, data: st.DataObject) -> None:
    """Any bytes of any file changed or cut off: never an exception, and each frame that is called whole is as it was baked."""
    shot, cache = shot_of(files), tmp_path / "cache"
    if not cache.exists():
        Baker(Session("cpu", 1), shot).bake(cache)
        shutil.copytree(cache, tmp_path / "whole")
    before = CacheReader(tmp_path / "whole")
    path = data.draw(st.sampled_from(sorted(p for p in cache.rglob("*") if p.is_file())))
    content = path.read_bytes()
    at = data.draw(st.integers(0, len(content) - 1))
    junk = data.draw(st.binary(min_size=0, max_size=4))
    try:
        path.write_bytes(content[:at] + junk + content[at + len(junk) :] if junk else content[:at])
        found = check_bake(cache, shot)
        if found["problems"]:
            return
        bad = {*found["missing"], *found["damaged"], *found["out_of_date"]}
        after = CacheReader(cache)
        for frame in set(shot.frames.tolist()) - bad:
            assert np.allclose(after.at(frame).means, before.at(frame).means, atol=1e-6)
            assert np.array_equal(after.at(frame).stored_shares, before.at(frame).stored_shares)
        after.close()
    finally:
        path.write_bytes(content)
        before.close()


def test_a_torn_index_is_told_and_costs_its_entry_alone(files: Path, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    Baker(Session("cpu", 1), shot_of(files)).bake(cache)
    (index,) = cache.glob("store-*/index.bin")
    index.write_bytes(index.read_bytes()[:-7])
    found = check_cache(cache)
    assert len(found.keys) == 24 and not found.damaged and f"{ENTRY.itemsize - 7} bytes" in found.notes[0]
    index.unlink()
    assert not check_cache(cache).keys
    (cache / next(cache.glob("store-*")).name / "static.safetensors").write_bytes(b"")
    assert check_cache(cache).problems


def test_another_shot_s_folder_is_left_alone(files: Path, shot_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake("--shot", shot_file) == 0
    before = tree(tmp_path / "cache")
    for name, options in (("avatar", {"avatar": "other"}), ("sound", {"sound": "t"})):
        write_document(shot_of(files, **options), tmp_path / "b.json", output=tmp_path / "cache")
        capsys.readouterr()
        for how in ([], ["--dry-run"]):
            assert bake("--shot", tmp_path / "b.json", *how) == 1
            line = capsys.readouterr().err.strip()
            assert f"another {name}" in line and "--resume" in line and len(line.splitlines()) == 1
        assert tree(tmp_path / "cache") == before
    assert bake("--shot", tmp_path / "b.json", "--resume", "--json") == 0
    assert told(capsys)[-1]["computed"] > 0


def test_a_folder_of_something_else_is_never_written(shot_file: Path, files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (shot_file.parent / "cache").mkdir()
    (shot_file.parent / "cache" / "thesis.txt").write_text("mine")
    assert bake("--shot", shot_file, "--resume") == 1
    assert "thesis.txt" in capsys.readouterr().err
    (shot_file.parent / "cache" / "thesis.txt").unlink()
    check_folder(shot_file.parent / "cache", shot_of(files), False)
    with pytest.raises(UserError, match="not a folder"):
        check_folder(shot_file, shot_of(files), False)


def test_a_shot_whose_files_changed_is_refused(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    shot = replace(shot_of(files), avatar=tmp_path / "head.safetensors", sound=tmp_path / "s.wav")
    write_document(shot, tmp_path / "shot.json", output=tmp_path / "cache")
    for copied, words in ((None, "no avatar file"), ("avatars/other.safetensors", "has changed"), ("avatars/head.safetensors", "no sound file")):
        if copied:
            (tmp_path / "head.safetensors").write_bytes((files / copied).read_bytes())
        for how in ([], ["--dry-run"], ["--check"]):
            assert bake("--shot", tmp_path / "shot.json", *how) == 1
            said = capsys.readouterr()
            assert words in said.err + said.out
    (tmp_path / "s.wav").write_bytes((files / "t.wav").read_bytes())
    assert bake("--shot", tmp_path / "shot.json") == 1 and "s.wav has changed" in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_outside_only_where_it_is_allowed(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "shots").mkdir()
    path = tmp_path / "shots" / "x.json"
    write_document(shot_of(files), path, output=tmp_path / "elsewhere")
    assert bake("--shot", path, "--dry-run") == 1 and "--allow-outside" in capsys.readouterr().err
    for how in (["--allow-outside"], ["--root", tmp_path], ["--out", tmp_path / "chosen"]):
        assert bake("--shot", path, "--dry-run", "--json", *how) == 0
        assert told(capsys)[-1]["cache"] == str(tmp_path / ("chosen" if "--out" in how else "elsewhere"))
    write_document(shot_of(files), path)
    assert bake("--shot", path) == 1 and "--out" in capsys.readouterr().err


@pytest.mark.parametrize("arguments", [
    [], ["--out", "x"], ["--avatar", "a"], ["--shot", "a", "--avatar", "b", "--out", "c"], ["--shot", "a", "--fps", "24"], ["--avatar", "a", "--out", "b", "--root", "c"],
    ["--shot", "a", "--check", "--dry-run"], ["--frames", "1:2", "--check"], ["--out", "x", "--frames", "1:2", "--check"],
])  # fmt: skip
def test_wrong_usage(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["bake", *arguments])
    assert ended.value.code == 2 and capsys.readouterr().err


def test_errors_are_events_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert bake("--shot", tmp_path / "absent.json", "--json") == 1
    (line,) = told(capsys)
    assert line["event"] == "error" and "absent.json" in line["error"] and line["exit_code"] == 1 and line["remedy"]


def test_a_static_avatar_s_plan_and_check(tmp_path: Path) -> None:
    save_avatar(static_avatar(), tmp_path / "head.safetensors")
    path = tmp_path / "head.safetensors"
    shot = compose_shot(path, load_avatar(path).hash, None, 0.0, EmotionCurves(blink_seed=None), 25.0, (0, 9))
    assert len(plan_bake(shot, tmp_path / "cache").compute) == 1
    Baker(Session("cpu", 1), shot).bake(tmp_path / "cache")
    assert check_bake(tmp_path / "cache", shot)["ok"] and plan_bake(shot, tmp_path / "cache").report.fresh


def test_emotion_of_other_programs_is_baked(files: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "e.json").write_text(json.dumps([{"time_code": 0.0, "emotion": {"joy": 0.1, "pain": 0.5}}, {"time_code": 0.6, "emotion": {"joy": 1.0}}]))
    common = ("--avatar", files / "avatars" / "head.safetensors", "--audio", files / "s.wav", "--frames", "0:4", "--out", tmp_path / "c")
    assert bake(*common, "--emotion", tmp_path / "e.json", "--json") == 0
    said = capsys.readouterr()
    assert "pain" in said.err and json.loads(said.out.splitlines()[-1])["computed"] == 5
    (tmp_path / "e.csv").write_text("frame,happy\n0,0.1\n15,1\n")
    assert bake(*common, "--emotion", tmp_path / "e.csv", "--json") == 0


@pytest.mark.skipif(os.name == "nt", reason="signals of POSIX")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_then_resumed(files: Path, tmp_path: Path, number: signal.Signals) -> None:
    """Ctrl-C, or a farm's end, in the middle of a bake: 130, what is finished is whole, and the next bake does the rest alone."""
    emotion = EmotionCurves(blink_seed=0)
    head = files / "avatars" / "head.safetensors"
    shot = compose_shot(head, load_avatar(head).hash, None, 0.0, emotion, 1000.0, (0, 3999))
    shot.keyed[:, 1] = np.linspace(0, 1, 4000, dtype=np.float32)
    write_document(shot, tmp_path / "shot.json", output=tmp_path / "cache")
    command = [sys.executable, "-m", "engine", "bake", "--shot", str(tmp_path / "shot.json"), "--threads", "1", "--device", "cpu", "--json"]
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs ignore it, and would hand that on
    with subprocess.Popen(command, cwd=STAGE / "ua3dtalk", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as running:
        lines = iter(running.stdout.readline, "")
        for line in lines:
            if json.loads(line)["event"] == "frame":
                break
        running.send_signal(number)
        rest = [json.loads(line) for line in lines]
        errors = running.stderr.read()
    assert running.returncode == 130 and "interrupted" in errors and "Traceback" not in errors
    assert rest[-1]["event"] == "error" and rest[-1]["exit_code"] == 130
    found = check_bake(tmp_path / "cache", shot)
    assert not found["notes"], "no lock is left, no entry torn"
    done = found["whole"]
    assert 1 <= done < 4000 and not found["damaged"] and len(found["missing"]) == 4000 - done
    shot = shot.part(np.arange(min(done + 20, 4000)))
    result = Baker(Session("cpu", 1), shot).bake(tmp_path / "cache")
    assert result.computed + result.moved + result.up_to_date == len(shot) and result.computed <= 20 + done


def test_without_numpy_it_says_what_is_missing() -> None:
    """An environment that has nothing: the command line starts, `doctor` names what is missing, and help is there."""
    code = "import sys; sys.modules['numpy'] = None; sys.modules['torch'] = None; from engine.cli import main; sys.exit(main(sys.argv[1:]))"
    run = lambda *arguments: subprocess.run([sys.executable, "-c", code, *arguments], cwd=STAGE / "ua3dtalk", capture_output=True, text=True)  # noqa: E731
    done = run("doctor", "--json")
    assert done.returncode == 1 and "numpy" in json.loads(done.stdout)["missing"], done.stderr
    assert run("bake", "--help").returncode == 0
    assert run("bake").returncode == 2
