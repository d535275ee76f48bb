"""The cache folder of a bake: written by the engine, read by Blender. Standard library and numpy alone."""

from .layout import LOCK_FILE, SHARES, CacheHeader, OlderFormat
from .reader import CachedFrame, CacheReader, FrameMissing, FrameSummary
from .writer import CacheWriter

__all__ = ["LOCK_FILE", "SHARES", "CacheHeader", "CacheReader", "CacheWriter", "CachedFrame", "FrameMissing", "FrameSummary", "OlderFormat"]
