"""`python -m engine farm`: real workers, one of them killed, one shot that cannot be baked."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
from support import STAGE
from support.avatars import talking_avatar
from support.farm import make_show, write_shot

from ua3dtalk.engine.avatar import save_avatar
from ua3dtalk.engine.cache import LOCK_FILE
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.events import Events
from ua3dtalk.engine.farm import dispatch, task
from ua3dtalk.engine.farm.run import FarmSettings, bake_shots
from ua3dtalk.engine.shot.document import read_document
from ua3dtalk.engine.shot.plan import check_bake

LocalCluster = pytest.importorskip("distributed").LocalCluster
LONG, PART = 400, 200


@pytest.fixture
def show(tmp_path: Path) -> Path:
    return make_show(tmp_path)


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
    """One shot is split; the worker of one of its parts is killed."""
    save_avatar(talking_avatar(count=1500), show / "slow.safetensors")
    shots = [write_shot(show, "a", 10), write_shot(show, "b", 12), write_shot(show, "long", LONG, "slow.safetensors")]
    write_shot(show, "broken", 5, "gone.safetensors", "0" * 64)
    command = [engine_python, "-m", "engine", "farm", show / "*.json", "--workers", 2, "--split", PART, "--json", "--device", "cpu", "--threads", 1]
    errors = show / "errors.txt"
    with errors.open("w", encoding="utf-8") as handle:
        run = subprocess.Popen([*map(str, command)], cwd=STAGE / "ua3dtalk", stdout=subprocess.PIPE, stderr=handle, text=True)
        try:
            killed = holder(show / "cache" / "long.parts" / f"0-{PART - 1}", run)
            os.kill(killed, signal.SIGKILL)
            out = run.communicate(timeout=240)[0]
        finally:
            if run.poll() is None:
                run.kill()
                run.communicate()
    assert run.returncode == 1, errors.read_text(encoding="utf-8")
    events = [json.loads(line) for line in out.splitlines()]
    result = events[-1]
    assert result["event"] == "result" and not result["ok"] and result["failed"] == 1 and not result["broken_workers"]
    rows = {row["shot"]: row for row in result["shots"]}
    assert list(rows) == ["a", "b", "broken", "long"]
    assert "no avatar file" in rows["broken"]["error"] and "gone.safetensors" in rows["broken"]["error"]
    assert [event["shot"] for event in events if event["event"] == "error"] == ["broken"]
    for path in shots:
        shot, settings = read_document(path)
        assert settings.output is not None
        check = check_bake(settings.output, shot)
        assert check["ok"] and check["whole"] == len(shot), check
        assert not (settings.output / LOCK_FILE).exists()
    again = rows["long"]
    assert again["parts"] == LONG // PART and not (show / "cache" / "long.parts").exists()
    assert f":{killed}," not in f"{again['worker']},"
    assert again["up_to_date"] >= 1 and again["computed"] >= 1, "killed in the middle: some were there, some not"
    assert again["computed"] + again["moved"] + again["up_to_date"] == LONG


def test_a_worker_keeps_its_avatar_and_idle_workers_get_parts(show: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two workers of a scheduler, which declare GPUs, in this process: both bake with one session. The second run has one shot for both."""
    monkeypatch.setattr(dispatch, "LEAST_PART", 20)
    shots = [write_shot(show, "a", 4), write_shot(show, "b", 5)]
    task._sessions.clear()
    with LocalCluster(
        n_workers=2, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp://", resources={"GPU": 1}
    ) as cluster:
        settings = FarmSettings(cluster.scheduler_address, gpu=True, device="cpu", threads=1)
        rows = bake_shots(shots, settings, Events(False)).rows
        assert [(row.get("error"), row["computed"], row.get("parts")) for row in rows] == [(None, 4, None), (None, 5, None)]
        (row,) = bake_shots([write_shot(show, "alone", 50)], settings, Events(False)).rows
        assert (row["computed"], row["up_to_date"], row["parts"]) == (50, 0, 2)
        (row,) = bake_shots([write_shot(show, "alone", 90)], replace(settings, split=0), Events(False)).rows
        assert (row["computed"], row["up_to_date"], row.get("parts")) == (89, 1, None), "the curve is another, but for its first frame"
    assert len(task._sessions) == 1


def test_a_paused_worker_is_no_reason_to_wait_for_ever(show: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Dask pauses workers near their memory limit, and begins nothing there."""
    monkeypatch.setattr(dispatch, "GRACE", 0.5)
    with LocalCluster(
        n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None, protocol="tcp://", memory_limit="1MiB"
    ) as cluster:
        deadline = time.monotonic() + 60
        while cluster.workers[0].status.name != "paused":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        result = bake_shots([write_shot(show, "a", 4)], FarmSettings(cluster.scheduler_address, device="cpu", threads=1), Events(False))
    assert "No worker can bake; " in result.rows[0]["error"] and "memory limit" in result.rows[0]["error"]


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
