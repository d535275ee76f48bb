"""What is installed, which device is used, what is missing."""

from __future__ import annotations

import importlib
import importlib.metadata
import os
import platform
import sys
from pathlib import Path
from typing import Any

from . import __version__

NEEDED = {
    "torch": "runs the networks",
    "numpy": "arrays",
    "scipy": "resampling and filters",
    "soundfile": "reads sound files",
    "torchaudio": "audio features",
    "numba": "fast loops on the CPU",
    "platformdirs": "where the user's cache lies",
}
OPTIONAL = {
    "gsplat": ("rasterises on CUDA", "requirements-cuda.txt"),
    "usd-core": ("OpenUSD, for export --format usd", "requirements-interchange.txt"),
    "zstandard": ("version 4 of .spz, for import", "requirements-interchange.txt"),
    "distributed": ("many shots at a time, for farm", "requirements-farm.txt"),
    "mediapipe": ("finds a face in a video, for prepare", "requirements-train.txt"),
    "av": ("reads videos, for prepare", "requirements-train.txt"),
    "tensorboard": ("curves of a training", "requirements-train.txt"),
}
"""What does without, what each is for, and the file of pinned versions that brings it."""


def requirements_file() -> Path:
    """The pinned requirements that bring what is missing."""
    return Path(__file__).parent / "requirements.txt"


def diagnose(device: str = "auto", threads: int | None = None) -> dict[str, Any]:
    """Versions, device, threads, `missing` ({package: what it is for}), `optional` (the same for what some commands alone need); `ok` where a
    bake can run."""
    found: dict[str, str] = {}
    missing: dict[str, str] = {}
    optional: dict[str, str] = {}
    for name, purpose in NEEDED.items():
        try:
            if name != "torchaudio":  # its import needs care (engine.views); its presence is enough here
                importlib.import_module(name)
            found[name] = importlib.metadata.version(name)
        except Exception as error:  # a broken install raises all sorts of things
            missing[name] = f"{purpose} ({type(error).__name__}: {error})"
    for name, (purpose, file) in OPTIONAL.items():
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            optional[name] = f"{purpose} ({file})"
    report: dict[str, Any] = {
        "engine": __version__,
        "python": platform.python_version(),
        "executable": sys.executable,
        "platform": platform.platform(),
        "cores": os.cpu_count() or 1,
        "threads": threads or default_threads(),
        "packages": found,
        "missing": missing,
        "optional": optional,
        "requirements": str(requirements_file()),
        "ok": not missing,
        "device": None,
        "cuda": False,
    }
    if "torch" in found:
        import torch

        report["cuda"] = torch.cuda.is_available()
        report["device"] = choose_device(device)
        if report["cuda"]:
            report["gpu"] = torch.cuda.get_device_name()
    return report


def choose_device(device: str) -> str:
    """`auto` -> `cuda` where there is one, else `cpu`; others as they are."""
    if device != "auto":
        return device
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def default_threads() -> int:
    """One below the core count, so that Blender stays responsive; more than eight seldom help."""
    return max(1, min(8, (os.cpu_count() or 2) - 1))
