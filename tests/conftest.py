"""Set-up shared by the engine's tests and Blender's: one thread, the staged package on the path."""

from __future__ import annotations

import importlib.util
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest

_measured: list[str] = []

# Before numpy or torch are imported. More threads than cores make everything slower, and results depend on their number.
for _name in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(_name, "1")

# Tracks of sounds go nowhere near the user's own.
_cache = tempfile.TemporaryDirectory(prefix="ua3dtalk-test-cache-", ignore_cleanup_errors=True)
os.environ["UA3DTALK_CACHE"] = _cache.name

# numba's files name the modules they were made in: those of `ua3dtalk.engine` and of `python -m engine` must not mix.
if importlib.util.find_spec("numba"):
    os.environ["NUMBA_CACHE_DIR"] = str(Path(__file__).resolve().parents[1] / "build" / "numba-tests")
    import numba  # noqa: F401 - reads the variable; processes that tests start do without it

    del os.environ["NUMBA_CACHE_DIR"]

from support import ROOT, STAGE, engine_python as _engine_python, load_build as _load_build, shared_data as _shared_data  # noqa: E402


def pytest_configure(config: pytest.Config) -> None:
    """Stage the package, so that `ua3dtalk` is the tree as it is now."""
    build = _load_build()
    build.stage()
    if str(STAGE) not in sys.path:
        sys.path.insert(0, str(STAGE))


# Blender's tests run in Blender's Python only.
collect_ignore = [] if importlib.util.find_spec("bpy") else ["blender"]


@pytest.fixture(scope="session")
def build() -> ModuleType:
    """build.py as a module."""
    return sys.modules["ua3dtalk_build"]


@pytest.fixture(scope="session")
def engine_python() -> Path:
    """The Python that runs `python -m engine` (see support.engine_python)."""
    return _engine_python()


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder of shared test data; skips where it is absent."""
    return _shared_data()


@pytest.fixture(scope="session")
def measured() -> Callable[[str], None]:
    """Report a figure (a time, a size) at the end of the run; nothing is asserted on it."""
    return _measured.append


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    """The figures that tests measured."""
    if _measured:
        terminalreporter.section("measured")
        for line in _measured:
            terminalreporter.line(line)
