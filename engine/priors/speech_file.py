"""Trained speech priors in a file of their own, and into an avatar."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..avatar import Avatar, View
from ..avatar.tensors import load_tensors, save_tensors
from ..errors import UserError
from ..views.content import PREFIX as EXP
from ..views.lips import LipNet, Lips
from ..views.tone import PREFIX as STYLE
from ..views.tone import Tone, ToneNet
from .networks import FuseNet, MouthNet
from .tone_training import Fused

KEY = "ua3dtalk_prior"
SHIPPED = Path(__file__).with_name("speech.safetensors")
"""Trained by this project; docs/priors.md says on what."""
VIEWS = {kind.view: View(kind.name, kind.version, list(kind.shape), float(kind.rate)) for kind in (Lips, Tone)}
"""How an avatar's metadata names the providers."""
_MOUTH, _FUSE = "sync.mouth.", "fuse."


@dataclass(eq=False)
class SpeechPriors:
    """Lip expert, style encoder, and what was trained beside them.

    Attributes:
        tensors: `provider.exp.*` and `provider.style.*` as an avatar takes them, `sync.mouth.*`, `fuse.*`.
        about: `kind`, `views`, `trained_on`, `figures`, `expression` (names of FuseNet's coefficients).
    """

    tensors: dict[str, np.ndarray]
    about: dict[str, Any]

    @classmethod
    def of(cls, lips: LipNet, mouth: MouthNet, tone: ToneNet, fused: Fused, trained_on: str, figures: dict[str, Any]) -> SpeechPriors:
        """Priors of nets in memory, in half precision."""
        parts = ((EXP, lips), (STYLE, tone), (_MOUTH, mouth), (f"{_FUSE}net.", fused.net))
        tensors = {prefix + name: value.numpy().astype(np.float16) for prefix, part in parts for name, value in part.state_dict().items()}
        tensors |= {f"{_FUSE}mean": fused.mean, f"{_FUSE}deviation": fused.deviation}
        views = {name: asdict(view) for name, view in VIEWS.items()}
        return cls(tensors, {"kind": "speech", "views": views, "expression": list(fused.names), "trained_on": trained_on, "figures": figures})

    def providers(self) -> tuple[Lips, Tone]:
        """Those of the views `exp` and `style`."""
        return Lips(self.tensors), Tone(self.tensors)

    def mouth(self) -> MouthNet:
        """The mouth's side of the sync discriminator. Raises UserError where its weights do not fit."""
        return _filled(MouthNet(), self.tensors, _MOUTH)

    def fused(self) -> Fused:
        """FuseNet. Raises UserError where its weights do not fit."""
        names = tuple(self.about["expression"])
        net = _filled(FuseNet(len(names)), self.tensors, f"{_FUSE}net.")
        return Fused(net, names, *(np.array(self.tensors[f"{_FUSE}{name}"], np.float32) for name in ("mean", "deviation")))


def save_speech(priors: SpeechPriors, path: Path) -> None:
    """Write them in one step. Raises UserError where that cannot be."""
    save_tensors(Path(path), priors.tensors, {KEY: json.dumps(priors.about)})


def load_speech(path: Path = SHIPPED) -> SpeechPriors:
    """Read speech priors; no code in the file can run.

    Raises:
        UserError: missing or damaged, or another kind of file.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    try:
        about = json.loads(metadata[KEY])
        if about["kind"] != "speech" or not all(isinstance(name, str) for name in about["expression"]):
            raise ValueError("kind")
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: no speech priors.", "Make them with `python -m engine train priors`.") from error
    if not all(np.isfinite(tensor).all() for tensor in tensors.values()):
        raise UserError(f"{path}: holds NaN or infinite numbers.", "Train it again.")
    priors = SpeechPriors(dict(tensors), about)
    priors.providers(), priors.mouth()
    if any(priors.tensors.get(f"{_FUSE}{name}", np.zeros(0)).shape != (len(about["expression"]),) for name in ("mean", "deviation")):
        raise UserError(f"{path}: its coefficients do not fit their names.", "Train it again.")
    priors.fused()
    return priors


def with_speech(avatar: Avatar, priors: SpeechPriors) -> Avatar:
    """An avatar whose views `exp` and `style` are these. Its networks must be trained (again) with them."""
    tensors = {name: value for name, value in avatar.tensors.items() if not name.startswith((EXP, STYLE))}
    tensors |= {name: value for name, value in priors.tensors.items() if name.startswith((EXP, STYLE))}
    return Avatar(replace(avatar.meta, views=avatar.meta.views | VIEWS), tensors)


def _filled(net: Any, tensors: dict[str, np.ndarray], prefix: str) -> Any:
    state = {name[len(prefix) :]: torch.from_numpy(np.array(value, np.float32)) for name, value in tensors.items() if name.startswith(prefix)}
    try:
        net.load_state_dict(state)
    except RuntimeError as error:
        raise UserError(f"Weights `{prefix}*` of the priors are missing or have other shapes.", "Get the file again, or train it again.") from error
    return net.eval()
