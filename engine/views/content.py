"""The learned content provider: what the mouth does, from a small net over log-mel (our stand-in for f_exp's encoder)."""

from __future__ import annotations

import hashlib

import numpy as np
import torch
from torch import nn

from ..audio import Sound
from ..errors import UserError
from .analysis import MELS, RATE, SILENCE_MEL, Analysis, analyse
from .builtin import in_pieces
from .track import Track

VISEMES = (
    "sil", "aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "ow",
    "uw", "mbp", "fv", "th", "sz", "shch", "lntd", "r", "w", "kg",
)  # fmt: skip
SIL, MBP = VISEMES.index("sil"), VISEMES.index("mbp")
INPUTS = MELS + 3
VELOCITY_FRAMES, VELOCITY_SCALE = 3, 2.0
PREFIX = "provider.exp."


class ContentNet(nn.Module):
    """Residual 1-d convolutions over frames of 10 ms.

    Input [B,43,F]: 40 normalised log-mel bands, level, presence, voicing. Output [B,41,F]: logits of 20 visemes, logits of
    20 articulation weights (visemes after co-articulation), lip opening (logit).
    """

    def __init__(self, channels: int = 64, dilations: tuple[int, ...] = (1, 1, 2, 2, 4, 4), kernel: int = 5) -> None:
        super().__init__()
        self.first = nn.Conv1d(INPUTS, channels, kernel, padding=kernel // 2)
        self.blocks = nn.ModuleList(
            nn.Conv1d(channels, channels, kernel, padding=kernel // 2 * d, dilation=d) for d in dilations
        )
        self.last = nn.Conv1d(channels, 2 * len(VISEMES) + 1, 1)
        self.reach = kernel // 2 * (1 + sum(dilations))

    def hidden(self, frames: torch.Tensor) -> torch.Tensor:
        """[B,channels,F] before the last layer."""
        hidden = torch.relu(self.first(frames))
        for block in self.blocks:
            hidden = hidden + torch.relu(block(hidden))
        return hidden

    def forward(self, frames: torch.Tensor) -> torch.Tensor:
        """See the class."""
        return self.last(self.hidden(frames))


def content_inputs(analysis: Analysis) -> np.ndarray:
    """[43,F] float32, the net's input."""
    a = analysis
    return np.concatenate([a.mel.T, a.level[None], a.presence[None], a.voicing[None]]).astype(np.float32)


def expression_features(logits: np.ndarray, analysis: Analysis) -> np.ndarray:
    """f_exp [F,64] from the net's output [F,41]: viseme posteriors (20), articulation weights (20), their velocity (20),
    lip opening, closure of p b m, presence, level.

    Closures are sharpened and silence closes the mouth, absolutely where there is no energy: weights are moved towards
    `mbp` by clip(1.6 p(mbp)) and towards `sil` by p(sil)^2.
    """
    count = len(VISEMES)
    presence = analysis.presence[:, None]
    posterior, articulation = _softmax(logits[:, :count]), _softmax(logits[:, count : 2 * count])
    opening = 1 / (1 + np.exp(-logits[:, 2 * count :]))
    closure = (1.6 * posterior[:, MBP : MBP + 1]).clip(0, 1) * presence
    rest = 1 - (1 - posterior[:, SIL : SIL + 1] ** 2) * presence
    identity = np.eye(count, dtype=np.float32)
    posterior = posterior * presence + identity[SIL] * (1 - presence)
    articulation = articulation * (1 - closure) + identity[MBP] * closure
    articulation = articulation * (1 - rest) + identity[SIL] * rest
    n = VELOCITY_FRAMES
    padded = np.pad(articulation, ((n, n), (0, 0)), mode="edge")
    velocity = VELOCITY_SCALE * (padded[2 * n :] - padded[: -2 * n])
    opening = opening * (1 - closure) * (1 - rest)
    return np.concatenate(
        [posterior, articulation, velocity, opening, closure * (1 - rest), presence, analysis.level[:, None]], axis=1
    ).astype(np.float32)


def silence_features() -> np.ndarray:
    """f_exp [64] of silence."""
    features = np.zeros(64, np.float32)
    features[SIL] = features[len(VISEMES) + SIL] = 1
    features[63] = -2
    return features


class Content:
    """`exp` learned: see `expression_features`. Weights travel in the avatar as `provider.exp.*`."""

    view, name, version = "exp", "content", 1
    shape, rate = (1, 64), RATE
    net_type = ContentNet
    features = staticmethod(expression_features)

    def __init__(self, weights: dict[str, np.ndarray]) -> None:
        """Args: weights: the avatar's tensors; those under `provider.exp.` are used.

        Raises:
            UserError: they are missing or do not fit.
        """
        state = {
            name[len(PREFIX) :]: torch.from_numpy(np.array(value, np.float32))
            for name, value in weights.items()
            if name.startswith(PREFIX)
        }
        self.net = self.net_type()
        try:
            self.net.load_state_dict(state)
        except RuntimeError as error:
            raise UserError(
                f"The avatar's learned provider `{self.name}` for view `exp` lacks its weights, or they have other shapes.",
                "Get the avatar again from its source.",
            ) from error
        self.net.eval()
        self.weights = hashlib.sha256(b"".join(state[name].numpy().tobytes() for name in sorted(state))).hexdigest()

    def track(self, sound: Sound) -> Track:
        """f_exp over the whole sound, 100 rows a second."""
        analysis = analyse(sound)
        rows = in_pieces(analysis, self._features, 64, self.net.reach + VELOCITY_FRAMES)
        return Track(rows, RATE, sound.duration, silence_features(), self.shape)

    def _features(self, part: Analysis) -> np.ndarray:
        """f_exp [F,64] of a part; beyond it there is silence."""
        silence = np.concatenate([np.full(MELS, SILENCE_MEL), [-2.0, 0.0, 0.0]]).astype(np.float32)[:, None].repeat(self.net.reach, 1)
        inputs = np.concatenate([silence, content_inputs(part), silence], axis=1)
        with torch.inference_mode():
            logits = self.net(torch.from_numpy(inputs)[None])[0, :, self.net.reach : -self.net.reach].T.numpy()
        return self.features(logits, part)


def _softmax(logits: np.ndarray) -> np.ndarray:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    return powers / powers.sum(1, keepdims=True)
