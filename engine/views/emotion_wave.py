"""A pretrained speech model as waveform encoder: torchaudio's wav2vec 2.0 and HuBERT, from weights that the user has on disk.

Nothing is downloaded. What the model is made of is read off the weights, so that every size of both families fits.
"""

from __future__ import annotations

import hashlib
import os
import re
import sys
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..errors import UserError
from ..files import file_hash
from .torchaudio_parts import transforms

VARIABLE = "UA3DTALK_SPEECH_MODEL"
"""Environment variable that names the weights file."""
_STRIDES = (5, 2, 2, 2, 2, 2, 2)
_WANTED = (
    "Give weights of torchaudio's wav2vec 2.0 or HuBERT, for example wav2vec2_fairseq_base_ls960.pth or "
    "hubert_fairseq_base_ls960.pth as torchaudio's pipelines keep them."
)


class SpeechModel:
    """wav2vec 2.0 or HuBERT, frozen.

    Attributes:
        width: channels of a frame.
        digest: SHA-256 of the weights file.
    """

    def __init__(self, net: nn.Module, width: int, normalise: bool, digest: str) -> None:
        self.net, self.width, self.normalise, self.digest = net.eval(), width, normalise, digest

    def frames(self, samples: np.ndarray) -> torch.Tensor:
        """Frames [B,T,width] of windows [B,32000]: two neighbours averaged, 25 a second."""
        with torch.inference_mode():
            found = []
            for part in torch.from_numpy(samples).split(16):
                part = F.layer_norm(part, part.shape[1:]) if self.normalise else part
                last = self.net(part)[0]
                found.append(F.avg_pool1d(last.transpose(1, 2), 2).transpose(1, 2))
            return torch.cat(found).clone()


def load_speech_model(path: Path) -> SpeechModel:
    """Open a weights file (.pth or .pt with a state of tensors; no code in it can run).

    Raises:
        UserError: missing, no weights, or of another model.
    """
    path = Path(path)
    digest = file_hash(path)
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises many kinds for files that are not its own
        raise UserError(f"{path}: not a file of weights that can be read safely.", _WANTED) from error
    if not isinstance(state, Mapping) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UserError(f"{path}: holds no plain state of tensors.", _WANTED)
    state = {name: value.float() for name, value in state.items() if not name.startswith(("aux.", "mask_generator.", "logit_generator."))}
    try:
        net, width, normalise = _build(state)
        net.load_state_dict(state)
    except (KeyError, ValueError, IndexError, RuntimeError) as error:
        raise UserError(f"{path}: its weights are not of wav2vec 2.0 or HuBERT as torchaudio names them.", _WANTED) from error
    return SpeechModel(net, width, normalise, digest)


def find_speech_model(wanted: str) -> SpeechModel:
    """The model that an emotion encoder was trained with, from the file that the environment variable names.

    Args:
        wanted: SHA-256 of the weights file.

    Raises:
        UserError: the variable is not set, or names another file.
    """
    named = os.environ.get(VARIABLE)
    if not named:
        raise UserError(
            "The avatar's automatic emotion was trained with a pretrained speech model, which is not in the avatar.",
            f"Set the environment variable {VARIABLE} to its weights file.",
        )
    model = load_speech_model(Path(named))
    if model.digest != wanted:
        raise UserError(
            f"{named}: not the speech model that the avatar's automatic emotion was trained with.",
            f"Set {VARIABLE} to the file whose SHA-256 begins with {wanted[:12]}.",
        )
    return model


def _build(state: Mapping[str, torch.Tensor]) -> tuple[nn.Module, int, bool]:
    """The net, its width, and whether it wants each sound at mean 0, deviation 1."""
    transforms()
    make = sys.modules["torchaudio"].models.wav2vec2_model
    prefix = "feature_extractor.conv_layers."
    layers = 1 + max(int(found[1]) for name in state if (found := re.match(re.escape(prefix) + r"(\d+)\.", name)))
    kernels = [state[f"{prefix}{i}.conv.weight"] for i in range(layers)]
    modern = f"{prefix}1.layer_norm.weight" in state  # the large models: every layer is normalised, and first
    position = "encoder.transformer.pos_conv_embed.conv."
    placed = state.get(f"{position}weight_v", state.get(f"{position}parametrizations.weight.original1"))
    if placed is None:
        raise KeyError(position)
    width = placed.shape[0]
    blocks = 1 + max(int(found[1]) for name in state if (found := re.match(r"encoder\.transformer\.layers\.(\d+)\.", name)))
    net = make(
        extractor_mode="layer_norm" if modern else "group_norm",
        extractor_conv_layer_config=[(k.shape[0], k.shape[2], stride) for k, stride in zip(kernels, _STRIDES, strict=True)],
        extractor_conv_bias=f"{prefix}0.conv.bias" in state,
        encoder_embed_dim=width,
        encoder_projection_dropout=0.0,
        encoder_pos_conv_kernel=placed.shape[2],
        encoder_pos_conv_groups=width // placed.shape[1],
        encoder_num_layers=blocks,
        encoder_num_heads=16 if width == 1280 else width // 64,  # of all published sizes
        encoder_attention_dropout=0.0,
        encoder_ff_interm_features=state["encoder.transformer.layers.0.feed_forward.intermediate_dense.weight"].shape[0],
        encoder_ff_interm_dropout=0.0,
        encoder_dropout=0.0,
        encoder_layer_norm_first=modern,
        encoder_layer_drop=0.0,
        aux_num_out=None,
    )
    return net, width, modern


def digest_tensor(digest: str) -> np.ndarray:
    """A SHA-256 [32] uint8, as it travels among an avatar's tensors."""
    return np.frombuffer(bytes.fromhex(digest), np.uint8)


def state_hash(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 of named arrays."""
    digest = hashlib.sha256()
    for name in sorted(state):
        digest.update(name.encode() + np.ascontiguousarray(state[name]).tobytes())
    return digest.hexdigest()
