"""Scene frames and the sound's own time.

Measured against Blender's own mixdown: a sound is heard at scene frame f at the second
(f - frame_start + animation_offset_start) / fps - sound_offset, whatever its handles are; the handles only say where it is heard.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

# Handles are whole frames or floats near them; a frame on a handle belongs to the strip for any rounding of it.
_EPSILON = 1e-4


@dataclass(frozen=True)
class Placement:
    """Where a sound lies on the time line.

    Attributes:
        start: scene frame (any fraction) at which the sound's second 0 lies, whether it is heard or trimmed away.
        first: scene frame from which it is heard.
        end: scene frame from which it is not heard any more (may be infinite).
    """

    start: float
    first: float
    end: float

    def clock(self, frames: np.ndarray, fps: float) -> np.ndarray:
        """Seconds of the sound at scene `frames` [F], also where it is not heard."""
        return (np.asarray(frames, np.float64) - self.start) / fps

    def times(self, frames: np.ndarray, fps: float) -> np.ndarray:
        """Seconds of the sound at scene `frames` [F], NaN where it is not heard."""
        frames = np.asarray(frames, np.float64)
        times = self.clock(frames, fps)
        heard = (frames >= self.first - _EPSILON) & (frames < self.end - _EPSILON) & (times >= -_EPSILON / fps)
        # Noise of the subtraction would make a frame's key depend on where its strip lies.
        return np.where(heard, np.maximum(np.round(times, 9), 0.0), np.nan)

    def cut(self, first: float, end: float) -> Placement:
        """The same sound, heard only from `first` to `end` (a meta strip's handles)."""
        return Placement(self.start, max(self.first, first), min(self.end, end))

    def moved(self, frames: float) -> Placement:
        """The same sound, `frames` later."""
        return self if not frames else Placement(self.start + frames, self.first + frames, self.end + frames)

    def frames(self) -> tuple[int, int]:
        """First and last whole scene frame at which it is heard. Raises ValueError where its end is not known."""
        if not math.isfinite(self.end):
            raise ValueError("the sound's length is not known")
        first = math.ceil(max(self.first, self.start) - _EPSILON)
        return first, max(first, math.ceil(self.end - _EPSILON) - 1)


def strip_placement(
    *, frame_start: float, animation_offset: float, sound_offset: float, first: float, end: float, fps: float
) -> Placement:
    """Placement of a sound strip.

    Args:
        frame_start: where the strip's content begins, before its handles cut it.
        animation_offset: frames of the sound cut away before `frame_start`.
        sound_offset: seconds by which the sound comes later.
        first, end: the handles; `end` is the first frame after the strip.
        fps: frames of the scene a second.
    """
    return Placement(frame_start - animation_offset + sound_offset * fps, first, end)


def file_placement(start: float, seconds: float, fps: float) -> Placement:
    """Placement of a sound file of `seconds` whose second 0 lies at scene frame `start`."""
    return Placement(start, start, start + seconds * fps)


def whole_frames(first: int, last: int) -> np.ndarray:
    """Frames first..last, both included, [F] int32. Raises ValueError where there are none."""
    if last < first:
        raise ValueError(f"the last frame ({last}) lies before the first ({first})")
    return np.arange(first, last + 1, dtype=np.int32)


def nearest_first(frames: np.ndarray, here: float) -> list[int]:
    """The frames in the order in which an animator at frame `here` wants them: from here on, then those before."""
    frames = np.asarray(frames)
    later = frames >= math.floor(here)
    return [int(frame) for frame in np.concatenate([frames[later], frames[~later]])]
