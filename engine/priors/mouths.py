"""What a mouth does for each viseme, as expression coefficients and as what is seen on its landmarks.

Expression coefficients carry the names of ARKit's shapes; a name that ends in `*` stands for both sides, which move alike here.
"""

from __future__ import annotations

import zlib

import numpy as np

from ..views.content import VISEMES
from .espeak import Manner

MOUTHS: dict[str, dict[str, float]] = {
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
"""Twenty mouth shapes by viseme, tuned by eye on renders. `sil` is the closed mouth; the others carry no mouthClose of its own."""

EXPRESSION = tuple(sorted({name for table in MOUTHS.values() for name in table}))
"""Order of the coefficients of synthetic voices."""
TABLE = np.array([[MOUTHS[name].get(one, 0.0) for one in EXPRESSION] for name in VISEMES], np.float32)
"""[20,C] coefficients of the visemes."""

_GEOMETRY: dict[str, tuple[float, float, float]] = {
    "jawOpen": (0.600, -0.118, 0.032), "mouthClose": (-0.771, 0.059, 0.119), "mouthFunnel": (0.225, -0.142, 0.053),
    "mouthLowerDown*": (0.121, -0.001, 0.003), "mouthPress*": (-0.045, -0.005, -0.047), "mouthPucker": (-0.027, -0.192, 0.129),
    "mouthRollLower": (-0.051, 0.014, -0.125), "mouthRollUpper": (0.033, 0.066, -0.150), "mouthShrugLower": (-0.133, 0.029, -0.017),
    "mouthSmile*": (-0.004, 0.293, -0.017), "mouthStretch*": (-0.007, 0.273, -0.022), "mouthUpperUp*": (0.145, 0.007, 0.016),
}  # fmt: skip
GEOMETRY = np.array([_GEOMETRY.get(name, (0.0, 0.0, 0.0)) for name in EXPRESSION], np.float32)
"""[C,3]: what a unit of each coefficient adds to `mouth_tracks`; measured on ICT-FaceKit's mean face."""
REST = np.array([0.025, 1.0, 0.437], np.float32)
"""`mouth_tracks` of that face at rest."""

VOICE_SPREAD, SMILE_SPREAD = 0.25, 0.12
_SMILE, _FROWN = EXPRESSION.index("mouthSmile*"), EXPRESSION.index("mouthShrugLower")


def spoken_expression(articulation: np.ndarray, level: np.ndarray) -> np.ndarray:
    """Coefficients [F,C] of an average speaker for articulation weights [F,20]; soft speech (level [F], 20 dB units) opens less."""
    strength = np.clip(1.12 + 0.45 * level, 0.65, 1.12)[:, None]
    return (strength * (articulation @ TABLE)).astype(np.float32)


def personal_expression(expression: np.ndarray, manner: Manner) -> np.ndarray:
    """What a synthetic voice's own face makes of an average speaker's coefficients [F,C].

    Nobody has seen a synthesiser's face, so it is given one, for the style encoder to find out: by the voice's name, drawn once, how
    far it opens, rounds and spreads its lips and whether it smiles; by the manner, that loud and lively speech moves more and
    smiles, high speech spreads the lips.
    """
    voice = voice_name(manner)
    random = np.random.default_rng(zlib.crc32(voice.encode()))
    gains = np.exp(random.normal(0, VOICE_SPREAD, len(EXPRESSION)))
    smile = random.normal(0, SMILE_SPREAD)
    loud, lively, high = (manner.volume - 100) / 60, (manner.range - 50) / 25, (manner.pitch - 50) / 25
    gains = gains * np.exp(0.15 * loud + 0.08 * lively)
    gains[EXPRESSION.index("mouthStretch*")] *= np.exp(0.2 * high)
    out = expression * gains
    out[:, _SMILE] += smile + 0.08 * lively
    out[:, _FROWN] -= 0.05 * lively
    return out.astype(np.float32)


def voice_name(manner: Manner) -> str:
    """Who speaks: espeak-ng's variant, whatever the language."""
    return manner.voice.partition("+")[2]


def mouth_tracks(expression: np.ndarray) -> np.ndarray:
    """[F,3] of coefficients [F,C]: gap between the inner lips, width between the corners, thickness of both lips; 1 is the width at rest."""
    return np.maximum(REST + expression @ GEOMETRY, 0.0).astype(np.float32)


LANDMARK_EXPRESSION = ("opening", "width", "lips", "corners", "brow_inner", "brow_outer", "eyes", "chin")


def landmark_expression(landmarks: np.ndarray) -> np.ndarray:
    """Coefficients [F,8], named by LANDMARK_EXPRESSION, of 68 landmarks [F,68,2] in px, where nothing better is known of a face.

    Lengths across and along the face's own upright axis (bridge of the nose to the middle of the eyes), in units of the distance
    between the eyes: the three of `mouth_tracks`, height of the mouth's corners over its middle, of inner and outer brows over the
    eyes, opening of the lids, length of the lower face.
    """
    points = np.asarray(landmarks, np.float64)
    left, right = points[:, 36:42].mean(1), points[:, 42:48].mean(1)
    across = right - left
    size = np.linalg.norm(across, axis=1, keepdims=True)
    up = np.stack([across[:, 1], -across[:, 0]], 1) / size  # pictures have y down
    height = ((points - ((left + right) / 2)[:, None]) * up[:, None]).sum(-1) / size
    tracks = np.stack(
        [
            height[:, [61, 62, 63]].mean(1) - height[:, [67, 66, 65]].mean(1),
            np.linalg.norm(points[:, 54] - points[:, 48], axis=1) / size[:, 0],
        ],
        1,
    )
    outer = height[:, [50, 51, 52]].mean(1) - height[:, [58, 57, 56]].mean(1)
    corners = height[:, [48, 54]].mean(1) - height[:, [51, 57]].mean(1)
    lids = height[:, [37, 38, 43, 44]].mean(1) - height[:, [41, 40, 47, 46]].mean(1)
    rest = [outer - tracks[:, 0], corners, height[:, [20, 21, 22, 23]].mean(1), height[:, [17, 18, 25, 26]].mean(1), lids, -height[:, 8]]
    return np.column_stack([tracks, *rest]).astype(np.float32)


OPENINGS = mouth_tracks(TABLE)[:, 0] / mouth_tracks(TABLE)[VISEMES.index("aa"), 0]
"""[20] lip opening of each viseme, 0 closed, 1 as wide as `aa`."""
