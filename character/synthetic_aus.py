"""Action units of the synthetic person, in OpenFace's intensities of 0 to 5, from the expression coefficients.

Each is linear in the shapes that are that action (left and right averaged), 5 where the shape is as far as the tables of `motion` and
`weights` take it, and cut to 0..5. Two differ: AU25 (lips part) is the distance of the inner lips, 5 at 15 mm; AU45 (blink) is 2 with shut
lids, where OpenFace's users take a blink as full, so that `FaceData.aus` gives the lids' closure itself. It is what a face shows and
not what was asked of it: an emotion's brows count.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .face_model import FloatArray

# Action unit: shapes and their weights in intensities of 5; `*` means the mean of both sides.
_SHAPES: dict[int, dict[str, float]] = {
    1: {"browInnerUp*": 1.0}, 2: {"browOuterUp*": 1.0}, 4: {"browDown*": 1 / 1.2}, 5: {"eyeWide*": 1.0}, 6: {"cheekRaiser*": 1 / 0.8},
    7: {"eyeSquint*": 1 / 0.9}, 9: {"noseSneer*": 1.0}, 10: {"mouthUpperUp*": 1.0}, 12: {"mouthSmile*": 1.0}, 14: {"mouthDimple*": 1.0},
    15: {"mouthFrown*": 1.0}, 17: {"mouthShrugLower": 1.0}, 20: {"mouthStretch*": 1.0},
    23: {"mouthPress*": 0.7, "mouthRollUpper": 0.5, "mouthRollLower": 0.5}, 26: {"jawOpen": 1 / 0.6}, 45: {"eyeBlink*": 0.4},
}  # fmt: skip
OPEN_METRES = 0.015


def action_units(coefficients: FloatArray, names: Sequence[str], gap: FloatArray) -> dict[str, FloatArray]:
    """`AU01` ... -> [F], from coefficients [F,C] by name and the lips' distance gap [F] in m (see `motion.Actor.gap`)."""
    column = {name: coefficients[:, i] for i, name in enumerate(names)}

    def shape(name: str) -> FloatArray:
        return 0.5 * (column[f"{name[:-1]}_L"] + column[f"{name[:-1]}_R"]) if name.endswith("*") else column[name]

    found = {f"AU{unit:02d}": 5 * sum(weight * shape(name) for name, weight in shapes.items()) for unit, shapes in _SHAPES.items()}
    found["AU25"] = 5 * gap / OPEN_METRES
    return {name: np.clip(found[name], 0, 5).astype(np.float32) for name in sorted(found)}
