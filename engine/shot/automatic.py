"""Blinks and brow raises nobody keyed: seeded, the same at the same time on every machine."""

from __future__ import annotations

import numpy as np

# Seconds. People blink about every two to six seconds; closing is faster than opening.
BLINK_GAP = (2.0, 6.0)
BLINK_CLOSE, BLINK_HOLD, BLINK_OPEN = 0.10, 0.04, 0.18
BROW_GAP = (3.0, 9.0)
BROW_LENGTH = (0.5, 1.1)
BROW_HEIGHT = (0.15, 0.40)
_BLOCK = 60.0  # events are drawn a minute at a time, so that an hour in costs no more than the first second


def _events(seed: int, kind: int, minute: int, gap: tuple[float, float]) -> np.ndarray:
    """Start times of one minute's events, counted from the minute's begin, the last one clear of its end."""
    random = np.random.default_rng([seed & 0xFFFFFFFF, kind, minute + (1 << 20)])
    starts = np.cumsum(random.uniform(*gap, size=int(_BLOCK / gap[0]) + 1))
    return starts[starts < _BLOCK - 1.5]


def _smooth(x: np.ndarray) -> np.ndarray:
    x = np.clip(x, 0.0, 1.0)
    return x * x * (3.0 - 2.0 * x)


def automatic_blinks(times: np.ndarray, seed: int) -> np.ndarray:
    """AU45 [F] in 0..1 at `times` [F] seconds."""
    times = np.asarray(times, np.float64)
    value = np.zeros(len(times))
    minutes = np.floor(times / _BLOCK).astype(int)
    for minute in np.unique(minutes):
        rows = np.flatnonzero(minutes == minute)
        local = times[rows] - minute * _BLOCK
        for start in _events(seed, 1, minute, BLINK_GAP):
            t = local - start
            shape = np.minimum(_smooth(t / BLINK_CLOSE), _smooth((BLINK_CLOSE + BLINK_HOLD + BLINK_OPEN - t) / BLINK_OPEN))
            value[rows] = np.maximum(value[rows], np.where(t >= 0, shape, 0))
    return value


def automatic_brows(times: np.ndarray, seed: int) -> np.ndarray:
    """AU1 [F] in 0..0.4 at `times` [F] seconds: the small raises that go with talking."""
    times = np.asarray(times, np.float64)
    value = np.zeros(len(times))
    minutes = np.floor(times / _BLOCK).astype(int)
    for minute in np.unique(minutes):
        rows = np.flatnonzero(minutes == minute)
        local = times[rows] - minute * _BLOCK
        starts = _events(seed, 2, minute, BROW_GAP)
        random = np.random.default_rng([seed & 0xFFFFFFFF, 3, int(minute) + (1 << 20)])
        for start, length, height in zip(
            starts, random.uniform(*BROW_LENGTH, len(starts)), random.uniform(*BROW_HEIGHT, len(starts))
        ):
            phase = (local - start) / length
            raised = np.where((phase > 0) & (phase < 1), height * np.sin(np.pi * phase) ** 2, 0)
            value[rows] = np.maximum(value[rows], raised)
    return value
