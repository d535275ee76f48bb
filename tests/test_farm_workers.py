"""Workers that cannot bake, among one that can: real processes of Dask's own command, each with an environment of its own."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from support import STAGE
from support.farm import make_show, write_shot

from ua3dtalk.engine.events import Events
from ua3dtalk.engine.farm import dispatch
from ua3dtalk.engine.farm.probe import engine_digest, look
from ua3dtalk.engine.farm.run import FarmSettings, bake_shots
from ua3dtalk.engine.shot.document import read_document
from ua3dtalk.engine.shot.plan import check_bake

distributed = pytest.importorskip("distributed")


@contextmanager
def worker(address: str, folder: Path, name: str, path: Path | None = None, before: str = "") -> Iterator[int]:
    """The process number of `python -m dask worker`, whose Python looks into `path` first and does `before`."""
    home = folder / name
    home.mkdir()
    (home / "sitecustomize.py").write_text(textwrap.dedent(before), encoding="utf-8")
    places = [home, *([] if path is None else [path]), STAGE]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(map(str, places)), "UA3DTALK_CACHE": str(home)}
    command = [sys.executable, "-m", "dask", "worker", address, "--no-nanny", "--nthreads", "1", "--no-dashboard", "--name", name]
    with (home / "log.txt").open("wb") as log:
        process = subprocess.Popen([*command, "--local-directory", str(home)], env=environment, cwd=home, stdout=log, stderr=log)
        try:
            yield process.pid
        finally:
            process.kill()
            process.wait()


@pytest.mark.skipif(os.name == "nt", reason="limits of processes are not Windows'")
def test_workers_that_cannot_bake_eat_no_shots(show: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """One without torch, one with another engine, one whose disk takes nothing; one that is in order. Then without the last."""
    monkeypatch.setattr(dispatch, "GRACE", 0.5)
    (tmp_path / "broken" / "torch").mkdir(parents=True)
    (tmp_path / "broken" / "torch" / "__init__.py").write_text("raise ImportError('libtorch_cpu.so: cannot open shared object file')")
    other = tmp_path / "other"
    shutil.copytree(STAGE / "ua3dtalk", other / "ua3dtalk", ignore=shutil.ignore_patterns("__pycache__", "addon"))
    with (other / "ua3dtalk" / "engine" / "files.py").open("a", encoding="utf-8") as handle:
        handle.write("# one line more\n")
    full = "import resource\nresource.setrlimit(resource.RLIMIT_FSIZE, (4000, 4000))"  # the shape of the avatar does not fit
    shots = [write_shot(show, f"shot_{number}", 20) for number in range(4)]
    with distributed.LocalCluster(n_workers=0, dashboard_address=None, protocol="tcp://") as cluster:
        address = cluster.scheduler_address
        settings = FarmSettings(address, device="cpu", threads=1, retries=0)
        with (
            worker(address, tmp_path, "no_torch", tmp_path / "broken") as no_torch,
            worker(address, tmp_path, "other_engine", other) as other_engine,
            worker(address, tmp_path, "full_disk", before=full) as full_disk,
        ):
            with worker(address, tmp_path, "good") as good, distributed.Client(cluster) as client:
                client.wait_for_workers(4, timeout=120)
                loaded = [client.submit(look, engine_digest(), False, workers=[name], pure=False) for name in ("good", "full_disk")]
                assert [answer["error"] for answer in client.gather(loaded)] == [None, None]
                result = bake_shots(shots, settings, Events(False))
            assert ["error" in row for row in result.rows] == [False] * 4
            assert {row["worker"].split(":")[1] for row in result.rows} == {str(good)}
            told = capsys.readouterr().err
            for process, reason in ((no_torch, "cannot open shared object file"), (other_engine, "has another engine (version "), (full_disk, "File too large")):
                (why,) = [why for name, why in result.broken.items() if name.endswith(f":{process}")]
                assert reason in why and "\n" not in why
                assert sum(f":{process} gets no work: " in line and reason in line for line in told.splitlines()) == 1
            assert str(good) not in {name.split(":")[1] for name in result.broken}
            for path in shots:
                shot, about = read_document(path)
                assert about.output is not None and check_bake(about.output, shot)["ok"]
        with worker(address, tmp_path, "no_torch_again", tmp_path / "broken") as no_torch:
            result = bake_shots([write_shot(show, "late", 20)], settings, Events(False))
            (row,) = result.rows
            assert row["error"].startswith("No worker can bake; ") and f":{no_torch} " in row["error"] and "libtorch" in row["error"]
            assert len(result.broken) == 1


@pytest.fixture
def show(tmp_path: Path) -> Path:
    return make_show(tmp_path)
