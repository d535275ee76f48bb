"""What the tests of the installed extension share: small avatars as files, sounds, caches whose frames tell their number."""

from __future__ import annotations

import subprocess
import wave
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import bpy
import numpy as np
import pytest

from support import ROOT, STAGE, engine_python

RATE = 16000


@pytest.fixture(scope="session")
def avatars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with head.safetensors, other.safetensors (both talk, the variances of the second are of colour) and static.safetensors."""
    folder = tmp_path_factory.mktemp("avatars")
    script = ROOT / "tests" / "support" / "make_avatars.py"
    subprocess.run([str(engine_python()), str(script), str(STAGE), str(folder)], check=True)
    return folder


@pytest.fixture
def engine(shipped: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """The extension's `session` module with a real engine to start. It runs on from test to test, as it does for users;
    switching the extension off ends it."""
    monkeypatch.setenv("UA3DTALK_PYTHON", str(engine_python()))
    return shipped("addon.session")


@pytest.fixture
def api(shipped: Callable[[str], ModuleType], scene: bpy.types.Scene) -> ModuleType:
    """The extension's functions for scripts, on an empty file of 25 frames a second."""
    scene.render.fps, scene.render.fps_base = 25, 1.0
    scene.frame_start, scene.frame_end = 1, 20
    return shipped("addon.api")


def write_sound(path: Path, seconds: float = 2.0, seed: int = 0, rate: int = RATE, syllables: bool = True) -> Path:
    """Noise, which no two moments have in common, rising and falling like syllables or even."""
    samples = np.random.default_rng(seed).normal(size=int(seconds * rate))
    if syllables:
        samples *= 1 + np.sin(np.arange(len(samples)) / rate * 30)
    with wave.open(str(path), "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(rate)
        out.writeframes((samples * 4000).clip(-32000, 32000).astype("<i2").tobytes())
    return path


def positions(obj: bpy.types.Object) -> np.ndarray:
    """The point cloud's positions [N,3]."""
    data = obj.data.attributes["position"].data
    flat = np.empty(3 * len(data), np.float32)
    data.foreach_get("vector", flat)
    return flat.reshape(-1, 3)


def number_cache(shipped: Callable[[str], ModuleType], obj: bpy.types.Object, frames: Any, add: float = 0.0) -> Path:
    """Fill the object's cache folder, without the engine: at frame f all moving Gaussians lie at x = f + add. Returns the folder."""
    avatar = shipped("addon.avatar").load(shipped("addon.avatar").file_of(obj))
    cache = shipped("engine.cache")
    folder = shipped("addon.places").folder_of(obj)
    rest, branch = avatar.rest()
    rows = avatar.moving_rows()
    header = cache.CacheHeader(avatar.meta.name, avatar.hash, "", "layered", 25.0, "", 0, 0, "0", "cpu")
    with cache.CacheWriter(folder, header, rest, branch, rows) as writer:
        for frame in frames:
            means = rest.means[rows] * 0 + np.array([frame + add, 0, 0], np.float32)
            even = np.full(len(rows), 0.01, np.float32)
            key = np.array([frame, round(add * 1000)], "<i8").tobytes()
            writer.put(int(frame), key, means, rest.quats[rows], rest.scales[rows], even, even)
        writer.finish()
    return folder


def number_shown(shipped: Callable[[str], ModuleType], obj: bpy.types.Object) -> float | None:
    """The frame number that the point cloud of an object with a `number_cache` shows; None at rest."""
    rows = shipped("addon.avatar").load(shipped("addon.avatar").file_of(obj)).moving_rows()
    x = positions(obj)[rows, 0]
    return float(x.mean()) if np.ptp(x) < 1e-3 else None
