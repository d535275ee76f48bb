"""Saving: relative paths stay true in a new folder, and bakes come along."""

from __future__ import annotations

from pathlib import Path

import bpy

from . import avatar, baking, frames
from .core.paths import cache_folder, is_temporary, take_along

_PATHS = ("avatar_path", "sound_path", "cache_path")
_changed: list[tuple[bpy.types.Object, str, str]] = []
_bakes: list[tuple[str, Path]] = []


def before_save(target: Path) -> None:
    """Rewrite relative paths for a file that is saved into another folder, as Blender does with its own."""
    _changed.clear()
    _bakes.clear()
    old, new = Path(bpy.data.filepath).parent if bpy.data.filepath else None, target.parent
    if old == new:
        return
    for obj in _own_avatars():
        properties = obj.ua3dtalk
        if not properties.cache_path and properties.cache_name:
            _bakes.append((properties.cache_name, cache_folder(properties.cache_name, old)))
        for name in _PATHS:
            value = getattr(properties, name)
            if old is None or not value.startswith("//"):
                continue
            absolute = bpy.path.abspath(value)
            try:
                moved = bpy.path.relpath(absolute, start=str(new))
            except ValueError:  # another drive
                moved = absolute
            _changed.append((obj, name, value))
            with frames.paused():  # there is no bake at the new place yet
                setattr(obj.ua3dtalk, name, moved)


def after_save(target: Path) -> None:
    """Bring the bakes to where the file lies now. A saved copy leaves the open file, and so its paths, as they were.

    Raises:
        UserError: a bake could not be brought; it is whole where it was.
    """
    if not bpy.data.filepath or Path(bpy.data.filepath) != target:
        after_failed_save()
        return
    _changed.clear()
    bakes = list(_bakes)
    _bakes.clear()
    for cache_name, old in bakes:
        if baking.is_written(old):
            continue  # the bake itself follows when it ends
        frames.pool.close(old)  # open files cannot be moved everywhere
        take_along(old, cache_folder(cache_name, target.parent), move=is_temporary(old))


def after_failed_save() -> None:
    """Put the paths back."""
    with frames.paused():
        for obj, name, value in _changed:
            setattr(obj.ua3dtalk, name, value)
    _changed.clear()
    _bakes.clear()


def _own_avatars() -> list[bpy.types.Object]:
    return [obj for obj in avatar.avatars(bpy.data.objects) if obj.library is None]

