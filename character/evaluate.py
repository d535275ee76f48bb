"""Judging an avatar's face: `python -m character.evaluate --avatar A --data DIR` (DIR holds speech/, see the shared test data).

Everything goes the way a bake goes: providers, networks with all members, the fast path; only the splats at named landmarks are moved.
"""

from __future__ import annotations

import argparse
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch

from engine.audio import Sound, read_sound
from engine.avatar import EMOTIONS, Avatar, load_avatar
from engine.deform.fast import Deformer
from engine.priors.recogniser import aligned_clips, judge
from engine.views import Track, build_providers

LANDMARKS = ("lip_upper", "lip_lower", "lid_upper", "lid_lower", "brow")
WIDE = 0.02  # m between the lips on a wide vowel: opening 1


class Rig:
    """An avatar's landmarks in motion.

    Args:
        avatar: with `landmarks.*` tensors.
    """

    def __init__(self, avatar: Avatar) -> None:
        self.avatar = avatar
        rows = [np.asarray(avatar.tensors[f"landmarks.{name}"]) for name in LANDMARKS]
        self._ends = np.cumsum([0, *map(len, rows)])
        # The rows that move are all that is asked of the networks; the mouth's inside has no landmarks.
        tensors = {name: value for name, value in avatar.tensors.items() if not name.startswith("mouth.")}
        self._deformer = Deformer(Avatar(avatar.meta, tensors | {"face.moving": np.concatenate(rows)}), "cpu", threads=1)
        views = {name: asdict(view) for name, view in avatar.meta.views.items()}
        self._providers = build_providers(views, avatar.tensors)
        self._prototypes = np.asarray(avatar.tensors["emotion.prototypes"], np.float32)
        self._heard: Sound | None = None
        self._tracks: dict[str, Track] = {}

    def features(self, sound: Sound, times: np.ndarray, emotion: np.ndarray | None = None, au: np.ndarray | None = None) -> dict:
        """The networks' views at times [F]; emotion [8] or [F,8] (weights times intensity), au [6] or [F,6]."""
        if sound is not self._heard:
            self._heard, self._tracks = sound, {name: provider.track(sound) for name, provider in self._providers.items()}
        count = len(times)
        found = {name: track.at(times) for name, track in self._tracks.items() if name != "emotion"}
        weights = np.broadcast_to(np.zeros(8) if emotion is None else emotion, (count, 8))
        found["emotion"] = (self._prototypes[0] + weights @ (self._prototypes - self._prototypes[0]))[:, None].astype(np.float32)
        found["au"] = np.broadcast_to(np.zeros(6) if au is None else au, (count, 6)).astype(np.float32)
        return found

    def landmarks(self, sound: Sound, times: np.ndarray, emotion: np.ndarray | None = None, au: np.ndarray | None = None) -> dict:
        """Motion from rest [F,n,3] in m of each group of landmarks."""
        motion = self._deformer.motion(self.features(sound, times, emotion, au)).face.d_means
        return {name: motion[:, a:b] for name, a, b in zip(LANDMARKS, self._ends, self._ends[1:])}

    def opening(self, sound: Sound, times: np.ndarray, emotion: np.ndarray | None = None) -> np.ndarray:
        """Lip opening [F]: 0 at rest, 1 on a wide vowel."""
        if not len(times):
            return np.zeros(0)
        found = self.landmarks(sound, times, emotion)
        return (found["lip_upper"][..., 1].mean(1) - found["lip_lower"][..., 1].mean(1)) / WIDE


def report(avatar: Avatar, data: Path, clips: dict | None = None) -> list[str]:
    """What is asked of an avatar, in figures."""
    rig, lines = Rig(avatar), []
    clips = clips or aligned_clips(data / "speech")
    for name, part in (("nine clips", clips), ("ted1", {"ted1": clips["ted1"]})):
        found = judge(part, rig.opening)
        lines.append(f"{name}: " + ", ".join(f"{key} {value:.3g}" for key, value in found.items()))
    for emotion in EMOTIONS[1:]:
        one = np.eye(8)[EMOTIONS.index(emotion)]
        found = judge({"ted1": clips["ted1"]}, lambda sound, times: rig.opening(sound, times, one))
        lines.append(f"ted1 {emotion}: " + ", ".join(f"{key} {value:.3g}" for key, value in found.items()))
    sound = clips["LJ001-0001"][0]
    times = np.arange(0.2, 8, 0.2)
    plain = rig.landmarks(sound, times)
    lips = rig.opening(sound, times)
    for emotion in EMOTIONS[1:]:
        one = np.eye(8)[EMOTIONS.index(emotion)]
        steps = [rig.landmarks(sound, times, one * x) for x in (0.25, 0.5, 0.75, 1.0)]
        far = [
            1000 * np.mean([np.linalg.norm(step[g] - plain[g], axis=-1).mean() for g in ("brow", "lid_upper", "lid_lower")])
            for step in steps
        ]
        change = 1000 * WIDE * np.abs(rig.opening(sound, times, one) - lips).mean()
        lines.append(f"{emotion}: upper face moves {', '.join(f'{x:.2f}' for x in far)} mm at 1/4..1, lips' opening by {change:.2f} mm")
    gap = lambda found: 1000 * (found["lid_upper"][..., 1].mean() - found["lid_lower"][..., 1].mean())  # noqa: E731
    shut = [gap(rig.landmarks(sound, times, au=np.array([0, 0, 0, 0, 0, x]))) - gap(plain) for x in (0.25, 0.5, 0.75, 1.0)]
    lines.append(f"blink closes by {', '.join(f'{-x:.1f}' for x in shut)} mm at 1/4..1")
    zero = Sound(np.zeros(32000, np.float32), 16000, 2.0, "", 16000, 1)
    lines.append(f"digital silence: opening {np.abs(rig.opening(zero, np.arange(0, 2, 0.1))).max():.3f}")
    german = sorted((data / "speech" / "emodb").glob("*N?.flac"))[:6]
    spread = []
    for path in german:
        heard = read_sound(path)
        spread.append(np.percentile(rig.opening(heard, np.arange(0, heard.duration, 0.04)), [5, 50, 95]))
    lines.append("german: opening 5 / 50 / 95 % " + " ".join(f"{x:.2f}" for x in np.mean(spread, 0)))
    return lines


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.evaluate")
    parser.add_argument("--avatar", type=Path, required=True)
    parser.add_argument("--data", type=Path, required=True)
    given = parser.parse_args()
    torch.set_num_threads(1)
    for line in report(load_avatar(given.avatar), given.data):
        print(line, flush=True)


if __name__ == "__main__":
    main()
