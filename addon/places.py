"""Where an avatar object's bake lies, and taking bakes along when their file is saved elsewhere."""

from __future__ import annotations

from pathlib import Path

import bpy

from .core.paths import cache_folder


def blend_folder(obj: bpy.types.Object) -> Path | None:
    """Folder of the .blend that holds the object, or None for one never saved."""
    path = bpy.path.abspath(obj.library.filepath) if obj.library is not None else bpy.data.filepath
    return Path(path).parent if path else None


def folder_of(obj: bpy.types.Object) -> Path:
    """The object's cache folder, whether something is baked or not."""
    properties = obj.ua3dtalk
    if properties.cache_path:
        return Path(bpy.path.abspath(properties.cache_path, library=obj.library))
    return cache_folder(properties.cache_name or obj.name, blend_folder(obj))
