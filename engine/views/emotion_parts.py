"""The emotion encoder's networks: attention over a waveform's frames, with a spectrogram CNN and an LSTM on MFCC as keys (sec 2.2)."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .emotion_features import CEPSTRA, FUNCTIONALS

WAVE = 32
"""Channels of a frame that attention works on."""
_TAPS, _HOP, _FILTERS = 400, 160, 32
_KEY = 32


@dataclass(frozen=True)
class EncoderShape:
    """What an encoder is made of; read off its weights when it is loaded.

    Attributes:
        classes: emotions told apart.
        members: nets in the ensemble; their embeddings, `width` / `members` channels each, stand side by side.
        width: channels of f_emotion.
        wave: channels of a frame of the waveform encoder: 0 without sequences (statistics alone), 32 for the built-in
            encoder, else those of the pretrained one.
        pretrained: the frames come from a pretrained encoder.
    """

    classes: int
    members: int = 4
    width: int = 128
    wave: int = 0
    pretrained: bool = False


@dataclass(eq=False)
class Batch:
    """What the nets see of B windows: functionals [B,115] normalised; with sequences also mel [B,40,100], mfcc [B,100,20]
    and wave: samples [B,32000], or frames [B,T,C] of a pretrained encoder."""

    functionals: torch.Tensor
    mel: torch.Tensor | None = None
    mfcc: torch.Tensor | None = None
    wave: torch.Tensor | None = None

    def rows(self, index: torch.Tensor) -> Batch:
        """Some of the windows."""
        return Batch(*(None if part is None else part[index] for part in (self.functionals, self.mel, self.mfcc, self.wave)))


class WaveEncoder(nn.Module):
    """The built-in waveform encoder: [B,32000] -> [B,50,32]. Learned band-pass pairs, their log magnitude, two convolutions."""

    def __init__(self) -> None:
        super().__init__()
        time = (np.arange(_TAPS) - _TAPS / 2) / 16000
        mels = np.linspace(1127 * np.log1p(80 / 700), 1127 * np.log1p(7600 / 700), _FILTERS)
        phase = 2 * np.pi * 700 * np.expm1(mels / 1127)[:, None] * time
        start = np.concatenate([np.cos(phase), np.sin(phase)]) * np.hanning(_TAPS) / 20
        self.bands = nn.Parameter(torch.from_numpy(start[:, None].astype(np.float32)))
        self.first = nn.Conv1d(_FILTERS, WAVE, 5, stride=2, padding=2)
        self.second = nn.Conv1d(WAVE, WAVE, 5, stride=2, padding=2)

    def forward(self, samples: torch.Tensor) -> torch.Tensor:
        """See the class."""
        pairs = F.conv1d(samples[:, None], self.bands, stride=_HOP, padding=_TAPS // 2 - _HOP // 2)
        real, imaginary = pairs.chunk(2, 1)
        magnitude = ((real**2 + imaginary**2 + 1e-6).log() + 5) / 3
        return self.second(F.gelu(self.first(magnitude))).transpose(1, 2)


class CoAttention(nn.Module):
    """Keys from spectrogram and MFCC re-weight the waveform's frames (sec 2.2): -> [B, 3 x 32].

    The CNN's and the LSTM's summaries make one query; its softmax over the frames' keys weighs the frames.
    """

    def __init__(self, wave: int, pretrained: bool) -> None:
        super().__init__()
        self.wave = nn.Linear(wave, WAVE) if pretrained else WaveEncoder()
        self.spectrogram = nn.Sequential(
            nn.Conv2d(1, 12, 5, stride=2, padding=2), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(12, 24, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2),
            nn.Conv2d(24, _KEY, 3, padding=1), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(),
        )  # fmt: skip
        self.cepstrum = nn.LSTM(CEPSTRA, _KEY // 2, batch_first=True, bidirectional=True)
        self.query, self.key = nn.Linear(2 * _KEY, _KEY), nn.Linear(WAVE, _KEY)
        self.width = WAVE + 2 * _KEY

    def forward(self, batch: Batch) -> torch.Tensor:
        """See the class."""
        assert batch.mel is not None and batch.mfcc is not None and batch.wave is not None
        frames = self.wave(batch.wave)
        drawn = self.spectrogram(batch.mel[:, None])
        heard = self.cepstrum(batch.mfcc[:, ::2])[0].mean(1)
        query = self.query(torch.cat([drawn, heard], 1))
        share = torch.softmax((self.key(frames) * query[:, None]).sum(2) / _KEY**0.5, 1)
        return torch.cat([(share[..., None] * frames).sum(1), drawn, heard], 1)


class Member(nn.Module):
    """One net of the ensemble: statistics, and attention where there are sequences -> embedding -> class logits."""

    def __init__(self, shape: EncoderShape, hidden: int = 128) -> None:
        super().__init__()
        self.attention = CoAttention(shape.wave, shape.pretrained) if shape.wave else None
        self.statistics = nn.Sequential(nn.Dropout(0.2), nn.Linear(FUNCTIONALS, hidden), nn.ReLU(), nn.Dropout(0.5))
        more = self.attention.width if self.attention is not None else 0
        self.embed = nn.Linear(hidden + more, shape.width // shape.members)
        self.classify = nn.Linear(shape.width // shape.members, shape.classes)
        self.drop = nn.Dropout(0.3)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """Embedding [B,width/members] within -1..1, logits [B,classes]."""
        found = self.statistics(batch.functionals)
        if self.attention is not None:
            found = torch.cat([found, self.drop(self.attention(batch))], 1)
        embedding = torch.tanh(self.embed(found))
        return embedding, self.classify(embedding)
