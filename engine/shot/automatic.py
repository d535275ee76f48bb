"""Blinks and brow raises nobody keyed: seeded, the same at the same time on every machine."""

from __future__ import annotations

from typing import Callable

import numpy as np

# Seconds. People blink about every two to six seconds; closing is faster than opening.
BLINK_GAP = (2.0, 6.0)
BLINK_CLOSE, BLINK_HOLD, BLINK_OPEN = 0.10, 0.04, 0.18
BROW_GAP = (3.0, 9.0)
BROW_LENGTH = (0.5, 1.1)
BROW_HEIGHT = (0.15, 0.40)
_BLOCK = 60.0  # events are drawn a minute at a time, so that an hour in costs no more than the first second

_Shape = Callable[[np.ndarray, np.random.Generator], np.ndarray]
"""Seconds since an event's start [F] -> its value [F] in 0..1; the generator gives what varies from event to event."""


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def _overlay(times: np.ndarray, seed: int, kind: int, gap: tuple[float, float], shape: _Shape) -> np.ndarray:
    """The largest of all events' shapes [F] at `times` [F] seconds."""
    times = np.asarray(times, np.float64)
    value = np.zeros(len(times))
    minutes = np.floor(times / _BLOCK).astype(int)
    for minute in np.unique(minutes):
        rows = np.flatnonzero(minutes == minute)
        random = np.random.default_rng([seed & 0xFFFFFFFF, kind, minute + (1 << 20)])
        starts = np.cumsum(random.uniform(*gap, size=int(_BLOCK / gap[0]) + 1))
        for start in starts[starts < _BLOCK - 1.5]:  # none reaches into the next minute
            value[rows] = np.maximum(value[rows], shape(times[rows] - minute * _BLOCK - start, random))
    return value


def automatic_blinks(times: np.ndarray, seed: int) -> np.ndarray:
    """AU45 [F] in 0..1 at `times` [F] seconds."""

    def blink(t: np.ndarray, random: np.random.Generator) -> np.ndarray:
        end = BLINK_CLOSE + BLINK_HOLD + BLINK_OPEN
        return np.minimum(_smooth(t / BLINK_CLOSE), _smooth((end - t) / BLINK_OPEN))

    return _overlay(times, seed, 1, BLINK_GAP, blink)


def automatic_brows(times: np.ndarray, seed: int) -> np.ndarray:
    """AU1 [F] in 0..0.4 at `times` [F] seconds: the small raises that go with talking."""

    def raised(t: np.ndarray, random: np.random.Generator) -> np.ndarray:
        length, height = random.uniform(*BROW_LENGTH), random.uniform(*BROW_HEIGHT)
        return np.where((t > 0) & (t < length), height * np.sin(np.pi * t / length) ** 2, 0)

    return _overlay(times, seed, 2, BROW_GAP, raised)
