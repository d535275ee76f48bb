"""What several test modules need: where things are, and plain skips where they are not."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT: Path = Path(__file__).resolve().parents[2]
"""The project's folder."""

STAGE: Path = ROOT / "build" / "stage"
"""On `sys.path` in tests: `ua3dtalk.addon` and `ua3dtalk.engine` are what ships."""


def shared_data(*parts: str) -> Path:
    """A path in the shared test data, or a plain skip where the data is absent.

    The data is looked for in the folder that UA3DTALK_TEST_DATA names, else in `shared/data` beside the checkout.
    """
    named = os.environ.get("UA3DTALK_TEST_DATA")
    base = Path(named) if named else ROOT.parent / "shared" / "data"
    path = base.joinpath(*parts)
    if not path.exists():
        pytest.skip(f"test data {'/'.join(parts) or 'folder'} is absent; set UA3DTALK_TEST_DATA to the folder that has it")
    return path


def engine_python() -> Path:
    """The Python of the engine's environment: the running one outside Blender, else .venv/engine's, else a skip."""
    named = os.environ.get("UA3DTALK_PYTHON")
    if named:
        return Path(named)
    if "bpy" not in sys.modules:
        return Path(sys.executable)
    folder = ROOT / ".venv" / "engine"
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not python.exists():
        pytest.skip("the engine's environment is absent; `python3 build.py test` makes it")
    return python


def load_build() -> ModuleType:
    """The project's build.py, by its path: a package named `build` may be installed."""
    spec = importlib.util.spec_from_file_location("ua3dtalk_build", ROOT / "build.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
