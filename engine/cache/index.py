"""The index of a store, read as it grows: which frames there are, and where their data lies."""

from __future__ import annotations

import os
import zlib
from pathlib import Path

import numpy as np

from ..errors import UserError
from .layout import ENTRY, MAGIC

_MAGIC = MAGIC.to_bytes(4, "little")


def file_stamp(path: Path | str) -> tuple[int, ...]:
    """Size, time and identity of a file, which change whenever it does; () where there is none."""
    try:
        status = os.stat(path)
        return status.st_size, status.st_mtime_ns, status.st_ino
    except OSError:
        return ()


class Index:
    """The whole entries of `<store>/index.bin`; torn or damaged ones are left out.

    Attributes:
        entries: frame -> the entry (ENTRY) that counts for it, the last one.
        keys: frame -> its key.
        count: entries read so far, replaced ones included.
    """

    def __init__(self, store: Path) -> None:
        self._path = Path(store) / "index.bin"
        self._clear()

    def _clear(self) -> None:
        self.entries: dict[int, np.void] = {}
        self.keys: dict[int, bytes] = {}
        self.count = 0
        self._stamp: tuple[int, ...] = ()
        self._read = 0
        self._tail = b""  # what lies before byte `_read`: another file in this one's place is seen by it

    def stamp(self) -> tuple[int, ...]:
        """Changes whenever the file does."""
        return file_stamp(self._path)

    @property
    def is_current(self) -> bool:
        """True while the file is as `refresh` last saw it."""
        return self.stamp() == self._stamp

    def refresh(self) -> bool:
        """Read what was added since, or all where the file is another one. True where anything changed.

        Costs microseconds where nothing did.

        Raises:
            UserError: the file is there and cannot be read.
        """
        stamp = self.stamp()
        if stamp == self._stamp:
            return False
        if not stamp or not self._stamp or stamp[2] != self._stamp[2] or stamp[0] < self._read:
            self._clear()
        try:
            with open(self._path, "rb") as file:
                file.seek(self._read - len(self._tail))
                data = file.read()
                if not data.startswith(self._tail):
                    self._clear()
                    file.seek(0)
                    data = file.read()
        except FileNotFoundError:
            data = b""
        except OSError as error:
            raise UserError(f"Cannot read {self._path}: {error.strerror or error}.", "Check the folder.") from error
        self._stamp = stamp
        self._take(data)
        return True

    def _take(self, data: bytes) -> None:
        # An entry torn by a kill is followed by later ones at any byte: look for the next magic number then.
        size, at, whole = ENTRY.itemsize, len(self._tail), []
        while (found := data.find(_MAGIC, at)) >= 0 and found + size <= len(data):
            piece = data[found : found + size]
            if zlib.crc32(piece[:-4]) == int.from_bytes(piece[-4:], "little"):
                whole.append(piece)
                at = found + size
            else:
                at = found + 1
        # What is left may be the beginning of an entry that is just being written.
        end = found if found >= 0 else max(at, len(data) - len(_MAGIC) + 1)
        self._read += end - len(self._tail)
        self._tail = data[max(0, end - size) : end]
        if whole:
            self.add(np.frombuffer(b"".join(whole), ENTRY))

    def add(self, entries: np.ndarray) -> None:
        """Take in entries [E], oldest first."""
        frames, keys = entries["frame"].tolist(), entries["key"].tobytes()
        self.count += len(frames)
        self.entries.update(zip(frames, entries))
        self.keys.update((frame, keys[16 * i : 16 * i + 16]) for i, frame in enumerate(frames))
