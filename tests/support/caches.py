"""A small cache of random motion. Needs numpy alone, so that Blender's tests can make one, too."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ua3dtalk.engine.avatar import Gaussians
from ua3dtalk.engine.cache import CacheHeader, CacheReader, CacheWriter

from .avatars import static_avatar

FRAMES = (-1, 0, 1, 2)


def random_cache(folder: Path, degree: int = 3, count: int = 300, composite: str = "sorted") -> Path:
    """A cache of FRAMES; count * 4 / 3 Gaussians, every second of which moves. Returns the folder."""
    static, branch = static_avatar(count, count // 3, degree).rest()
    moving = np.arange(0, len(static), 2)
    header = CacheHeader("Ada L. 2", "a" * 64, "", composite, 24.0, "", 0, 0, "0", "cpu")
    with CacheWriter(folder, header, static, branch, moving) as writer:
        for frame in FRAMES:
            random = np.random.default_rng(frame + 10)
            n = len(moving)
            quats = random.normal(size=(n, 4))
            quats /= np.linalg.norm(quats, axis=1, keepdims=True)
            writer.put(
                frame, (frame + 10).to_bytes(16, "little"), random.normal(0, 0.1, (n, 3)), quats,
                random.uniform(1e-4, 0.02, (n, 3)), np.ones(n), np.ones(n),
            )  # fmt: skip
        writer.finish()
    return folder


def shown(cache: Path, frame: int) -> Gaussians:
    """What a frame of a cache holds, in Blender's axes."""
    reader = CacheReader(cache)
    moved, static = reader.at(frame), reader.static
    reader.close()
    return Gaussians(moved.means, moved.quats, moved.scales, static.opacities, static.sh)
