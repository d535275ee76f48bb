"""How long an emotion takes to come, stays and goes, and which sliders belong to a performance."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...engine.avatar import EMOTIONS
from ...engine.errors import UserError
from .channels import AU_CHANNELS, STRENGTH_CHANNELS


@dataclass(frozen=True)
class Timing:
    """Seconds of a performance: until it is fully there, while it stays, until it is gone."""

    onset: float
    apex: float
    release: float

    def frames(self, fps: float) -> tuple[float, float, float]:
        """(onset, apex, release) in whole frames, none under one."""
        return tuple(float(max(1, round(seconds * fps))) for seconds in (self.onset, self.apex, self.release))


# Chosen by eye from how faces are described: surprise is sudden and short, anger and joy build up, sorrow is the slowest.
_TIMINGS: Mapping[str, Timing] = {
    "neutral": Timing(0.5, 1.0, 0.5),
    "happy": Timing(0.5, 1.4, 1.0),
    "sad": Timing(0.9, 2.2, 1.6),
    "angry": Timing(0.4, 1.4, 1.0),
    "fear": Timing(0.25, 1.0, 0.8),
    "disgusted": Timing(0.35, 0.9, 0.6),
    "surprised": Timing(0.15, 0.5, 0.5),
    "contempt": Timing(0.35, 0.9, 0.6),
}


def usual_timing(weights: Mapping[str, float]) -> Timing:
    """Timing of an emotion or a mixture: of its emotions, each as much as it weighs (neutral counts where nothing else does)."""
    parts = {name: weight for name, weight in weights.items() if weight > 0 and name != "neutral"} or {"neutral": 1.0}
    total = sum(parts.values())
    mean = {
        name: sum(weight * getattr(_TIMINGS[emotion], name) for emotion, weight in parts.items()) / total
        for name in ("onset", "apex", "release")
    }
    return Timing(**mean)


DECAYS: tuple[tuple[str, str, str, str], ...] = (
    ("SMOOTH", "Smooth", "Fades out as it came in", "BEZIER"),
    ("LINEAR", "Even", "Fades out evenly", "LINEAR"),
    ("LINGER", "Lingering", "Falls quickly, and the rest of it takes long", "EXPO"),
)
"""(identifier, label, tooltip, Blender's interpolation) of each way to go."""


def decay_shape(identifier: str) -> str:
    """Blender's interpolation of a way to go. Raises UserError for an unknown one."""
    for name, _, _, shape in DECAYS:
        if name == identifier.upper():
            return shape
    raise UserError(f"There is no decay {identifier!r}.", f"Known are {', '.join(name for name, *_ in DECAYS)}.")


CHANNEL_SETS: tuple[tuple[str, str, str, tuple[str, ...]], ...] = (
    ("EMOTION", "Emotion", "The eight emotions, the intensity and how far they are keyed", (*EMOTIONS, "intensity", "mix")),
    ("FACE", "Blinks and Brows", "Blinks, brows, eyelids and cheeks", AU_CHANNELS),
    ("STRENGTH", "Strength", "Strength of the upper face, the lower face and the lips", STRENGTH_CHANNELS),
)
"""(identifier, label, tooltip, sliders) of what can be copied."""


def channels_of(sets: str | set[str]) -> tuple[str, ...]:
    """Sliders of one or several CHANNEL_SETS. Raises UserError for none or an unknown one."""
    asked = {sets.upper()} if isinstance(sets, str) else {name.upper() for name in sets}
    known = {name for name, *_ in CHANNEL_SETS}
    if not asked or asked - known:
        raise UserError(f"Channels {', '.join(sorted(asked)) or 'none'} cannot be copied.", f"Known are {', '.join(sorted(known))}.")
    return tuple(channel for name, _, _, channels in CHANNEL_SETS if name in asked for channel in channels)


@dataclass(frozen=True)
class BlinkShape:
    """A blink: how its length is shared out. Eyes close faster than they open."""

    close: float = 0.3
    hold: float = 0.15
    open: float = 0.55

    def frames(self, length: float) -> tuple[float, float, float]:
        """(closing, closed, opening) in frames, of a blink that takes `length` frames in all."""
        return self.close * length, self.hold * length, self.open * length
