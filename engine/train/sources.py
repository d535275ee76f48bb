"""Who hears for the avatar: the providers of its views, their learned weights, and the emotions' prototypes."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..avatar import EMOTIONS, View, load_avatar
from ..errors import UserError
from ..views import Provider, build_providers
from ..views.builtin import Cepstrum, MelWindow, Prosody

EMOTION_DIM = 128
LENGTH = 4.0
"""Of the prototypes where none were learned."""


@dataclass(frozen=True, eq=False)
class Sources:
    """What goes into the avatar file beside Gaussians and networks.

    Attributes:
        views: names of the providers, as `AvatarMeta.views`.
        providers: themselves, by view.
        tensors: `provider.*`, their weights.
        prototypes: [8,128] f_emotion of each emotion at intensity 1, neutral first.
        origin: where they come from, one line for the provenance.
    """

    views: dict[str, View]
    providers: dict[str, Provider]
    tensors: dict[str, np.ndarray]
    prototypes: np.ndarray
    origin: str

    def emotion(self, weights: np.ndarray) -> np.ndarray:
        """f_emotion [F,128] of weights times intensity [F,8]: p_neutral + sum x_e (p_e - p_neutral)."""
        return (self.prototypes[0] + weights @ (self.prototypes - self.prototypes[0])).astype(np.float32)


def find_sources(priors: Path | None = None) -> Sources:
    """The providers and prototypes of a file (an avatar, or what `train priors` wrote); without one, those that learned nothing.

    Raises:
        UserError: the file cannot be read, or names a provider that this engine does not have.
    """
    views = {kind.view: View(kind.name, kind.version, list(kind.shape), float(kind.rate)) for kind in (MelWindow, Cepstrum, Prosody)}
    tensors: dict[str, np.ndarray] = {}
    prototypes, origin = orthogonal(), "views without learned weights (mel, mfcc, prosody), orthogonal emotion prototypes"
    if priors is not None:
        found = load_avatar(priors)
        views |= found.meta.views
        tensors = {name: np.array(value) for name, value in found.tensors.items() if name.startswith("provider.")}
        stored = found.tensors.get("emotion.prototypes")
        if stored is not None:
            if stored.shape[0] != len(EMOTIONS) or list(found.meta.emotions) != list(EMOTIONS):
                raise UserError(f"{priors}: its emotions are {', '.join(found.meta.emotions)}.", f"Training wants {', '.join(EMOTIONS)}.")
            prototypes = np.array(stored, np.float32)
        origin = f"views ({', '.join(view.provider for view in views.values())}) and emotion prototypes of {Path(priors).name}"
    return Sources(views, build_providers({name: asdict(view) for name, view in views.items() if name != "au"}, tensors), tensors, prototypes, origin)


def orthogonal(seed: int = 8) -> np.ndarray:
    """Prototypes [8,128] of one length at right angles."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(EMOTION_DIM, len(EMOTIONS))))
    return (LENGTH * basis.T).astype(np.float32)


