"""From a shot to a cache: views -> deformation -> frames, only where a frame's key changed."""

from .baker import Baker, BakeResult
from .session import Session

__all__ = ["BakeResult", "Baker", "Session"]
