"""Emotion distillation: what was planted is learned, confidence knows noise, files travel, bad input is refused."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from scipy.signal import lfilter
from support import shared_data as find_shared_data
from support.moods import MOODS, RATE, as_sound, planted, say
from support.avatars import static_avatar, talking_avatar
from ua3dtalk.engine import cli
from ua3dtalk.engine.audio import read_sound
from ua3dtalk.engine.avatar import EMOTIONS, load_avatar, save_avatar
from ua3dtalk.engine.bake import Session
from ua3dtalk.engine.dataset import FaceData, Frame, Labels
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.files import file_hash
from ua3dtalk.engine.priors import emotion_person
from ua3dtalk.engine.priors.emotion_file import EmotionPrior, load_prior, make_prior, save_prior, with_prior
from ua3dtalk.engine.priors.emotion_measure import auroc, best_temperature, by_clip, score
from ua3dtalk.engine.priors.emotion_person import distil_person, labelled_takes, person_prototypes
from ua3dtalk.engine.priors.emotion_run import train_emotion
from ua3dtalk.engine.priors.emotion_speech import Examples, list_speech, make_examples, read_examples
from ua3dtalk.engine.priors.emotion_train import (
    LENGTH, EmotionSettings, Trained, fit, hear_examples, held_out, leave_one_speaker_out, prototypes, scores, train_encoder,
)  # fmt: skip
from ua3dtalk.engine.views import build_providers
from ua3dtalk.engine.views.emotion_features import FUNCTIONALS, Windows, clip_starts, functional_names, windows
from ua3dtalk.engine.views.emotion_net import Distilled
from ua3dtalk.engine.views.emotion_parts import EncoderShape, Member

QUICK = EmotionSettings(epochs=12)


@pytest.fixture(scope="module")
def examples() -> Examples:
    return planted()


@pytest.fixture(scope="module")
def trained(examples: Examples) -> Trained:
    return train_encoder(examples, QUICK)


@pytest.fixture(scope="module")
def prior(examples: Examples, trained: Trained) -> EmotionPrior:
    places, heard = prototypes(trained.encoder, examples)
    return make_prior(trained.encoder, places, {"classes": list(examples.classes), "heard": heard, "trained_on": "buzzes"})


def test_a_planted_difference_is_learned_and_heard_in_voices_that_were_left_out(examples: Examples, trained: Trained) -> None:
    assert trained.by_speaker and examples.classes == ("neutral", "happy", "sad")
    found = score(trained.known, examples.label, examples.clip, examples.classes)
    assert found["recordings"] == 72 and found["right"] >= 0.85
    assert score(trained.unknown, examples.label, examples.clip, examples.classes)["right"] >= 0.6


def test_without_a_difference_nothing_is_learned(examples: Examples) -> None:
    examples = examples.rows(np.ones(len(examples.label), bool))
    mixed = np.random.default_rng(1).permutation(np.arange(72) % 3)
    examples.label = mixed[examples.clip]
    trained = train_encoder(examples, QUICK)
    found = score(trained.unknown, examples.label, examples.clip, examples.classes)
    assert found["right"] <= 0.5  # of three
    assert trained.unknown.max(1).mean() < 0.6  # and it knows


def test_the_same_seed_gives_the_same_encoder(examples: Examples) -> None:
    one, two, other = (train_encoder(examples, replace(QUICK, epochs=2, seed=seed)).encoder.state_dict() for seed in (0, 0, 1))
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert not torch.equal(one["members.0.embed.weight"], other["members.0.embed.weight"])


def test_copies_in_other_rooms_stay_with_their_recording() -> None:
    sounds = [(f"{m} {s} {n}", m, f"speaker {s}", lambda m=m, s=s, n=n: as_sound(say(m, s, n))) for s in range(4) for m in MOODS for n in range(3)]
    plain, examples = make_examples(sounds[:27]), make_examples(sounds, copies=1)
    assert len(examples.label) == 2 * (examples.copy == 0).sum() and set(examples.copy) == {0, 1}
    np.testing.assert_array_equal(examples.windows.functionals[(examples.copy == 0) & (examples.clip < 27)], plain.windows.functionals)
    assert len(examples.sessions()) == 8  # each speaker, in each room
    for group in (held_out(examples, QUICK)[0], held_out(anonymous(examples), QUICK)[0]):
        for clip in np.unique(examples.clip):
            assert len(set(group[examples.clip == clip])) == 1  # else a net would be judged by what it learned from
    found = scores(examples, {"unknown": train_encoder(examples, QUICK).unknown})
    assert found["unknown"]["recordings"] == found["unknown_elsewhere"]["recordings"] == 36
    assert found["unknown_elsewhere"]["right"] >= 0.5


def anonymous(examples: Examples) -> Examples:
    """The same by nobody knows whom."""
    found = examples.rows(np.ones(len(examples.label), bool))
    found.speaker = np.full(len(found.label), -1)
    return found


def test_speakers_are_left_out_in_turn(examples: Examples) -> None:
    found = leave_one_speaker_out(examples, replace(QUICK, members=2))
    assert set(found) == {"unknown", "known"} and found["known"]["right"] >= 0.85
    with pytest.raises(UserError, match="fewer than three"):
        leave_one_speaker_out(examples.rows(examples.speaker < 2), QUICK)


def test_confidence_falls_where_there_is_no_voice_like_those_learned_from(prior: EmotionPrior) -> None:
    provider = Distilled(prior.tensors)
    random, time = np.random.default_rng(0), np.arange(4 * RATE) / RATE
    at = np.arange(0.5, 3.5, 0.1)
    strange: Mapping[str, np.ndarray] = {
        "noise": 0.1 * random.normal(size=len(time)),
        "tone": 0.3 * np.sin(2 * np.pi * 440 * time),
        "rumble": lfilter([1], [1, -0.99], 0.01 * random.normal(size=len(time))),
        "silence": np.zeros(len(time)),
    }
    voice = provider.track(as_sound(say("happy", 1, 99, 4.0)))
    assert voice.confidence_at(at).mean() > 0.6 and EMOTIONS[voice.at(at).mean(0).argmax()] == "happy"
    for name, samples in strange.items():
        track = provider.track(as_sound(samples))
        assert track.confidence_at(at).max() < 0.1, name
        assert track.at(at)[:, 0].min() > 0.9, name  # and the face stays neutral
    drowned = provider.track(as_sound(say("happy", 1, 99, 4.0) + 0.3 * random.normal(size=len(time))))
    assert drowned.confidence_at(at).mean() < 0.5 * voice.confidence_at(at).mean()


def test_a_mood_that_changes_is_followed(prior: EmotionPrior) -> None:
    sound = as_sound(np.concatenate([say("sad", 2, 50, 6.0), say("happy", 2, 51, 6.0)]))
    track = Distilled(prior.tensors).track(sound)
    weights = track.at(np.arange(0, 12, 0.04))
    np.testing.assert_allclose(weights.sum(1), 1, atol=1e-5)
    assert weights.min() >= -1e-6 and len(track.features) == 301 and track.rate == 25
    assert weights[40:110, 2].mean() > 0.6 and weights[190:260, 1].mean() > 0.6


def test_a_file_s_own_average_is_taken_as_far_as_is_wanted(prior: EmotionPrior, examples: Examples) -> None:
    encoder = prior.encoder()
    rows = examples.windows.functionals[examples.label == 1]
    speech = np.full(len(rows), 2.0, np.float32)
    np.testing.assert_array_equal(encoder.statistics(rows, speech)[0], encoder.mean.numpy())
    encoder.file_seconds.fill_(float(speech.sum()) * 0.1)  # as much as there is
    half = encoder.statistics(rows, speech)[0]
    np.testing.assert_allclose(half, (rows.mean(0) + encoder.mean.numpy()) / 2, rtol=1e-3, atol=1e-3)
    encoder.speaker.copy_(torch.stack([encoder.mean + 5, encoder.deviation]))
    assert np.abs(encoder.statistics(rows[:0], speech[:0])[0] - encoder.mean.numpy() - 5).max() < 1e-4


def test_prototypes_stand_at_right_angles_and_f_emotion_goes_to_them(prior: EmotionPrior, examples: Examples) -> None:
    assert prior.about["heard"] == [name in MOODS for name in EMOTIONS]
    offsets = (prior.prototypes[1:] - prior.prototypes[0]).astype(np.float64)
    np.testing.assert_allclose(offsets @ offsets.T, LENGTH**2 * np.eye(7), atol=1e-2)
    encoder = prior.encoder()
    plain = hear_examples(encoder, examples, (encoder.mean.numpy(), encoder.deviation.numpy())).embedding
    near = [((row - prior.prototypes) ** 2).sum(1).argmin() for row in (plain[examples.label == i].mean(0) for i in range(3))]
    assert near == [0, 1, 2]
    sound = as_sound(say("sad", 0, 1))
    f_emotion = Distilled(prior.tensors).embedding(sound, np.array([0.9, 1.2, 1.5]))
    assert f_emotion.shape == (3, 128) and ((f_emotion[:, None] - prior.prototypes) ** 2).sum(2).argmin(1).tolist() == [2, 2, 2]


def test_the_provider_travels_in_an_avatar(prior: EmotionPrior, tmp_path: Path) -> None:
    save_prior(prior, tmp_path / "emotion.safetensors")
    loaded = load_prior(tmp_path / "emotion.safetensors")
    np.testing.assert_array_equal(loaded.prototypes, prior.prototypes)
    avatar = talking_avatar()
    before = np.array(avatar.tensors["emotion.prototypes"])
    save_avatar(with_prior(avatar, loaded), tmp_path / "avatar.safetensors")
    again = load_avatar(tmp_path / "avatar.safetensors")
    np.testing.assert_array_equal(again.tensors["emotion.prototypes"], before)  # its networks learned with them
    assert "buzzes" in again.meta.provenance
    soundfile.write(tmp_path / "said.wav", say("sad", 3, 7, 3.0), RATE)
    session = Session("cpu", 1)
    heard = session.emotion(session.head(tmp_path / "avatar.safetensors"), tmp_path / "said.wav", file_hash(tmp_path / "said.wav"))
    at = np.arange(0.3, 2.7, 0.2)
    want = Distilled(prior.tensors).track(read_sound(tmp_path / "said.wav"))
    np.testing.assert_array_equal(heard.at(at), want.at(at))
    np.testing.assert_array_equal(heard.confidence_at(at), want.confidence_at(at))
    views = {"emotion": {"provider": "distilled", "version": 1, "dim": [8], "rate": 25.0}}
    assert build_providers(views, dict(again.tensors))["emotion"].weights == Distilled(prior.tensors).weights
    with pytest.raises(UserError, match="lacks its weights"):
        build_providers(views, {})
    damaged = dict(again.tensors) | {"provider.emotion.mean": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match="lacks its weights"):
        build_providers(views, damaged)
    assert Distilled(prior.tensors).weights != Distilled(prior.tensors | {"provider.emotion.temperature": np.array(9.0, np.float32)}).weights


def test_an_avatar_s_training_takes_provider_and_prototypes(prior: EmotionPrior, tmp_path: Path) -> None:
    from ua3dtalk.engine.train.sources import find_sources

    save_prior(prior, tmp_path / "emotion.safetensors")
    sources = find_sources([tmp_path / "emotion.safetensors"])
    assert sources.views["emotion"].provider == "distilled" and isinstance(sources.providers["emotion"], Distilled)
    np.testing.assert_allclose(sources.emotion(np.eye(8)[[2]])[0], prior.prototypes[2], atol=1e-5)


def face_data(folder: Path, labels: bool = True, rounds: int = 5) -> FaceData:
    """A person who speaks takes of 3 s in three moods in turn and whose face follows them; the last three takes are held out."""
    order = [mood for _ in range(rounds) for mood in MOODS] + ["happy"]
    sound = np.concatenate([say(mood, 5, number, 3.0) for number, mood in enumerate(order)])
    soundfile.write(folder / "aud.wav", sound, RATE)
    count = 75 * len(order)
    take = np.arange(count) // 75
    emotion = np.zeros((count, 8), np.float32)
    for i, mood in enumerate(order):
        emotion[take == i, EMOTIONS.index(mood)] = 1.0
    random = np.random.default_rng(0)
    expression = np.column_stack([emotion[:, 1], emotion[:, 2], emotion[:, 1] - emotion[:, 2]]) + 0.3 * random.normal(size=(count, 3))
    expression = expression.astype(np.float32)
    if labels:
        zeros = np.zeros(count, np.int32)
        known = Labels(emotion, take.astype(np.int32), np.full(count, ""), zeros, expression, np.array(list("abc")), zeros)
        np.savez(folder / "labels.npz", **vars(known))
    frames = [Frame(i, i / 25, np.eye(4, dtype=np.float32)) for i in range(count)]
    splits = {"train": frames[: -75 * 3], "val": frames[-75 * 3 :]}
    table = {f"AU{number:02d}": column for number, column in zip((1, 4, 12), expression.T)}
    return FaceData(folder, 64, 64, np.eye(3, dtype=np.float32), 25.0, splits, table, {"name": "Buzz"})


@pytest.mark.parametrize("labels", [True, False])
def test_a_face_teaches_the_encoder(examples: Examples, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, labels: bool) -> None:
    data = face_data(tmp_path, labels)
    encoder = train_encoder(examples, replace(QUICK, epochs=3)).encoder
    start = {name: value.clone() for name, value in encoder.members.state_dict().items()}
    monkeypatch.setattr(emotion_person, "EPOCHS", 12)
    report = distil_person(encoder, examples.classes, data, QUICK, examples)
    explained = report["expression_explained"]
    assert explained["after"] > 0.5 and explained["after"] >= explained["before"] - 0.02
    assert any(not torch.equal(value, start[name]) for name, value in encoder.members.state_dict().items())
    assert not any(parameter.requires_grad for parameter in encoder.parameters())  # frozen
    assert report["own_statistics"] is labels and bool(encoder.speaker.any()) is labels
    if labels:
        assert report["right"]["after"] >= 0.8
        found = person_prototypes(encoder, data)
        assert found is not None and found[1] == [name in MOODS for name in EMOTIONS] and found[2] > 0.9
    else:
        assert person_prototypes(encoder, data) is None


def test_expression_weight_matters(examples: Examples, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the L2 of eq. 5 the encoder knows less of an expression that the label does not name: here one that follows melody."""
    data = face_data(tmp_path)
    assert data.labels is not None
    sound = read_sound(data.sound)
    middle = windows(sound, np.arange(len(data.labels.take)) / 25 - 1.0)
    melody = np.concatenate([part.functionals[:, functional_names().index("pitch deviation")] for part in middle])
    labels = {**vars(data.labels), "expression": np.repeat(melody[:, None], 3, 1).astype(np.float32)}
    np.savez(tmp_path / "labels.npz", **labels)
    monkeypatch.setattr(emotion_person, "EPOCHS", 20)
    explained = []
    for weight in (0.0, 3.0):
        encoder = make_prior(trained.encoder, np.zeros((8, 128)), {}).encoder()
        report = distil_person(encoder, examples.classes, face_data_again(data), replace(QUICK, expression=weight))
        explained.append(report["expression_explained"]["after"])
    assert explained[1] > explained[0] + 0.05


def face_data_again(data: FaceData) -> FaceData:
    """The same without what was read of it."""
    return FaceData(data.folder, data.width, data.height, data.K, data.fps, data.splits, data.au_table, data.info)


def test_takes_of_a_labelled_face_are_recordings(tmp_path: Path) -> None:
    found = labelled_takes(face_data(tmp_path, rounds=7))
    assert found is not None and found.speakers == ("Buzz",) and found.classes == tuple(MOODS)
    assert [len(np.unique(found.clip[found.label == i])) for i in range(3)] == [7, 6, 6]
    with pytest.raises(UserError, match="Too few recordings of neutral"):
        labelled_takes(face_data(tmp_path, rounds=5))
    (tmp_path / "labels.npz").unlink()
    assert labelled_takes(face_data(tmp_path, labels=False)) is None
    moods = [*(mood for _ in range(7) for mood in MOODS), "happy"]
    lines = [f"{frame},{float(mood == 'happy')},{float(mood == 'angry')},{float(mood == 'sad')}" for k, mood in enumerate(moods) for frame in (75 * k, 75 * k + 74)]
    (tmp_path / "emotions.csv").write_text("\n".join(["frame,happy,angry,sad", *lines]))
    written = labelled_takes(face_data(tmp_path, labels=False, rounds=7))
    assert written is not None and np.array_equal(written.label, found.label) and np.array_equal(written.clip, found.clip), "as its stretches say"


def write_speech(folder: Path, table: bool, sentences: int = 6, speakers: int = 4) -> Path:
    """The planted moods as files: a folder per emotion and speaker, or a table."""
    lines = []
    for mood in MOODS:
        for speaker in range(speakers):
            for number in range(sentences):
                path = folder / mood / f"s{speaker}" / f"{number}.wav"
                path.parent.mkdir(parents=True, exist_ok=True)
                soundfile.write(path, say(mood, speaker, number), RATE)
                lines.append(f"{path.relative_to(folder).as_posix()},{mood.upper()},s{speaker}")
    if table:
        (folder / "speech.csv").write_text("file,label,speaker\n" + "\n".join(lines), encoding="utf-8")
        return folder / "speech.csv"
    return folder


@pytest.mark.parametrize("table", [True, False])
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str], table: bool) -> None:
    source = write_speech(tmp_path / "speech", table, sentences=2)
    save_avatar(talking_avatar(), tmp_path / "avatar.safetensors")
    given = ["train", "emotion", str(source), "--epochs", "6", "--json", "--out", str(tmp_path / "emotion.safetensors")]
    if table:
        given += ["--avatar", str(tmp_path / "avatar.safetensors"), "--avatar-out", str(tmp_path / "hearing.safetensors")]
    assert cli.main(given) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["unknown_speakers"]["recordings"] == 24 and result["prototypes_heard"] == list(MOODS)
    assert "4 speakers" in result["trained_on"]
    assert load_prior(tmp_path / "emotion.safetensors").about["classes"] == list(MOODS)
    if table:
        assert load_avatar(tmp_path / "hearing.safetensors").meta.views["emotion"].provider == "distilled"
        voices = [str(path) for path in sorted((tmp_path / "speech").glob("*/s0/*.wav"))]
        given = ["train", "emotion", "--prior", str(tmp_path / "emotion.safetensors"), "--out", str(tmp_path / "own.safetensors"), "--json", "--voice"]
        assert cli.main([*given, *voices]) == 0
        assert load_prior(tmp_path / "own.safetensors").encoder().speaker[1].any()
        assert cli.main([*given, voices[0]]) == 1 and "at least 12" in capsys.readouterr().err


def test_refusals(tmp_path: Path, prior: EmotionPrior) -> None:
    def refused(match: str, call: Callable[[], object]) -> None:
        with pytest.raises(UserError, match=match):
            call()

    write_speech(tmp_path, False, sentences=1, speakers=2)
    table = tmp_path / "speech.csv"
    refused("Too few recordings of", lambda: read_examples(list_speech([tmp_path])))
    refused("All recordings are happy", lambda: read_examples([r for r in list_speech([tmp_path]) if r.emotion == "happy"]))
    (tmp_path / "melancholy").mkdir()
    refused("melancholy.*Known are neutral", lambda: list_speech([tmp_path]))
    refused("no such folder", lambda: list_speech([tmp_path / "nothing"]))
    (tmp_path / "empty").mkdir()
    refused("no sound files in folders", lambda: list_speech([tmp_path / "empty"]))
    refused("neither a folder nor", lambda: list_speech([tmp_path / "happy" / "s0" / "0.wav"]))
    for text, match in (
        ("happy/s0/0.wav,grumpy", "grumpy"), ("gone.wav,happy", "1 files are not there: gone.wav"), ("a,b,c,d", "4 columns"),
        ("", "empty"), ("happy/s0/0.wav", "1 columns"),
    ):  # fmt: skip
        table.write_text(text)
        refused(match, lambda: list_speech([table]))
    table.write_bytes(b"\xff\xfe\x00bad")
    refused("cannot be read as a table", lambda: list_speech([table]))
    silent = [(f"{i}", mood, "", lambda: as_sound(np.zeros(2 * RATE))) for i in range(6) for mood in ("happy", "sad")]
    refused("second of speech", lambda: make_examples(silent))
    save_prior(prior, tmp_path / "good.safetensors")
    refused("Nothing to learn", lambda: train_emotion([], tmp_path / "out"))
    refused("Both", lambda: train_emotion([tmp_path], tmp_path / "out", prior=tmp_path / "good.safetensors"))
    refused("No file to write", lambda: train_emotion([tmp_path], None))
    refused("go together", lambda: train_emotion([tmp_path], None, avatar=tmp_path / "a"))
    save_prior(EmotionPrior(prior.tensors, prior.prototypes[:, :5], prior.about), tmp_path / "bad.safetensors")
    refused("do not fit", lambda: load_prior(tmp_path / "bad.safetensors"))
    save_avatar(talking_avatar(), tmp_path / "avatar.safetensors")
    refused("no emotion prior", lambda: load_prior(tmp_path / "avatar.safetensors"))
    refused("static avatar", lambda: with_prior(static_avatar(), prior))


def test_measures_against_plain_ones() -> None:
    random = np.random.default_rng(2)
    value, kind = random.integers(0, 6, 60).astype(float), random.random(60) < 0.4
    pairs = [(a > b) + 0.5 * (a == b) for a in value[kind] for b in value[~kind]]
    assert auroc(value, kind) == pytest.approx(np.mean(pairs))
    assert auroc(value, np.ones(60, bool)) is None
    truth = random.normal(0, 2, (4000, 4))
    label = (truth + random.gumbel(size=truth.shape)).argmax(1)
    assert best_temperature(2.0 * truth, label) == pytest.approx(2.0, rel=0.12)
    mean, first = by_clip(np.array([[1.0, 0], [0, 1], [0.5, 0.5]]), np.array([7, 7, 3]))
    np.testing.assert_allclose(mean, [[0.5, 0.5], [0.5, 0.5]])
    assert first.tolist() == [2, 0]
    found = score(np.array([[0.95, 0.05], [0.65, 0.35], [0.2, 0.8], [0.45, 0.55]]), np.array([0, 1, 1, 0]), np.arange(4), ("a", "b"))
    assert (found["right"], found["confidence_auroc"], found["confusion"]) == (0.5, 1.0, {"a": [1, 1], "b": [1, 1]})
    assert found["reliability"] == [[0.5, 1, 0.55, 0.0], [0.6, 1, 0.65, 0.0], [0.8, 1, 0.8, 1.0], [0.9, 1, 0.95, 1.0]]
    assert found["calibration_error"] == pytest.approx((0.55 + 0.65 + 0.2 + 0.05) / 4, abs=1e-3)


def test_statistics_follow_what_they_are_named_after() -> None:
    names = functional_names()
    assert len(names) == len(set(names)) == FUNCTIONALS

    def heard(samples: np.ndarray) -> np.ndarray:
        sound = as_sound(samples)
        found = Windows.joined(list(windows(sound, clip_starts(sound.duration))))
        assert np.isfinite(found.functionals).all()
        return found.functionals.mean(0)

    base, high, dull = say("neutral", 1, 0), say("happy", 1, 0), say("sad", 1, 0)
    at = {name: i for i, name in enumerate(names)}
    octave = heard(high)[at["pitch mean"]] - heard(base)[at["pitch mean"]]
    assert octave == pytest.approx(12 * np.log2(1.45), abs=2.5)
    assert heard(dull)[at["tilt mean"]] < heard(base)[at["tilt mean"]] - 0.5
    np.testing.assert_allclose(heard(0.25 * base), heard(base), atol=0.35)  # the gain of a recording says nothing
    assert (clip_starts(1.0)[0], len(clip_starts(2.0)), clip_starts(5.0)[-1]) == (-0.5, 1, 3.0)


def test_synthetic_voices_carry_their_moods() -> None:
    from ua3dtalk.engine.priors.emotion_voices import MOODS as RULES, emotional_speech

    try:
        sounds = emotional_speech(4, sentences=2, seed=3)
    except UserError as error:
        pytest.skip(f"espeak-ng is absent: {error}")
    assert set(RULES) == set(EMOTIONS) and len(sounds) == 4 * 8 * 2
    examples = make_examples(sounds)
    trained = train_encoder(examples, QUICK)
    found = score(trained.known, examples.label, examples.clip, examples.classes)
    assert found["right"] >= 0.3  # of eight, with eight sentences of each
    pitch = examples.windows.functionals[:, functional_names().index("pitch mean")]
    mean = {name: pitch[examples.label == i].mean() for i, name in enumerate(examples.classes)}
    assert mean["sad"] < mean["neutral"] < mean["happy"]


def test_acted_german_speech(measured: Callable[[str], None]) -> None:
    """Seven emotions, speakers that the nets did not learn from. Skips without the test data; nothing learned here is kept."""
    folder = find_shared_data("speech", "emodb")
    letters = {"W": "angry", "L": "bored", "E": "disgusted", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
    paths = sorted(folder.glob("*.flac"))
    examples = make_examples([(p.name, letters[p.name[5]], p.name[:2], lambda p=p: read_sound(p)) for p in paths])
    trained = train_encoder(examples, EmotionSettings())
    unknown, known = (score(part, examples.label, examples.clip, examples.classes) for part in (trained.unknown, trained.known))
    for kind, found in (("unknown speakers", unknown), ("with speaker statistics", known)):
        measured(f"emotion, {kind}: {found['right']:.3f} right, confidence AUROC {found['confidence_auroc']:.3f}, calibration {found['calibration_error']:.3f}")
    assert unknown["right"] >= 0.70 and known["right"] >= 0.76
    assert unknown["confidence_auroc"] >= 0.70 and known["confidence_auroc"] >= 0.75


def test_members_see_only_what_they_may(examples: Examples) -> None:
    """A net that is fitted on some rows does not depend on the others."""
    from ua3dtalk.engine.priors.emotion_train import Material

    rows = torch.from_numpy(np.flatnonzero(examples.speaker != 0))
    nets = []
    for spoilt in (False, True):
        material = Material(examples, None, False)
        if spoilt:
            material.functionals[torch.from_numpy(np.flatnonzero(examples.speaker == 0))] = 99.0
        torch.manual_seed(0)
        member = Member(EncoderShape(3, 4, 128))
        fit(member, material, rows, replace(QUICK, epochs=2), 5)
        nets.append(member)
    for one, two in zip(nets[0].parameters(), nets[1].parameters()):
        assert torch.equal(one, two)
