"""The emotion that a voice carries, as the engine hears it: asked for, kept for the panel, turned into keys."""

from __future__ import annotations

from dataclasses import dataclass

import bpy
import numpy as np

from ..engine.avatar import EMOTIONS
from ..engine.errors import UserError
from ..engine.worker.client import Job
from . import audio, avatar, compat, curves, keys, session, shots
from .core.keying import KeyPlan, plan_values

_NEUTRAL = np.eye(len(EMOTIONS))[0]
_heard: dict[tuple[str, str], Voice] = {}
_KEPT = 8


@dataclass(frozen=True, eq=False)
class Voice:
    """What a sound says to an avatar: times [T] seconds, rising; weights [T,8], sum 1; confidence [T] 0..1."""

    times: np.ndarray
    weights: np.ndarray
    confidence: np.ndarray

    def at(self, times: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Weights [F,8] and confidence [F] at `times` [F] seconds; neutral, without confidence, where there is no sound (NaN)."""
        times = np.asarray(times, np.float64)
        heard = np.isfinite(times) & bool(len(self.times))
        weights, confidence = np.tile(_NEUTRAL, (len(times), 1)), np.zeros(len(times))
        if heard.any():
            for column in range(len(EMOTIONS)):
                weights[heard, column] = np.interp(times[heard], self.times, self.weights[:, column])
            confidence[heard] = np.interp(times[heard], self.times, self.confidence)
        return weights, confidence


@dataclass(frozen=True)
class Keyed:
    """What became of an automatic emotion: frames and keys on each slider; lowest, mean and highest confidence where it is heard."""

    frames: int
    keys: int
    confidence: tuple[float, float, float]

    def __str__(self) -> str:
        low, mean, high = (f"{100 * value:.0f}" for value in self.confidence)
        return f"{self.keys} keys for {self.frames} frames; confidence {low} to {high} %, {mean} % on average"


class Listening:
    """A question to the engine on its way: the automatic emotion on an avatar's frames, silent ones beside included.

    Raises:
        UserError: the avatar has no sound, or what it needs is missing.
    """

    def __init__(self, obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray | None = None) -> None:
        if obj.ua3dtalk.sound_source == "NONE":
            raise UserError(f"{obj.name} has no sound.", "Attach one: the emotion is taken from the voice.")
        numbers = shots.bake_frames(obj, scene) if frames is None else np.asarray(frames)
        # One frame more on either side: where it is silent, the emotion has gone by then.
        shot = shots.shot_of(obj, scene, np.arange(numbers[0] - 1, numbers[-1] + 2))
        self.frames, self.times = shot.frames, shot.times
        self._who = (shot.avatar_hash, shot.sound_hash)
        heard = self.times[np.isfinite(self.times)]
        if not len(heard) or shot.sound is None:
            raise UserError(f"No sound is heard from frame {numbers[0]} to {numbers[-1]}.", "Choose a range with speech in it.")
        params = {"avatar": str(shot.avatar.absolute()), "sound": str(shot.sound.absolute()), "times": heard.tolist()}
        self._asked = heard
        self._job: Job = session.client().request("emotion", params)

    def step(self, wait: float = 0.0) -> bool:
        """Take in what the engine said; True while it works."""
        self._job.client.pump(wait)
        return self._job.state == "running"

    def cancel(self) -> None:
        """The answer is not wanted any more."""
        self._job.cancel()

    def wait(self) -> Voice:
        """The answer; blocks until it is there. Raises UserError, Cancelled."""
        answer = self._job.wait()
        voice = Voice(self._asked, np.array(answer["weights"], np.float64), np.array(answer["confidence"], np.float64))
        _heard.pop(self._who, None)
        _heard[self._who] = voice
        while len(_heard) > _KEPT:
            del _heard[next(iter(_heard))]
        return voice


def heard(obj: bpy.types.Object, scene: bpy.types.Scene, frame: float) -> tuple[np.ndarray, float] | None:
    """Automatic weights [8] and their confidence at a scene frame, as far as the engine was asked; else None.

    Raises:
        UserError: the sound or the avatar cannot be found.
    """
    place = audio.placement(obj, scene)
    _, sound = audio.sound_hash(obj, scene)
    voice = _heard.get((avatar.hash_of(avatar.file_of(obj)), sound))
    if voice is None or place is None:
        return None
    fps = audio.fps_of(scene)
    weights, confidence = voice.at(place.moved(-obj.ua3dtalk.sound_lead / 1000.0 * fps).times([frame], fps))
    return weights[0], float(confidence[0])


def to_keys(
    obj: bpy.types.Object, scene: bpy.types.Scene, listening: Listening, voice: Voice, tolerance: float, keep: bool
) -> Keyed:
    """Key the eight emotions as the voice has them, and set them to be used as keyed (`mix` 1).

    Args:
        tolerance: how far a weight may be off between keys.
        keep: True keeps what was keyed as much as it counted before: mix * keyed + (1 - mix) * automatic.

    Raises:
        UserError: the object cannot be keyed.
    """
    keys.check_free(obj, (*EMOTIONS, "mix"))
    frames = listening.frames
    weights, confidence = voice.at(listening.times)
    before = curves.sample(obj, scene, frames)
    if keep:
        mix = before["mix"][:, None]
        weights = mix * np.stack([before[name] for name in EMOTIONS], axis=1) + (1 - mix) * weights
    plans = plan_values(frames, {name: weights[:, i].clip(0, 1) for i, name in enumerate(EMOTIONS)}, tolerance)
    first, last = float(frames[0]), float(frames[-1])
    sound_first, sound_last = audio.placement(obj, scene).frames()
    part = first > sound_first or last < sound_last
    mixed = compat.fcurve(obj, f"{keys.PREFIX}mix") is not None or (part and before["mix"].min() < 1)
    if mixed:
        # Only these frames are keyed now; before and after, the voice is used as it was.
        plans["mix"] = KeyPlan(
            {first - 1: float(before["mix"][0]), first: 1.0, last: 1.0, last + 1: float(before["mix"][-1])}, (first - 1, last + 1)
        )
    keys.write(obj, scene, plans)
    if not mixed:
        obj.ua3dtalk.mix = 1.0
    sure = confidence[np.isfinite(listening.times)]
    return Keyed(len(frames), max(len(plans[name].set) for name in EMOTIONS), (float(sure.min()), float(sure.mean()), float(sure.max())))


def forget_all() -> None:
    """As the extension is switched off."""
    _heard.clear()
