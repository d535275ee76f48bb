"""Writing a cache folder: frames become visible one by one, each only when whole."""

from __future__ import annotations

import os
import shutil
import zlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from io import FileIO
from pathlib import Path
from types import TracebackType

import numpy as np

from ..avatar import REGIONS
from ..avatar.gaussians import Gaussians
from ..avatar.tensors import save_tensors
from ..errors import UserError
from ..files import atomic_write, write_error
from .index import Index, file_stamp
from .layout import (
    CHANNELS, ENTRY, FORMAT_VERSION, FRAME_FILES, MOTION_CHANNELS, SHARES, CacheHeader, OlderFormat, quantise, quantise_shares, read_header,
    seal, write_header,
)  # fmt: skip
from .lock import FolderLock

_TINY = np.float32(1e-30)


class CacheWriter:
    """Adds frames to a cache folder; use as a context manager.

    A bake of the same avatar is continued. Another avatar's bake in the folder, or an earlier version's, stays as it is until
    `finish`, which puts the new one in its place. One writer at a time. After `close` it may be opened again: what it knows of the index is kept, so
    that the next bake begins at once, while files and lock are let go.

    Args:
        folder: the cache folder, made if missing.
        header: its `store`, `count` and `moving` are set here.
        static: all N Gaussians at rest, in Blender's frame.
        branch: [N] uint8, 0 face, 1 mouth.
        moving: [M] rows of `static` that each frame gives.
        region: [N] uint8, index into `avatar.REGIONS`; None: the mouth's inside and the rest of the head, nothing finer.
        still_variance: [N] float32, aleatoric variance of what stands still, 0 where it moves; None: 0.

    Attributes:
        is_shown: True where readers of the folder see what is put at once; False where it holds another bake until `finish`.

    Raises:
        UserError: folder cannot be written, or another bake is writing it.
    """

    def __init__(
        self,
        folder: Path,
        header: CacheHeader,
        static: Gaussians,
        branch: np.ndarray,
        moving: np.ndarray,
        region: np.ndarray | None = None,
        still_variance: np.ndarray | None = None,
    ) -> None:
        self.folder = Path(folder)
        self._store = self.folder / f"store-{FORMAT_VERSION}-{header.avatar_hash[:16]}"
        if region is None:
            region = np.where(np.asarray(branch) == 1, REGIONS.index("mouth"), REGIONS.index("head"))
        self._static = {name: getattr(static, name) for name in ("means", "quats", "scales", "opacities", "sh")}
        self._static |= {"branch": np.asarray(branch, np.uint8), "moving": np.asarray(moving, np.int32)}
        self._static["region"] = np.asarray(region, np.uint8)
        self._static["still_variance"] = np.zeros(len(branch), np.float32) if still_variance is None else np.asarray(still_variance, np.float32)
        self._moving = len(moving)
        self._slot_sizes = [channels * np.dtype(kind).itemsize * self._moving for channels, kind in FRAME_FILES.values()]
        # Kept, since fresh memory costs more than what is done with it.
        self._whole = np.empty((CHANNELS, len(moving)), "<u2")
        self._shares = np.empty((len(SHARES), len(moving)), np.uint8)
        # As text: a bake of one frame opens them all, and waits for it.
        self._lock = FolderLock(self.folder)
        self._header_path = str(self.folder / "header.json")
        self._static_path = str(self._store / "static.safetensors")
        self._slot_paths = [str(self._store / name) for name in FRAME_FILES]
        self._index_path = str(self._store / "index.bin")
        self._read: tuple[tuple[int, ...], CacheHeader | OlderFormat | None] | None = None  # the header and its file's stamp then
        self._index = Index(self._store)
        self._by_key: dict[bytes, np.void] = {}
        self._left: list[tuple[int, ...]] = []  # the stamps of slots and index when this writer closed them
        self._sound: dict[int, list[int]] = {}  # slot -> the checksums that its data is known to fit
        self.begin(header)

    def begin(self, header: CacheHeader) -> None:
        """Begin, or begin again after `close`: for a bake of the same avatar into the same folder. Raises as the class does."""
        self.header = replace(header, store=self._store.name, count=len(self._static["means"]), moving=self._moving)
        self._files: list[FileIO] = []
        self._lock.take()
        try:
            if not os.path.exists(self._static_path):
                save_tensors(Path(self._static_path), self._static, {})
            there = [file_stamp(path) for path in (*self._slot_paths, self._index_path)]
            if there != self._left or self._is_bloated():
                self._sound = {}
                self._take_stock()
            self._free_replaced()
            for path in self._slot_paths:
                self._files.append(FileIO(path, "rb+", opener=_open_or_make))
            self._files.append(FileIO(self._index_path, "ab"))
            current = self._current()
            self.is_shown = current is None or isinstance(current, CacheHeader) and current.store == self.header.store
            if self.is_shown and current != self.header:
                write_header(self.folder, self.header)
        except OSError as error:
            self.close()
            raise write_error(self._store, error) from error
        except BaseException:
            self.close()
            raise

    def _current(self) -> CacheHeader | OlderFormat | None:
        """What the folder holds: a bake, one of an earlier version, or nothing of use."""
        stamp = file_stamp(self._header_path)
        if self._read is None or self._read[0] != stamp or not stamp:
            try:
                current: CacheHeader | OlderFormat | None = read_header(self.folder)
            except OlderFormat as older:
                current = older
            except UserError:
                current = None
            self._read = stamp, current
        return self._read[1]

    def _is_bloated(self) -> bool:
        return self._index.count > 4 * len(self._index.entries) + 64

    def _take_stock(self) -> None:
        """All of the index, written smaller where most of it is about frames that were replaced."""
        self._index = Index(self._store)
        self._index.refresh()
        live = self._index.entries
        if self._is_bloated():
            with atomic_write(Path(self._index_path)) as handle:
                handle.write(b"".join(entry.tobytes() for entry in live.values()))
            self._index.refresh()
            live = self._index.entries
        self._by_key = {key: live[frame] for frame, key in self._index.keys.items()}
        self._uses = Counter(int(entry["slot"]) for entry in live.values())
        self._next = max(self._uses, default=-1) + 1
        self._free = [slot for slot in range(self._next - 1, -1, -1) if slot not in self._uses]
        self._replaced: list[np.void] = []

    def _free_replaced(self) -> None:
        # Slots of frames that were replaced in earlier bakes are free; those replaced in this one are kept to its end,
        # since a reader may still show them and a frame that only moved may still want them.
        for entry in self._replaced:
            slot, key = int(entry["slot"]), entry["key"].tobytes()
            if slot in self._uses and not self._uses[slot]:
                del self._uses[slot]
                self._free.append(slot)
                known = self._by_key.get(key)
                if known is not None and int(known["slot"]) == slot:
                    del self._by_key[key]
        self._replaced = []

    def has(self, frame: int, key: bytes) -> bool:
        """True where `frame` is there already with this key, and whole: what a power cut or a failing disk spoilt is baked again."""
        return self._index.keys.get(frame) == key and self._is_whole(self._index.entries[frame])

    def knows(self, key: bytes) -> bool:
        """True where `reuse` would find a frame with this key, and whole."""
        entry = self._by_key.get(key)
        return entry is not None and self._is_whole(entry)

    def _is_whole(self, entry: np.void) -> bool:
        """Whether the data fits its checksums. Each slot is read once, with handles of its own: another thread may be writing."""
        slot, sums = int(entry["slot"]), _checksums(entry)
        if self._sound.get(slot) == sums:
            return True
        found = []
        try:
            for path, size in zip(self._slot_paths, self._slot_sizes):
                with FileIO(path) as file:
                    file.seek(slot * size)
                    found.append(zlib.crc32(file.read(size)))
        except OSError:
            return False
        if found == sums:
            self._sound[slot] = sums
        return found == sums

    def reuse(self, frame: int, key: bytes) -> bool:
        """Give `frame` the data of another frame with the same key, if there is one."""
        source = self._by_key.get(key)
        if source is None:
            return False
        entry = source.copy()
        entry["frame"] = frame
        self._append(entry)
        return True

    def put(
        self,
        frame: int,
        key: bytes,
        means: np.ndarray,
        quats: np.ndarray,
        scales: np.ndarray,
        aleatoric: np.ndarray,
        epistemic: np.ndarray,
        shares: np.ndarray | None = None,
    ) -> None:
        """Write one frame: means [M,3], quats [M,4], scales [M,3] (linear), aleatoric, epistemic [M] (variances >= 0), shares [M,4].

        The shares are in the order of SHARES, their sum is 1; None: nothing is known of them. Arrays that lie channel by channel in
        memory are taken quickest.

        Raises:
            UserError: numbers are not finite, or the disk refuses; the frame that was there before stays.
        """
        whole, entry, start = self._whole, np.zeros((), ENTRY), 0
        variances = np.log(np.maximum(np.stack([aleatoric, epistemic]), _TINY, dtype=np.float32))
        try:
            for values in (means.T, quats.T, scales.T, variances):  # few channels at a time stay in the processor's cache
                part = slice(start, start := start + len(values))
                entry["low"][part], entry["high"][part] = quantise(np.asarray(values, np.float32), whole[part])
            if shares is None:
                self._shares[:] = 0
            else:
                quantise_shares(shares, self._shares)
        except FloatingPointError as error:
            problem = f"Frame {frame}: the networks gave numbers that are not finite."
            raise UserError(problem, "Check the avatar and the sound.") from error
        motion, uncertainty = whole[:MOTION_CHANNELS], whole[MOTION_CHANNELS:]
        entry["frame"], entry["key"] = frame, np.frombuffer(key, np.uint8)
        parts = (motion, uncertainty, self._shares)
        entry["motion_crc"], entry["uncertainty_crc"], entry["shares_crc"] = map(zlib.crc32, parts)
        self._place(entry, parts)

    def adopt(self, entry: np.void, parts: Sequence[bytes]) -> bool:
        """Write one frame as another cache of the same avatar holds it, byte by byte.

        Args:
            entry: of that cache's index (ENTRY), with frame, key, ranges and checksums.
            parts: its slots, in the order of FRAME_FILES.

        Returns:
            False, and nothing is written, where the slots are not those of the entry.

        Raises:
            UserError: the disk refuses; the frame that was there before stays.
        """
        if [len(part) for part in parts] != self._slot_sizes or [zlib.crc32(part) for part in parts] != _checksums(entry):
            return False
        self._place(entry.copy(), [memoryview(part) for part in parts])
        return True

    def _place(self, entry: np.ndarray | np.void, parts: Sequence[np.ndarray | memoryview]) -> None:
        """A frame's slots, and then its entry, whose slot is set here."""
        reusing = bool(self._free)
        entry["slot"] = slot = self._free.pop() if reusing else self._next
        try:
            for file, data in zip(self._files, parts):
                file.seek(slot * data.nbytes)
                _write_all(file, data)
        except OSError as error:
            if reusing:
                self._free.append(slot)
            raise write_error(self.folder, error) from error
        if not reusing:
            self._next += 1
        self._sound[int(slot)] = _checksums(entry)
        self._append(entry)

    def _append(self, entry: np.ndarray) -> None:
        data = seal(entry)
        try:
            _write_all(self._files[-1], data)
            self._lock.touch()
        except OSError as error:
            raise write_error(self.folder, error) from error
        (whole,) = added = np.frombuffer(data, ENTRY)
        before = self._index.entries.get(int(whole["frame"]))
        self._uses[int(whole["slot"])] += 1
        if before is not None:
            self._uses[int(before["slot"])] -= 1
            self._replaced.append(before)
        self._index.add(added)
        self._by_key[whole["key"].tobytes()] = whole

    def finish(self) -> None:
        """Put this bake in the place of whatever the folder held, once all that was asked for is there.

        Raises:
            UserError: somebody removed or replaced the files meanwhile, or the disk refuses.
        """
        self._check_places()
        others = [other for other in self.folder.glob("store-*") if other.name != self.header.store]
        current = self._current()
        if not others and isinstance(current, CacheHeader) and current.store == self.header.store:
            return  # nothing is lost by leaving the rest to the system: a frame that a power cut spoils is missing, never wrong
        try:
            for file in self._files:
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.folder, error) from error
        write_header(self.folder, self.header)
        self.is_shown = True
        for other in others:
            shutil.rmtree(other, ignore_errors=True)

    def _check_places(self) -> None:
        """What was written is what lies in the folder."""
        pairs = zip((*self._slot_paths, self._index_path), self._files)
        gone = [path for path, file in pairs if file_stamp(path)[2:] != _stamp_of(file)[2:]]
        if not os.path.exists(self._static_path):
            gone.append(self._static_path)
        if gone:
            raise UserError(f"{gone[0]} was removed or replaced while it was written.", "Bake again, and leave the folder alone meanwhile.")

    def close(self) -> None:
        """Let go of files and lock; what was put stays."""
        self._left = [_stamp_of(file) for file in self._files]
        for file in self._files:
            file.close()
        self._files = []
        self._lock.release()

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()


def _checksums(entry: np.ndarray | np.void) -> list[int]:
    """Of a frame's slots, in the order of FRAME_FILES."""
    return [int(entry[name]) for name in ("motion_crc", "uncertainty_crc", "shares_crc")]


def _stamp_of(file: FileIO) -> tuple[int, ...]:
    """`index.file_stamp` of an open file, wherever it lies by now."""
    status = os.fstat(file.fileno())
    return status.st_size, status.st_mtime_ns, status.st_ino


def _open_or_make(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_CREAT, 0o666)


def _write_all(file: FileIO, data: bytes | np.ndarray | memoryview) -> None:
    view = memoryview(data)
    view = view.cast("B") if view.nbytes else memoryview(b"")
    while view:
        view = view[file.write(view) :]
