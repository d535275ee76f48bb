"""The benchmarks: they run, and what they say is what was measured."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import pytest

from support import ROOT
from ua3dtalk.engine.bench import BenchSettings, run_bench
from ua3dtalk.engine.bench.measure import exponent, peak_memory, times
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.errors import Cancelled, UserError


def test_times_are_taken_in_turns() -> None:
    order: list[str] = []
    found = times({"a": lambda: (order.append("a"), time.sleep(0.02)), "b": lambda: order.append("b")}, repeats=3)
    assert order == ["a", "b"] * 4
    assert found["a"].wall >= 0.02 > found["a"].processor and found["b"].wall < found["a"].wall


def test_exponent() -> None:
    assert exponent([10, 100, 1000], [3 * n**1.5 for n in (10, 100, 1000)]) == 1.5


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no resource module")
def test_peak_memory_is_what_the_second_part_adds() -> None:
    found = peak_memory("import numpy as np\na = np.ones(10_000_000)\n---\nb = np.ones(5_000_000)", ROOT)
    assert found == pytest.approx(40, abs=5)
    assert peak_memory("raise SystemExit(3)\n---\n", ROOT) is None


def test_a_quick_run_has_every_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "result.json"
    assert main(["bench", "--quick", "--json", "--out", str(out)]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result == json.loads(out.read_text())
    networks = result["deformation"]["plain_and_fast"]
    assert networks["largest_error"] < 1e-5
    assert networks["times_faster"] == pytest.approx(networks["plain"]["processor_ms"] / networks["fast"]["processor_ms"], rel=0.1, abs=0.1)
    assert {axis: len(grown["rows"]) for axis, grown in result["deformation"]["growth"].items()} == {"gaussians": 2, "members": 2, "frames": 2}
    assert max(result["rasteriser"]["plain_and_fast"]["errors"].values()) < 1e-4
    bakes = result["bake"]["incremental"]["bakes"]
    assert bakes["all frames"]["computed"] == 4 and bakes["nothing changed"]["computed"] == 0
    assert 0 < bakes["one key changed"]["computed"] < 4
    assert result["bake"]["latency"]["request_ms"] > 0 and result["bake"]["incremental"]["cache"]["bytes_a_frame"]["motion"] > 0


def test_what_cannot_be_measured_is_refused() -> None:
    with pytest.raises(UserError, match="no benchmark speed"):
        run_bench(BenchSettings(("speed",)))
    with pytest.raises(Cancelled):
        run_bench(BenchSettings(("bake",), quick=True), stopped=lambda: True)


def test_the_picture(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    sys.path.insert(0, str(ROOT / "docs" / "benchmarks"))
    try:
        from draw import draw
    finally:
        sys.path.pop(0)
    result = json.loads((ROOT / "docs" / "benchmarks" / "cpu.json").read_text("utf-8"))
    draw(result, tmp_path / "picture.svg")
    assert (tmp_path / "picture.svg").stat().st_size > 10000
