"""A view over time, and the interface of what makes one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from ..audio import Sound


@dataclass(frozen=True, eq=False)
class Track:
    """Features over a whole sound, to be sampled at any time.

    Attributes:
        features: [n,D] float32; row i belongs to time i / rate.
        rate: rows a second.
        duration: seconds of sound; outside 0..duration there is silence.
        silence: [D] float32, the features of silence.
        shape: of one frame, as the networks take it.
        offsets: None, or the times [..] in seconds round t that one frame gathers; its features come
            on the axis `feature_axis` of `shape`, the offsets' own axes round it.
        feature_axis: see `offsets`.
    """

    features: np.ndarray
    rate: float
    duration: float
    silence: np.ndarray
    shape: tuple[int, ...]
    offsets: np.ndarray | None = None
    feature_axis: int = -1

    def at(self, times: np.ndarray) -> np.ndarray:
        """Features [F,*shape] float32 at `times` [F] seconds, linear between rows.

        A time that is NaN or outside the sound has the features of silence; a window judges each time it gathers. The result holds all frames asked for:
        ask in pieces where they are many.
        """
        times = np.asarray(times, np.float64).reshape(-1)
        if self.offsets is None:
            return self._sample(times).reshape(len(times), *self.shape)
        values = self._sample((times[:, None] + self.offsets.reshape(-1)).reshape(-1))
        values = values.reshape(len(times), *self.offsets.shape, self.features.shape[1])
        return np.ascontiguousarray(np.moveaxis(values, -1, self.feature_axis + 1 if self.feature_axis >= 0 else -1))

    def _sample(self, times: np.ndarray) -> np.ndarray:
        with np.errstate(invalid="ignore"):
            inside = (times >= 0.0) & (times <= self.duration)
        place = np.where(inside, times, 0.0) * self.rate
        low = np.minimum(place.astype(np.int64), len(self.features) - 1)
        high = np.minimum(low + 1, len(self.features) - 1)
        part = (place - low).clip(0.0, 1.0).astype(np.float32)[:, None]
        values = self.features[low] * (1 - part) + self.features[high] * part
        values[~inside] = self.silence
        return values


@dataclass(frozen=True, eq=False)
class EmotionTrack(Track):
    """Automatic emotion: `at` gives eight weights (sum 1, neutral first), and how far they are to be trusted beside."""

    confidences: np.ndarray | None = None

    def confidence_at(self, times: np.ndarray) -> np.ndarray:
        """Confidence [F] in 0..1 at `times` [F] seconds; 0 where there is no sound."""
        track = Track(self.confidences[:, None], self.rate, self.duration, np.zeros(1, np.float32), ())
        return track.at(times)


class Provider(Protocol):
    """Turns a sound into one view. The same file gives the same track, whatever was asked before.

    Attributes:
        view: `audio`, `exp`, `style` or `emotion`.
        name, version: what an avatar was trained with; features may change only with the version.
        weights: hash of what it learned; "" where it learned nothing.
        shape: of one frame.
        rate: frames a second that the track holds.
    """

    view: str
    name: str
    version: int
    weights: str
    shape: tuple[int, ...]
    rate: float

    def track(self, sound: Sound) -> Track:
        """The view over the whole sound."""
        ...
