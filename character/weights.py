"""Visemes and emotions as coefficients of the face model, and the small inputs beside them (blink, brows).

All tables were tuned by eye on renders. A name that ends in `*` stands for both sides.
"""

from __future__ import annotations

from collections.abc import Mapping

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

_VISEMES: dict[str, dict[str, float]] = {
    "sil": {"mouthClose": 0.04},
    "aa": {"jawOpen": 0.58, "mouthLowerDown*": 0.20, "mouthUpperUp*": 0.12},
    "ae": {"jawOpen": 0.42, "mouthStretch*": 0.28, "mouthLowerDown*": 0.35, "mouthUpperUp*": 0.25, "mouthSmile*": 0.15},
    "ah": {"jawOpen": 0.34, "mouthLowerDown*": 0.15, "mouthUpperUp*": 0.08},
    "ao": {"jawOpen": 0.45, "mouthFunnel": 0.50, "mouthPucker": 0.20},
    "eh": {"jawOpen": 0.28, "mouthStretch*": 0.20, "mouthLowerDown*": 0.30, "mouthUpperUp*": 0.18, "mouthSmile*": 0.10},
    "er": {"jawOpen": 0.18, "mouthFunnel": 0.40, "mouthPucker": 0.25},
    "ih": {"jawOpen": 0.18, "mouthStretch*": 0.20, "mouthLowerDown*": 0.28, "mouthUpperUp*": 0.18, "mouthSmile*": 0.10},
    "iy": {"jawOpen": 0.10, "mouthSmile*": 0.35, "mouthStretch*": 0.30, "mouthLowerDown*": 0.40, "mouthUpperUp*": 0.28},
    "ow": {"jawOpen": 0.30, "mouthFunnel": 0.35, "mouthPucker": 0.55},
    "uw": {"jawOpen": 0.10, "mouthPucker": 0.85, "mouthFunnel": 0.22},
    "mbp": {"jawOpen": 0.10, "mouthClose": 0.10, "mouthPress*": 0.40, "mouthRollUpper": 0.18, "mouthRollLower": 0.22},
    "fv": {"jawOpen": 0.10, "mouthRollLower": 0.50, "mouthUpperUp*": 0.35, "mouthShrugLower": 0.15},
    "th": {"jawOpen": 0.17, "mouthLowerDown*": 0.25, "mouthUpperUp*": 0.20, "tongueOut": 0.9},
    "sz": {"jawOpen": 0.06, "mouthStretch*": 0.25, "mouthSmile*": 0.15, "mouthLowerDown*": 0.50, "mouthUpperUp*": 0.30},
    "shch": {"jawOpen": 0.08, "mouthFunnel": 0.70, "mouthPucker": 0.35},
    "lntd": {"jawOpen": 0.18, "mouthLowerDown*": 0.25, "mouthUpperUp*": 0.20, "mouthStretch*": 0.08, "tongueUp": 1.0},
    "r": {"jawOpen": 0.14, "mouthFunnel": 0.35, "mouthPucker": 0.45},
    "w": {"jawOpen": 0.06, "mouthPucker": 1.0, "mouthFunnel": 0.10},
    "kg": {"jawOpen": 0.24, "mouthLowerDown*": 0.20, "mouthStretch*": 0.10, "mouthUpperUp*": 0.08},
}

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

VISEMES: dict[str, Coefficients] = {name: both_sides(table) for name, table in _VISEMES.items()}
"""Twenty mouth shapes by name. `sil` is the closed mouth; the vowels and consonants replace it (they carry no mouthClose)."""

EMOTIONS: dict[str, Coefficients] = {name: both_sides(table) for name, table in _EMOTIONS.items()}
"""The eight emotions at full strength, as what they add to a viseme."""

BLINK: Coefficients = both_sides({"eyeBlink*": 1.0})
"""Closed lids (AU45 = 1)."""

BROW_SHAPES: tuple[str, ...] = tuple(both_sides({"browInnerUp*": 1.0, "browDown*": 1.0, "browOuterUp*": 1.0}))
"""The shapes that the brow inputs drive: AU1 browInnerUp, AU4 browDown, AU2 browOuterUp."""
