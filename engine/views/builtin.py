"""Providers that need no weights: mel window, cepstrum, prosody."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.fft import dct
from scipy.ndimage import uniform_filter1d

from ..audio import Sound
from .analysis import COARSE_MELS, RATE, Analysis, analyse, pieces
from .track import Track

NEIGHBOURS, STEPS = 8, 16
FRAME = 1 / 25  # seconds between neighbouring windows, whatever the scene's frame rate
STEP = 0.02  # seconds between a window's time steps


class MelWindow:
    """`audio`: what the baseline's audio net sees (method, "audio window").

    A frame at t is [8,29,16]: windows at t-4/25 .. t+3/25 s; 29 features: 26 normalised log-mel bands, level against
    the file's loud passages (20 dB units), presence of speech (0..1), voicing (0..1); 16 steps of 20 ms round each
    window's centre. Loudness is among them: real mouths follow it as closely as they follow the phones.
    """

    view, name, version, weights = "audio", "mel", 1, ""
    shape, rate = (NEIGHBOURS, COARSE_MELS + 3, STEPS), RATE

    def track(self, sound: Sound) -> Track:
        """The windows over the whole sound."""
        a = analyse(sound)
        features = np.column_stack([a.coarse_mel, a.level, a.presence, a.voicing]).astype(np.float32, copy=False)
        silence = np.array([-2.5] * COARSE_MELS + [-2.0, 0.0, 0.0], np.float32)
        offsets = (np.arange(NEIGHBOURS) - 4)[:, None] * FRAME + (np.arange(STEPS) - (STEPS - 1) / 2) * STEP
        return Track(features, RATE, sound.duration, silence, self.shape, offsets, feature_axis=1)


class Cepstrum:
    """`exp` without weights: [1,64] = 20 cepstral coefficients, their change over 40 ms and over 120 ms, level, presence,
    voicing and change of level."""

    view, name, version, weights = "exp", "mfcc", 1, ""
    shape, rate = (1, 64), RATE

    def track(self, sound: Sound) -> Track:
        """The cepstrum over the whole sound."""

        def features(a: Analysis) -> np.ndarray:
            cepstrum = dct(a.mel, axis=1, norm="ortho")[:, :20] / 3
            return np.column_stack(
                [cepstrum, _change(cepstrum, 2), _change(cepstrum, 6), a.level, a.presence, a.voicing, _change(a.level, 2)]
            )

        silence = np.zeros(64, np.float32)
        silence[0] = dct(np.full(40, -2.5), norm="ortho")[0] / 3
        silence[60] = -2.0
        return Track(in_pieces(analyse(sound), features, 64, 6), RATE, sound.duration, silence, self.shape)


class Prosody:
    """`style` (f_tone) without weights: [1,64], how it is said, not what.

    Over windows of 1 and 2 s, speech only, 32 numbers each: level (mean, deviation, lowest, highest fifth), pitch against
    the file's median (mean, deviation, slope), voicing (mean, deviation), presence, syllable-like change of level, spectral
    tilt and centroid (mean, deviation), and 16 mean bands of the normalised spectrum with its deviation.
    Pitch and spectrum are normalised by the file, which stands for its speaker.
    """

    view, name, version, weights = "style", "prosody", 1, ""
    shape, rate = (1, 64), 25.0
    stride = 4

    def track(self, sound: Sound) -> Track:
        """The prosody over the whole sound, 25 rows a second."""
        a = analyse(sound)
        middle = file_pitch(a)

        def features(part: Analysis) -> np.ndarray:
            return np.column_stack([_functionals(part, 100, middle), _functionals(part, 200, middle)])

        rows = in_pieces(a, features, 64, 104, self.stride)
        return Track(rows, self.rate, sound.duration, np.zeros(64, np.float32), self.shape)


def in_pieces(
    analysis: Analysis, features: Callable[[Analysis], np.ndarray], width: int, reach: int, stride: int = 1
) -> np.ndarray:
    """Every `stride`th row of `features` [F,width] float32, computed piece by piece.

    Args:
        features: rows of a part of the analysis, as many as it has frames.
        reach: frames on both sides that a row depends on.
    """
    frames = len(analysis.level)
    out = np.empty((-(-frames // stride), width), np.float32)
    for start, stop in pieces(frames):
        low = max(0, start - reach)
        first = -(-start // stride)  # row of the result
        rows = features(analysis.part(low, min(frames, stop + reach)))[first * stride - low : stop - low : stride]
        out[first : first + len(rows)] = rows
    return out


def _change(values: np.ndarray, reach: int) -> np.ndarray:
    """Difference of the values `reach` frames after and before."""
    padded = np.pad(values, [(reach, reach)] + [(0, 0)] * (values.ndim - 1), mode="edge")
    return padded[2 * reach :] - padded[: -2 * reach]


def file_pitch(a: Analysis) -> float:
    """Median log pitch over the file's voiced frames."""
    voiced = a.voicing > 0.6
    return float(np.median(a.pitch[voiced])) if voiced.any() else float(np.log(140.0))


def _functionals(a: Analysis, size: int, middle: float) -> np.ndarray:
    """[F,32] statistics over `size` frames round each frame, 0 in silence; pitch against `middle` (log Hz)."""
    speech = a.presence * (a.level > -1.75)
    share = _mean(speech, size)

    def over(values: np.ndarray, weights: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        total = _mean(weights, size) + 0.02  # leans on 0 where there is little
        weights = weights.reshape(-1, *[1] * (values.ndim - 1))
        total = total.reshape(weights.shape)
        mean = _mean(values * weights, size) / total
        return mean, np.sqrt(np.maximum(_mean(values**2 * weights, size) / total - mean**2, 0))

    voiced = speech * (a.voicing > 0.6)
    pitch = (a.pitch - middle).clip(-1, 1)
    bands = a.mel.reshape(-1, 8, 5).mean(2)
    tilt = bands[:, :4].mean(1) - bands[:, 4:].mean(1)
    weight = np.exp(bands)
    centroid = (weight * np.linspace(-1, 1, 8)).sum(1) / weight.sum(1)
    level, level_spread = over(a.level + 0.5, speech)
    pitch_mean, pitch_spread = over(pitch, voiced)
    tilt_mean, tilt_spread = over(tilt, speech)
    centroid_mean, centroid_spread = over(centroid, speech)
    voicing, voicing_spread = over(a.voicing, speech)
    change = _mean(np.abs(_change(a.level, 3)) * speech, size)
    band_mean, band_spread = over(bands, speech)
    # Slope of the pitch: covariance with time inside the window.
    frames = np.arange(len(pitch)) / size
    rise = (_mean(pitch * voiced * frames, size) - frames * _mean(pitch * voiced, size)) / (_mean(voiced, size) + 0.02)
    single = [
        level, level_spread, 3 * pitch_mean, 5 * pitch_spread, 12 * rise, tilt_mean, tilt_spread, centroid_mean,
        centroid_spread, voicing, voicing_spread, share, 2 * change, _mean(voiced, size), level * level_spread,
        3 * pitch_mean * level,
    ]  # fmt: skip
    return np.column_stack([*single, band_mean, band_spread]).clip(-3, 3) * (share > 0.02)[:, None]


def _mean(values: np.ndarray, size: int) -> np.ndarray:
    return uniform_filter1d(np.asarray(values, np.float64), size, axis=0, mode="constant")
