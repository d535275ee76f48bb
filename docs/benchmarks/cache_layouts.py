"""How far could a bake's motion be packed? Figures behind the cache's layout, for an avatar, a sound and emotion keys.

    python docs/benchmarks/cache_layouts.py AVATAR AUDIO EMOTION.json

Run in the engine's Python. Every candidate is held to the error of the layout in use: half a step of uint16 over the range
of a frame's channel.
"""

from __future__ import annotations

import os
import sys
import time
import zlib
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402

from engine.audio import read_sound  # noqa: E402
from engine.bake import Baker, Session  # noqa: E402
from engine.shot import compose_shot, load_emotion  # noqa: E402

RANKS = (16, 32, 64, 128, 256, 512)


def motion(avatar: Path, audio: Path, emotion: Path) -> np.ndarray:
    """[F,12,M] float32: means, quats, scales, log aleatoric, log epistemic of each frame at 25 fps, in Blender's frame."""
    session = Session("cpu", 1)
    shot = compose_shot(avatar, session.head(avatar).hash, audio, read_sound(audio).duration, load_emotion(emotion), 25.0)
    baker, out = Baker(session, shot), []
    for start in range(0, len(shot), 8):
        for means, quats, scales, *variances in baker.frames(np.arange(start, min(start + 8, len(shot)))):
            out.append(np.concatenate([means.T, quats.T, scales.T, np.log(np.maximum(variances, 1e-30))]).astype(np.float32))
    return np.stack(out)


def ranks(values: np.ndarray, half: np.ndarray) -> None:
    """Largest and root mean square error of a basis of K modes, in the layout's own largest errors."""
    for name, rows in (("means", slice(0, 3)), ("quats", slice(3, 7)), ("scales", slice(7, 10)), ("log variances", slice(10, 12))):
        scaled = (values[:, rows] / half[:, rows, None]).reshape(len(values), -1).astype(np.float64)
        scaled -= scaled.mean(0)
        modes = np.linalg.eigh(scaled @ scaled.T)[1][:, ::-1]
        for rank in (k for k in RANKS if k < len(values)):
            error = scaled - modes[:, :rank] @ (modes[:, :rank].T @ scaled)
            print(f"  {name}, {rank} modes: largest {np.abs(error).max():.1f}, rms {np.sqrt((error**2).mean()):.2f}")


def packed(values: np.ndarray, half: np.ndarray) -> None:
    """Share of the present bytes after byte shuffling and zlib, and the time to unpack a frame."""
    step = 2 * half.min(0)[:, None]  # one step for the whole shot, as fine as the finest
    whole = np.rint(values / step).astype(np.int32)
    rest = np.rint(values.mean(0) / step).astype(np.int32)
    print(f"  numbers within half a step of their mean: {100 * (np.abs(whole - rest) < 1).mean():.1f} %", end="; ")
    print(f"Gaussians in which all are: {100 * (np.abs(whole - rest) < 1)[:, :10].all(1).mean():.3f} %")
    flat = (values / step).reshape(len(values), -1).astype(np.float64)
    flat -= flat.mean(0)
    modes = np.linalg.eigh(flat @ flat.T)[1][:, ::-1]
    ways: dict[str, Callable[[int], np.ndarray]] = {
        "difference from the mean": lambda f: whole[f] - rest,
        "difference from the frame before": lambda f: whole[f] - whole[f - 1],
        "difference from four frames before": lambda f: whole[f] - whole[f - 4],
    }
    for rank in (k for k in (16, 32, 64) if k < len(values)):
        size = rank * values[0].size * 4
        left = lambda f, k=rank: np.rint(flat[f] - modes[f, :k] @ (modes[:, :k].T @ flat)).astype(np.int32)  # noqa: E731
        ways[f"{rank} modes ({size / 1e6:.0f} MB beside) and what they leave"] = left
    for name, way in ways.items():
        shares, seconds = [], []
        for frame in range(8, len(values), max(1, len(values) // 6)):
            numbers = way(frame)
            folded = ((numbers << 1) ^ (numbers >> 31)).astype(np.uint16)
            data = zlib.compress(np.ascontiguousarray(folded).view(np.uint8).reshape(-1, 2).T.tobytes(), 6)
            begin = time.perf_counter()
            zlib.decompress(data)
            seconds.append(time.perf_counter() - begin)
            shares.append(len(data) / (2 * values[0].size))
        print(f"  {name}: {100 * np.mean(shares):.0f} % of the bytes, {1e3 * min(seconds):.1f} ms to unpack")


if __name__ == "__main__":
    values = motion(*map(Path, sys.argv[1:4]))
    half = (values.max(2) - values.min(2)) / 131070
    print(f"{len(values)} frames, {values.shape[2]} moving Gaussians, {24 * values.shape[2]} bytes a frame")
    print("a basis alone (1 is the error of the layout in use):")
    ranks(values, half)
    print("differences, packed:")
    packed(values, half)
