"""The extension comes, goes and comes back without a trace, and a registration that fails undoes itself."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import bpy
import pytest


def traces(extension: str) -> set[str]:
    """What of the extension Blender holds: classes, properties, handlers, menu entries, file handlers."""
    found = set()

    def classes(base: type) -> Iterator[type]:
        for below in base.__subclasses__():
            yield below
            yield from classes(below)

    # Through Blender's base of all: operators and panels do not appear in bpy.types by their Python names.
    for cls in classes(bpy.types.bpy_struct):
        if cls.__module__.startswith(extension) and getattr(cls, "is_registered", False):
            found.add(f"class {cls.__name__}")
    for owner in (bpy.types.Object, bpy.types.Scene, bpy.types.WindowManager):
        found |= {f"property {owner.__name__}.{name}" for name in dir(owner) if "ua3dtalk" in name.lower()}
    for name in dir(bpy.app.handlers):
        held = getattr(bpy.app.handlers, name)
        if isinstance(held, list):
            found |= {f"handler {name}" for f in held if getattr(f, "__module__", "").startswith(extension)}
    for name in dir(bpy.types):
        drawn = getattr(getattr(getattr(bpy.types, name, None), "draw", None), "_draw_funcs", ())
        found |= {f"menu entry {name}" for f in drawn if f.__module__.startswith(extension)}
    return found


@pytest.fixture
def enabled(extension: str) -> Iterator[str]:
    """The extension, enabled before and after."""
    yield extension
    if extension not in bpy.context.preferences.addons:
        bpy.ops.preferences.addon_enable(module=extension)


def test_comes_and_goes_without_a_trace(enabled: str) -> None:
    there = traces(enabled)
    assert any(t.startswith("class ") for t in there) and any(t.startswith("property Object.") for t in there)
    for _ in range(3):
        bpy.ops.preferences.addon_disable(module=enabled)
        assert traces(enabled) == set()
        bpy.ops.preferences.addon_enable(module=enabled)
        assert traces(enabled) == there


def test_registering_twice_changes_nothing(enabled: str) -> None:
    there = traces(enabled)
    root = importlib.import_module(enabled)
    root.register()
    assert traces(enabled) == there
    root.unregister()
    assert traces(enabled) == set()
    root.unregister()
    root.register()
    assert traces(enabled) == there


def test_registration_that_fails_undoes_itself(enabled: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails at each class in turn."""
    root = importlib.import_module(enabled)
    there = traces(enabled)
    root.unregister()
    real = bpy.utils.register_class
    steps = 0
    while True:
        called = 0

        def fails(cls: type, at: int = steps) -> None:
            nonlocal called
            if called == at:
                raise RuntimeError(f"stopped at class {at}")
            called += 1
            real(cls)

        monkeypatch.setattr(bpy.utils, "register_class", fails)
        try:
            root.register()
        except RuntimeError:
            assert traces(enabled) == set(), f"after a failure at class {steps}"
            steps += 1
            continue
        break
    monkeypatch.undo()
    assert steps > 1, "the extension does not register its classes through bpy.utils.register_class"
    assert traces(enabled) == there


def test_start_up_time(enabled: str, measured: Callable[[str], None]) -> None:
    """Import and registration in a fresh Blender, before and after there is byte code; nothing heavy comes with it."""
    code = f"""
import bpy, os, shutil, sys, time, addon_utils
import numpy
before = set(sys.modules)
started, cpu = time.perf_counter(), time.process_time()
module = addon_utils.enable({enabled!r})
took, cpu = time.perf_counter() - started, time.process_time() - cpu
assert module is not None
new = sorted({{n.partition('.')[0] for n in set(sys.modules) - before}})
print('RESULT', took * 1000, cpu * 1000, *new, flush=True)
addon_utils.disable({enabled!r})
shutil.rmtree(bpy.app.tempdir, ignore_errors=True)
os._exit(0)
"""
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    for state in ("first time", "afterwards"):
        done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stdout + done.stderr
        _, took, cpu, *modules = next(line for line in done.stdout.splitlines() if line.startswith("RESULT")).split()
        measured(f"add-on, import and register, {state}: {float(took):.0f} ms ({float(cpu):.0f} ms of processor time)")
        heavy = {"torch", "scipy", "numba", "torchaudio", "soundfile", "asyncio", "multiprocessing"}
        assert not heavy & set(modules)


def test_manifest_as_blender_sees_it(extension: str, shipped: Callable[[str], ModuleType]) -> None:
    folder = Path(importlib.import_module(extension).__file__).parent
    assert folder.name == "ua3dtalk" and (folder / "blender_manifest.toml").is_file()
    assert shipped("engine").__version__ in (folder / "blender_manifest.toml").read_text()
