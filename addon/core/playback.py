"""Open caches, and the frame that each shows."""

from __future__ import annotations

import math
import os
import time
from collections import OrderedDict
from dataclasses import dataclass, field
from pathlib import Path

from ...engine.cache import CachedFrame, CacheReader, FrameMissing
from ...engine.errors import UserError

_FRAMES_KEPT = 3
"""Decoded frames kept for each cache: the viewport, a render and what was shown before may all differ."""


@dataclass
class _Open:
    reader: CacheReader
    stamp: tuple[int, ...]
    keys: dict[int, bytes]
    frames: OrderedDict[float, CachedFrame] = field(default_factory=OrderedDict)
    asked: float = 0.0

    def refresh(self) -> None:
        """Frames that were baked since are there; those decoded before stay where nothing of them changed."""
        if not self.reader.refresh():
            return
        before, self.keys = self.keys, self.reader.keys()
        for frame in list(self.frames):
            whole = math.floor(frame + 1e-6)
            if any(before.get(one) != self.keys.get(one) for one in (whole, whole + 1)):
                del self.frames[frame]


class CachePool:
    """Caches opened once and shared by everything that shows them. One that is replaced on disk is opened anew."""

    def __init__(self) -> None:
        self._open: dict[Path, _Open] = {}

    def reader(self, folder: Path) -> CacheReader:
        """The open cache of a folder, with all frames that are there now.

        Raises:
            UserError: no bake there, or damaged.
        """
        return self._get(folder).reader

    def frame(self, folder: Path, frame: float) -> tuple[CacheReader, CachedFrame]:
        """The cache and its Gaussians at a frame; the same objects while neither changes.

        Raises:
            UserError: no bake there. FrameMissing: this frame is not baked.
        """
        cache = self._get(folder)
        found = cache.frames.get(frame)
        if found is None:
            found = cache.frames[frame] = cache.reader.at(frame)
            while len(cache.frames) > _FRAMES_KEPT:
                cache.frames.popitem(last=False)
        cache.frames.move_to_end(frame)
        return cache.reader, found

    def keys(self, folder: Path, in_passing: bool = False) -> tuple[dict[int, bytes], str, str]:
        """Frames and their keys as they are on disk now, and the hashes of avatar and sound.

        The dictionary is not to be changed; it is the same object until something is baked.

        Args:
            in_passing: does not count as a use of the cache, see `close_idle`.

        Raises:
            UserError: no bake there, or damaged.
        """
        cache = self._get(folder, in_passing)
        return cache.keys, cache.reader.header.avatar_hash, cache.reader.header.sound_hash

    def _get(self, folder: Path, in_passing: bool = False) -> _Open:
        stamp = _stamp(folder)
        cache = self._open.get(folder)
        if cache is not None and stamp != cache.stamp:
            # The header is written again by every bake; the data is another only where the store is.
            if cache.reader.replaced:
                self.close(folder)
                cache = None
            else:
                cache.stamp = stamp
        if cache is None:
            reader = CacheReader(folder)
            cache = self._open[folder] = _Open(reader, stamp, reader.keys())
        else:
            cache.refresh()
        if not in_passing or not cache.asked:
            cache.asked = time.monotonic()
        return cache

    def close(self, folder: Path) -> None:
        """Let go of one cache's files, as before they are moved or removed."""
        cache = self._open.pop(folder, None)
        if cache is not None:
            cache.reader.close()

    def keep_only(self, folders: set[Path]) -> None:
        """Close all caches but these."""
        for folder in set(self._open) - folders:
            self.close(folder)

    def close_idle(self, seconds: float) -> None:
        """Close the caches that nobody has asked for in the last `seconds`; the next one who asks opens them again."""
        before = time.monotonic() - seconds
        for folder in [folder for folder, cache in self._open.items() if cache.asked < before]:
            self.close(folder)

    @property
    def folders(self) -> set[Path]:
        """The caches that are open."""
        return set(self._open)


def _stamp(folder: Path) -> tuple[int, ...]:
    try:
        status = os.stat(folder / "header.json")
        return status.st_mtime_ns, status.st_size, status.st_ino
    except OSError:
        return (-1,)


def baked_keys(pool: CachePool, folder: Path, in_passing: bool = False) -> tuple[dict[int, bytes], str, str]:
    """Frames and keys of a bake, and the hashes of its avatar and sound; nothing where there is no bake.

    in_passing: as for `CachePool.keys`.
    """
    try:
        return pool.keys(folder, in_passing)
    except UserError:
        return {}, "", ""


__all__ = ["CachePool", "FrameMissing", "baked_keys"]
