"""What a deformation takes of memory, in processes of their own."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from support import STAGE
from support.networks import make_avatar

from ua3dtalk.engine.avatar import save_avatar
from ua3dtalk.engine.deform.parameters import NetworkSizes

COUNT = 8000
SIZES = NetworkSizes(field=(8, 16, 32, 64), emotion_field=(8, 16, 32), codebook=(8, 16, 32))

PROGRAM = """
import sys
import numpy as np, torch
from ua3dtalk.engine.avatar import load_avatar
from ua3dtalk.engine.deform import reference
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.deform.parameters import branch_tensors, read_sizes

torch.set_num_threads(1)
rng = np.random.default_rng(0)

def kilobytes(what):
    with open("/proc/self/status") as lines:
        return next(int(line.split()[1]) for line in lines if line.startswith(what))

def run(path, frames):
    avatar = load_avatar(path)
    network = branch_tensors(avatar.tensors, "face")
    views = {k: rng.normal(size=(frames, *s)).astype(np.float32) for k, s in read_sizes("face", network).frame_shapes("face").items()}
    yield
    if sys.argv[1] == "plain":
        one = {name: view[0] for name, view in views.items()}
        yield reference.deform("face", avatar.tensors["face.means"], network, one, None, torch.float32)
    else:
        yield Deformer(avatar, "cpu", threads=1).motion(views)

list(run(sys.argv[3], 1))  # libraries and compiled code in memory
steps = run(sys.argv[2], int(sys.argv[4]))
next(steps)
with open("/proc/self/clear_refs", "w") as handle:
    handle.write("5")  # the peak starts anew
before = kilobytes("VmRSS")
next(steps)
print(kilobytes("VmHWM") - before)
"""


@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="peak memory is read from /proc")
def test_peak_memory_against_the_plain_formulation(tmp_path: Path, measured: Callable[[str], None]) -> None:
    for name, count in (("large", COUNT), ("small", 300)):
        save_avatar(make_avatar(SIZES, counts=(count, 1)), tmp_path / f"{name}.safetensors")

    def peak(kind: str, frames: int = 1) -> float:
        command = [sys.executable, "-c", PROGRAM, kind, str(tmp_path / "large.safetensors"), str(tmp_path / "small.safetensors"), str(frames)]
        done = subprocess.run(command, cwd=STAGE, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return int(done.stdout) / 1024

    plain, one, eight = peak("plain"), peak("fast"), peak("fast", 8)
    measured(f"deform, {COUNT:,} Gaussians, T = 10: peak memory {one:.0f} MB, 8 frames {eight:.0f} MB, plain {plain:.0f} MB")
    assert plain > 30 * one > 0 and plain > 30 * eight > 0
