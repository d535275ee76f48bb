"""Reading a cache folder, also while it is being written."""

from __future__ import annotations

import os
import zlib
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from pathlib import Path

import numpy as np

from ..avatar import REGIONS
from ..avatar.gaussians import Gaussians
from ..avatar.tensors import load_tensors
from ..errors import UserError
from .index import Index
from .layout import CHANNELS, FRAME_FILES, MOTION_CHANNELS, SHARES, CacheHeader, read_header, restore

_CRC = {"motion.bin": "motion_crc", "uncertainty.bin": "uncertainty_crc", "shares.bin": "shares_crc"}
_SUMMARY_FILES = ("uncertainty.bin", "shares.bin")


class FrameMissing(KeyError):
    """The frame is not baked (or its data is damaged, which counts the same)."""

    def __str__(self) -> str:
        return f"Frame {self.args[0]} is not baked."


@dataclass
class CachedFrame:
    """All N Gaussians of one frame in Blender's frame, but for the SH and opacities, which do not move.

    means [N,3], quats [N,4], scales [N,3] float32; uncertainty [N,2] float32: aleatoric, epistemic variance; what stands still
    has the one that its avatar tells, or 0; moving [M] rows of the Gaussians that move; stored_shares [4,M]: their views' shares in 255ths.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    uncertainty: np.ndarray
    moving: np.ndarray
    stored_shares: np.ndarray

    @cached_property
    def shares(self) -> np.ndarray:
        """[N,4] float32, how much each view of SHARES has in the fused state; the sum is 1, 0 where nothing moves or is known."""
        whole = np.zeros((len(self.means), len(SHARES)), np.float32)
        whole[self.moving] = self.stored_shares.T * np.float32(1 / 255)
        return whole

    @property
    def aleatoric(self) -> np.ndarray:
        """[N] of `uncertainty`."""
        return self.uncertainty[:, 0]

    @property
    def epistemic(self) -> np.ndarray:
        """[N] of `uncertainty`."""
        return self.uncertainty[:, 1]


@dataclass(frozen=True)
class FrameSummary:
    """What a frame says of each region (avatar.REGIONS), means over its moving Gaussians; 0 where none moves.

    aleatoric, epistemic [8] float32 variances; shares [8,4] float32 of the views in the order of SHARES.
    """

    aleatoric: np.ndarray
    epistemic: np.ndarray
    shares: np.ndarray


class CacheReader:
    """An open cache folder. `at` and `summary` are for one thread at a time.

    Attributes:
        header: CacheHeader; static: the N Gaussians at rest; branch: [N] uint8 (0 face, 1 mouth); moving: [M] rows;
        region: [N] uint8, index into avatar.REGIONS; moving_in_region: [8] int64, how many Gaussians move in each.

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
        shapes = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "branch": (n,), "moving": (m,), "region": (n,)}
        if any(name not in arrays or arrays[name].shape != shape for name, shape in shapes.items()) or (
            "sh" not in arrays or arrays["sh"].ndim != 3 or len(arrays["sh"]) != n
        ):
            raise UserError(f"{path}: does not fit its header.", "Clear the cache and bake again.")
        self.moving = np.array(arrays["moving"], np.int64)
        self.branch, self.region = np.array(arrays["branch"]), np.array(arrays["region"], np.uint8)
        if m and (self.moving.min() < 0 or self.moving.max() >= n) or n and self.region.max() >= len(REGIONS):
            raise UserError(f"{path}: damaged.", "Clear the cache and bake again.")
        self.moving_in_region = np.bincount(self.region[self.moving], minlength=len(REGIONS))
        self._still_variance = np.zeros((n, 2), np.float32)
        if "still_variance" in arrays:
            if arrays["still_variance"].shape != (n,):
                raise UserError(f"{path}: damaged.", "Clear the cache and bake again.")
            self._still_variance[:, 0] = arrays["still_variance"]
        self.static = Gaussians(*(np.array(arrays[name], np.float32) for name in ("means", "quats", "scales", "opacities", "sh")))
        self._maps: dict[str, np.memmap | None] = dict.fromkeys(FRAME_FILES)
        self._checked: set[tuple[str, int, int]] = set()
        self._summaries: dict[bytes, FrameSummary] = {}
        self._means_over: np.ndarray | None = None
        # Where each number of the M moving Gaussians lies in a flat [N,C] array: one scatter instead of a transpose and one.
        self._places = {width: np.arange(width)[:, None] + width * self.moving for width in (2, 3, 4)}
        # Kept, since fresh memory costs more than what is done with it.
        self._slots = {name: np.empty((channels, m), kind) for name, (channels, kind) in FRAME_FILES.items()}
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

    def asked(self, span: tuple[int, int] | None = None) -> list[int]:
        """Frames of a span (first and last, both included; None: all that are baked), rising.

        Raises:
            UserError: one of them is not baked, or none is.
        """
        baked = self.frames().tolist()
        if span is None:
            first, total, found = 0, len(baked), baked
        else:
            first, total, found = span[0], span[1] - span[0] + 1, [frame for frame in baked if span[0] <= frame <= span[1]]
        if found and len(found) == total:
            return found
        there = set(found)  # a span may be absurdly long: it is never listed
        some = list(islice((str(frame) for frame in count(first) if frame not in there), min(total - len(found), 6)))
        what = ", ".join(some[:5]) + (" ..." if len(some) > 5 else "")
        raise UserError(f"{self.folder}: {total - len(found)} of {total} frames are not baked ({what or 'none is'}).", "Bake them first.")

    def at(self, frame: float) -> CachedFrame:
        """The Gaussians at a frame; between two frames, means and scales linear, quats along the shorter way.

        Where the later one of the two is not baked, the earlier one. The arrays are new each time.

        Raises:
            FrameMissing: not baked.
        """
        self.refresh()
        first = int(np.floor(frame + 1e-6))
        part = float(frame) - first
        values, shares = self._values[0], self._read(first, self._values[0])
        if part > 1e-6 and first + 1 in self._index.entries:
            after = self._values[1]
            try:
                later = self._read(first + 1, after)
                shares = shares + np.float32(part) * (later - shares.astype(np.float32))
            except FrameMissing:
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
            self._moved(self._still_variance, uncertainty),
            self.moving,
            shares,
        )

    def summary(self, frame: int) -> FrameSummary:
        """What a frame says of each region; kept for as long as the frame's key stays.

        Raises:
            FrameMissing: not baked.
        """
        self.refresh()
        key = self._index.keys.get(frame)
        if key is None:
            raise FrameMissing(frame)
        found = self._summaries.get(key)
        if found is None:
            entry, m = self._index.entries[frame], len(self.moving)
            if self._means_over is None:  # [8,M], 1 / (how many) where a Gaussian is of the region
                inside = self.region[self.moving] == np.arange(len(REGIONS))[:, None]
                self._means_over = inside / np.maximum(self.moving_in_region, 1).astype(np.float32)[:, None]
            uncertainty, shares = self._slices(frame, entry, _SUMMARY_FILES)
            values = np.empty((len(uncertainty) + len(shares), m), np.float32)
            variances = values[: len(uncertainty)]
            restore(uncertainty, entry["low"][MOTION_CHANNELS:], entry["high"][MOTION_CHANNELS:], variances)
            np.exp(variances, out=variances)
            np.multiply(shares, np.float32(1 / 255), out=values[len(uncertainty) :])
            means = self._means_over @ values.T
            if len(self._summaries) > 2 * len(self._index.keys) + 64:  # frames that were replaced since
                self._summaries.clear()
            found = self._summaries[key] = FrameSummary(means[:, 0].copy(), means[:, 1].copy(), means[:, 2:].copy())
        return found

    def _moved(self, still: np.ndarray, moving: np.ndarray) -> np.ndarray:
        """A copy of [N,C] with the moving Gaussians' numbers [C,M] in their places."""
        whole = still.copy()
        whole.reshape(-1)[self._places[still.shape[1]]] = moving
        return whole

    def _read(self, frame: int, out: np.ndarray) -> np.ndarray:
        """A frame's numbers [12,M] (the last two are logarithms) into `out`; returns its shares [4,M] in 255ths."""
        entry = self._index.entries.get(frame)
        if entry is None:
            raise FrameMissing(frame)
        motion, uncertainty, shares = self._slices(frame, entry, tuple(FRAME_FILES))
        low, high = entry["low"], entry["high"]
        for whole, rows in ((motion, slice(MOTION_CHANNELS)), (uncertainty, slice(MOTION_CHANNELS, CHANNELS))):
            restore(whole, low[rows], high[rows], out[rows])
        return shares.copy()

    def _slices(self, frame: int, entry: np.void, names: tuple[str, ...]) -> list[np.ndarray]:
        """A frame's slots of some files, valid until the next call. Raises FrameMissing where one is damaged."""
        slot = int(entry["slot"])
        copies = [self._slot(name, slot, frame) for name in names]
        settled = self._index.is_current
        for name, copy in zip(names, copies):
            # A slot is checked once; again whenever the index moved on while it was being copied.
            known = (name, slot, int(entry[_CRC[name]]))
            if known not in self._checked or not settled:
                if zlib.crc32(copy) != known[2]:
                    raise FrameMissing(frame)
                self._checked.add(known)
        return copies

    def _slot(self, name: str, slot: int, frame: int) -> np.ndarray:
        """A copy of a slot's bytes: a writer may be at work in the file."""
        copy = self._slots[name]
        size = copy.size
        if not size:
            return copy
        data = self._maps[name]
        if data is None or len(data) < (slot + 1) * size:
            try:
                length = os.stat(self._store / name).st_size // copy.nbytes * size
                if length < (slot + 1) * size:
                    raise FrameMissing(frame)
                data = self._maps[name] = np.memmap(self._store / name, copy.dtype, "r", shape=(length,))
            except OSError as error:
                raise FrameMissing(frame) from error
        copy.reshape(-1)[:] = data[slot * size : (slot + 1) * size]
        return copy

    def close(self) -> None:
        """Let go of the files."""
        self._maps = dict.fromkeys(FRAME_FILES)
