"""A shot from files, as the command line makes one (Blender makes its own from the timeline)."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import file_hash
from .emotion import EmotionCurves
from .shot import SMOOTHING_MAX, STRENGTHS, Shot

LONGEST = 24 * 3600.0


def compose_shot(
    avatar: Path,
    avatar_hash: str,
    sound: Path | None,
    duration: float,
    emotion: EmotionCurves,
    fps: float,
    frames: tuple[int, int] | None = None,
    offset: float = 0.0,
    lead: float = 0.0,
    smoothing: float = 0.0,
) -> Shot:
    """Frames 0.. of a sound with emotion curves.

    Args:
        duration: of the sound, seconds.
        frames: first and last frame (inclusive); None: as long as the sound.
        offset: seconds by which the sound starts after frame 0.
        lead: seconds by which the mouth is ahead of what is heard; negative: behind.
        smoothing: seconds, see `Shot`.

    Raises:
        UserError: nothing to bake, longer than a day, or a smoothing out of range.
    """
    first, last = frames if frames is not None else (0, int(np.ceil((duration + offset) * fps)) - 1)
    if last < first or (last - first) / fps > LONGEST:
        raise UserError(f"Frames {first} to {last} cannot be baked.", "Give a sound, or a range with --frames FIRST:LAST.")
    if not 0 <= smoothing <= SMOOTHING_MAX:
        raise UserError(f"A smoothing of {smoothing:g} s cannot be baked.", f"Give 0 (off) to {SMOOTHING_MAX:g} s.")
    if not -LONGEST < lead < LONGEST:
        raise UserError(f"A lead of {lead:g} s cannot be baked.", "Give milliseconds; 0 is in time with the sound.")
    numbers = np.arange(first, last + 1, dtype=np.int32)
    times = numbers / fps - offset + lead
    inside = (times >= 0) & (times < duration) & (sound is not None)
    times = np.where(inside, times, np.nan)
    curves = emotion.at(numbers / fps - (offset if emotion.of_sound else 0.0), times)
    return Shot(
        avatar=Path(avatar).resolve(),
        avatar_hash=avatar_hash,
        sound=None if sound is None else Path(sound).resolve(),
        sound_hash="" if sound is None else file_hash(sound),
        fps=float(fps),
        frames=numbers,
        times=times,
        keyed=curves["keyed"].astype(np.float32),
        intensity=curves["intensity"].astype(np.float32),
        mix=curves["mix"].astype(np.float32),
        au=curves["au"].astype(np.float32),
        smoothing=float(smoothing),
        **{name: curves[name].astype(np.float32) for name in STRENGTHS},
    )
