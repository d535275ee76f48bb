"""Emotion files of other programs, and our own, as keys on an avatar's sliders."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import bpy
import numpy as np

from ..engine.avatar import EMOTIONS
from ..engine.errors import UserError
from ..engine.shot import STRENGTHS, load_emotion
from . import audio, keys, shots
from .core.channels import CHANNELS, STRENGTH_CHANNELS
from .core.keying import plan_values

_STILL = 1e-6


@dataclass(frozen=True)
class EmotionKeys:
    """What became of an emotion file: frames that were looked at, keys on each emotion, sliders that were keyed, what was left out."""

    frames: int
    keys: int
    sliders: tuple[str, ...]
    notes: tuple[str, ...]

    def __str__(self) -> str:
        return "; ".join((f"{self.keys} keys for {self.frames} frames", *self.notes))


def key_file(
    obj: bpy.types.Object, scene: bpy.types.Scene, path: Path, frames: np.ndarray | None = None, tolerance: float = 0.03
) -> EmotionKeys:
    """Key what an emotion file says (engine/shot/emotion.py and emotion_tables.py tell which are read), in the place of the keys there.

    The eight emotions are keyed, and of the other sliders those that the file moves. Time codes of Audio2Face count from where the
    avatar's sound begins, all other times from frame 0.

    Args:
        frames: [F] instead of the object's own range.
        tolerance: how far a slider may be off between keys.

    Raises:
        UserError: the file cannot be read or understood, its time codes have no sound to go by, or a slider is driven.
    """
    curves = load_emotion(path, audio.fps_of(scene))
    numbers = shots.bake_frames(obj, scene) if frames is None else np.asarray(frames, np.int32)
    fps = audio.fps_of(scene)
    seconds = numbers / fps
    if curves.of_sound:
        place = audio.placement(obj, scene)
        if place is None:
            raise UserError(f"{path}: its time codes count from the beginning of a sound, and {obj.name} has none.", "Attach the sound first.")
        seconds = place.clock(numbers, fps)
    found = replace(curves, blink_seed=None, brow_seed=None).at(seconds)  # automatic ones stay the avatar's own
    values = {name: found["keyed"][:, column] for column, name in enumerate(EMOTIONS)}
    others = {"intensity": found["intensity"], "mix": found["mix"]}
    others |= {"brow_raise": found["au"][:, 0], "brow_lower": found["au"][:, 1], "blink": found["au"][:, 5]}
    others |= {slider: found[name] for slider, name in zip(STRENGTH_CHANNELS, STRENGTHS)}
    usual = {channel.name: channel.default for channel in CHANNELS}
    values |= {name: curve for name, curve in others.items() if np.abs(curve - usual[name]).max() > _STILL}
    keys.check_free(obj, values)
    plans = plan_values(numbers, values, tolerance)
    keys.write(obj, scene, plans)
    return EmotionKeys(len(numbers), max(len(plan.set) for plan in plans.values()), tuple(values), curves.notes)
