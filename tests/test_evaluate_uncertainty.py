"""Does the evaluation see what an avatar knows of its own uncertainty?"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.avatars import talking_avatar
from support.evaluation import data, folder, judged, subject  # noqa: F401 - fixtures

from ua3dtalk.engine.avatar import save_avatar
from ua3dtalk.engine.bake.baker import emotion_vectors
from ua3dtalk.engine.evaluate import uncertainty as un
from ua3dtalk.engine.evaluate.emotion import Sentence
from ua3dtalk.engine.evaluate.pictures import held_out, judge_pictures
from ua3dtalk.engine.evaluate.subject import Subject


def test_noise_has_the_level_that_is_said(subject: Subject, folder: Path) -> None:
    views = subject.views(folder / "one.wav", np.linspace(0.1, 1.3, 40), np.eye(8)[1])
    for level in (20, 0):
        found = un.spoilt(subject, views, "audio", f"{level} dB")
        own = views["audio"].std(0)
        ratio = ((found["audio"] - views["audio"]) / np.maximum(own, 0.1 * own.mean())).std()
        assert 20 * np.log10(1 / ratio) == pytest.approx(level, abs=0.2)
        assert all(found[name] is views[name] for name in views if name != "audio")
    spread = emotion_vectors(subject.head, np.eye(8)).std(0)  # stands still over these frames, and is spoilt nonetheless
    noise = (un.spoilt(subject, views, "emotion", "0 dB")["emotion"] - views["emotion"])[:, 0]
    assert (noise / np.maximum(spread, 0.1 * spread.mean())).std() == pytest.approx(1, abs=0.05)
    bare = {un.LEFT_OUT: {"au": np.full((3, 6), 0.5)}}
    assert (un.spoilt(subject, views, "au", un.LEFT_OUT, others=bare)["au"] == 0.5).all() and un.spoilt(subject, views, "au", "clean") is views
    assert np.array_equal(un.spoilt(subject, views, "style", "another moment's")["style"][0], views["style"][20])


def reacting(avatar, sign: float):
    """Log-variances of `exp` that rise (or fall) with the size of its input, alike in every member."""
    tensors = dict(avatar.tensors)
    for branch in avatar.branches:
        lead = f"{branch}.net.fuse.exp"
        weight = np.random.default_rng(3).normal(0, 0.3, tensors[f"{lead}.fc1.weight"].shape[1:]).astype(np.float32)
        tensors[f"{lead}.fc1.weight"] = np.broadcast_to(weight, tensors[f"{lead}.fc1.weight"].shape).copy()
        tensors[f"{lead}.logvar.weight"] = np.full_like(tensors[f"{lead}.logvar.weight"], sign * 0.1)
    avatar.tensors = tensors
    return avatar


def test_a_view_that_knows_its_noise_loses_weight(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un, "CASES", {"exp": un.CASES["exp"], "style": ("clean",), "audio": ("clean",), "emotion": ("clean",), "au": un.CASES["au"]})
    performance = un.of_sentences([Sentence(folder / "one.wav", np.linspace(0.1, 1.3, 8), [])])
    for sign, falls in ((1, True), (-1, False)):
        save_avatar(reacting(talking_avatar(), sign), tmp_path / "head.safetensors")
        found = un.judge_spoilt_views(Subject(tmp_path / "head.safetensors", "cpu", 1), performance, pictures=2)["exp"]
        assert found["weight falls with the noise"] is falls
        assert found["clean"]["motion, fusion"] == 0 and "psnr, fusion" not in found["clean"]
        changes = [found[case]["motion, equal weights"] for case in ("20 dB", "10 dB", "0 dB")]
        assert changes[0] < changes[1] < changes[2] and found["0 dB"]["psnr, fusion"] < found["20 dB"]["psnr, fusion"]
        assert {"weight", "weight, mouth"} <= set(found["0 dB"])


def test_a_stranger_s_style_takes_the_place_of_one_s_own(subject: Subject, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un, "CASES", {view: ("clean",) for view in un.CASES})
    own, strange = (un.of_sentences([Sentence(folder / name, np.linspace(0.1, 1, 6), [])]) for name in ("one.wav", "two.wav"))
    found = un.judge_spoilt_views(subject, own, strange=strange, pictures=2)["style"]
    assert found[un.STRANGER]["motion, fusion"] > 0 == found["clean"]["motion, fusion"]
    same = un.judge_spoilt_views(subject, own, strange=own, pictures=2)["style"]
    assert same[un.STRANGER]["motion, fusion"] == 0 and same[un.STRANGER]["weight"] == same["clean"]["weight"]


def test_spoilt_views_are_held_against_the_truth_of_a_data_set(subject: Subject, data, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un, "CASES", {view: ("clean", "0 dB") if view == "exp" else ("clean",) for view in un.CASES})
    frames = held_out(data, "val")[::5]
    found = un.judge_spoilt_views(subject, un.of_frames(data, frames), data, frames, baseline=subject, pictures=4)
    wanted = judge_pictures(subject, data, "val", every=5, rows=0).figures["psnr"]
    clean, spoilt = found["audio"]["clean"], found["exp"]["0 dB"]
    assert clean["psnr, fusion"] == pytest.approx(wanted, abs=1e-3) == clean["psnr, baseline"] and "loses, fusion" not in clean
    assert spoilt["loses, fusion"] == pytest.approx(clean["psnr, fusion"] - spoilt["psnr, fusion"], abs=1e-5) != 0
    assert spoilt["loses ±, fusion"] > 0


def test_strangers_are_told_from_friends(folder: Path, tmp_path: Path) -> None:
    avatar = talking_avatar()
    # One member's mean of `exp` lies the farther from the others' the larger the input is.
    tensors = dict(avatar.tensors)
    weight = np.zeros_like(tensors["face.net.fuse.exp.mean.weight"])
    weight[0] = 1.0
    tensors |= {"face.net.fuse.exp.mean.weight": weight, "face.net.fuse.exp.logvar.bias": np.full_like(tensors["face.net.fuse.exp.logvar.bias"], -6)}
    avatar.tensors = tensors
    save_avatar(avatar, tmp_path / "head.safetensors")
    one = Subject(tmp_path / "head.safetensors", "cpu", 1)
    sentence = Sentence(folder / "one.wav", np.linspace(0.1, 1.3, 20), [])
    silence = un.Performance([{"sound": None, "times": np.zeros(20), "emotion": np.eye(8)[1]}])
    found = un.judge_strangers(one, silence, {"speech": un.of_sentences([sentence]), "more silence": silence})
    assert found["speech"]["auroc"] != 0.5 and found["more silence"]["auroc"] == 0.5
    again = un.judge_strangers(one, un.of_sentences([sentence]), {"silence": silence})
    assert again["silence"]["auroc"] == pytest.approx(1 - found["speech"]["auroc"])
    assert found["more silence"]["epistemic, times the seen"] == pytest.approx(1)


def test_performances_under_emotions(folder: Path) -> None:
    sentences = [Sentence(folder / "one.wav", np.linspace(0.1, 1, 9), []), Sentence(folder / "two.wav", np.linspace(0.1, 1, 5), [])]
    full = un.of_sentences(sentences, 1.5)
    assert [part["emotion"].shape for part in full.parts] == [(9, 8), (5, 8)] and np.allclose(full.parts[0]["emotion"].sum(1), 1.5)
    assert set(np.concatenate([part["emotion"] for part in full.parts]).argmax(1)) == set(range(1, 8))
    some = np.concatenate([part["emotion"] for part in un.of_sentences(sentences).parts]).sum(1)
    assert (some <= 1).all() and some.std() > 0.1


def test_errors_against_what_is_drawn(subject: Subject, data, judged) -> None:
    found = un.judge_errors(subject, data, judged, frames=4)
    assert 0 <= found["calibration"]["calibration error"] <= 1
    knows = replace(judged, variance=judged.error**2 + 1e-12, frame_variance=judged.frame_error)
    sure = un.judge_errors(subject, data, knows, frames=4)
    for what in ("pixels", "frames"):
        assert sure[f"sparsification, {what}"]["ause"] < 1e-6 < found[f"sparsification, {what}"]["ause"]
