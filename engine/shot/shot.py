"""A shot: everything that a bake depends on, and each frame's key."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from ..avatar import EMOTIONS
from ..avatar.tensors import load_tensors, save_tensors
from ..errors import UserError

FORMAT_VERSION = 2
METADATA = "ua3dtalk_shot"
# Raised whenever the engine would give other numbers for the same shot, so that older frames count as out of date.
RESULT_REVISION = 3
SMOOTHING_MAX = 1.0
STRENGTHS = ("upper", "lower", "lips")


@dataclass
class Shot:
    """F frames of one avatar.

    Attributes:
        avatar: the avatar file; avatar_hash: SHA-256 of its bytes.
        sound: the sound file or None; sound_hash: SHA-256 of its bytes, or "".
        fps: frames of the scene a second.
        frames: [F] int32 scene frames, rising.
        times: [F] float64, where each frame lies in the sound file, seconds; NaN: no sound there.
        keyed: [F,8] float32 weights 0..1 in the order of EMOTIONS; intensity, mix: [F] float32.
        au: [F,6] float32 0..1 (AU1, 4, 5, 6, 7, 45), keyed on top of what goes with the emotion.
        upper, lower, lips: [F] float32 0..2, how strongly the upper face, the lower face and the lips move; 1, as they are where
            left out, is as learned. `engine.avatar.strength_masks` says where they act.
        smoothing: seconds, 0..SMOOTHING_MAX: deviation of the Gaussian over which what the sound says is averaged; 0 is off.
    """

    avatar: Path
    avatar_hash: str
    sound: Path | None
    sound_hash: str
    fps: float
    frames: np.ndarray
    times: np.ndarray
    keyed: np.ndarray
    intensity: np.ndarray
    mix: np.ndarray
    au: np.ndarray
    upper: np.ndarray = field(default_factory=lambda: np.ones(0, np.float32))
    lower: np.ndarray = field(default_factory=lambda: np.ones(0, np.float32))
    lips: np.ndarray = field(default_factory=lambda: np.ones(0, np.float32))
    smoothing: float = 0.0

    def __post_init__(self) -> None:
        for name in STRENGTHS:
            if not len(getattr(self, name)):
                setattr(self, name, np.ones(len(self.frames), np.float32))

    def __len__(self) -> int:
        return len(self.frames)

    def part(self, rows: np.ndarray) -> Shot:
        """The shot of some of its rows [R], in that order."""
        return replace(self, **{name: getattr(self, name)[rows] for name, _, _ in _ARRAYS})

    def emotion_parts(self) -> tuple[np.ndarray, np.ndarray]:
        """x = intensity * (mix * keyed + (1 - mix) * automatic) in two parts: its keyed part [F,8], and automatic's factor [F]."""
        intensity, mix = np.asarray(self.intensity, np.float32), np.clip(np.asarray(self.mix, np.float32), 0, 1)
        return (intensity * mix)[:, None] * np.asarray(self.keyed, np.float32), intensity * (1 - mix)


def frame_keys(shot: Shot) -> np.ndarray:
    """Keys [F,16] uint8: equal exactly where a frame depends on equal things.

    A key holds the avatar, the sound, the time in it and its smoothing, the emotion as it acts (so that what a zero intensity
    hides does not count; neutral, the origin of the mix, does not either), the action units and the strengths; not the
    frame's number nor any path.
    """
    keyed, share = shot.emotion_parts()
    has_sound = np.isfinite(shot.times) & bool(shot.sound_hash)
    numbers = np.concatenate(
        [
            np.where(has_sound, shot.times, 0.0)[:, None],
            has_sound[:, None],
            keyed[:, 1:],
            np.where(has_sound, share, 0.0)[:, None],
            shot.au,
            np.stack([getattr(shot, name) for name in STRENGTHS], axis=1),
            np.where(has_sound, shot.smoothing, 0.0)[:, None],
        ],
        axis=1,
    )
    # A millionth is far below what can be seen, and above the rounding noise of curves sampled twice.
    whole = np.rint(np.asarray(numbers, np.float64) * 1e6).astype("<i8")
    start = hashlib.blake2b(f"{RESULT_REVISION}|{shot.avatar_hash}|".encode(), digest_size=16)
    keys = np.empty((len(shot), 16), np.uint8)
    for row in range(len(shot)):
        digest = start.copy()
        digest.update(whole[row].tobytes())
        if has_sound[row]:
            digest.update(shot.sound_hash.encode())
        keys[row] = np.frombuffer(digest.digest(), np.uint8)
    return keys


def save_shot(shot: Shot, path: Path, durable: bool = True) -> None:
    """Write a shot file (safetensors) in one step; durable: see files.atomic_write. Raises UserError where it cannot be written."""
    about = {
        "format_version": FORMAT_VERSION,
        "avatar": str(shot.avatar),
        "avatar_hash": shot.avatar_hash,
        "sound": None if shot.sound is None else str(shot.sound),
        "sound_hash": shot.sound_hash,
        "fps": shot.fps,
        "smoothing": shot.smoothing,
        "emotions": list(EMOTIONS),
    }
    save_tensors(path, {name: np.asarray(getattr(shot, name), kind) for name, kind, _ in _ARRAYS}, {METADATA: json.dumps(about)}, durable)


_ARRAYS = (
    ("frames", np.int32, ()),
    ("times", np.float64, ()),
    ("keyed", np.float32, (len(EMOTIONS),)),
    ("intensity", np.float32, ()),
    ("mix", np.float32, ()),
    ("au", np.float32, (6,)),
    *((name, np.float32, ()) for name in STRENGTHS),
)


def load_shot(path: Path) -> Shot:
    """Read a shot file.

    Raises:
        UserError: unreadable, foreign, newer, or arrays that do not fit together.
    """
    tensors, metadata = load_tensors(path)
    remedy = "Write the shot again."
    try:
        about = json.loads(metadata[METADATA])
        if about["format_version"] > FORMAT_VERSION:
            raise UserError(f"{path}: a shot of a newer version of UA-3DTalk.", "Update the extension or the engine.")
        if about["emotions"] != list(EMOTIONS):
            raise ValueError("emotions")
        count = len(tensors["frames"])
        if about["format_version"] == 1:  # had neither strengths nor smoothing
            tensors = {name: np.ones(count, np.float32) for name in STRENGTHS} | tensors
            about = {"smoothing": 0.0} | about
        arrays = {name: np.array(tensors[name]) for name, _, _ in _ARRAYS}
        for name, kind, tail in _ARRAYS:
            if arrays[name].shape != (count, *tail) or arrays[name].dtype != kind:
                raise ValueError(name)
        numbers = np.concatenate([arrays[name].reshape(-1) for name in ("keyed", "intensity", "mix", "au", *STRENGTHS)])
        if not np.isfinite(numbers).all():
            raise ValueError("numbers that are not finite")
        if np.any(np.diff(arrays["frames"]) <= 0) or not 0 < float(about["fps"]) < 1e6:
            raise ValueError("frames")
        if not 0 <= float(about["smoothing"]) <= SMOOTHING_MAX:
            raise ValueError("smoothing")
        if not all(isinstance(about[name], str) and about[name].isascii() for name in ("avatar_hash", "sound_hash")):
            raise ValueError("hashes")  # frame keys are made of them
        sound = about["sound"]
        return Shot(
            Path(about["avatar"]),
            str(about["avatar_hash"]),
            None if sound is None else Path(sound),
            str(about["sound_hash"]),
            float(about["fps"]),
            smoothing=float(about["smoothing"]),
            **arrays,
        )
    except (KeyError, ValueError, TypeError, IndexError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: not a whole shot file ({error}).", remedy) from error
