"""A trained emotion encoder in a file of its own, and into an avatar."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..avatar import EMOTIONS, Avatar
from ..avatar.file import View
from ..avatar.tensors import load_tensors, save_tensors
from ..errors import UserError
from ..views import EMOTION_VIEW
from ..views.emotion_net import PREFIX, Distilled, EmotionEncoder, encoder_state, load_encoder

KEY = "ua3dtalk_prior"
PROTOTYPES = "emotion.prototypes"
VIEW = View(Distilled.name, Distilled.version, list(Distilled.shape), Distilled.rate)
"""How an avatar's metadata names the provider."""


@dataclass(eq=False)
class EmotionPrior:
    """A frozen encoder as an avatar takes it.

    Attributes:
        tensors: `provider.emotion.*`.
        prototypes: [8,128] float32 in the order of EMOTIONS.
        about: `views` (how an avatar's metadata names the provider), `classes` the encoder tells apart, `heard` [8] whether an emotion was among the recordings, and what it was trained
            on and how well it does, for people.
    """

    tensors: dict[str, np.ndarray]
    prototypes: np.ndarray
    about: dict[str, Any]

    def encoder(self) -> EmotionEncoder:
        """The encoder."""
        return load_encoder(self.tensors)


def make_prior(encoder: EmotionEncoder, prototypes: np.ndarray, about: Mapping[str, Any]) -> EmotionPrior:
    """A prior of an encoder in memory."""
    named = {"kind": "emotion", "views": {EMOTION_VIEW: asdict(VIEW)}}
    return EmotionPrior(encoder_state(encoder), np.asarray(prototypes, np.float32), named | dict(about))


def save_prior(prior: EmotionPrior, path: Path) -> None:
    """Write it in one step. Raises UserError where it cannot be written."""
    save_tensors(Path(path), prior.tensors | {PROTOTYPES: prior.prototypes}, {KEY: json.dumps(prior.about)})


def load_prior(path: Path) -> EmotionPrior:
    """Read an emotion prior; no code in it can run.

    Raises:
        UserError: missing or damaged, or another kind of file.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    refusal = UserError(f"{path}: no emotion prior.", "Make one with `python -m engine train emotion`.")
    try:
        about = json.loads(metadata[KEY])
        if about["kind"] != "emotion" or not isinstance(about["classes"], list):
            raise refusal
        prototypes = np.array(tensors[PROTOTYPES], np.float32)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise refusal from error
    own = {name: tensor for name, tensor in tensors.items() if name.startswith(PREFIX)}
    prior = EmotionPrior(own, prototypes, about)
    encoder = prior.encoder()
    if prototypes.shape != (len(EMOTIONS), encoder.shape.width) or len(about["classes"]) != encoder.shape.classes:
        raise UserError(f"{path}: its prototypes or classes do not fit its encoder.", "Train it again.")
    if not all(np.isfinite(tensor).all() for tensor in (*own.values(), prototypes)):
        raise UserError(f"{path}: holds NaN or infinite numbers.", "Train it again.")
    return prior


def with_prior(avatar: Avatar, prior: EmotionPrior) -> Avatar:
    """The avatar with this automatic emotion in the place of its own. Its prototypes stay: its networks learned with them.

    Raises:
        UserError: the avatar cannot move.
    """
    if avatar.is_static:
        raise UserError(f"{avatar.path or avatar.meta.name}: a static avatar has no views to feed.", "Choose an avatar that can speak.")
    tensors = {name: tensor for name, tensor in avatar.tensors.items() if not name.startswith(PREFIX)} | prior.tensors
    learned = str(prior.about.get("trained_on", "")).strip()
    provenance = f"{avatar.meta.provenance} Automatic emotion: {learned}".strip() if learned else avatar.meta.provenance
    meta = replace(avatar.meta, views=avatar.meta.views | {EMOTION_VIEW: VIEW}, provenance=provenance)
    return Avatar(meta, tensors)
