"""The networks: plain formulation beside the fast one; how time and memory grow."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..deform import reference
from ..deform.fast import Deformer
from ..deform.parameters import branch_tensors
from .avatars import random_avatar, random_views
from .measure import exponent, peak_memory, times

ROOT = Path(__file__).resolve().parents[2]

_MEMORY = """
import torch, numpy as np
torch.set_num_threads({threads})
from engine.bench.avatars import random_avatar, random_views
from engine.deform import reference
from engine.deform.fast import Deformer
from engine.deform.parameters import branch_tensors
avatar, views = random_avatar({count}), random_views(1)
frame = {{name: view[0] for name, view in views.items()}}
---
{work}
"""
_PLAIN = (
    "reference.deform('face', avatar.tensors['face.means'], branch_tensors(avatar.tensors, 'face'), frame, dtype=torch.float32)"
)
_FAST = "Deformer(avatar, 'cpu', {threads}).motion(views)"


def plain_and_fast(count: int, threads: int, repeats: int) -> dict[str, Any]:
    """One frame of N Gaussians of the face, T = 10: both formulations in turns, their difference, their memory."""
    avatar, views = random_avatar(count), random_views(1)
    frame = {name: view[0] for name, view in views.items()}
    network, means = branch_tensors(avatar.tensors, "face"), avatar.tensors["face.means"]
    deformer = Deformer(avatar, "cpu", threads)
    torch.set_num_threads(threads)

    def plain(dtype: torch.dtype = torch.float32) -> reference.ReferenceMotion:
        return reference.deform("face", means, network, frame, dtype=dtype)

    took = times({"plain": plain, "fast": lambda: deformer.motion(views)}, repeats, warm_up=False)
    exact, found = plain(torch.float64), deformer.motion(views).face
    errors = [
        float(np.abs(getattr(found, name)[0] - getattr(exact, name)).max() / np.abs(getattr(exact, name)).max())
        for name in ("d_means", "d_quats", "d_scales", "aleatoric", "epistemic")
    ]
    memory = {
        name: peak_memory(_MEMORY.format(threads=threads, count=count, work=work.format(threads=threads)), ROOT)
        for name, work in (("plain", _PLAIN), ("fast", _FAST))
    }
    row: dict[str, Any] = {"gaussians": count, "members": 10, "threads": threads}
    for name in ("plain", "fast"):
        row[name] = took[name].row() | {"peak_mb": memory[name]}
    row["times_faster"] = round(took["plain"].processor / took["fast"].processor, 1)
    if None not in memory.values():
        row["times_less_memory"] = round(memory["plain"] / max(memory["fast"], 0.1), 1)
    return row | {"largest_error": float(f"{max(errors):.2g}")}


def growth(sizes: tuple[int, ...], members: tuple[int, ...], frames: tuple[int, ...], threads: int, repeats: int) -> dict[str, Any]:
    """How the fast path grows with N (T = 10, one frame), with T (N = 5,000) and with the frames of one call (N = 5,000)."""

    def each(cases: dict[int, tuple[int, int, int]]) -> dict[str, Any]:
        rows = []
        for size, (count, t, f) in cases.items():
            deformer, views = Deformer(random_avatar(count, members=t), "cpu", threads), random_views(f)
            rows.append({"size": size} | times({"fast": lambda: deformer.motion(views)}, repeats)["fast"].row())  # noqa: B023
        fitted = exponent([row["size"] for row in rows], [row["processor_ms"] for row in rows])
        return {"rows": rows, "exponent": fitted}

    return {
        "gaussians": each({n: (n, 10, 1) for n in sizes}),
        "members": each({t: (5000, t, 1) for t in members}),
        "frames": each({f: (5000, 10, f) for f in frames}),
    }
