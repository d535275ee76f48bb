"""Who hears for the avatar: the providers of its views, their learned weights, and the emotions' prototypes."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..avatar import EMOTIONS, View, load_avatar
from ..avatar.tensors import load_tensors
from ..errors import UserError
from ..views import Provider, build_providers
from ..views.builtin import Cepstrum, MelWindow, Prosody

EMOTION_DIM = 128
PRIOR = "ua3dtalk_prior"
"""Key of a priors file's metadata (engine/priors)."""
SHIPPED = Path(__file__).resolve().parents[1] / "priors"
"""Where the engine's own priors lie."""
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


def find_sources(priors: Sequence[Path] | None = None) -> Sources:
    """The providers and prototypes of some files (avatars, or what `train priors` and `train emotion` wrote; the last that has a view gives it).

    Args:
        priors: the files; none: views without learned weights; None: what ships with the engine.

    Raises:
        UserError: a file cannot be read, or names a provider that this engine does not have.
    """
    views = {kind.view: View(kind.name, kind.version, list(kind.shape), float(kind.rate)) for kind in (MelWindow, Cepstrum, Prosody)}
    tensors: dict[str, np.ndarray] = {}
    prototypes, taken = orthogonal(), "orthogonal"
    files = sorted(SHIPPED.glob("*.safetensors")) if priors is None else [Path(path) for path in priors]
    for path in files:
        found, named, emotions = _read(path)
        views |= named
        tensors = {name: value for name, value in tensors.items() if not name.startswith(tuple(f"provider.{view}." for view in named))}
        tensors |= {name: np.array(value) for name, value in found.items() if name.startswith("provider.")}
        stored = found.get("emotion.prototypes")
        if stored is not None:
            if emotions != list(EMOTIONS) or stored.shape != (len(EMOTIONS), EMOTION_DIM):
                raise UserError(f"{path}: its emotions are {', '.join(emotions)}.", f"Training wants {', '.join(EMOTIONS)}.")
            prototypes, taken = np.array(stored, np.float32), path.name
            untaught = np.flatnonzero((prototypes == prototypes[0]).all(1))[1:]  # an avatar's, whose film did not show them
            prototypes[untaught] = orthogonal()[untaught]
    origin = f"views {', '.join(f'{name}: {view.provider}' for name, view in views.items())}; emotion prototypes: {taken}"
    return Sources(
        views, build_providers({name: asdict(view) for name, view in views.items() if name != "au"}, tensors), tensors, prototypes, origin
    )  # fmt: skip


def _read(path: Path) -> tuple[Mapping[str, np.ndarray], dict[str, View], list[str]]:
    """Tensors, views and emotions of an avatar or a priors file."""
    tensors, metadata = load_tensors(path)
    if PRIOR not in metadata:
        avatar = load_avatar(path)
        return avatar.tensors, avatar.meta.views, list(avatar.meta.emotions)
    try:
        views = json.loads(metadata[PRIOR])["views"]
        return tensors, {name: View(**view) for name, view in views.items()}, list(EMOTIONS)
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its metadata cannot be read.", "Get the file again, or train it again.") from error


def orthogonal(seed: int = 8) -> np.ndarray:
    """Prototypes [8,128] of one length at right angles."""
    basis, _ = np.linalg.qr(np.random.default_rng(seed).normal(size=(EMOTION_DIM, len(EMOTIONS))))
    return (LENGTH * basis.T).astype(np.float32)


