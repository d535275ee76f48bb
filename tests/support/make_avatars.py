"""Writes the small avatars of `support.avatars` as files: `python make_avatars.py STAGE FOLDER` in the engine's Python."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

if __name__ == "__main__":
    sys.path[:0] = [sys.argv[1], str(Path(__file__).resolve().parents[1])]
    from support.avatars import static_avatar, talking_avatar
    from ua3dtalk.engine.avatar import save_avatar

    folder = Path(sys.argv[2])
    head = talking_avatar(200, 60)
    head.tensors["thumbnail"] = np.random.default_rng(0).integers(0, 255, (24, 32, 4), np.uint8)
    save_avatar(head, folder / "head.safetensors")
    other = talking_avatar(120, 30, seed=1)  # its variances are of colour
    other.tensors |= {f"{branch}.variance_unit": np.full(other.count(branch), 0.01, np.float32) for branch in other.branches}
    save_avatar(other, folder / "other.safetensors")
    save_avatar(static_avatar(degree=3), folder / "static.safetensors")
