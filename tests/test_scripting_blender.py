"""`blender -b shot.blend --command ua3dtalk_bake` in the real program, where a root folder has it (see tests/window)."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
from support.avatars import talking_avatar
from window import sandbox

from ua3dtalk.engine.avatar import save_avatar
from ua3dtalk.engine.cli import main

MAKE = """
import bpy
from bl_ext.user_default.ua3dtalk.addon import api
bpy.ops.wm.save_as_mainfile(filepath="{home}/sc01.blend")
bpy.context.scene.frame_end = 12
head = api.import_avatar("{home}/head.safetensors", "Head")
api.attach_audio(head, "{home}/speech.wav", frame=2)
api.key_emotion(head, "happy", frame=8, blend=5)
bpy.ops.wm.save_mainfile()
"""


def test_the_real_program_bakes_by_its_command(build: ModuleType, engine_python: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = sandbox.named_root()
    if (reason := sandbox.reason_against(root, engine_python)) is not None:
        pytest.skip(reason)
    save_avatar(talking_avatar(), tmp_path / "head.safetensors")
    soundfile.write(tmp_path / "speech.wav", np.random.default_rng(0).normal(size=6000) * 0.1, 16000)
    zip_path = build.package(tmp_path / "dist")
    (tmp_path / "make.py").write_text(MAKE.format(home=sandbox.HOME))
    inside = sandbox.inside(root, tmp_path, engine_python, {"UA3DTALK_PYTHON": str(sandbox.engine_of(engine_python).python)})

    def blender(*arguments: str) -> tuple[int, list[dict[str, Any]], str]:
        done = subprocess.run([*inside, "blender", *arguments], capture_output=True, text=True, timeout=300)
        lines = [json.loads(line) for line in done.stdout.splitlines() if line.startswith("{")]
        return done.returncode, lines, done.stdout + done.stderr

    code, _, said = blender("--command", "extension", "install-file", "-r", "user_default", "-e", f"{sandbox.HOME}/dist/{zip_path.name}")
    assert code == 0, said
    code, _, said = blender("-b", "--python-exit-code", "1", "--python", f"{sandbox.HOME}/make.py")
    assert code == 0, said

    def bake(*options: str) -> tuple[int, list[dict[str, Any]], str]:
        return blender("-b", f"{sandbox.HOME}/sc01.blend", "--command", "ua3dtalk_bake", *options)

    code, lines, said = bake("--dry-run", "--json")
    assert code == 0 and lines[-1]["missing"] == list(range(1, 13)), said
    assert not (tmp_path / "ua3dtalk_cache").exists()
    assert bake("--check")[0] == 1
    code, lines, said = bake("--frames", "1:6", "--json")
    assert code == 0 and lines[0]["event"] == "start" and lines[-1]["event"] == "result" and lines[-1]["computed"] > 3, said
    assert sorted(line["frame"] for line in lines if line["event"] == "frame") == list(range(1, 7))
    code, lines, said = bake("--shot-file", f"{sandbox.HOME}/sc01.json", "--json")
    assert code == 0, said
    _same_bake_outside(tmp_path, capsys)
    code, lines, said = bake("--check", "--json")
    assert code == 0 and lines[-1]["whole"] == 12, said
    assert bake("--object", "Nobody")[0] == 1 and bake("--wrong")[0] == 2


def _same_bake_outside(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The engine alone goes on from the shot file where Blender stopped; its paths are relative, so another place is none."""
    capsys.readouterr()
    assert main(["bake", "--shot", str(folder / "sc01.json"), "--json", "--threads", "1", "--device", "cpu"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["up_to_date"] == 6 and result["computed"] + result["moved"] == 6
