"""Which keys "key emotion here" sets."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class KeyPlan:
    """Keys of one slider: {frame: value} to set, and the open span in which older keys go."""

    set: dict[float, float]
    clear: tuple[float, float]


def plan_keys(
    targets: Mapping[str, float], frame: float, blend: float, value_at: Callable[[str, float], float]
) -> dict[str, KeyPlan]:
    """Keys that bring sliders to `targets` at `frame`, starting `blend` frames before from what they were there.

    Keys between the two would bend the change and are removed.

    Args:
        targets: slider -> value.
        blend: frames, >= 0; 0 switches over within the frame before.
        value_at: (slider, frame) -> the value there before anything is keyed.

    Raises:
        ValueError: a negative blend length.
    """
    if blend < 0:
        raise ValueError(f"the blend length is {blend:g} frames; give 0 or more")
    start = frame - (blend or 1.0)
    return {name: KeyPlan({start: value_at(name, start), frame: value}, (start, frame)) for name, value in targets.items()}
