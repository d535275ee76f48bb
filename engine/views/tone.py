"""The style encoder as a provider: who speaks and in what manner, not what (sec 2.1: f_tone)."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import numpy as np
import torch
from scipy.fft import dct
from scipy.signal import welch
from torch import nn

from ..audio import RATE as SAMPLE_RATE
from ..audio import Sound
from ..errors import UserError
from .analysis import analyse
from .builtin import Prosody, file_pitch
from .track import Track

PREFIX = "provider.style."
TONE = 64
BANDS, CEPSTRUM = 24, 16
VOICE = CEPSTRUM + 3
INPUTS = TONE + VOICE
SHARE = 32 + 11
"""Of the prosody: share of speech in the window of 2 s."""
_PIECE = 30 * SAMPLE_RATE
_FFT = 1024


class ToneNet(nn.Module):
    """[..,83] (prosody of the last second or two, and the file's voice) -> f_tone [..,64] in -1..1."""

    def __init__(self, hidden: int = 96) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(INPUTS))
        self.register_buffer("deviation", torch.ones(INPUTS))
        self.first = nn.Linear(INPUTS, hidden)
        self.last = nn.Linear(hidden, TONE)

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """See the class."""
        normalised = ((inputs - self.mean) / self.deviation).clamp(-4, 4)
        return torch.tanh(self.last(torch.relu(self.first(normalised))))


def voice_features(sound: Sound) -> np.ndarray:
    """[19] float32 of a whole file: 16 cepstral coefficients of its mean power spectrum without its level (in 24 bands, 80 to
    7,600 Hz), its middle pitch (octaves over 150 Hz), the pitch's spread (octaves) and mean voicing. They stand for the speaker; the
    recording's room and microphone are in them too."""
    samples, total = sound.samples, np.zeros(_FFT // 2 + 1)
    for start in range(0, len(samples), _PIECE):
        piece = samples[start : start + _PIECE]
        power = welch(piece, SAMPLE_RATE, nperseg=min(_FFT, len(piece)), nfft=_FFT)[1]
        total += power * len(piece)
    edges = np.geomspace(80.0, 7600.0, BANDS + 1) / SAMPLE_RATE * _FFT
    bands = np.array([total[int(a) : max(int(b), int(a) + 1)].mean() for a, b in zip(edges, edges[1:])])
    log = np.log(bands / len(samples) + 1e-11)
    cepstrum = dct(log - log.mean(), norm="ortho")[1 : 1 + CEPSTRUM] / 4
    a = analyse(sound)
    voiced = a.voicing > 0.6
    spread = float(np.subtract(*np.percentile(a.pitch[voiced], [80, 20]))) if voiced.sum() > 20 else 0.2
    speech = a.presence > 0.5
    voicing = float(a.voicing[speech].mean()) if speech.any() else 0.0
    more = [(file_pitch(a) - np.log(150.0)) / np.log(2), spread / np.log(2), voicing]
    return np.concatenate([cepstrum, more]).astype(np.float32)


def tone_inputs(sound: Sound) -> np.ndarray:
    """[F,83] float32 at 25 Hz, the style encoder's input."""
    rows = Prosody().track(sound).features
    return np.concatenate([rows, np.broadcast_to(voice_features(sound), (len(rows), VOICE))], 1)


def speaking(inputs: np.ndarray) -> np.ndarray:
    """How much of f_tone counts [F] in 0..1: all where a quarter of the last two seconds is speech, nothing in silence."""
    return (4.0 * inputs[:, SHARE]).clip(0.0, 1.0).astype(np.float32)


class Tone:
    """`style` (f_tone) by the style encoder. Weights travel in the avatar as `provider.style.*`."""

    view, name, version = "style", "tone", 1
    shape, rate = (1, TONE), Prosody.rate

    def __init__(self, weights: Mapping[str, np.ndarray]) -> None:
        """Args: weights: the avatar's tensors; those under `provider.style.` are used.

        Raises:
            UserError: they are missing or do not fit.
        """
        found = {name[len(PREFIX) :]: np.array(value, np.float32) for name, value in weights.items() if name.startswith(PREFIX)}
        self.net = ToneNet()
        try:
            self.net.load_state_dict({name: torch.from_numpy(value) for name, value in found.items()})
        except RuntimeError as error:
            raise UserError(
                "The avatar's learned provider `tone` for view `style` lacks its weights, or they have other shapes.",
                "Get the avatar again from its source.",
            ) from error
        self.net.eval()
        self.weights = hashlib.sha256(b"".join(found[name].tobytes() for name in sorted(found))).hexdigest()

    def track(self, sound: Sound) -> Track:
        """f_tone over the whole sound, 25 rows a second; 0 in silence."""
        inputs = tone_inputs(sound)
        with torch.inference_mode():
            rows = self.net(torch.from_numpy(inputs)).numpy() * speaking(inputs)[:, None]
        return Track(rows, self.rate, sound.duration, np.zeros(TONE, np.float32), self.shape)
