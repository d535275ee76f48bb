"""Networks that are needed while the priors are trained: the mouth's side of the sync discriminator, and FuseNet (eq. 4)."""

from __future__ import annotations

import torch
from torch import nn
from torch.nn import functional as F

from ..views.lips import SYNC
from ..views.tone import TONE
from .lessons import TRACKS


class MouthNet(nn.Module):
    """Motion of a mouth -> embedding of length 1: [B,3,F] at 100 Hz -> [B,20,F], from 0.25 s round each frame.

    With the lip expert's embedding of the sound it is a sync discriminator in SyncNet's sense (Chung & Zisserman 2016): what
    belongs together lies together, what is of another moment or clip lies apart.
    """

    def __init__(self, hidden: int = 48) -> None:
        super().__init__()
        self.first = nn.Conv1d(2 * TRACKS, hidden, 5, padding=2)
        self.second = nn.Conv1d(hidden, hidden, 5, padding=4, dilation=2)
        self.third = nn.Conv1d(hidden, hidden, 5, padding=6, dilation=3)
        self.last = nn.Conv1d(hidden, SYNC, 1)

    def forward(self, tracks: torch.Tensor) -> torch.Tensor:
        """See the class."""
        padded = F.pad(tracks, (3, 3), mode="replicate")
        hidden = torch.relu(self.first(torch.cat([tracks, padded[..., 6:] - padded[..., :-6]], 1)))
        hidden = hidden + torch.relu(self.second(hidden))
        hidden = hidden + torch.relu(self.third(hidden))
        return F.normalize(self.last(hidden), dim=1)


class FuseNet(nn.Module):
    """f_exp [B,64] and f_tone [B,64] -> expression coefficients [B,C], of mean 0 and deviation 1 (eq. 4)."""

    def __init__(self, coefficients: int, exp: int = 64, hidden: int = 128) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(exp + TONE, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, coefficients))

    def forward(self, exp: torch.Tensor, tone: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.net(torch.cat([exp, tone], 1))
