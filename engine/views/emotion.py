"""Automatic emotion without weights: arousal only, mild, and honest about it.

Loudness and pitch tell excited from calm speech; they do not tell anger from joy (a classifier trained on synthetic
prosody told the seven emotions of real actors apart little better than chance, but high from low arousal in 73 to 84 %).
So excitement is spread over happy, surprised and angry, calm over sad, neutral keeps the rest, and the confidence stays low.
"""

from __future__ import annotations

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..audio import Sound
from .analysis import analyse
from .builtin import file_pitch
from .track import EmotionTrack

STRIDE = 4
SECONDS = 0.6  # deviation of the smoothing: a mood, not a syllable
NEED = 1.5  # seconds of speech before the file's own average means much
STRONGEST = 0.45
MOST_CONFIDENT = 0.5


class Arousal:
    """`emotion`: weights [8] (neutral, happy, sad, angry, fear, disgusted, surprised, contempt), sum 1, from the level
    and pitch of speech against the file's own average."""

    view, name, version, weights = "emotion", "arousal", 1, ""
    shape, rate = (8,), 25.0

    def track(self, sound: Sound) -> EmotionTrack:
        """The weights over the whole sound, 25 rows a second."""
        a = analyse(sound)
        speech = (a.presence * (a.level > -1.75)).astype(np.float64)
        voiced = speech * (a.voicing > 0.6)
        level = _smooth(a.level, speech, float(np.average(a.level, weights=speech)) if speech.any() else 0.0)
        pitch = _smooth(a.pitch, voiced, file_pitch(a))
        presence = gaussian_filter1d(speech, SECONDS * 50, mode="constant")
        level, pitch, presence = level[::STRIDE], pitch[::STRIDE], presence[::STRIDE]
        arousal = np.tanh(2.0 * level + 3.0 * pitch)
        trust = presence.clip(0, 1) * min(1.0, speech.sum() / 100 / NEED)
        strength = STRONGEST * np.abs(arousal) * trust
        lively = (arousal > 0) * strength
        # Raised pitch leans to happy and surprised, loudness without it to angry.
        high = 0.5 + 0.5 * np.tanh(6.0 * pitch - 1.5 * level)
        weights = np.zeros((len(arousal), 8))
        weights[:, 1] = lively * (0.25 + 0.45 * high)
        weights[:, 3] = lively * 0.5 * (1 - high)
        weights[:, 6] = lively * (0.25 + 0.05 * high)
        weights[:, 2] = (arousal < 0) * strength
        weights[:, 0] = 1 - weights[:, 1:].sum(1)
        silence = np.eye(8, dtype=np.float32)[0]
        return EmotionTrack(
            weights.astype(np.float32),
            self.rate,
            sound.duration,
            silence,
            self.shape,
            confidences=(MOST_CONFIDENT * np.abs(arousal) * trust).astype(np.float32),
        )


def _smooth(values: np.ndarray, weights: np.ndarray, middle: float) -> np.ndarray:
    """Weighted moving mean of the deviation from `middle`, 0 where there is nothing to average."""
    sigma = SECONDS * 100
    total = gaussian_filter1d(weights, sigma, mode="constant")
    return gaussian_filter1d((values - middle) * weights, sigma, mode="constant") / (total + 0.03)
