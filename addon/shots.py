"""From an avatar object in a scene to the shot that a bake gets, and to what of its cache is out of date."""

from __future__ import annotations

from pathlib import Path

import bpy
import numpy as np

from ..engine.errors import UserError
from ..engine.shot import Shot, load_shot
from . import audio, curves
from .avatar import file_of, hash_of
from .core.channels import Source, build_shot
from .core.paths import SHOT_FILE
from .core.playback import baked_keys
from .core.stale import StaleReport, stale_report
from .core.timing import whole_frames
from .frames import pool
from .places import folder_of


def bake_frames(obj: bpy.types.Object, scene: bpy.types.Scene) -> np.ndarray:
    """Frames that the object's bake range names, [F]. Raises UserError where there are none."""
    properties = obj.ua3dtalk
    if properties.bake_range == "AUDIO":
        place = audio.placement(obj, scene)
        if place is None:
            raise UserError(f"{obj.name} has no sound, so the range 'Sound' is empty.", "Attach a sound, or choose another range.")
        first, last = place.frames()
    elif properties.bake_range == "CUSTOM":
        first, last = properties.bake_start, properties.bake_end
    else:
        first, last = scene.frame_start, scene.frame_end
    try:
        return whole_frames(first, last)
    except ValueError as error:
        raise UserError(f"Nothing to bake: {error}.", "Choose another range.") from error


def shot_of(obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray | None = None) -> Shot:
    """The shot of an avatar as the scene is now.

    Args:
        frames: [F] instead of the object's bake range.

    Raises:
        UserError: the avatar or the sound cannot be read, or there is nothing to bake.
    """
    properties = obj.ua3dtalk
    path = file_of(obj)
    source = Source(path, hash_of(path), *audio.sound_hash(obj, scene))
    frames = bake_frames(obj, scene) if frames is None else np.asarray(frames, np.int32)
    return build_shot(
        source,
        audio.fps_of(scene),
        frames,
        curves.sample(obj, scene, frames),
        audio.placement(obj, scene),
        properties.blink_seed if properties.auto_blinks else None,
        properties.brow_seed if properties.auto_brows else None,
    )


def last_shot(folder: Path) -> Shot | None:
    """The shot of the last whole bake in a cache folder."""
    try:
        return load_shot(folder / SHOT_FILE)
    except UserError:
        return None


def stale(obj: bpy.types.Object, scene: bpy.types.Scene) -> StaleReport:
    """What of the object's bake is out of date, and why.

    Raises:
        UserError: it cannot be told, as the avatar or the sound is missing.
    """
    folder = folder_of(obj)
    baked, avatar_hash, sound_hash = baked_keys(pool, folder)
    return stale_report(shot_of(obj, scene), baked, avatar_hash, sound_hash, last_shot(folder))
