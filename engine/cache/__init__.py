"""The cache folder of a bake: written by the engine, read by Blender. Standard library and numpy alone."""

from .layout import LOCK_FILE, SHARES, SHOT_FILE, CacheHeader, OlderFormat
from .reader import CachedFrame, CacheReader, FrameMissing, FrameSummary
from .writer import CacheWriter

__all__ = [
    "LOCK_FILE", "SHARES", "SHOT_FILE", "CacheHeader", "CacheReader", "CacheWriter", "CachedFrame", "FrameMissing", "FrameSummary",
    "OlderFormat",
]  # fmt: skip
