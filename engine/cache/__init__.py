"""The cache folder of a bake: written by the engine, read by Blender. Standard library and numpy alone."""

from .layout import CacheHeader
from .reader import CachedFrame, CacheReader, FrameMissing
from .writer import CacheWriter

__all__ = ["CacheHeader", "CacheReader", "CacheWriter", "CachedFrame", "FrameMissing"]
