"""What each frame of an avatar's range is to be, by its key, and what it is: baked, out of date, being computed, missing, failed."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace

import numpy as np

from ...engine.shot import Shot, frame_keys

BAKED, OUTDATED, COMPUTING, MISSING, FAILED = range(5)
UNKNOWN = 255
"""What its key is to be has not been looked at yet."""

_KEY = 16
_NOT_BAKED = b"\0" * _KEY


def outwards(frames: np.ndarray, here: float) -> np.ndarray:
    """Rows [F] of `frames` in the order in which an animator at frame `here` wants them: the nearest first, later ones before earlier."""
    distance = np.asarray(frames, np.float64) - here
    return np.lexsort((distance < 0, np.abs(distance)))


class FrameTable:
    """The shot of a frame range as far as it has been sampled since the last edit, and each frame's key.

    Keys of a frame that is being looked at again stay until then: what is drawn does not flicker.

    Attributes:
        frames: [F] int32, rising. keys: [F,16] uint8, see engine.shot.frame_keys.
        seen: [F] bool, where `keys` holds one at all; known: [F] bool, where it is of now.
        version: rises with every change.
    """

    def __init__(self) -> None:
        self.frames = np.empty(0, np.int32)
        self.keys = np.empty((0, _KEY), np.uint8)
        self.seen = self.known = np.empty(0, bool)
        self.version = 0
        self._shot: Shot | None = None
        self._order = np.empty(0, np.int64)
        self._at = 0

    def begin(self, frames: np.ndarray, here: float) -> None:
        """All of `frames` [F] are to be looked at (again), from the frame `here` outwards."""
        frames = np.asarray(frames, np.int32)
        if not np.array_equal(frames, self.frames):
            keys, seen = np.zeros((len(frames), _KEY), np.uint8), np.zeros(len(frames), bool)
            _, old, new = np.intersect1d(self.frames, frames, assume_unique=True, return_indices=True)
            keys[new], seen[new] = self.keys[old], self.seen[old]
            self.frames, self.keys, self.seen = frames, keys, seen
        self.known = np.zeros(len(frames), bool)
        self._shot = None
        self.head_for(here)
        self.version += 1

    def head_for(self, here: float) -> None:
        """Go on from another frame."""
        rows = outwards(self.frames, here)
        self._order, self._at = rows[~self.known[rows]], 0

    @property
    def is_complete(self) -> bool:
        """True where every frame's key is of now."""
        return self._at >= len(self._order)

    def pending(self, most: int) -> np.ndarray:
        """The frames to be looked at next, nearest first, at most `most`; `put` takes in as many of them as were."""
        return self.frames[self._order[self._at : self._at + most]]

    def put(self, part: Shot) -> None:
        """Take in the shot of the first frames of `pending`, in that order."""
        rows = self._order[self._at : self._at + len(part)]
        if self._shot is None:
            arrays = {name: np.empty((len(self.frames), *getattr(part, name).shape[1:]), getattr(part, name).dtype) for name in _arrays(part)}
            self._shot = replace(part, **arrays | {"frames": self.frames})
        for name in _arrays(part):
            if name != "frames":
                getattr(self._shot, name)[rows] = getattr(part, name)
        self.keys[rows] = frame_keys(part)
        self.known[rows] = self.seen[rows] = True
        self._at += len(part)
        self.version += 1

    def shot(self, rows: np.ndarray | None = None) -> Shot:
        """The shot of some rows [R] that are known, or of all where it is complete. Raises ValueError where none is known."""
        if self._shot is None:
            raise ValueError("nothing has been sampled yet")
        return self._shot if rows is None else self._shot.part(rows)

    def key(self, frame: int) -> bytes | None:
        """The key that a frame is to have, as far as it is of now."""
        row = int(np.searchsorted(self.frames, frame))
        there = row < len(self.frames) and self.frames[row] == frame and self.known[row]
        return self.keys[row].tobytes() if there else None

    def states(
        self, baked: Mapping[int, bytes], computing: Collection[int] = (), failed: Collection[bytes] = ()
    ) -> np.ndarray:
        """The state of each frame, [F] uint8.

        Args:
            baked: the cache's frames and their keys.
            computing: frames that the engine has been asked for.
            failed: keys that it could not compute.
        """
        found = np.full(len(self.frames), UNKNOWN, np.uint8)
        if not len(found):
            return found
        held = [baked.get(frame) for frame in self.frames.tolist()]
        there = np.fromiter((key is not None for key in held), bool, len(held))
        same = np.frombuffer(b"".join(key or _NOT_BAKED for key in held), np.uint8).reshape(-1, _KEY)
        same = (same == self.keys).all(axis=1) & there
        found[:] = np.where(same, BAKED, np.where(there, OUTDATED, MISSING))
        if failed:
            keys = [key.tobytes() in failed for key in self.keys]
            found[np.array(keys, bool) & ~same] = FAILED
        if computing:
            found[np.isin(self.frames, np.fromiter(computing, np.int64, len(computing))) & ~same] = COMPUTING
        found[~self.seen] = UNKNOWN
        return found


def _arrays(shot: Shot) -> list[str]:
    return [field.name for field in fields(shot) if isinstance(getattr(shot, field.name), np.ndarray)]
