"""What a sound says to the networks: views, each from a named provider that could be replaced by a better one."""

from .registry import EMOTION_VIEW, build_providers
from .store import TrackStore
from .track import EmotionTrack, Provider, Track

__all__ = ["EMOTION_VIEW", "EmotionTrack", "Provider", "Track", "TrackStore", "build_providers"]
