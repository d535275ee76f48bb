"""Times, memory, and how they grow."""

from __future__ import annotations

import os
import platform
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, Callable, Mapping, Sequence

import numpy as np

PACKAGES = ("torch", "numpy", "numba", "scipy", "gsplat", "triton")


@dataclass(frozen=True)
class Time:
    """Median seconds of one call: by the clock, and of the process's processors (which other programs disturb less)."""

    wall: float
    processor: float

    def row(self) -> dict[str, float]:
        """As entries of a result."""
        return {"ms": _round(self.wall * 1e3), "processor_ms": _round(self.processor * 1e3)}


def times(calls: Mapping[str, Callable[[], object]], repeats: int = 5, warm_up: bool = True) -> dict[str, Time]:
    """Time calls in turns (a, b, a, b, ...), so that whatever else the machine does meets all of them alike.

    Args:
        calls: name -> what is to be timed.
        repeats: turns; the median counts.
        warm_up: run each once before, so that compiling and first touches stay out.
    """
    if warm_up:
        for call in calls.values():
            call()
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in calls}
    for _ in range(repeats):
        for name, call in calls.items():
            wall, processor = time.perf_counter(), time.process_time()
            call()
            found[name].append((time.perf_counter() - wall, time.process_time() - processor))
    return {name: Time(*(statistics.median(column) for column in zip(*pairs))) for name, pairs in found.items()}


def exponent(sizes: Sequence[float], seconds: Sequence[float]) -> float:
    """k of seconds ~ size^k, by least squares over the logarithms."""
    return round(float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0]), 2)


def peak_memory(statement: str, folder: Path) -> float | None:
    """Megabytes by which a statement raises the largest resident size of a fresh process; None where that cannot be read.

    Args:
        statement: Python with two parts, parted by a line `---`: what comes before is the baseline.
        folder: the process's working directory; the engine is imported from there.
    """
    before, after = statement.split("\n---\n")
    code = f"{_PEAK}\n{before}\nstart = peak(fresh=True)\n{after}\nprint(peak() - start)"
    done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
    return None if done.returncode else round(float(done.stdout.splitlines()[-1]) / 1e6, 1)


# Linux hands ru_maxrss on from the process that started this one; its own mark can be read, and set back after the baseline.
_PEAK = """
import sys
from pathlib import Path
def peak(fresh=False):
    if sys.platform == "linux":
        if fresh:
            Path("/proc/self/clear_refs").write_text("5")
        line = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) * 1024
    import resource
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
"""


def machine(device: str, threads: int) -> dict[str, Any]:
    """What it was measured on."""
    packages = {}
    for name in PACKAGES:
        try:
            packages[name] = version(name)
        except PackageNotFoundError:
            continue
    about: dict[str, Any] = {
        "system": platform.system(),
        "architecture": platform.machine(),
        "processor": _processor(),
        "cores": os.cpu_count() or 1,
        "threads": threads,
        "python": platform.python_version(),
        "packages": packages,
        "gpu": None,
    }
    if device.startswith("cuda"):
        import torch

        about["gpu"] = torch.cuda.get_device_name(device)
    return about


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor()


def _round(value: float) -> float:
    return float(f"{value:.4g}")
