"""Visemes and emotions as coefficients of the face model, and the small inputs beside them (blink, brows).

All tables were tuned by eye on renders. A name that ends in `*` stands for both sides.
"""

from __future__ import annotations

from collections.abc import Mapping

from engine.priors.mouths import MOUTHS

Coefficients = dict[str, float]


def both_sides(table: Mapping[str, float]) -> Coefficients:
    """Expand `name*` to `name_L` and `name_R`."""
    expanded: Coefficients = {}
    for name, value in table.items():
        for full in ((name[:-1] + "_L", name[:-1] + "_R") if name.endswith("*") else (name,)):
            expanded[full] = expanded.get(full, 0.0) + value
    return expanded


def combine(*weighted: tuple[float, Mapping[str, float]]) -> Coefficients:
    """Sum of (weight, coefficients) pairs."""
    total: Coefficients = {}
    for weight, coefficients in weighted:
        for name, value in coefficients.items():
            total[name] = total.get(name, 0.0) + weight * value
    return total


NEUTRAL: Coefficients = {"mouthClose": 0.04}
"""The rest pose of the avatar: the face model's own lips stand slightly open."""

# Full strength; a share of an emotion is the same share of every weight.
_EMOTIONS: dict[str, dict[str, float]] = {
    "neutral": {},
    "happy": {
        "mouthSmile*": 0.85, "mouthDimple*": 0.25, "cheekRaiser*": 0.55, "cheekSquint*": 0.45, "eyeSquint*": 0.35,
        "mouthUpperUp*": 0.30, "mouthLowerDown*": 0.15, "browOuterUp*": 0.12, "jawOpen": 0.07,
    },
    "sad": {
        "browInnerUp*": 1.0, "browDown*": 0.30, "mouthFrown*": 0.85, "mouthShrugLower": 0.50, "mouthPress*": 0.15,
        "eyeSquint*": 0.30, "eyeBlink*": 0.18, "eyeLookDown*": 0.25,
        "gazePitch": -2.75,  # with the 6.25 degrees of eyeLookDown: 9 degrees down
    },
    "angry": {
        "browDown*": 1.6, "browInnerUp*": -0.25, "noseSneer*": 0.60, "eyeSquint*": 0.45, "eyeWide*": 0.25,
        "mouthPress*": 0.60, "mouthFrown*": 0.55, "mouthRollUpper": 0.20, "mouthShrugLower": 0.30, "jawForward": 0.25,
        "cheekRaiser*": 0.15,
    },
    "fear": {
        "browInnerUp*": 1.0, "browOuterUp*": 0.45, "browDown*": 0.40, "eyeWide*": 1.0, "mouthStretch*": 0.75,
        "jawOpen": 0.22, "mouthLowerDown*": 0.35, "mouthFrown*": 0.25,
    },
    "disgusted": {
        "noseSneer*": 1.0, "mouthUpperUp*": 0.65, "browDown*": 0.90, "eyeSquint*": 0.60, "cheekRaiser*": 0.50,
        "mouthFrown*": 0.50, "mouthShrugLower": 0.40,
    },
    "surprised": {"browInnerUp*": 0.9, "browOuterUp*": 1.0, "eyeWide*": 1.0, "jawOpen": 0.48, "mouthFunnel": 0.20},
    "contempt": {
        "mouthSmile_L": 0.60, "mouthDimple_L": 0.80, "mouthPress_L": 0.40, "cheekSquint_L": 0.40, "eyeSquint*": 0.35,
        "browDown_R": 0.30, "browOuterUp_L": 0.35, "mouthLeft": 0.10, "mouthShrugLower": 0.15,
    },
}

VISEMES: dict[str, Coefficients] = {name: both_sides(table) for name, table in MOUTHS.items()}
"""Twenty mouth shapes by name. `sil` is the closed mouth; the vowels and consonants replace it (they carry no mouthClose)."""

EMOTIONS: dict[str, Coefficients] = {name: both_sides(table) for name, table in _EMOTIONS.items()}
"""The eight emotions at full strength, as what they add to a viseme."""

BLINK: Coefficients = both_sides({"eyeBlink*": 1.0})
"""Closed lids (AU45 = 1)."""

BROW_SHAPES: tuple[str, ...] = tuple(both_sides({"browInnerUp*": 1.0, "browDown*": 1.0, "browOuterUp*": 1.0}))
"""The shapes that the brow inputs drive: AU1 browInnerUp, AU4 browDown, AU2 browOuterUp."""
