"""All benchmarks in one run, as one JSON-ready result."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

import torch

from ..errors import Cancelled, UserError
from . import baking, cuda, deformation, rasteriser
from .measure import machine

SECTIONS = ("deformation", "rasteriser", "bake", "cuda")
Progress = Callable[[int, int, str], None]
ASSETS = Path(__file__).resolve().parents[2] / "addon" / "assets"


@dataclass(frozen=True)
class BenchSettings:
    """What is measured.

    Attributes:
        sections: of SECTIONS; `cuda` is left out where there is no CUDA device.
        quick: small sizes and few repeats: some seconds, to see that everything runs.
        avatar, audio: of the bake and the rasteriser; the bundled demo's by default.
        threads: of the processor.
    """

    sections: tuple[str, ...] = SECTIONS
    quick: bool = False
    avatar: Path = ASSETS / "demo_avatar.safetensors"
    audio: Path = ASSETS / "demo_speech.flac"
    threads: int = 1


def run_bench(
    settings: BenchSettings, progress: Progress = lambda done, total, text: None, stopped: Callable[[], bool] = lambda: False
) -> dict[str, Any]:
    """Run the benchmarks.

    Returns:
        `machine`, and of each section its figures: `ms` by the clock, `processor_ms` of the process's processors; medians.

    Raises:
        UserError: an unknown section, or CUDA is asked for by name and is not there.
        Cancelled: `stopped` said so between two benchmarks.
    """
    s, quick = settings, settings.quick
    unknown = set(s.sections) - set(SECTIONS)
    if unknown:
        raise UserError(f"There is no benchmark {', '.join(sorted(unknown))}.", f"Choose from {', '.join(SECTIONS)}.")
    has_cuda = torch.cuda.is_available()
    if s.sections == ("cuda",) and not has_cuda:
        raise UserError("There is no CUDA device here.", "Leave `cuda` out.")
    repeats = 3 if quick else 7
    jobs: dict[str, dict[str, Callable[[], dict[str, Any]]]] = {
        "deformation": {
            "plain_and_fast": lambda: deformation.plain_and_fast(1000 if quick else 20000, s.threads, 1 if quick else 3),
            "growth": lambda: deformation.growth(
                (500, 1000) if quick else (5000, 10000, 20000, 50000, 100000, 200000),
                (2, 3) if quick else (2, 5, 10, 20),
                (1, 2) if quick else (1, 4, 16),
                s.threads,
                1 if quick else 3,
            ),
        },
        "rasteriser": {
            "plain_and_fast": lambda: rasteriser.plain_and_fast(100 if quick else 1000, 32 if quick else 96, s.threads, repeats),
            "demo": lambda: rasteriser.demo(s.avatar, repeats),
            "growth": lambda: rasteriser.growth((1000, 2000) if quick else (5000, 10000, 20000, 50000, 100000, 200000), 2, repeats),
        },
        "bake": {
            "incremental": lambda: baking.incremental(s.avatar, s.audio, 4 if quick else 100, "cpu", s.threads),
            "latency": lambda: baking.latency(s.avatar, s.audio, 20 if quick else 1000, 2 if quick else 12, "cpu", s.threads),
        },
    }
    if has_cuda:
        jobs["cuda"] = {name: (lambda job=job: job(s.avatar, s.audio, quick)) for name, job in cuda.JOBS.items()}
    chosen = [(section, name, job) for section in s.sections for name, job in jobs.get(section, {}).items()]
    result: dict[str, Any] = {"machine": machine("cuda" if has_cuda else "cpu", s.threads), "quick": quick}
    for done, (section, name, job) in enumerate(chosen):
        if stopped():
            raise Cancelled()
        progress(done, len(chosen), f"{section}: {name.replace('_', ' ')}")
        result.setdefault(section, {})[name] = job()
    progress(len(chosen), len(chosen), "done")
    return result
