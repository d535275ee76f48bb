"""The lip expert as a provider: what the mouth does, and the embedding that its sync discriminator compares (sec 2.1: f_exp)."""

from __future__ import annotations

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from .analysis import Analysis
from .content import VISEMES, Content, ContentNet, expression_features

COUNT = len(VISEMES)
SYNC = 20
"""Numbers of the sync embedding."""
EMBEDDING = slice(2 * COUNT, 2 * COUNT + SYNC)
"""Where it stands in f_exp."""


class LipNet(ContentNet):
    """`ContentNet` and, beside its outputs, the embedding of what is heard round a frame: [B,43,F] -> [B,41+20,F]; the embedding has
    length 1."""

    def __init__(self) -> None:
        super().__init__()
        self.sync = nn.Conv1d(self.last.in_channels, SYNC, 1)

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """See the class."""
        hidden = self.hidden(frames)
        return torch.cat([self.last(hidden), F.normalize(self.sync(hidden), dim=1)], 1)


def lip_features(outputs: np.ndarray, analysis: Analysis) -> np.ndarray:
    """f_exp [F,64] of the net's outputs [F,61]: as `content.expression_features`, the sync embedding (20) in the velocity's place.

    The embedding fades with the presence of speech; in silence it is 0. Rows are smoothed over their neighbours (1 2 1): the net judges each
    10 ms for itself, a mouth does not move in 10 ms, and a film takes every fourth row.
    """
    features = expression_features(outputs[:, : 2 * COUNT + 1], analysis)
    features[:, EMBEDDING] = outputs[:, 2 * COUNT + 1 :] * analysis.presence[:, None]
    padded = np.pad(features, ((1, 1), (0, 0)), mode="edge")
    return 0.5 * features + 0.25 * (padded[:-2] + padded[2:])


class Lips(Content):
    """`exp` by the lip expert: see `lip_features`. Weights travel in the avatar as `provider.exp.*`."""

    name, version = "lips", 2
    net_type = LipNet
    features = staticmethod(lip_features)
