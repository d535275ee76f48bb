"""What is to be baked, frame by frame, and the keys that say what a frame depends on. Standard library and numpy alone."""

from .automatic import automatic_blinks, automatic_brows
from .compose import compose_shot
from .emotion import EmotionCurves, load_emotion
from .shot import SMOOTHING_MAX, STRENGTHS, Shot, frame_keys, load_shot, save_shot

__all__ = [
    "SMOOTHING_MAX", "STRENGTHS", "EmotionCurves", "Shot", "automatic_blinks", "automatic_brows", "compose_shot", "frame_keys",
    "load_emotion", "load_shot", "save_shot",
]  # fmt: skip
