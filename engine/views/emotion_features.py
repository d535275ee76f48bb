"""What emotion is heard from: windows of two seconds as statistics of pitch, energy and spectrum, and as spectrogram, MFCC and samples.

The statistics (functionals) carry most of it on small data sets; the sequences are what the paper's attention works on
(sec 2.2). Levels are relative: the gain of a recording says nothing about a mood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields

import numpy as np
import torch
from scipy.fft import dct

from ..audio import Sound
from .analysis import FFT, FLOOR, HOP, MELS, RANGE_DB, RATE, SILENT_DB, Analysis, analyse, excerpt, mel_bank

WINDOW = 200
"""Frames of 10 ms in a window."""
SAMPLES = WINDOW * HOP
CEPSTRA = 20
_BATCH = 256  # windows at once: 100 MB
_QUANTILES = (0.1, 0.5, 0.9)
_TIMBRE = ("tilt", "alpha", "hammarberg", "centroid", "flux", "high")


def functional_names() -> list[str]:
    """Names of the statistics, in the order in which `windows` gives them."""
    names = []
    for what in ("pitch", "energy"):
        names += [f"{what} {s}" for s in ("mean", "deviation", "p10", "p50", "p90", "range", "change", "change deviation", "slope")]
    names += [f"voicing {s}" for s in ("mean", "deviation", "p10")]
    names += [f"{what} {s}" for what in _TIMBRE for s in ("mean", "deviation", "p10", "p90")]
    names += [f"mfcc{i} {s}" for i in range(13) for s in ("mean", "deviation", "change") if i or s != "mean"]
    names += [f"voiced mfcc{i} mean" for i in range(1, 13)]
    names += [f"band{i}" for i in range(10)]
    names += [f"beat {hz}" for hz in ("1-3 Hz", "3-6 Hz", "6-12 Hz", "12-25 Hz")]
    return names + ["voiced share", "speech share", "voiced runs", "voiced length", "pitch jitter", "energy shimmer"]


FUNCTIONALS = len(functional_names())


@dataclass(frozen=True, eq=False)
class Windows:
    """n windows of a sound.

    Attributes:
        functionals: [n,FUNCTIONALS] float32, finite, not normalised.
        mel: [n,40,100] float32: log-mel of speech against the window's mean level, 20 ms a column; 0 in silence.
        mfcc: [n,100,20] float32.
        samples: [n,32000] float32, scaled to one RMS over speech.
        speech: [n] seconds of speech in the window.
        times: [n] seconds of the windows' middles.
    """

    functionals: np.ndarray
    mel: np.ndarray
    mfcc: np.ndarray
    samples: np.ndarray
    speech: np.ndarray
    times: np.ndarray

    def rows(self, which: np.ndarray) -> Windows:
        """Some of them."""
        return Windows(*(getattr(self, item.name)[which] for item in fields(self)))

    @staticmethod
    def joined(parts: Sequence[Windows]) -> Windows:
        """All windows of several."""
        return Windows(*(np.concatenate([getattr(part, item.name) for part in parts]) for item in fields(Windows)))


def windows(sound: Sound, starts: np.ndarray, sequences: bool = False) -> Iterator[Windows]:
    """The windows of 2 s that start at `starts` [n] seconds, in their order, some hundreds at a time.

    A window may begin before the sound and end after it: there is silence.

    Args:
        sequences: False leaves `mel`, `mfcc` and `samples` empty.
    """
    analysis = analyse(sound)
    heard = analysis.energy_db[analysis.energy_db > SILENT_DB]
    threshold = max(SILENT_DB, (float(np.percentile(heard, 95)) if len(heard) else 0.0) - RANGE_DB)
    bank = mel_bank(MELS)
    frames = np.round(np.asarray(starts) * RATE).astype(int)
    for first in range(0, len(frames), _BATCH):
        yield _windows(sound, analysis, threshold, bank, frames[first : first + _BATCH], sequences)


def clip_starts(duration: float, step: float = 1.0) -> np.ndarray:
    """Starts of the windows over a recording of `duration` seconds that is one emotion: inside it, or one round a short one."""
    spare = duration - WINDOW / RATE
    return np.array([spare / 2]) if spare <= 0.25 else np.linspace(0.0, spare, int(np.ceil(spare / step)) + 1)


def _windows(
    sound: Sound, analysis: Analysis, threshold: float, bank: torch.nn.Module, starts: np.ndarray, sequences: bool
) -> Windows:
    low, high = int(starts[0]), int(starts[-1]) + WINDOW
    piece = excerpt(sound.samples, low * HOP - FFT // 2, high * HOP + FFT // 2)
    with torch.inference_mode():
        mel = (bank(torch.from_numpy(np.ascontiguousarray(piece)))[:, : high - low] + FLOOR).log().T.numpy()

    def cut(values: np.ndarray) -> np.ndarray:
        return excerpt(values, low, high)

    inside = cut(np.ones(len(analysis.level), np.float32)) > 0
    energy = np.where(inside, cut(analysis.energy_db), -100.0)
    speech = energy > threshold
    voicing = cut(analysis.voicing)
    voiced = speech & (voicing > 0.6)
    cepstrum = dct(mel, axis=1, norm="ortho")[:, :CEPSTRA].astype(np.float32)
    power = np.exp(mel)
    places = starts - low
    index = places[:, None] + np.arange(WINDOW)
    frames = _Frames(speech[index], voiced[index])
    functionals = _functionals(frames, cut(analysis.pitch)[index], energy[index], voicing[index], mel, power, cepstrum, index)
    empty = np.zeros((len(starts), 0), np.float32)
    shown = [empty, empty, empty]
    if sequences:
        shown = _sequences(sound, frames, mel, index, starts)
    return Windows(
        np.nan_to_num(functionals).astype(np.float32),
        *shown,
        speech=(frames.speech.sum(1) / RATE).astype(np.float32),
        times=(starts + WINDOW / 2) / RATE,
    )


def _sequences(sound: Sound, frames: _Frames, mel: np.ndarray, index: np.ndarray, starts: np.ndarray) -> list[np.ndarray]:
    bands = mel[index]  # [n,200,40]
    level = frames.mean(bands.mean(2), frames.speech)[:, None, None]
    bands = np.where(frames.speech[..., None], (bands - level) / 3, 0).reshape(len(index), WINDOW // 2, 2, MELS).mean(2)
    mfcc = dct(bands, axis=2, norm="ortho")[..., :CEPSTRA]
    mfcc[..., 0] /= 4
    low, high = int(starts[0]) * HOP, (int(starts[-1]) + WINDOW) * HOP
    piece = excerpt(sound.samples, low, high)
    samples = piece[(starts * HOP - low)[:, None] + np.arange(SAMPLES)]
    mask = frames.speech.repeat(HOP, axis=1)
    power = np.sqrt((samples**2 * mask).sum(1) / np.maximum(mask.sum(1), 1) + 1e-10)
    return [
        np.ascontiguousarray(bands.transpose(0, 2, 1), np.float32),
        mfcc.astype(np.float32),
        (0.1 * samples / power[:, None]).clip(-1, 1).astype(np.float32),
    ]


class _Frames:
    """Statistics over the frames of each window that a mask picks."""

    def __init__(self, speech: np.ndarray, voiced: np.ndarray) -> None:
        self.speech, self.voiced = speech, voiced
        self.pairs = {id(mask): mask[:, 2:] & mask[:, :-2] for mask in (speech, voiced)}

    @staticmethod
    def mean(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """[n] mean of values [n,F] where mask [n,F]; 0 where there is none."""
        return (values * mask).sum(1) / np.maximum(mask.sum(1), 1)

    def deviation(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """[n] standard deviation."""
        return np.sqrt(self.mean((values - self.mean(values, mask)[:, None]) ** 2, mask))

    @staticmethod
    def quantiles(values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """[len(_QUANTILES),n]"""
        ordered = np.sort(np.where(mask, values, np.inf), axis=1)
        count = mask.sum(1)
        rows = np.arange(len(values))
        found = [ordered[rows, np.round(q * np.maximum(count - 1, 0)).astype(int)] for q in _QUANTILES]
        return np.where(count > 0, found, 0.0)

    def change(self, values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean [n] of the size, and deviation, of the change over 20 ms."""
        change, both = values[:, 2:] - values[:, :-2], self.pairs[id(mask)]
        return self.mean(np.abs(change), both), self.deviation(change, both)

    def slope(self, values: np.ndarray, mask: np.ndarray) -> np.ndarray:
        """[n] of a straight line through the values, per second."""
        time = np.broadcast_to(np.arange(values.shape[1]) / RATE, values.shape)
        off = time - self.mean(time, mask)[:, None]
        return self.mean(off * values, mask) / (self.mean(off**2, mask) + 0.02)


def _functionals(
    frames: _Frames,
    pitch: np.ndarray,
    energy: np.ndarray,
    voicing: np.ndarray,
    mel: np.ndarray,
    power: np.ndarray,
    cepstrum: np.ndarray,
    index: np.ndarray,
) -> np.ndarray:
    speech, voiced = frames.speech, frames.voiced
    out: list[np.ndarray] = []
    pitch = 12 / np.log(2) * (pitch - np.log(100.0))  # semitones over 100 Hz
    energy = np.where(speech, energy, 0.0)
    energy = energy - frames.mean(energy, speech)[:, None]
    for values, mask in ((pitch, voiced), (energy, speech)):
        low, middle, high = frames.quantiles(values, mask)
        out += [frames.mean(values, mask), frames.deviation(values, mask), low, middle, high, high - low]
        out += [*frames.change(values, mask), frames.slope(values, mask)]
    out += [frames.mean(voicing, speech), frames.deviation(voicing, speech), frames.quantiles(voicing, speech)[0]]
    for values in _timbre(mel, power):
        values = values[index]
        low, _, high = frames.quantiles(values, speech)
        out += [frames.mean(values, speech), frames.deviation(values, speech), low, high]
    for i in range(13):
        values = cepstrum[:, i][index]
        if i:
            out.append(frames.mean(values, speech))
        out += [frames.deviation(values, speech), frames.change(values, speech)[0]]
    out += [frames.mean(cepstrum[:, i][index], voiced) for i in range(1, 13)]
    bands = mel.reshape(-1, 10, 4).mean(2)
    bands = bands - bands.mean(1, keepdims=True)
    out += [frames.mean(bands[:, i][index], speech) for i in range(10)]
    # How fast the syllables follow: the envelope's spectrum, each band against the whole.
    envelope = np.maximum(np.where(speech, energy, -25.0), -25.0)
    spectrum = np.abs(np.fft.rfft((envelope - envelope.mean(1, keepdims=True)) * np.hanning(WINDOW), axis=1)) ** 2
    hertz = np.fft.rfftfreq(WINDOW, 1 / RATE)
    total = spectrum.sum(1) + 1e-3
    for low, high in ((1, 3), (3, 6), (6, 12), (12, 25)):
        out.append(np.log(spectrum[:, (hertz >= low) & (hertz < high)].sum(1) / total + 1e-3))
    length = np.maximum(speech.sum(1), 1)
    runs = (voiced[:, 1:] & ~voiced[:, :-1]).sum(1)
    out += [voiced.sum(1) / length, speech.mean(1), runs / length * RATE, voiced.sum(1) / np.maximum(runs, 1) / RATE]
    both = voiced[:, 1:] & voiced[:, :-1]
    out += [frames.mean(np.abs(np.diff(pitch, axis=1)).clip(0, 2), both), frames.mean(np.abs(np.diff(energy, axis=1)), both)]
    return np.stack(out, axis=1)


def _timbre(mel: np.ndarray, power: np.ndarray) -> list[np.ndarray]:
    """Six descriptions [F] of each frame's spectrum, none of which follows its level; order of _TIMBRE."""
    bands = np.linspace(-1, 1, MELS)
    total = power.sum(1) + FLOOR
    tilt = (mel * bands).mean(1) / (bands**2).mean()
    alpha = np.log((power[:, 14:].sum(1) + FLOOR) / (power[:, :14].sum(1) + FLOOR))  # over 1 kHz against under it
    hammarberg = np.log((power[:, :23].max(1) + FLOOR) / (power[:, 23:34].max(1) + FLOOR))  # strongest under 2 kHz, to 5 kHz
    centroid = (power * bands).sum(1) / total
    shape = mel - mel.mean(1, keepdims=True)
    flux = np.abs(np.diff(shape, axis=0, prepend=shape[:1])).mean(1)
    high = np.log((power[:, 30:].sum(1) + FLOOR) / total)
    return [tilt, alpha, hammarberg, centroid, flux, high]
