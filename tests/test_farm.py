"""`python -m engine farm`: real workers, one of them killed, one shot that cannot be baked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support import STAGE
from support.avatars import talking_avatar

from ua3dtalk.engine.avatar import save_avatar
from ua3dtalk.engine.cache import LOCK_FILE
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.shot.document import read_document
from ua3dtalk.engine.shot.plan import check_bake

pytest.importorskip("distributed")
LONG = 600


def write_shot(folder: Path, name: str, frames: int, avatar: str = "head.safetensors", digest: str | None = None, out: str = "") -> Path:
    """A shot with a smile that never stands still, so that each frame has a key of its own."""
    known = {} if digest is None else {"sha256": digest}
    document = {
        "ua3dtalk_shot": 1, "name": name, "avatar": {"path": avatar, **known}, "sound": {"path": "s.wav"}, "fps": 25,
        "frames": {"first": 0, "last": frames - 1}, "curves": {"happy": [[0, 0], [frames, 1]]}, "output": {"folder": f"cache/{out or name}"},
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path


@pytest.fixture
def show(tmp_path: Path) -> Path:
    save_avatar(talking_avatar(), tmp_path / "head.safetensors")
    soundfile.write(tmp_path / "s.wav", np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
    return tmp_path


def holder(folder: Path, run: subprocess.Popen[str]) -> int:
    """The process that writes a cache folder, once a frame is there."""
    while run.poll() is None:
        if any(path.stat().st_size for path in folder.glob("store-*/index.bin")):
            try:
                return int((folder / LOCK_FILE).read_text().split()[1])
            except (OSError, IndexError):  # between two states
                pass
        time.sleep(0.005)
    raise AssertionError(f"nobody bakes into {folder}")


@pytest.mark.skipif(os.name == "nt", reason="kill -9 is told apart by its signal")
def test_a_killed_worker_and_a_broken_shot_stop_nothing(show: Path, engine_python: Path) -> None:
    save_avatar(talking_avatar(count=1500), show / "slow.safetensors")
    shots = [write_shot(show, "long", LONG, "slow.safetensors"), write_shot(show, "a", 10), write_shot(show, "b", 12)]
    shots.append(write_shot(show, "broken", 5, "gone.safetensors", "0" * 64))
    command = [engine_python, "-m", "engine", "farm", show / "*.json", "--workers", 2, "--json", "--device", "cpu", "--threads", 1]
    errors = show / "errors.txt"
    with errors.open("w", encoding="utf-8") as handle:
        run = subprocess.Popen([*map(str, command)], cwd=STAGE / "ua3dtalk", stdout=subprocess.PIPE, stderr=handle, text=True)
        try:
            killed = holder(show / "cache" / "long", run)
            os.kill(killed, signal.SIGKILL)
            out = run.communicate(timeout=240)[0]
        finally:
            if run.poll() is None:
                run.kill()
                run.communicate()
    assert run.returncode == 1, errors.read_text(encoding="utf-8")
    events = [json.loads(line) for line in out.splitlines()]
    assert events[-1]["event"] == "result" and not events[-1]["ok"] and events[-1]["failed"] == 1
    rows = {row["shot"]: row for row in events[-1]["shots"]}
    assert [row["shot"] for row in events[-1]["shots"]] == ["a", "b", "broken", "long"]
    assert "no avatar file" in rows["broken"]["error"] and "gone.safetensors" in rows["broken"]["error"]
    assert [event["shot"] for event in events if event["event"] == "error"] == ["broken"]
    for path in shots[:3]:
        shot, settings = read_document(path)
        assert settings.output is not None
        check = check_bake(settings.output, shot)
        assert check["ok"] and check["whole"] == len(shot), check
        assert not (settings.output / LOCK_FILE).exists()
    again = rows["long"]
    assert not again["worker"].endswith(f":{killed}")
    assert again["up_to_date"] >= 1 and again["computed"] >= 1, "killed in the middle: some were there, some not"
    assert again["computed"] + again["moved"] + again["up_to_date"] == LONG


def test_a_worker_of_a_scheduler_keeps_its_avatar(show: Path) -> None:
    """The worker declares a GPU, and bakes both shots in one session."""
    from distributed import LocalCluster

    from ua3dtalk.engine.events import Events
    from ua3dtalk.engine.farm import task
    from ua3dtalk.engine.farm.run import FarmSettings, bake_shots

    shots = [write_shot(show, "a", 4), write_shot(show, "b", 5)]
    task._sessions.clear()
    resources = {"GPU": 1}
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp://", resources=resources
    ) as cluster:
        rows = bake_shots(shots, FarmSettings(cluster.scheduler_address, gpu=True, device="cpu", threads=1), Events(False))
    assert [row.get("error") for row in rows] == [None, None]
    assert [row["computed"] for row in rows] == [4, 5]
    assert len(task._sessions) == 1


def test_shots_that_would_write_over_each_other(show: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything runs; and without Dask, which package is missing."""
    paths = [write_shot(show, "first", 4, out="same"), write_shot(show, "second", 4, out="other/../same")]
    monkeypatch.setitem(sys.modules, "dask", None)
    assert main(["farm", *map(str, paths)]) == 1
    told = capsys.readouterr().err.splitlines()
    assert len(told) == 2
    assert "second.json: its output folder is that of" in told[0]
    assert "requirements-farm.txt" in told[1]


def test_nothing_that_can_be_baked(show: Path, capsys: pytest.CaptureFixture[str]) -> None:
    outside = write_shot(show, "outside", 4, out="../../elsewhere")
    assert main(["farm", str(outside), str(show / "missing.json")]) == 1
    out, err = capsys.readouterr()
    assert "lies outside" in err and "Cannot read" in err
    table = out.splitlines()
    assert table[0].split()[:3] == ["shot", "frames", "computed"]
    assert table[1].startswith("outside") and "lies outside" in table[1] and table[2].startswith("missing")
    assert not (show.parent / "elsewhere").exists()
