"""From an avatar object in a scene to the shot that a bake gets, and to what of its cache is out of date."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import bpy
import numpy as np

from ..engine.cache import SHOT_FILE
from ..engine.errors import UserError
from ..engine.shot import Shot, load_shot
from . import audio, curves
from .avatar import file_of, hash_of
from .core.channels import Source, build_shot
from .core.timing import Placement, whole_frames


@dataclass(frozen=True)
class Setting:
    """All of an avatar's shot but its sliders; equal settings and sliders make equal frames."""

    source: Source
    fps: float
    placement: Placement | None
    blink_seed: int | None
    brow_seed: int | None
    smoothing: float
    lead: float

    def shot(self, frames: np.ndarray, values: Mapping[str, np.ndarray]) -> Shot:
        """The shot of scene `frames` [F] with sliders `values` (name -> [F])."""
        return build_shot(
            self.source, self.fps, frames, values, self.placement, self.blink_seed, self.brow_seed,
            smoothing=self.smoothing, lead=self.lead,
        )  # fmt: skip


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


def setting_of(
    obj: bpy.types.Object, scene: bpy.types.Scene, hashed: Callable[[Path], str | None] = hash_of
) -> Setting | None:
    """What an avatar's shot is made of but the sliders.

    Args:
        hashed: the hash of a file, or None where it is not known yet (`avatar.hash_soon`).

    Returns:
        None where a hash is not known yet.

    Raises:
        UserError: the avatar or the sound cannot be read.
    """
    properties = obj.ua3dtalk
    path, sound = file_of(obj), audio.sound_file(obj, scene)
    avatar_hash, sound_hash = hashed(path), "" if sound is None else hashed(sound)
    if avatar_hash is None or sound_hash is None:
        return None
    return Setting(
        Source(path, avatar_hash, sound, sound_hash),
        audio.fps_of(scene),
        audio.placement(obj, scene),
        properties.blink_seed if properties.auto_blinks else None,
        properties.brow_seed if properties.auto_brows else None,
        properties.smoothing,
        properties.sound_lead / 1000.0,
    )


def shot_of(obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray | None = None) -> Shot:
    """The shot of an avatar as the scene is now, at once.

    Args:
        frames: [F] instead of the object's bake range.

    Raises:
        UserError: the avatar or the sound cannot be read, or there is nothing to bake.
    """
    setting = setting_of(obj, scene)
    assert setting is not None
    frames = bake_frames(obj, scene) if frames is None else np.asarray(frames, np.int32)
    return setting.shot(frames, curves.sample(obj, scene, frames))


def last_shot(folder: Path) -> Shot | None:
    """The shot of the last whole bake in a cache folder."""
    try:
        return load_shot(folder / SHOT_FILE)
    except UserError:
        return None
