"""Writing a cache folder: frames become visible one by one, each only when whole."""

from __future__ import annotations

import os
import shutil
import socket
import time
import zlib
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

import numpy as np

from ..avatar.gaussians import Gaussians
from ..avatar.tensors import save_tensors
from ..errors import UserError
from ..files import atomic_write, write_error
from .layout import (
    ENTRY, CacheHeader, latest, quantise, read_header, read_index, seal, write_header,
)  # fmt: skip

LOCK_AGE = 120.0
_TINY = 1e-30


class CacheWriter:
    """Adds frames to a cache folder; use as a context manager.

    A bake of the same avatar is continued. Another avatar's bake in the folder stays as it is until `finish`, which puts the
    new one in its place. One writer at a time.

    Args:
        folder: the cache folder, made if missing.
        header: its `store` is chosen here.
        static: all N Gaussians at rest, in Blender's frame.
        branch: [N] uint8, 0 face, 1 mouth.
        moving: [M] rows of `static` that each frame gives.

    Raises:
        UserError: folder cannot be written, or another bake is writing it.
    """

    def __init__(self, folder: Path, header: CacheHeader, static: Gaussians, branch: np.ndarray, moving: np.ndarray) -> None:
        self.folder = Path(folder)
        self.header = header
        header.store = f"store-{header.avatar_hash[:16]}"
        header.count, header.moving = len(static), len(moving)
        self._moving = len(moving)
        self._files: list[BinaryIO] = []
        store = self.folder / header.store
        try:
            store.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(store, error) from error
        self._lock()
        try:
            self._open(store, static, branch, moving)
        except BaseException:
            self.close()
            raise

    def _open(self, store: Path, static: Gaussians, branch: np.ndarray, moving: np.ndarray) -> None:
        if not (store / "static.safetensors").exists():
            arrays = {name: getattr(static, name) for name in ("means", "quats", "scales", "opacities", "sh")}
            arrays |= {"branch": np.asarray(branch, np.uint8), "moving": np.asarray(moving, np.int32)}
            save_tensors(store / "static.safetensors", arrays, {})
        entries = read_index(store)
        self._live = latest(entries)
        if len(entries) > 4 * len(self._live) + 64:
            with atomic_write(store / "index.bin") as handle:
                handle.write(b"".join(entry.tobytes() for entry in self._live.values()))
        self._by_key = {entry["key"].tobytes(): entry for entry in self._live.values()}
        used = {int(entry["slot"]) for entry in self._live.values()}
        # Slots of frames that were replaced in earlier bakes are free; those replaced in this one are kept to its end,
        # since a reader may still show them and a frame that only moved may still want them.
        self._free = sorted(set(range(max(used, default=-1) + 1)) - used, reverse=True)
        self._next = max(used, default=-1) + 1
        try:
            for name in ("motion.bin", "uncertainty.bin"):
                (store / name).touch()
                self._files.append(open(store / name, "r+b", buffering=0))
            self._files.append(open(store / "index.bin", "ab", buffering=0))
        except OSError as error:
            raise write_error(store, error) from error
        try:
            current = read_header(self.folder)
        except UserError:
            current = None
        if current is None or current.store == self.header.store:
            write_header(self.folder, self.header)

    def has(self, frame: int, key: bytes) -> bool:
        """True where `frame` is there already with this key."""
        entry = self._live.get(frame)
        return entry is not None and entry["key"].tobytes() == key

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
    ) -> None:
        """Write one frame: means [M,3], quats [M,4], scales [M,3] (linear), aleatoric, epistemic [M] (variances >= 0).

        Raises:
            UserError: numbers are not finite, or the disk refuses; the frame that was there before stays.
        """
        channels = np.concatenate([means.T, quats.T, scales.T])
        logs = np.log(np.maximum(np.stack([aleatoric, epistemic]).astype(np.float64), _TINY))
        if not (np.isfinite(channels).all() and np.isfinite(logs).all()):
            raise UserError(f"Frame {frame}: the networks gave numbers that are not finite.", "Check the avatar and the sound.")
        motion, motion_low, motion_high = quantise(channels)
        uncertainty, low, high = quantise(logs)
        entry = np.zeros((), ENTRY)
        entry["low"] = np.concatenate([motion_low, low])
        entry["high"] = np.concatenate([motion_high, high])
        reusing = bool(self._free)
        slot = self._free.pop() if reusing else self._next
        entry["frame"], entry["slot"], entry["key"] = frame, slot, np.frombuffer(key, np.uint8)
        entry["motion_crc"], entry["uncertainty_crc"] = zlib.crc32(motion.tobytes()), zlib.crc32(uncertainty.tobytes())
        try:
            for file, data in zip(self._files, (motion, uncertainty)):
                file.seek(slot * data.nbytes)
                _write_all(file, data.tobytes())
        except OSError as error:
            if reusing:
                self._free.append(slot)
            raise write_error(self.folder, error) from error
        if not reusing:
            self._next += 1
        self._append(entry)

    def _append(self, entry: np.ndarray) -> None:
        data = seal(entry)
        entry = np.frombuffer(data, ENTRY)[0].copy()
        try:
            _write_all(self._files[2], data)
            os.utime(self._lock_path)
        except OSError as error:
            raise write_error(self.folder, error) from error
        self._live[int(entry["frame"])] = entry
        self._by_key[entry["key"].tobytes()] = entry

    def finish(self) -> None:
        """Put this bake in the place of whatever the folder held, once all that was asked for is there."""
        try:
            for file in self._files:
                os.fsync(file.fileno())
        except OSError as error:
            raise write_error(self.folder, error) from error
        write_header(self.folder, self.header)
        for other in self.folder.glob("store-*"):
            if other.name != self.header.store:
                shutil.rmtree(other, ignore_errors=True)

    def close(self) -> None:
        """Close the files; what was put stays."""
        for file in self._files:
            file.close()
        self._files = []
        self._lock_path.unlink(missing_ok=True)

    def __enter__(self) -> CacheWriter:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _lock(self) -> None:
        self._lock_path = self.folder / "writing.lock"
        text = f"{socket.gethostname()} {os.getpid()}"
        for _ in range(2):
            try:
                with open(self._lock_path, "x") as handle:
                    handle.write(text)
                return
            except FileExistsError:
                if not self._lock_is_dead():
                    break
                self._lock_path.unlink(missing_ok=True)
            except OSError as error:
                raise write_error(self.folder, error) from error
        raise UserError(
            f"{self.folder}: another bake is writing here.",
            f"Wait for it or cancel it; if there is none, remove {self._lock_path}.",
        )

    def _lock_is_dead(self) -> bool:
        """A lock whose process is gone (same machine), or that nobody touched for two minutes (another machine)."""
        try:
            host, number = self._lock_path.read_text().split()
            age = time.time() - self._lock_path.stat().st_mtime
        except FileNotFoundError:
            return True
        except (OSError, ValueError):
            return False
        if host != socket.gethostname():
            return age > LOCK_AGE
        return not process_lives(int(number))


def process_lives(pid: int) -> bool:
    """True where a process with this number runs on this machine."""
    if os.name == "nt":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _write_all(file: BinaryIO, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[file.write(view) :]


