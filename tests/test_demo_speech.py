"""The bundled avatar with speech that nobody tuned for (issue's section 6), the way a bake evaluates it."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

import numpy as np
import pytest
from support import ROOT, shared_data
from ua3dtalk.engine.audio import Sound, read_sound
from ua3dtalk.engine.avatar import EMOTIONS, Avatar, load_avatar
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.views import build_providers

AVATAR = ROOT / "addon" / "assets" / "demo_avatar.safetensors"
SPEECH = ROOT / "addon" / "assets" / "demo_speech.flac"
GROUPS = ("lip_upper", "lip_lower", "lid_upper", "lid_lower", "brow")
WIDE = 0.02  # m between the inner lips on a wide vowel


class Face:
    """The avatar's named splats (inner lips, lids, brows) in motion, all networks and members in use."""

    def __init__(self, path: Path) -> None:
        avatar = load_avatar(path)
        rows = [np.asarray(avatar.tensors[f"landmarks.{name}"]) for name in GROUPS]
        self.ends = np.cumsum([0, *map(len, rows)])
        tensors = {name: value for name, value in avatar.tensors.items() if not name.startswith("mouth.")}
        self.deformer = Deformer(Avatar(avatar.meta, tensors | {"face.moving": np.concatenate(rows)}), "cpu", threads=1)
        self.providers = build_providers({name: asdict(view) for name, view in avatar.meta.views.items()}, avatar.tensors)
        self.prototypes = np.asarray(avatar.tensors["emotion.prototypes"], np.float32)

    def move(self, sound: Sound, times: np.ndarray, emotion: np.ndarray | None = None, au: np.ndarray | None = None) -> dict:
        """Motion [F,n,3] m of each group at `times` for weights times intensity [8] and action units [6]."""
        count, p = len(times), self.prototypes
        views = {name: made.track(sound).at(times) for name, made in self.providers.items() if name != "emotion"}
        weights = np.zeros(8) if emotion is None else emotion
        views["emotion"] = np.repeat((p[0] + weights @ (p - p[0]))[None, None], count, 0).astype(np.float32)
        views["au"] = np.repeat((np.zeros(6) if au is None else au)[None], count, 0).astype(np.float32)
        motion = self.deformer.motion(views).face.d_means
        return {name: motion[:, a:b] for name, a, b in zip(GROUPS, self.ends, self.ends[1:])}

    def opening(self, sound: Sound, times: np.ndarray, emotion: np.ndarray | None = None) -> np.ndarray:
        """Lip opening [F]: 0 at rest, 1 on a wide vowel."""
        found = self.move(sound, times, emotion)
        return (found["lip_upper"][..., 1].mean(1) - found["lip_lower"][..., 1].mean(1)) / WIDE


@pytest.fixture(scope="module")
def face() -> Face:
    return Face(AVATAR)


def emotion(name: str, intensity: float = 1.0) -> np.ndarray:
    return np.eye(8)[EMOTIONS.index(name)] * intensity


def made(samples: np.ndarray) -> Sound:
    return Sound(samples.astype(np.float32), 16000, len(samples) / 16000, "0" * 64, 16000, 1)


def test_the_avatar_says_where_it_comes_from() -> None:
    avatar = load_avatar(AVATAR)
    assert AVATAR.stat().st_size < 8_000_000
    for word in ("ICT-FaceKit", "MIT", "Copyright", "espeak-ng"):
        assert word in avatar.meta.provenance
    assert "no real person" in avatar.meta.consent
    assert avatar.thumbnail is not None and avatar.thumbnail.std() > 10
    assert {"audio", "exp", "style", "emotion"} == set(avatar.meta.views)


def test_silence_closes_the_mouth(face: Face) -> None:
    times = np.arange(0, 2, 0.1)
    assert np.abs(face.opening(made(np.zeros(32000)), times)).max() < 0.05
    assert np.abs(face.opening(made(1e-4 * np.random.default_rng(0).normal(size=32000)), times)).max() < 0.08
    speech = read_sound(SPEECH)
    assert np.abs(face.opening(speech, np.array([np.nan, -1.0, speech.duration + 0.5]))).max() < 0.05
    # digital silence in the middle of speech
    samples = speech.samples.copy()
    samples[32000:56000] = 0
    assert np.abs(face.opening(made(samples), np.arange(2.3, 3.2, 0.1))).max() < 0.05


def test_bundled_speech_moves_the_mouth(face: Face) -> None:
    speech = read_sound(SPEECH)
    assert 8 <= speech.duration <= 12
    opening = face.opening(speech, np.arange(0, speech.duration, 0.04))
    assert np.percentile(opening, 90) > 0.4 and np.percentile(opening, 10) < 0.1


def test_different_files_make_different_mouths(face: Face) -> None:
    folder = shared_data("speech")
    files = [*sorted((folder / "read_aloud").glob("*.flac"))[:3], folder / "ted1.wav", folder / "happy.wav", folder / "sad.wav"]
    times = np.arange(0.2, 3.4, 0.04)
    tracks = [face.opening(read_sound(path), times) for path in files]
    for i, one in enumerate(tracks):
        assert one.std() > 0.1 and one.max() > 0.4
        for other in tracks[:i]:
            assert np.abs(one - other).mean() > 0.08


def test_speech_of_another_language_opens_and_closes(face: Face) -> None:
    folder = shared_data("speech", "emodb")
    for path in sorted(folder.glob("*N?.flac"))[:4]:
        sound = read_sound(path)
        opening = face.opening(sound, np.arange(0, sound.duration, 0.04))
        assert opening.max() > 0.35 and opening.min() < 0.1 and opening.max() < 1.6


def test_lips_close_on_p_b_m(face: Face) -> None:
    """By pocketsphinx's phone times of nine clips: nearer closed than on the vowel beside it, whatever the emotion."""
    pytest.importorskip("pocketsphinx")
    from character.evaluate_speech import align, closure_pairs, read_aloud

    pairs = []
    for path, text in read_aloud(shared_data("speech")).values():
        sound = read_sound(path)
        pairs.append((sound, np.array(closure_pairs(align(sound, text))).reshape(-1, 2)))
    assert sum(len(times) for _, times in pairs) > 60
    for weights in (None, emotion("happy"), emotion("surprised"), emotion("disgusted")):
        right = [
            closed < open_
            for sound, times in pairs
            for closed, open_ in face.opening(sound, times.reshape(-1), weights).reshape(-1, 2)
        ]
        assert np.mean(right) >= 0.90, (weights, np.mean(right))


def test_emotion_sliders_move_the_upper_face_more_than_the_lips_open(face: Face) -> None:
    speech = read_sound(SPEECH)
    times = np.arange(0.3, 9, 0.3)
    plain, lips = face.move(speech, times), face.opening(speech, times)
    for name in EMOTIONS[1:]:
        steps = [face.move(speech, times, emotion(name, x)) for x in (0.25, 0.5, 0.75, 1.0)]
        moved = [
            np.mean([np.linalg.norm(step[group] - plain[group], axis=-1).mean() for group in ("brow", "lid_upper", "lid_lower")])
            for step in steps
        ]
        assert moved[-1] > 0.0008, name
        assert all(np.diff([0.0, *moved]) > 0), (name, moved)  # more intensity, more motion
        change = WIDE * np.abs(face.opening(speech, times, emotion(name)) - lips).mean()
        assert moved[-1] > 1.5 * change, (name, moved[-1], change)


def test_blink_and_brows(face: Face) -> None:
    speech, times = read_sound(SPEECH), np.arange(0.5, 9, 0.5)

    def gap(amount: float, weights: np.ndarray | None = None) -> float:
        found = face.move(speech, times, weights, np.array([0, 0, 0, 0, 0, amount]))
        return float(found["lid_lower"][..., 1].mean() - found["lid_upper"][..., 1].mean())  # m the lids come nearer

    closing = [gap(x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(np.diff(closing) > 0) and closing[-1] - closing[0] > 0.006
    for name in ("surprised", "sad"):
        assert gap(1.0, emotion(name)) == pytest.approx(closing[-1], abs=0.0015)  # shut is shut
    up = face.move(speech, times, au=np.array([1.0, 0, 0, 0, 0, 0]))["brow"][..., 1].mean()
    down = face.move(speech, times, au=np.array([0, 1.0, 0, 0, 0, 0]))["brow"][..., 1].mean()
    still = face.move(speech, times)["brow"][..., 1].mean()
    assert up - still > 0.002 and still - down > 0.002
