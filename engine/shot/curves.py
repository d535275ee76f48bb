"""The curves of a shot file: numbers, lists and keys to arrays and back, exactly."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from ..avatar import EMOTIONS
from ..errors import UserError
from .shot import STRENGTHS

LATEST = 1 << 30
"""Frames lie within plus and minus this."""
_NOISE = 1e-6
Refuse = Callable[..., UserError]


@dataclass(frozen=True)
class Curve:
    """One curve: its name, what it is where nothing is said, and its highest value; the lowest is 0."""

    name: str
    default: float
    high: float


CURVES: dict[str, Curve] = {
    curve.name: curve
    for curve in (
        *(Curve(name, 1.0 if name == "neutral" else 0.0, 1.0) for name in EMOTIONS),
        Curve("intensity", 1.0, 2.0),
        Curve("mix", 1.0, 1.0),
        *(Curve(name, 0.0, 1.0) for name in ("au1", "au4", "au5", "au6", "au7", "au45")),
        *(Curve(name, 1.0, 2.0) for name in STRENGTHS),
    )
}


def written_curve(values: np.ndarray, curve: Curve) -> float | list[float]:
    """float32 values [F] as the shortest numbers that read back as the same float32; one number where all are equal."""
    values = np.clip(np.asarray(values, np.float32), np.float32(0), np.float32(curve.high))  # blending leaves noise below 0
    if len(values) and (values == values[0]).all():
        values = values[:1]
    short = values.astype("U32").astype(np.float64)
    short = np.where(short.astype(np.float32) == values, short, values.astype(np.float64))
    return short[0].item() if len(short) == 1 else short.tolist()


def curve_values(data: Any, curve: Curve, frames: np.ndarray, refuse: Refuse) -> np.ndarray:
    """float32 [F] at `frames` [F] of a curve as a shot file gives it. Raises what `refuse` makes, with the curve's name."""
    what = f"curve `{curve.name}`"
    if type(data) in (int, float):
        values = np.full(len(frames), _numbers([data], what, refuse)[0])
    elif isinstance(data, list) and data and all(isinstance(key, list) for key in data):
        if any(len(key) != 2 for key in data):
            raise refuse(f"{what}: a key is not of the form [frame, value]")
        at = _numbers([key[0] for key in data], what, refuse)
        if (np.diff(at) <= 0).any():
            raise refuse(f"{what}: the keys' frames do not rise")
        values = np.interp(frames, at, _numbers([key[1] for key in data], what, refuse))
    elif isinstance(data, list) and len(data) == len(frames):
        values = _numbers(data, what, refuse)
    else:
        raise refuse(f"{what} is neither a number, nor keys [[frame, value], ...], nor a list with one number for each of {len(frames)} frames")
    outside = np.flatnonzero((values < -_NOISE) | (values > curve.high + _NOISE))
    if len(outside):
        raise refuse(f"{what} is {values[outside[0]]:g} at frame {frames[outside[0]]}, not from 0 to {curve.high:g}")
    return np.clip(values, 0, curve.high).astype(np.float32)


def seconds_of(data: Any, frames: np.ndarray, fps: float, refuse: Refuse) -> np.ndarray:
    """Where `frames` [F] lie in the sound, float64 [F] seconds, NaN where none plays, from `sound_times` of a shot file."""
    what = "`sound_times`"
    if isinstance(data, dict):
        if unknown := sorted(set(data) - {"start", "first", "last"}):
            raise refuse(f"{what} has unknown entries: {', '.join(repr(name[:40]) for name in unknown[:8])}")
        given = {name: _numbers([value], f"{what}: `{name}`", refuse)[0] for name, value in data.items()}
        if "start" not in given:
            raise refuse(f"{what}: `start`, the frame of the sound's second 0, is missing")
        times = (frames - given["start"]) / fps
        heard = (times >= 0) & (frames >= given.get("first", -np.inf)) & (frames <= given.get("last", np.inf))
        return np.where(heard, times, np.nan)
    if not isinstance(data, list) or len(data) != len(frames):
        raise refuse(f'{what} is neither of the form {{"start": frame}} nor a list with seconds or null for each of {len(frames)} frames')
    times = _numbers([0 if time is None else time for time in data], what, refuse)
    if (times < 0).any():
        raise refuse(f"{what}: {times.min():g} is not a second of the sound")
    return np.where([time is None for time in data], np.nan, times)


def whole_number(value: Any, what: str, refuse: Refuse) -> int:
    """A frame number."""
    if type(value) is not int or not -LATEST < value < LATEST:
        raise refuse(f"{what} is not a whole number")
    return value


def _numbers(values: list[Any], what: str, refuse: Refuse) -> np.ndarray:
    for value in values:
        if type(value) not in (int, float) or not -LATEST < value < LATEST:
            raise refuse(f"{what}: {str(value)[:40]!r} is not a number in range")
    return np.array(values, np.float64)
