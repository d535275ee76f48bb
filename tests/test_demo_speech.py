"""The bundled avatar with speech that nobody tuned for, the way a bake evaluates it.

None of the files was trained on. The content net heard other sentences of the voice of `read_aloud`; `ted1` and all others are strangers.
"""

from __future__ import annotations

import numpy as np
import pytest
from support import ROOT, shared_data

from character.evaluate import WIDE, Rig
from engine.audio import Sound, read_sound
from engine.avatar import EMOTIONS, load_avatar

AVATAR = ROOT / "addon" / "assets" / "demo_avatar.safetensors"
SPEECH = ROOT / "addon" / "assets" / "demo_speech.flac"


@pytest.fixture(scope="module")
def face() -> Rig:
    return Rig(load_avatar(AVATAR))


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


def test_silence_closes_the_mouth(face: Rig) -> None:
    times = np.arange(0, 2, 0.1)
    assert np.abs(face.opening(made(np.zeros(32000)), times)).max() < 0.05
    assert np.abs(face.opening(made(1e-4 * np.random.default_rng(0).normal(size=32000)), times)).max() < 0.08
    speech = read_sound(SPEECH)
    assert np.abs(face.opening(speech, np.array([np.nan, -1.0, speech.duration + 0.5]))).max() < 0.05
    # digital silence in the middle of speech
    samples = speech.samples.copy()
    samples[32000:56000] = 0
    assert np.abs(face.opening(made(samples), np.arange(2.3, 3.2, 0.1))).max() < 0.05


def test_noise_is_not_speech(face: Rig) -> None:
    random, times = np.random.default_rng(1), np.arange(0.3, 2.7, 0.1)
    for level in (1e-3, 1e-2, 0.2):
        assert np.abs(face.opening(made(level * random.normal(size=48000)), times)).max() < 0.15


def test_bundled_speech_moves_the_mouth(face: Rig) -> None:
    speech = read_sound(SPEECH)
    assert 8 <= speech.duration <= 12
    opening = face.opening(speech, np.arange(0, speech.duration, 0.04))
    assert np.percentile(opening, 90) > 0.4 and np.percentile(opening, 10) < 0.1


def test_different_files_make_different_mouths(face: Rig) -> None:
    folder = shared_data("speech")
    files = [*sorted((folder / "read_aloud").glob("*.flac"))[:3], folder / "ted1.wav", folder / "happy.wav", folder / "sad.wav"]
    times = np.arange(0.2, 3.4, 0.04)
    tracks = [face.opening(read_sound(path), times) for path in files]
    for i, one in enumerate(tracks):
        assert one.std() > 0.1 and one.max() > 0.4
        for other in tracks[:i]:
            assert np.abs(one - other).mean() > 0.08


def test_speech_of_another_language_opens_and_closes(face: Rig) -> None:
    folder = shared_data("speech", "emodb")
    for path in sorted(folder.glob("*N?.flac"))[:4]:
        sound = read_sound(path)
        opening = face.opening(sound, np.arange(0, sound.duration, 0.04))
        assert opening.max() > 0.35 and opening.min() < 0.1 and opening.max() < 1.6


def test_lips_close_on_p_b_m(face: Rig) -> None:
    """By pocketsphinx's phone times of nine clips: nearer closed than on the vowel beside it, whatever the emotion."""
    pytest.importorskip("pocketsphinx")
    from engine.priors.recogniser import align, closure_pairs, read_aloud

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


def test_emotion_sliders_move_the_upper_face_more_than_the_lips_open(face: Rig) -> None:
    speech = read_sound(SPEECH)
    times = np.arange(0.3, 9, 0.3)
    plain, lips = face.landmarks(speech, times), face.opening(speech, times)
    for name in EMOTIONS[1:]:
        steps = [face.landmarks(speech, times, emotion(name, x)) for x in (0.25, 0.5, 0.75, 1.0)]
        moved = [
            np.mean([np.linalg.norm(step[group] - plain[group], axis=-1).mean() for group in ("brow", "lid_upper", "lid_lower")])
            for step in steps
        ]
        assert moved[-1] > 0.0008, name
        assert all(np.diff([0.0, *moved]) > 0), (name, moved)  # more intensity, more motion
        change = WIDE * np.abs(face.opening(speech, times, emotion(name)) - lips).mean()
        assert moved[-1] > 1.5 * change, (name, moved[-1], change)


def test_blink_and_brows(face: Rig) -> None:
    speech, times = read_sound(SPEECH), np.arange(0.5, 9, 0.5)

    def gap(amount: float, weights: np.ndarray | None = None) -> float:
        found = face.landmarks(speech, times, weights, np.array([0, 0, 0, 0, 0, amount]))
        return float(found["lid_lower"][..., 1].mean() - found["lid_upper"][..., 1].mean())  # m the lids come nearer

    closing = [gap(x) for x in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(np.diff(closing) > 0) and closing[-1] - closing[0] > 0.006
    for name in ("surprised", "sad"):
        assert gap(1.0, emotion(name)) == pytest.approx(closing[-1], abs=0.0015)  # shut is shut
    up = face.landmarks(speech, times, au=np.array([1.0, 0, 0, 0, 0, 0]))["brow"][..., 1].mean()
    down = face.landmarks(speech, times, au=np.array([0, 1.0, 0, 0, 0, 0]))["brow"][..., 1].mean()
    still = face.landmarks(speech, times)["brow"][..., 1].mean()
    assert up - still > 0.002 and still - down > 0.002


def test_the_truth_it_learned_closes_lips_and_lids_whatever_the_emotion() -> None:
    from character.face_model import load
    from character.motion import Actor, Performance
    from engine.views.content import MBP, VISEMES

    model = load(shared_data("face_model", "ict_facekit.npz"))
    actor, random = Actor(model), np.random.default_rng(0)
    emotions = np.concatenate([np.eye(8), random.dirichlet(np.ones(8), 20)]).astype(np.float32)
    count = len(emotions)
    closed = np.repeat(np.eye(len(VISEMES), dtype=np.float32)[MBP : MBP + 1], count, 0)
    one, none = np.ones(count, np.float32), np.zeros((count, 6), np.float32)
    found = actor.coefficients(Performance(closed, one, emotions, none))
    assert actor.gap(found).max() < 0
    for row in found[:8]:  # the gap is geometry's, not the table's
        posed = model.pose(dict(zip(actor.names, map(float, row))))
        upper, lower = model.landmarks[[61, 62, 63]], model.landmarks[[67, 66, 65]]
        assert (posed[upper, 1] - posed[lower, 1]).mean() < 0
    blinking = none.copy()
    blinking[:, 5] = 1
    shut = actor.coefficients(Performance(closed, one, emotions, blinking))
    for name in ("eyeBlink_L", "eyeBlink_R"):
        np.testing.assert_allclose(shut[:, actor.names.index(name)], 1, atol=1e-6)
    assert np.abs(shut[:, [actor.names.index(n) for n in actor.names if n.startswith("eyeWide")]]).max() == 0


def test_articulation_closes_on_p_b_m_and_rests_in_pauses() -> None:
    from engine.priors.visemes import articulate, segments
    from engine.views.content import MBP, SIL

    phones = [(0.0, 0.3, ""), (0.3, 0.4, "m"), (0.4, 0.55, "ɑː"), (0.55, 0.57, "p"), (0.57, 0.7, "aɪ"), (0.7, 1.2, "")]
    weights = articulate(segments(phones), 121)
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert weights[35, MBP] > 0.99 and weights[56, MBP] > 0.99  # also one of 20 ms
    assert weights[47, MBP] < 0.2 and weights[64, MBP] < 0.2
    assert weights[10, SIL] > 0.99 and weights[100, SIL] > 0.99
