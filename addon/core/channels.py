"""The sliders of an avatar, and the shot that their curves make."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ...engine.avatar import EMOTIONS
from ...engine.shot import Shot, automatic_blinks, automatic_brows
from .timing import Placement


@dataclass(frozen=True)
class Channel:
    """One keyable slider: property name, label, tooltip, default and range."""

    name: str
    label: str
    tooltip: str
    default: float = 0.0
    high: float = 1.0


_EMOTION_TIPS = {
    "neutral": "No emotion; what the other emotions are mixed with",
    "happy": "Joy: mouth corners up, cheeks raised",
    "sad": "Sorrow: inner brows up, mouth corners down",
    "angry": "Anger: brows lowered and drawn together",
    "fear": "Fear: brows raised and drawn together, eyes wide",
    "disgusted": "Disgust: nose wrinkled, upper lip raised",
    "surprised": "Surprise: brows up, eyes wide",
    "contempt": "Contempt: one mouth corner tightened",
}
INTENSITY_MAX = STRENGTH_MAX = 2.0
CHANNELS: tuple[Channel, ...] = (
    *(Channel(name, name.capitalize(), _EMOTION_TIPS[name], 1.0 if name == "neutral" else 0.0) for name in EMOTIONS),
    Channel("intensity", "Intensity", "How strong the emotion acts; 1 is as it was learned", 1.0, INTENSITY_MAX),
    Channel("mix", "Keyed", "1: the emotion as keyed. 0: the emotion that the voice carries. Between: both", 1.0),
    Channel("blink", "Blink", "Closes the eyelids (action unit 45)"),
    Channel("brow_raise", "Brows Up", "Raises the inner brows (action unit 1)"),
    Channel("brow_lower", "Brows Down", "Lowers the brows and draws them together (action unit 4)"),
    Channel("lid_raise", "Eyes Wide", "Raises the upper eyelids (action unit 5)"),
    Channel("cheek_raise", "Cheeks Up", "Raises the cheeks (action unit 6)"),
    Channel("lid_tighten", "Eyes Narrow", "Tightens the eyelids (action unit 7)"),
    Channel("upper_strength", "Upper Face", "How far brows, eyes and forehead move; 1 is as learned, 0 is still", 1.0, STRENGTH_MAX),
    Channel("lower_strength", "Lower Face", "How far cheeks, jaw and mouth move; 1 is as learned, 0 is still", 1.0, STRENGTH_MAX),
    Channel("lip_strength", "Lips", "How far the lips move, besides the lower face; 1 is as learned, 0 is still", 1.0, STRENGTH_MAX),
)
CHANNEL_NAMES: tuple[str, ...] = tuple(channel.name for channel in CHANNELS)
AU_CHANNELS = ("brow_raise", "brow_lower", "lid_raise", "cheek_raise", "lid_tighten", "blink")
"""In the order of a shot's `au`: AU1, 4, 5, 6, 7, 45."""
STRENGTH_CHANNELS = ("upper_strength", "lower_strength", "lip_strength")
"""Of a shot's `upper`, `lower`, `lips`."""
HIGHEST = {channel.name: channel.high for channel in CHANNELS}


@dataclass(frozen=True)
class Source:
    """The files of a shot, and their hashes."""

    avatar: Path
    avatar_hash: str
    sound: Path | None = None
    sound_hash: str = ""


def build_shot(
    source: Source,
    fps: float,
    frames: np.ndarray,
    curves: Mapping[str, np.ndarray],
    placement: Placement | None,
    blink_seed: int | None,
    brow_seed: int | None,
    smoothing: float = 0.0,
    lead: float = 0.0,
) -> Shot:
    """The shot that sampled curves make.

    Args:
        fps: frames of the scene a second.
        frames: [F] whole scene frames, rising.
        curves: a [F] array for each of CHANNEL_NAMES; cut to the slider's range here.
        placement: where the sound lies, or None.
        blink_seed, brow_seed: seeds of the automatic blinks and brows, None: only what is keyed.
        smoothing: seconds over which what the sound says is averaged, 0 for none.
        lead: seconds by which the mouth is ahead of the sound; negative: behind it.
    """
    frames = np.asarray(frames, np.int32)
    values = {name: np.clip(np.asarray(curves[name], np.float64), 0.0, HIGHEST[name]) for name in CHANNEL_NAMES}
    # The sound's clock goes on where the sound is silent, so that no blink is cut in two at a strip's end.
    clock = frames / fps if placement is None else placement.clock(frames, fps)
    if blink_seed is not None:
        values["blink"] = np.maximum(values["blink"], automatic_blinks(clock, blink_seed))
    if brow_seed is not None:
        values["brow_raise"] = np.maximum(values["brow_raise"], automatic_brows(clock, brow_seed))
    if placement is None or source.sound is None:
        times = np.full(len(frames), np.nan)
    else:
        times = placement.moved(-lead * fps).times(frames, fps)
    return Shot(
        avatar=source.avatar,
        avatar_hash=source.avatar_hash,
        sound=source.sound,
        sound_hash=source.sound_hash,
        fps=float(fps),
        frames=frames,
        times=times,
        keyed=np.stack([values[name] for name in EMOTIONS], axis=1).astype(np.float32),
        intensity=values["intensity"].astype(np.float32),
        mix=values["mix"].astype(np.float32),
        au=np.stack([values[name] for name in AU_CHANNELS], axis=1).astype(np.float32),
        upper=values["upper_strength"].astype(np.float32),
        lower=values["lower_strength"].astype(np.float32),
        lips=values["lip_strength"].astype(np.float32),
        smoothing=float(smoothing),
    )
