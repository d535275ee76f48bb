"""How the demo person's face really moves: coefficients of the face model over time, and what they do to the bound splats.

This is the truth that the networks learn: articulation (visemes after co-articulation) with its loudness, emotions in continuous
intensities and mixtures, and the action unit inputs, together in one set of coefficients a frame. Lips close on p b m whatever the
emotion is, and lids close on a blink whatever they were doing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy.ndimage import gaussian_filter1d

from engine.avatar import EMOTIONS
from engine.avatar.gaussians import softplus_inverse
from engine.priors.visemes import VOWELS
from engine.views.content import MBP, SIL, VISEMES

from . import weights
from .face_model import CM_PER_METRE, FaceModel, FloatArray
from .person_binding import Binding, deform, place_points

EXTRA = ("tongueUp", "tongueOut", "gazePitch")

# An emotion colours speech, it does not speak: its jaw and lip opening are held back (the slider is to move brows, eyes, cheeks and
# the corners of the mouth), and the inside of the mouth, which knows no emotion in this method, must still fit.
EMOTION_SHARE = {
    "jawOpen": 0.22, "mouthLowerDown": 0.45, "mouthUpperUp": 0.55, "mouthStretch": 0.75, "mouthRollUpper": 0.8, "jawForward": 0.0
}  # fmt: skip
# Of what an emotion does, this much goes where the lips must meet.
OPENERS = {"jawOpen": 1.0, "mouthLowerDown": 1.0, "mouthUpperUp": 1.0, "mouthFunnel": 1.0, "mouthStretch": 0.5, "mouthFrown": 0.3}

OPENING_SHARE = 0.25  # of what an emotion adds to the opening of speaking lips

# AU1, 4, 5, 6, 7, 45 at 1.
AUS: tuple[weights.Coefficients, ...] = tuple(
    weights.both_sides(table)
    for table in (
        {"browInnerUp*": 1.0, "browOuterUp*": 0.35},
        {"browDown*": 1.2, "browInnerUp*": -0.15},
        {"eyeWide*": 1.0},
        {"cheekRaiser*": 0.8, "cheekSquint*": 0.5, "eyeSquint*": 0.2},
        {"eyeSquint*": 0.9},
        {"eyeBlink*": 1.0},
    )
)


@dataclass(frozen=True)
class Performance:
    """F frames of everything that moves the face: articulation [F,20] (rows of sum 1), loudness [F] (see `articulation_strength`),
    emotion [F,8] (weights times intensity), au [F,6]."""

    articulation: FloatArray
    strength: FloatArray
    emotion: FloatArray
    au: FloatArray


def coefficient_names(model: FaceModel) -> tuple[str, ...]:
    """Order of the coefficients."""
    return (*model.expression_names, *EXTRA)


def articulation_strength(level: NDArray) -> FloatArray:
    """How wide vowels are made [F], from the level (20 dB units) at 100 Hz: soft speech moves the lips less."""
    return np.clip(1.12 + 0.45 * gaussian_filter1d(np.asarray(level, np.float64), 4), 0.65, 1.12).astype(np.float32)


class Actor:
    """Turns performances into coefficients of one face model."""

    def __init__(self, model: FaceModel) -> None:
        self.names = coefficient_names(model)
        self._visemes = self._rows([weights.VISEMES[name] for name in VISEMES])
        self._emotions = self._rows([weights.EMOTIONS[name] for name in EMOTIONS])
        self._emotions *= np.array([_lookup(EMOTION_SHARE, name, 1.0) for name in self.names])
        self._openers = np.array([_lookup(OPENERS, name, 0.0) for name in self.names])
        self._aus = self._rows(AUS)
        self._vowel = np.array([name in VOWELS for name in VISEMES])
        self._blink = np.array([name.startswith("eyeBlink") for name in self.names])
        upper, lower = model.landmarks[[61, 62, 63]], model.landmarks[[67, 66, 65]]
        self._rest_gap = float((model.rest[upper, 1] - model.rest[lower, 1]).mean())
        self._gap = np.zeros(len(self.names))
        offsets = (model.expressions[:, upper, 1] - model.expressions[:, lower, 1]).mean(1) / CM_PER_METRE
        self._gap[: len(offsets)] = offsets
        self._close = self.names.index("mouthClose")
        self._lids = np.array([name.startswith(("eyeWide", "eyeSquint")) for name in self.names])

    def _rows(self, tables: Sequence[weights.Coefficients]) -> NDArray[np.float64]:
        return np.array([[table.get(name, 0.0) for name in self.names] for table in tables])

    def coefficients(self, p: Performance) -> FloatArray:
        """[F,C] in the order of `names`."""
        speech = (p.articulation * np.where(self._vowel, p.strength[:, None], 1.0)) @ self._visemes
        closed = np.clip(1.1 * p.articulation[:, MBP : MBP + 1], 0, 1)
        emotion = p.emotion @ self._emotions
        # The rest mouth is closed too, but there an emotion may part the lips a little.
        emotion *= 1 - self._openers * np.maximum(closed, 0.3 * p.articulation[:, SIL : SIL + 1])
        total = speech + emotion + p.au[:, :5] @ self._aus[:5]
        shut = p.au[:, 5:6]
        total = np.where(self._blink, 1 - (1 - total.clip(0, 1)) * (1 - shut), total)
        total = np.where(self._lids, total * (1 - shut), total)
        # The lips' opening is speech's, with a part of what the emotion makes of it; mouthClose puts it right.
        gap, spoken = total @ self._gap, speech @ self._gap
        wanted = spoken + OPENING_SHARE * (1 - closed[:, 0]) * (gap - spoken)
        total[:, self._close] += (wanted - gap) / self._gap[self._close]
        return total.astype(np.float32)

    def gap(self, coefficients: NDArray) -> FloatArray:
        """Distance [F] in m between the inner lips at their middle, for coefficients [F,C]; below 0 they press."""
        return (self._rest_gap + coefficients @ self._gap).astype(np.float32)

    def at_rest(self) -> FloatArray:
        """[C]: silent, neutral, eyes open."""
        sil = np.eye(len(VISEMES), dtype=np.float32)[SIL : SIL + 1]
        zero = np.zeros((1, 8), np.float32)
        return self.coefficients(Performance(sil, np.ones(1, np.float32), zero, zero[:, :6]))[0]


def _lookup(table: dict[str, float], name: str, otherwise: float) -> float:
    stem = name[:-2] if name.endswith(("_L", "_R")) else name
    return table.get(stem, otherwise)


@dataclass
class BoundMotion:
    """Exact motion of bound splats, and its best linear fit over the coefficients.

    basis [C,M,W]: change a unit of each coefficient, W = 3 (means, m), 4 (quats, from the quats at rest) and 3 (raw scales).
    """

    basis: FloatArray
    error: float


def rest_means(binding: Binding) -> FloatArray:
    """Splat centres [N,3] at rest, avatar space."""
    return place_points(binding.offset, binding.rest_vertices, binding.tri, binding.bary)


WIDTHS = {"means": slice(0, 3), "quats": slice(3, 7), "scales": slice(7, 10)}


def exact_motion(model: FaceModel, binding: Binding, names: Sequence[str], coefficients: NDArray) -> FloatArray:
    """[F,M,10] change of means (m), quats and raw scales from rest, for coefficients [F,C]."""
    at_rest = np.concatenate(
        [rest_means(binding), binding.quats, softplus_inverse(binding.scales)], axis=1
    )
    out = np.empty((len(coefficients), *at_rest.shape), np.float32)
    for row, frame in zip(out, coefficients):
        posed = model.pose({name: float(value) for name, value in zip(names, frame) if value})
        means, quats, scales = deform(binding, posed)
        row[:] = np.concatenate([means, quats, softplus_inverse(scales)], axis=1) - at_rest
    return out


def fit_motion(model: FaceModel, binding: Binding, actor: Actor, samples: NDArray) -> BoundMotion:
    """Fit the splats' motion as linear in the coefficients, at performances like those to be learned.

    Args:
        samples: [F,C] coefficients, F several times C.
    """
    exact = exact_motion(model, binding, actor.names, samples)
    offsets = (samples - actor.at_rest()).astype(np.float64)
    flat = exact.reshape(len(samples), -1)
    ridge = offsets.T @ offsets + 1e-3 * np.eye(offsets.shape[1])
    basis = np.linalg.solve(ridge, offsets.T @ flat).astype(np.float32)
    error = float(np.sqrt(np.mean((offsets.astype(np.float32) @ basis - flat).reshape(exact.shape)[..., :3] ** 2) * 3))
    return BoundMotion(basis.reshape(len(actor.names), *exact.shape[1:]), error)
