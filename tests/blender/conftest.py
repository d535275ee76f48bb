"""Blender's tests: the built zip, installed through Blender's own extension installer in an isolated user folder."""

from __future__ import annotations

import importlib
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# Before bpy is imported: preferences and extensions of the user stay out of this.
_USER = Path(tempfile.mkdtemp(prefix="ua3dtalk-blender-"))
os.environ["BLENDER_USER_RESOURCES"] = str(_USER)

import bpy  # noqa: E402
import pytest  # noqa: E402

EXTENSION = "bl_ext.user_default.ua3dtalk"
_exit_status = 0


@pytest.fixture(scope="session")
def zip_path(build: ModuleType) -> Path:
    """The built extension: build.py names it; a bare pytest run builds it."""
    named = os.environ.get("UA3DTALK_ZIP")
    return Path(named) if named else build.package()


@pytest.fixture(scope="session")
def extension(zip_path: Path) -> Iterator[str]:
    """The name of the installed, enabled extension's root package; disabled at the end."""
    bpy.ops.extensions.package_install_files(filepath=str(zip_path), repo="user_default", enable_on_install=True)
    assert EXTENSION in bpy.context.preferences.addons, "the extension was not enabled; Blender's reasons are above"
    yield EXTENSION
    if EXTENSION in bpy.context.preferences.addons:
        bpy.ops.preferences.addon_disable(module=EXTENSION)


@pytest.fixture(scope="session")
def shipped(extension: str) -> Callable[[str], ModuleType]:
    """Import a module of the installed extension: shipped("addon.core.names"), shipped("engine.cache")."""

    def load(name: str) -> ModuleType:
        return importlib.import_module(f"{extension}.{name}")

    return load


@pytest.fixture
def scene(extension: str) -> bpy.types.Scene:
    """An empty file with the extension enabled (preferences stay)."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    found = bpy.context.scene
    found.render.threads_mode = "FIXED"
    found.render.threads = 1
    return found


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep the status for the end."""
    global _exit_status
    _exit_status = int(exitstatus)


def pytest_unconfigure(config: pytest.Config) -> None:
    """End at once: Blender 4.5 hangs at the interpreter's exit if a class stayed registered."""
    shutil.rmtree(bpy.app.tempdir, ignore_errors=True)
    shutil.rmtree(_USER, ignore_errors=True)
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(_exit_status)
