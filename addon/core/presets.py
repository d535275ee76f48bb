"""Emotions to key: the eight pure ones and mixtures that animators ask for by name."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from ...engine.avatar import EMOTIONS
from ...engine.errors import UserError


@dataclass(frozen=True)
class Preset:
    """A named mixture of emotions."""

    identifier: str
    label: str
    tooltip: str
    weights: Mapping[str, float]


PRESETS: tuple[Preset, ...] = (
    Preset("CALM", "Calm", "Relaxed and slightly friendly", {"neutral": 0.8, "happy": 0.2}),
    Preset("CONTENT", "Content", "A quiet smile", {"happy": 0.45, "neutral": 0.55}),
    Preset("DELIGHTED", "Delighted", "Happy and surprised", {"happy": 0.9, "surprised": 0.35}),
    Preset("WORRIED", "Worried", "Fear with sadness", {"fear": 0.5, "sad": 0.35}),
    Preset("GRIEVING", "Grieving", "Full sadness with a trace of fear", {"sad": 1.0, "fear": 0.15}),
    Preset("IRRITATED", "Irritated", "Half angry, a little contemptuous", {"angry": 0.5, "contempt": 0.25}),
    Preset("FURIOUS", "Furious", "Full anger with disgust", {"angry": 1.0, "disgusted": 0.3}),
    Preset("SHOCKED", "Shocked", "Surprised and afraid", {"surprised": 0.8, "fear": 0.4}),
    Preset("SMUG", "Smug", "Contempt with a smile", {"contempt": 0.7, "happy": 0.3}),
    Preset("REVOLTED", "Revolted", "Disgust with anger", {"disgusted": 0.9, "angry": 0.25}),
)


def preset_weights(identifier: str) -> dict[str, float]:
    """All eight weights of a preset. Raises UserError where there is no such preset."""
    for preset in PRESETS:
        if preset.identifier == identifier.upper():
            return all_weights(preset.weights)
    known = ", ".join(preset.identifier for preset in PRESETS)
    raise UserError(f"There is no preset {identifier!r}.", f"Known are {known}.")


def weights_of(what: str | Mapping[str, float]) -> dict[str, float]:
    """All eight weights of an emotion, of a preset or of a mixture. Raises UserError as `all_weights` does."""
    if isinstance(what, str) and what.upper() in {preset.identifier for preset in PRESETS}:
        return preset_weights(what)
    return all_weights(what)


def all_weights(emotion: str | Mapping[str, float]) -> dict[str, float]:
    """All eight weights of one emotion (weight 1), or of a mixture (what it does not name is 0).

    Raises:
        UserError: an unknown emotion, or a weight outside 0..1.
    """
    given = {emotion: 1.0} if isinstance(emotion, str) else dict(emotion)
    given = {name.lower(): value for name, value in given.items()}
    for name, value in given.items():
        if name not in EMOTIONS:
            raise UserError(f"There is no emotion {name!r}.", f"Known are {', '.join(EMOTIONS)}.")
        if not 0.0 <= value <= 1.0:
            raise UserError(f"The weight of {name} is {value:g}.", "Give a number from 0 to 1.")
    return {name: float(given.get(name, 0.0)) for name in EMOTIONS}
