"""What all providers start from: spectrum, level, pitch and presence of speech, 100 times a second.

Everything is a function of the sound's samples alone. Work is done in pieces of 30 s, so that an hour of sound needs
little more than its samples and features: 300 bytes a frame.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from weakref import WeakKeyDictionary

import numpy as np
import torch
from scipy.fft import irfft, rfft
from scipy.ndimage import maximum_filter1d, median_filter, uniform_filter1d

from ..audio import Sound
from .torchaudio_parts import transforms

RATE = 100.0  # frames a second; frame i is centred on sample 160 i
HOP, FFT, WINDOW = 160, 512, 400
MELS, COARSE_MELS = 40, 26
LOW_HZ, HIGH_HZ = 80.0, 7600.0
PIECE = 3000  # frames
SILENT_DB = -62.0  # RMS below this (dB of full scale) is silence in any file
RANGE_DB = 38.0  # and so is what lies this far below the file's own loud passages
FLOOR = 1e-10  # power added before the logarithm
PRIOR_FRAMES = 60.0  # weight of the prior in a file's mean and deviation: matters for sounds under a second
SILENCE_MEL = -2.5  # normalised log-mel of silence
PITCH_LOW, PITCH_HIGH = 65.0, 420.0
PITCH_WINDOW = 800  # samples


@dataclass(frozen=True, eq=False)
class Analysis:
    """Features of a sound at 100 Hz, F = samples / 160 + 1 frames.

    Attributes:
        mel: [F,40] natural log-mel power (80 to 7600 Hz), mean 0 and deviation 1 over the file's speech, pulled to
            -2.5 where `presence` is 0.
        coarse_mel: [F,26] the same with 26 bands.
        level: [F] loudness against the file's loud passages, in units of 20 dB, within -2..0.5; -2 in silence.
        presence: [F] 0..1; 0 in silence, judged absolutely and against the file's own level, held for 80 ms.
        pitch: [F] natural log of F0 in Hz, carried through unvoiced frames.
        voicing: [F] 0..1, height of the autocorrelation peak.
        energy_db: [F] RMS in dB of full scale.
    """

    mel: np.ndarray
    coarse_mel: np.ndarray
    level: np.ndarray
    presence: np.ndarray
    pitch: np.ndarray
    voicing: np.ndarray
    energy_db: np.ndarray

    def part(self, start: int, stop: int) -> Analysis:
        """Frames start..stop, views of the same memory."""
        return Analysis(*(getattr(self, item.name)[start:stop] for item in fields(self)))


_known: WeakKeyDictionary[Sound, Analysis] = WeakKeyDictionary()


def analyse(sound: Sound) -> Analysis:
    """Analyse a sound; the providers of one avatar share the result, which lives as long as the sound."""
    if sound not in _known:
        _known[sound] = _analyse(sound)
    return _known[sound]


def pieces(frames: int) -> Iterator[tuple[int, int]]:
    """Start and stop of each piece of the work."""
    for start in range(0, frames, PIECE):
        yield start, min(start + PIECE, frames)


def _analyse(sound: Sound) -> Analysis:
    frames = len(sound.samples) // HOP + 1
    mel, coarse = np.empty((frames, MELS), np.float32), np.empty((frames, COARSE_MELS), np.float32)
    power, pitch, voicing = (np.empty(frames, np.float32) for _ in range(3))
    banks = [mel_bank(MELS), mel_bank(COARSE_MELS)]
    for start, stop in pieces(frames):
        piece = excerpt(sound.samples, start * HOP - FFT // 2, stop * HOP + FFT // 2)
        with torch.inference_mode():
            for bank, out in zip(banks, (mel, coarse)):
                out[start:stop] = (bank(torch.from_numpy(piece)) + FLOOR).log().T[: stop - start].numpy()
        power[start:stop] = _windows(piece[(FFT - WINDOW) // 2 :], WINDOW, stop - start, np.float64).var(1)
        piece = excerpt(sound.samples, start * HOP - PITCH_WINDOW // 2, stop * HOP + PITCH_WINDOW // 2)
        pitch[start:stop], voicing[start:stop] = _pitch(_windows(piece, PITCH_WINDOW, stop - start, np.float32))
    energy = 10 * np.log10(power + FLOOR)
    heard = energy > SILENT_DB
    loud = float(np.percentile(energy[heard], 95)) if heard.any() else 0.0
    threshold = max(SILENT_DB, loud - RANGE_DB)
    presence = maximum_filter1d(((energy - threshold) / 6 + 0.5).clip(0, 1), 17)
    presence = uniform_filter1d(presence, 5).astype(np.float32)
    level = np.where(presence > 0, ((energy - loud) / 20).clip(-2, 0.5), -2).astype(np.float32)
    level = presence * level - 2 * (1 - presence)
    voicing = voicing * (energy > threshold)
    speech = energy > threshold
    for features in (mel, coarse):
        _normalise(features, speech, presence, loud)
    return Analysis(
        mel,
        coarse,
        level,
        presence,
        _carry(pitch, voicing),
        voicing.astype(np.float32),
        energy.astype(np.float32),
    )


def mel_bank(bands: int) -> torch.nn.Module:
    """Power spectra of that many mel bands from samples at 16 kHz."""
    return transforms().MelSpectrogram(
        16000, n_fft=FFT, win_length=WINDOW, hop_length=HOP, f_min=LOW_HZ, f_max=HIGH_HZ, n_mels=bands, center=False
    )


def excerpt(samples: np.ndarray, start: int, stop: int) -> np.ndarray:
    """Samples start..stop, zeros where the sound has none."""
    inside = samples[max(start, 0) : max(min(stop, len(samples)), 0)]
    return np.pad(inside, (max(-start, 0), max(stop - max(start, 0) - len(inside), 0)))


def _windows(piece: np.ndarray, length: int, count: int, dtype: type) -> np.ndarray:
    return np.lib.stride_tricks.sliding_window_view(piece, length)[: count * HOP : HOP].astype(dtype)


def _pitch(windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """F0 [n] in Hz and height [n] of the autocorrelation peak of windows [n,800], normalised for the window."""
    shape = np.hanning(PITCH_WINDOW).astype(np.float32)
    size = 2048
    own = irfft(np.abs(rfft(shape, size)) ** 2)[: PITCH_WINDOW]
    spectrum = rfft((windows - windows.mean(1, keepdims=True)) * shape, size)
    correlation = irfft(np.abs(spectrum) ** 2, axis=1)[:, : PITCH_WINDOW] / np.maximum(own, 1e-6)
    correlation /= correlation[:, :1] + 1e-9
    low, high = int(16000 / PITCH_HIGH), int(16000 / PITCH_LOW)
    lags = np.arange(low, high)
    found = correlation[:, low:high]
    best = (found * (1 - 0.06 * np.log2(lags / low))).argmax(1)  # the shorter of two equal periods
    return 16000.0 / lags[best], np.take_along_axis(found, best[:, None], 1)[:, 0].clip(0, 1)


def _carry(pitch: np.ndarray, voicing: np.ndarray) -> np.ndarray:
    """Log pitch, smoothed, and linear between voiced frames."""
    voiced = np.flatnonzero(voicing > 0.6)
    if not len(voiced):
        return np.full(len(pitch), np.log(140.0), np.float32)
    smooth = median_filter(np.log(pitch[voiced]), 5, mode="nearest")
    return np.interp(np.arange(len(pitch)), voiced, smooth).astype(np.float32)


def _normalise(mel: np.ndarray, speech: np.ndarray, presence: np.ndarray, loud: float) -> None:
    """Log-mel to mean 0, deviation 1 over speech, in place; short sounds lean on a prior of falling spectrum at their level."""
    frames, bands = mel.shape
    prior_mean = loud * np.log(10) / 10 + np.linspace(1.0, -4.0, bands)
    prior_deviation = 2.0
    weight = float(speech.sum())
    total = weight + PRIOR_FRAMES

    def over_speech(value: Callable[[np.ndarray], np.ndarray]) -> np.ndarray:
        return sum((value(mel[a:b][speech[a:b]].astype(np.float64)).sum(0) for a, b in pieces(frames)), np.zeros(bands))

    own_mean = over_speech(lambda part: part) / max(weight, 1.0)
    mean = (weight * own_mean + PRIOR_FRAMES * prior_mean) / total
    variance = (over_speech(lambda part: (part - own_mean) ** 2) + PRIOR_FRAMES * prior_deviation**2) / total
    for a, b in pieces(frames):
        normalised = ((mel[a:b] - mean) / np.sqrt(variance)).clip(-4, 4)
        mel[a:b] = normalised * presence[a:b, None] + SILENCE_MEL * (1 - presence[a:b, None])
