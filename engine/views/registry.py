"""Which providers there are, and the check that an avatar gets the ones it was trained with."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from ..errors import UserError
from .builtin import Cepstrum, MelWindow, Prosody
from .content import Content
from .emotion import Arousal
from .emotion_net import Distilled
from .lips import Lips
from .tone import Tone
from .track import Provider

EMOTION_VIEW = "emotion"
_Factory = Callable[[dict[str, np.ndarray]], Provider]
_KINDS: dict[tuple[str, str], tuple[type, _Factory]] = {
    (kind.view, kind.name): (kind, factory)
    for kind, factory in (
        (MelWindow, lambda weights: MelWindow()),
        (Cepstrum, lambda weights: Cepstrum()),
        (Prosody, lambda weights: Prosody()),
        (Arousal, lambda weights: Arousal()),
        (Content, Content),
        (Lips, Lips),
        (Tone, Tone),
        (Distilled, Distilled),
    )
}


def build_providers(views_meta: dict[str, dict], weights: dict[str, np.ndarray]) -> dict[str, Provider]:
    """The providers an avatar names, by view; `emotion` (automatic emotion) is there even if it is not named.

    Args:
        views_meta: {view: {"provider": name, "version": int, "dim": shape of a frame, "rate": rows a second}}.
        weights: the avatar's tensors, for learned providers (`provider.<view>.*`).

    Raises:
        UserError: a provider, version, dimension or rate that this engine does not have: features of another kind
            would move the face wrongly without any other sign.
    """
    providers: dict[str, Provider] = {}
    for view, meta in views_meta.items():
        name = str(meta.get("provider"))
        if (view, name) not in _KINDS:
            known = ", ".join(sorted(known for other, known in _KINDS if other == view)) or "none"
            raise UserError(
                f"The avatar's view `{view}` needs the provider `{name}`, which this engine does not have.",
                f"Update the engine, or train the avatar with one it has for this view ({known}).",
            )
        kind, factory = _KINDS[view, name]
        for what, have, want in (
            ("version", kind.version, meta.get("version")),
            ("dimension", list(kind.shape), list(meta.get("dim") or [])),
            ("rate", float(kind.rate), float(meta.get("rate") or 0)),
        ):
            if have != want:
                raise UserError(
                    f"The avatar's view `{view}` needs provider `{name}` with {what} {want}; this engine has {have}.",
                    "Use the version of the extension that the avatar was made for, or train the avatar again.",
                )
        providers[view] = factory(weights)
    if EMOTION_VIEW not in providers:
        providers[EMOTION_VIEW] = Arousal()
    return providers
