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
from .index import Index
from .layout import CHANNELS, MOTION_CHANNELS, UNCERTAINTY_CHANNELS, CacheHeader, read_header, restore

_FILES = {"motion.bin": MOTION_CHANNELS, "uncertainty.bin": UNCERTAINTY_CHANNELS}


class FrameMissing(KeyError):
    """The frame is not baked (or its data is damaged, which counts the same)."""

    def __str__(self) -> str:
        return f"Frame {self.args[0]} is not baked."


@dataclass
class CachedFrame:
    """All N Gaussians of one frame in Blender's frame, but for the SH and opacities, which do not move.

    means [N,3], quats [N,4], scales [N,3] float32; uncertainty [N,2] float32: aleatoric, epistemic variance, 0 where nothing
    moves.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    uncertainty: np.ndarray

    @property
    def aleatoric(self) -> np.ndarray:
        """[N] of `uncertainty`."""
        return self.uncertainty[:, 0]

    @property
    def epistemic(self) -> np.ndarray:
        """[N] of `uncertainty`."""
        return self.uncertainty[:, 1]


class CacheReader:
    """An open cache folder. `at` is for one thread at a time.

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
        self._maps: dict[str, np.memmap | None] = dict.fromkeys(_FILES)
        self._checked: set[tuple[int, int]] = set()
        # Where each number of the M moving Gaussians lies in a flat [N,C] array: one scatter instead of a transpose and one.
        self._places = {width: np.arange(width)[:, None] + width * self.moving for width in (2, 3, 4)}
        # Kept, since fresh memory costs more than what is done with it.
        self._slots = {name: np.empty((size, m), np.uint16) for name, size in _FILES.items()}
        self._values = np.empty((2, CHANNELS, m), np.float32)
        self._index = Index(self._store)
        self.refresh()

    def refresh(self) -> bool:
        """Look for frames that were added or replaced since; True where there are some. Costs microseconds if not."""
        return self._index.refresh()

    @property
    def replaced(self) -> bool:
        """True where another avatar's bake has taken the folder over, or it is gone: open it anew."""
        try:
            return read_header(self.folder).store != self.header.store
        except UserError:
            return True

    def keys(self) -> dict[int, bytes]:
        """Frame -> its key."""
        return dict(self._index.keys)

    def frames(self) -> np.ndarray:
        """Baked frames [F] int64, rising."""
        return np.sort(np.fromiter(self._index.entries, np.int64))

    def at(self, frame: float) -> CachedFrame:
        """The Gaussians at a frame; between two frames, means and scales linear, quats along the shorter way.

        Where the later one of the two is not baked, the earlier one. The arrays are new each time.

        Raises:
            FrameMissing: not baked.
        """
        self.refresh()
        first = int(np.floor(frame + 1e-6))
        part = float(frame) - first
        values = self._read(first, self._values[0])
        if part > 1e-6 and first + 1 in self._index.entries:
            try:
                after = self._read(first + 1, self._values[1])
            except FrameMissing:
                after = self._values[1]
                after[:] = values
            flip = np.einsum("cm,cm->m", values[3:7], after[3:7]) < 0
            after[3:7, flip] *= -1
            after -= values
            after *= part
            values += after
        means, quats, scales, uncertainty = np.split(values, (3, 7, 10))
        quats /= np.sqrt(np.maximum(np.einsum("cm,cm->m", quats, quats), 1e-12))
        np.maximum(scales, 1e-9, out=scales)
        np.exp(uncertainty, out=uncertainty)
        return CachedFrame(
            self._moved(self.static.means, means),
            self._moved(self.static.quats, quats),
            self._moved(self.static.scales, scales),
            self._moved(np.zeros((len(self.static), 2), np.float32), uncertainty),
        )

    def _moved(self, still: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """A copy of [N,C] with the moving Gaussians' numbers [C,M] in their places."""
        whole = still.copy()
        whole.reshape(-1)[self._places[still.shape[1]]] = moving
        return whole

    def _read(self, frame: int, out: np.ndarray) -> np.ndarray:
        """A frame's numbers [12,M] (the last two are logarithms) into `out`."""
        entry = self._index.entries.get(frame)
        if entry is None:
            raise FrameMissing(frame)
        slot, crc, uncertainty_crc = int(entry["slot"]), int(entry["motion_crc"]), int(entry["uncertainty_crc"])
        motion, uncertainty = (self._slot(name, slot, frame) for name in _FILES)
        # A slot is checked once; again whenever the index moved on while it was being copied.
        if (slot, crc) not in self._checked or not self._index.is_current:
            if zlib.crc32(motion) != crc or zlib.crc32(uncertainty) != uncertainty_crc:
                raise FrameMissing(frame)
            self._checked.add((slot, crc))
        low, high = entry["low"], entry["high"]
        for whole, rows in ((motion, slice(MOTION_CHANNELS)), (uncertainty, slice(MOTION_CHANNELS, CHANNELS))):
            restore(whole, low[rows], high[rows], out[rows])
        return out

    def _slot(self, name: str, slot: int, frame: int) -> np.ndarray:
        """A copy of a slot's bytes: a writer may be at work in the file."""
        copy = self._slots[name]
        size = copy.size
        if not size:
            return copy
        data = self._maps[name]
        if data is None or len(data) < (slot + 1) * size:
            try:
                length = os.stat(self._store / name).st_size // (2 * size) * size
                if length < (slot + 1) * size:
                    raise FrameMissing(frame)
                data = self._maps[name] = np.memmap(self._store / name, "<u2", "r", shape=(length,))
            except OSError as error:
                raise FrameMissing(frame) from error
        copy.reshape(-1)[:] = data[slot * size : (slot + 1) * size]
        return copy

    def close(self) -> None:
        """Let go of the files."""
        self._maps = dict.fromkeys(_FILES)
