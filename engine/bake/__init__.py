"""From a shot to a cache: views -> deformation -> frames, only where a frame's key changed."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .baker import Baker, BakeResult
    from .session import Session

__all__ = ["BakeResult", "Baker", "Session"]


def __getattr__(name: str) -> object:
    # When asked for: the command line reads `cli.py` here, and must start where numpy and torch are missing.
    if name == "Session":
        from .session import Session

        return Session
    if name in __all__:
        from . import baker

        return getattr(baker, name)
    raise AttributeError(name)
