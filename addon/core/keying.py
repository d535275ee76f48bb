"""Which keys the operators set: an emotion at a frame, a performance round one, and few keys in the place of many values."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

import numpy as np

from ...engine.errors import UserError

ValueAt = Callable[[str, float], float]
"""(slider, frame) -> its value there before anything is keyed."""


@dataclass(frozen=True)
class KeyPlan:
    """Keys of one slider.

    Attributes:
        set: {frame: value}.
        clear: open span of frames in which older keys go.
        shapes: {frame: Blender's interpolation from that key to the next}; the user's own where a key is not named.
    """

    set: dict[float, float]
    clear: tuple[float, float]
    shapes: Mapping[float, str] = field(default_factory=dict)


def plan_keys(targets: Mapping[str, float], frame: float, blend: float, value_at: ValueAt) -> dict[str, KeyPlan]:
    """Keys that bring sliders to `targets` at `frame`, starting `blend` frames before from what they were there.

    Keys between the two would bend the change and are removed.

    Args:
        targets: slider -> value.
        blend: frames, >= 0; 0 switches over within the frame before.

    Raises:
        ValueError: a negative blend length.
    """
    if blend < 0:
        raise ValueError(f"the blend length is {blend:g} frames; give 0 or more")
    start = frame - (blend or 1.0)
    return {name: KeyPlan({start: value_at(name, start), frame: value}, (start, frame)) for name, value in targets.items()}


@dataclass(frozen=True)
class Span:
    """A performance on the time line, in scene frames: it begins, is fully there from `peak` to `fade`, and is gone.

    Raises:
        UserError: a negative or endless length.
    """

    peak: float
    onset: float
    apex: float
    release: float

    def __post_init__(self) -> None:
        for name in ("onset", "apex", "release"):
            if not 0 <= getattr(self, name) < 1e7:
                raise UserError(f"The {name} is {getattr(self, name):g} frames.", "Give 0 or more.")

    @property
    def start(self) -> float:
        """Where it begins; an onset of 0 switches over within the frame before the peak."""
        return self.peak - (self.onset or 1.0)

    @property
    def fade(self) -> float:
        """Where the release begins."""
        return self.peak + self.apex

    @property
    def end(self) -> float:
        """Where the sliders are again what they would have been; a release of 0 takes one frame."""
        return self.fade + (self.release or 1.0)


def plan_performance(targets: Mapping[str, float], span: Span, decay: str, value_at: ValueAt) -> dict[str, KeyPlan]:
    """Keys of a performance: from what the sliders were to `targets`, held, and back to what they would have been by then.

    Args:
        targets: slider -> value at the apex.
        decay: Blender's interpolation of the release, such as `BEZIER`, `LINEAR`, `EXPO`.
    """
    shapes = {span.start: "BEZIER", span.peak: "BEZIER"} | {span.fade: decay}
    return {
        name: KeyPlan(
            {span.start: value_at(name, span.start), span.peak: value, span.fade: value, span.end: value_at(name, span.end)},
            (span.start, span.end),
            shapes,
        )
        for name, value in targets.items()
    }


def few_keys(values: np.ndarray, tolerance: float) -> np.ndarray:
    """Rows [K] of `values` [F,C] whose linear connection stays within `tolerance` of every value.

    Ramer, Douglas, Peucker, with the distance taken along the values' axis, as time may not move: from the ends inwards the
    row that is furthest off becomes a key until none is. All columns get their keys at the same rows.
    """
    values = np.asarray(values, np.float64)
    count = len(values)
    if count <= 2:
        return np.arange(count)
    kept = {0, count - 1}
    spans = [(0, count - 1)]
    while spans:
        first, last = spans.pop()
        if last - first < 2:
            continue
        part = (np.arange(first + 1, last) - first)[:, None] / (last - first)
        line = values[first] * (1 - part) + values[last] * part
        off = np.abs(values[first + 1 : last] - line).max(axis=1)
        furthest = int(off.argmax())
        if off[furthest] > tolerance:
            middle = first + 1 + furthest
            kept.add(middle)
            spans += [(first, middle), (middle, last)]
    return np.array(sorted(kept))


def plan_values(frames: np.ndarray, values: Mapping[str, np.ndarray], tolerance: float) -> dict[str, KeyPlan]:
    """Keys that follow values on `frames` [F], one at least, within `tolerance`, straight from key to key, in the place of all older keys there.

    A slider that stays the same throughout gets its first and last key alone.
    """
    names = list(values)
    table = np.stack([np.asarray(values[name], np.float64) for name in names], axis=1)
    at = np.asarray(frames, np.float64).tolist()
    rows = few_keys(table, tolerance).tolist()
    plans = {}
    for column, name in enumerate(names):
        ends = rows if np.ptp(table[:, column]) > 1e-9 else [rows[0], rows[-1]]
        keys = {at[row]: float(table[row, column]) for row in ends}
        plans[name] = KeyPlan(keys, (at[0], at[-1]), dict.fromkeys(keys, "LINEAR"))
    return plans
