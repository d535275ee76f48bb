"""The walk through the real Blender's window, and the scripts around it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
from window import make_root, sandbox

from support import ROOT


def test_mirrors_of_both_formats() -> None:
    one_line = "# deb http://no.example/debian sid main\ndeb [arch=amd64] http://a.example/debian stable main # why\ndeb-src http://b.example/debian x\n"
    deb822 = "Types: deb\nURIs: http://c.example/debian/ http://a.example/debian\nSuites: stable\n\nURIs: http://d.example/debian-security\n"
    other = "deb https://vendor.example/apt stable main\n"
    assert make_root.debian_mirrors([one_line, deb822, other]) == ["http://a.example/debian", "http://c.example/debian/"]
    assert make_root.debian_mirrors([]) == []


def test_apt_sources_are_read_in_order(tmp_path: Path) -> None:
    (tmp_path / "sources.list.d").mkdir()
    for name in ("sources.list", "sources.list.d/b.sources", "sources.list.d/a.list", "sources.list.d/a.list.save"):
        (tmp_path / name).write_text(name)
    assert make_root.apt_sources(tmp_path) == ["sources.list", "sources.list.d/a.list", "sources.list.d/b.sources"]
    assert make_root.apt_sources(tmp_path / "nowhere") == []


def root_like(folder: Path) -> Path:
    """A folder that has the programs' names."""
    (folder / "usr" / "bin").mkdir(parents=True)
    for name in make_root.PROGRAMS:
        (folder / "usr" / "bin" / name).touch()
    return folder


def test_a_whole_root_is_left_alone_and_another_folder_too(tmp_path: Path) -> None:
    whole = root_like(tmp_path / "whole")
    script = [sys.executable, str(ROOT / "tests" / "window" / "make_root.py")]
    done = subprocess.run([*script, str(whole)], capture_output=True, text=True)
    assert done.returncode == 0 and "is there already" in done.stdout
    (whole / "usr" / "bin" / "blender").unlink()
    done = subprocess.run([*script, str(whole)], capture_output=True, text=True)
    assert done.returncode == 2 and "remove it or name another" in done.stderr and len(done.stderr.splitlines()) == 1


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    script = [sys.executable, str(ROOT / "tests" / "window" / "make_root.py"), str(tmp_path / "root")]
    done = subprocess.run(script, capture_output=True, text=True, env={**os.environ, "PATH": str(tmp_path)})
    assert done.returncode == 2 and "mmdebstrap" in done.stderr and not (tmp_path / "root").exists()


@pytest.mark.parametrize("root", [None, "absent"])
def test_without_a_root_the_reason_says_what_to_do(root: str | None, tmp_path: Path, engine_python: Path) -> None:
    reason = sandbox.reason_against(tmp_path / root if root else None, engine_python)
    assert reason is not None and "make_root.py" in reason and "\n" not in reason


def test_a_python_that_the_root_would_hide(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, engine_python: Path) -> None:
    monkeypatch.setattr(sandbox.shutil, "which", lambda name: f"/bin/{name}")
    monkeypatch.setattr(sandbox, "engine_of", lambda python: sandbox.Engine(python, (Path("/usr"),)))
    assert "hides" in str(sandbox.reason_against(root_like(tmp_path / "root"), engine_python))


def test_the_environment_of_the_engine(engine_python: Path) -> None:
    engine = sandbox.engine_of(engine_python)
    assert engine.python == engine_python and Path(sys.prefix) in engine.folders and Path(sys.base_prefix) in engine.folders


@pytest.fixture(scope="module")
def walked(build: ModuleType, engine_python: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    """(folder, result) of one walk."""
    reason = sandbox.reason_against(sandbox.named_root(), engine_python)
    if reason is not None:
        pytest.skip(reason)
    named = os.environ.get("UA3DTALK_ZIP")
    out = tmp_path_factory.mktemp("window")
    assets = ROOT / "addon" / "assets"
    package = Path(named) if named else build.package(out / "dist")
    root = sandbox.named_root()
    assert root is not None
    return out, sandbox.walk(root, out, package, engine_python, assets / "demo_avatar.safetensors", assets / "demo_speech.flac")


def test_walk(walked: tuple[Path, dict], measured: Callable[[str], None]) -> None:
    """Everything that walk.py checks, step by step, in one Blender."""
    out, result = walked
    assert result["error"] is None, f"at {result['failed']}, pictures in {out}:\n{result['error']}\n{chr(10).join(result.get('log', []))}"
    for step in result["steps"]:
        measured(f"window: {step['name']}, {step['seconds']:g} s, {json.dumps(step['facts'])}")


def test_times_of_the_main_loop_were_taken(walked: tuple[Path, dict], measured: Callable[[str], None]) -> None:
    """Nothing is asserted on them: most of a redraw is software OpenGL's, and the machine may be busy."""
    out, result = walked
    if result["error"]:
        pytest.skip("the walk failed")
    loop, own = result["measured"]["main_loop"], result["measured"]["own_code"]
    for phase in (name for name in loop if name.startswith(("drag ", "bake", "second bake", "scrub", "live"))):
        gap = loop[phase]
        measured(f"window: {phase}: longest gap of the main loop {gap['longest_ms']} ms, median {gap['median_ms']} ms (redraws in it)")
        for name, row in list(own[phase].items())[:4]:
            measured(f"window: {phase}: {name} longest {row['longest_ms']} ms, {row['longest_cpu_ms']} ms of processor time, {row['calls']} calls")
    assert any("Bake.modal" in name for name in own["bake"]), "the bake's own code was not seen"
    assert any("_on_post_view" in name for name in own["scrub"]), "no redraw was seen while scrubbing"
