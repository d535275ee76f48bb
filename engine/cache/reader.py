"""Reading a cache folder, also while it is being written."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..avatar.gaussians import Gaussians
from ..avatar.tensors import load_tensors
from ..errors import UserError
from .layout import MOTION_CHANNELS, UNCERTAINTY_CHANNELS, CacheHeader, latest, read_header, read_index, restore


class FrameMissing(KeyError):
    """The frame is not baked (or its data is damaged, which counts the same)."""

    def __str__(self) -> str:
        return f"Frame {self.args[0]} is not baked."


@dataclass
class CachedFrame:
    """All N Gaussians of one frame in Blender's frame, but for the SH and opacities, which do not move.

    means [N,3], quats [N,4], scales [N,3] float32; aleatoric, epistemic [N] float32 variances, 0 where nothing moves.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray


class CacheReader:
    """An open cache folder.

    Attributes:
        header: CacheHeader; static: the N Gaussians at rest; branch: [N] uint8 (0 face, 1 mouth); moving: [M] rows.

    Raises:
        UserError: no bake there, or damaged.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = Path(folder)
        self.header: CacheHeader = read_header(self.folder)
        self._store = self.folder / self.header.store
        path = self._store / "static.safetensors"
        arrays, _ = load_tensors(path)
        n, m = self.header.count, self.header.moving
        shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "branch": (n,), "moving": (m,)}
        if any(name not in arrays or arrays[name].shape != shape for name, shape in shapes.items()) or (
            "sh" not in arrays or arrays["sh"].ndim != 3 or len(arrays["sh"]) != n
        ):
            raise UserError(f"{path}: does not fit its header.", "Clear the cache and bake again.")
        self.moving = np.array(arrays["moving"], np.int64)
        if m and (self.moving.min() < 0 or self.moving.max() >= n):
            raise UserError(f"{path}: damaged.", "Clear the cache and bake again.")
        self.branch = np.array(arrays["branch"])
        self.static = Gaussians(*(np.array(arrays[name], np.float32) for name in ("means", "quats", "scales", "opacities", "sh")))
        self._maps: dict[str, np.memmap | None] = {"motion.bin": None, "uncertainty.bin": None}
        self._checked: set[tuple[int, int]] = set()
        self._seen: tuple[int, ...] | None = None
        self._entries: dict[int, np.void] = {}
        self.refresh()

    def refresh(self) -> bool:
        """Look for frames that were added or replaced since; True where there are some. Costs microseconds if not."""
        seen = self._stamp()
        if seen == self._seen:
            return False
        self._seen = seen
        self._entries = latest(read_index(self._store))
        return True

    def _stamp(self) -> tuple[int, ...]:
        try:
            status = os.stat(self._store / "index.bin")
            return status.st_size, status.st_mtime_ns, status.st_ino
        except OSError:
            return (-1,)

    @property
    def replaced(self) -> bool:
        """True where another avatar's bake has taken the folder over, or it is gone: open it anew."""
        try:
            return read_header(self.folder).store != self.header.store
        except UserError:
            return True

    def keys(self) -> dict[int, bytes]:
        """Frame -> its key."""
        return {frame: entry["key"].tobytes() for frame, entry in self._entries.items()}

    def frames(self) -> np.ndarray:
        """Baked frames [F] int64, rising."""
        return np.array(sorted(self._entries), np.int64)

    def at(self, frame: float) -> CachedFrame:
        """The Gaussians at a frame; between two frames, means and scales linear, quats along the shorter way.

        Where the later one of the two is not baked, the earlier one.

        Raises:
            FrameMissing: not baked.
        """
        self.refresh()
        first = int(np.floor(frame + 1e-6))
        part = float(frame) - first
        motion, uncertainty = self._read(first)
        if part > 1e-6 and first + 1 in self._entries:
            try:
                after, uncertainty_after = self._read(first + 1)
            except FrameMissing:
                after, uncertainty_after = motion, uncertainty
            flip = np.sum(motion[3:7] * after[3:7], axis=0) < 0
            after[3:7, flip] *= -1
            motion = motion + part * (after - motion)
            uncertainty = uncertainty + part * (uncertainty_after - uncertainty)
        quats = motion[3:7]
        quats = quats / np.sqrt(np.maximum(np.sum(quats * quats, axis=0), 1e-12))
        static, rows = self.static, self.moving
        result = CachedFrame(
            static.means.copy(),
            static.quats.copy(),
            static.scales.copy(),
            np.zeros(len(static), np.float32),
            np.zeros(len(static), np.float32),
        )
        result.means[rows] = motion[:3].T
        result.quats[rows] = quats.T
        result.scales[rows] = np.maximum(motion[7:10], 1e-9).T
        result.aleatoric[rows], result.epistemic[rows] = np.exp(uncertainty)
        return result

    def _read(self, frame: int) -> tuple[np.ndarray, np.ndarray]:
        entry = self._entries.get(frame)
        if entry is None:
            raise FrameMissing(frame)
        slot = int(entry["slot"])
        motion = self._slot("motion.bin", MOTION_CHANNELS, slot, frame)
        uncertainty = self._slot("uncertainty.bin", UNCERTAINTY_CHANNELS, slot, frame)
        mark = (slot, int(entry["motion_crc"]))
        # A slot is checked once; again whenever the index moved on while it was being copied.
        if mark not in self._checked or self._stamp() != self._seen:
            if zlib.crc32(motion) != entry["motion_crc"] or zlib.crc32(uncertainty) != entry["uncertainty_crc"]:
                raise FrameMissing(frame)
            self._checked.add(mark)
        low, high = entry["low"], entry["high"]
        return (
            restore(motion, low[:MOTION_CHANNELS], high[:MOTION_CHANNELS]),
            restore(uncertainty, low[MOTION_CHANNELS:], high[MOTION_CHANNELS:]),
        )

    def _slot(self, name: str, channels: int, slot: int, frame: int) -> np.ndarray:
        size = channels * self.header.moving
        if not size:
            return np.zeros((channels, 0), np.uint16)
        data = self._maps[name]
        if data is None or len(data) < (slot + 1) * size:
            try:
                length = os.stat(self._store / name).st_size // (2 * size) * size
                if length < (slot + 1) * size:
                    raise FrameMissing(frame)
                data = self._maps[name] = np.memmap(self._store / name, "<u2", "r", shape=(length,))
            except OSError as error:
                raise FrameMissing(frame) from error
        return np.array(data[slot * size : (slot + 1) * size]).reshape(channels, -1)

    def close(self) -> None:
        """Let go of the files."""
        self._maps = {"motion.bin": None, "uncertainty.bin": None}
