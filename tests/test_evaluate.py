"""Evaluation: the path from avatar to figures on small heads whose motion is known."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from support.avatars import static_avatar
from support.evaluation import data, folder, judged, subject  # noqa: F401 - fixtures
from support.face_data import make_head, moved

from ua3dtalk.engine.avatar import EMOTIONS, Avatar, load_avatar, save_avatar
from ua3dtalk.engine.bake import Baker, Session
from ua3dtalk.engine.cache import CacheReader
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.deform.freeze import freeze
from ua3dtalk.engine.deform.networks import BranchNetwork
from ua3dtalk.engine.deform.parameters import branch_tensors
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.evaluate import measures
from ua3dtalk.engine.evaluate import landmarks as lm
from ua3dtalk.engine.evaluate import uncertainty as un
from ua3dtalk.engine.evaluate.emotion import Nearest, Sentence, judge_emotion, sentences_of_data
from ua3dtalk.engine.evaluate.pictures import closures, held_out, judge_pictures
from ua3dtalk.engine.evaluate.report import as_json, sheet, table
from ua3dtalk.engine.evaluate.run import EvaluateSettings, load_transcripts, run_evaluation
from ua3dtalk.engine.evaluate.subject import Subject, project
from ua3dtalk.engine.files import file_hash
from ua3dtalk.engine.render.camera import Camera
from ua3dtalk.engine.render.sequence import FrameRenderer
from ua3dtalk.engine.shot import Shot
from ua3dtalk.engine.views import build_providers
from ua3dtalk.engine.views.content import VISEMES

MBP, AA, SIL = (VISEMES.index(name) for name in ("mbp", "aa", "sil"))


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


# --- the avatar performs as in a bake -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("pixel_size", [0.0, 0.001])
def test_a_picture_is_what_a_bake_and_a_rendering_give(folder: Path, data, tmp_path: Path, pixel_size: float) -> None:
    avatar = load_avatar(folder / "head.safetensors")
    avatar.meta.pixel_size = pixel_size
    save_avatar(Avatar(avatar.meta, dict(avatar.tensors)), tmp_path / "head.safetensors")
    subject = Subject(tmp_path / "head.safetensors", "cpu", 1)
    frame = data.splits["val"][2]
    keyed = lm.view_of(data, [frame])
    motion = subject.deformer.motion(subject.views(data.sound, **(keyed | {"measured": False})))
    mine = subject.draw(motion, 0, frame.viewmat, data.K, 48, 48)
    shot = Shot(
        subject.path, file_hash(subject.path), data.sound, file_hash(data.sound), 25.0, np.array([5], np.int32), keyed["times"],
        keyed["emotion"].astype(np.float32), np.ones(1, np.float32), np.ones(1, np.float32), keyed["au"],
    )  # fmt: skip
    Baker(Session("cpu", 1), shot).bake(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    turned = np.eye(4, dtype=np.float32)  # the camera, too, from the avatar's axes to Blender's
    turned[:3, :3] = frame.viewmat[:3, :3] @ subject.avatar.rotation_to_blender().T
    turned[:3, 3] = frame.viewmat[:3, 3]
    baked = FrameRenderer(reader, "cpu", 1).picture(reader.at(5), Camera(turned, data.K, 48, 48))
    assert np.abs(mine.color - baked.color).max() < 0.02 and np.abs(mine.alpha - baked.alpha).max() < 0.02
    total = np.abs(mine.aleatoric - baked.aleatoric)[mine.alpha > 0.9]
    assert total.max() < 0.02 * mine.aleatoric.max() and mine.aleatoric.max() > 0
    still = subject.draw(None, 0, frame.viewmat, data.K, 48, 48)
    assert np.abs(mine.color - still.color).max() > 0.04 and (still.epistemic == 0).all()
    assert np.allclose(still.over(np.ones((48, 48, 3)))[0, 0], 1, atol=1e-3)


def test_weights_in_a_picture_are_those_it_is_blended_with(subject: Subject, data, random: np.random.Generator) -> None:
    frame = data.splits["val"][0]
    motion = subject.deformer.motion(subject.views(data.sound, **lm.view_of(data, [frame])))
    drawn = subject.draw(motion, 0, frame.viewmat, data.K, 48, 48)
    maps = random.uniform(size=(48, 48, 2)).astype(np.float32)
    weights = subject.weights(motion, 0, frame.viewmat, data.K, maps)
    np.testing.assert_allclose(weights.sum(0), (drawn.alpha[..., None] * maps).sum((0, 1)), rtol=1e-3)
    of_each = subject.avatar.still_variance()
    of_each[subject.avatar.moving_rows()] = np.concatenate([getattr(motion, branch).aleatoric[0] for branch in subject.avatar.branches])
    np.testing.assert_allclose(of_each @ weights, ((drawn.aleatoric * drawn.alpha)[..., None] * maps).sum((0, 1)), rtol=1e-3)


def test_views_are_the_providers_and_the_emotions_the_prototypes(folder: Path, subject: Subject) -> None:
    from ua3dtalk.engine.audio import read_sound

    times, emotion = np.array([0.3, 0.9]), np.eye(8)[[1, 4]] * 0.5
    au = np.full((2, 6), 0.3)
    views = subject.views(folder / "one.wav", times, emotion, au, measured=True)
    meta = {name: vars(view) for name, view in subject.avatar.meta.views.items()}
    for name, provider in build_providers(meta, subject.avatar.tensors).items():
        if name != "emotion":
            assert np.allclose(views[name], provider.track(read_sound(folder / "one.wav")).at(times))
    p = subject.avatar.tensors["emotion.prototypes"]
    assert np.allclose(views["emotion"][1, 0], p[0] + 0.5 * (p[4] - p[0]), atol=1e-5) and np.allclose(views["au"], au)
    silent = subject.views(None, times)
    assert np.allclose(silent["audio"][0], silent["audio"][1]) and not np.allclose(silent["audio"], views["audio"])


def test_some_of_the_gaussians_move_as_all_do(folder: Path, subject: Subject, tmp_path: Path) -> None:
    views = subject.views(folder / "one.wav", np.array([0.2, 0.7]), np.eye(8)[1])
    whole = subject.deformer.motion(views).face
    moving = subject.avatar.moving("face")
    rows = moving[[40, 3, 77]]
    assert np.allclose(subject.crop(rows).motion(views).face.d_means, whole.d_means[:, [40, 3, 77]], atol=1e-6)
    save_avatar(freeze(load_avatar(subject.path)), tmp_path / "frozen.safetensors")
    frozen = Subject(tmp_path / "frozen.safetensors", "cpu", 1)
    assert np.allclose(frozen.crop(rows).motion(views).face.d_means, whole.d_means[:, [40, 3, 77]], atol=1e-6)
    mixed = np.array([moving[1], 1, moving[2]])  # 1 does not move
    assert 1 not in moving
    points = subject.points(mixed, views)
    assert np.allclose(points[:, 1], subject.means[1]) and np.allclose(points[:, 0], subject.means[moving[1]] + whole.d_means[:, 1], atol=1e-6)


def test_equal_weights_are_the_plain_mean_of_the_views(folder: Path, subject: Subject) -> None:
    views = subject.views(folder / "one.wav", np.array([0.4]), np.eye(8)[1])
    even = Deformer(subject.equal_weights(), "cpu", 1).motion(views)
    assert np.allclose(even.face.shares, 1 / 4, atol=1e-4) and np.allclose(even.mouth.shares, 1 / 3, atol=1e-4)
    net = BranchNetwork.from_tensors("face", branch_tensors(subject.avatar.tensors, "face"), 7.0)
    means = torch.from_numpy(subject.means[subject.avatar.moving("face")])
    with torch.no_grad():
        out = net(means, {name: torch.from_numpy(value) for name, value in views.items()})
        fused = torch.stack([out.view_means[v].mean(0)[0] for v in ("audio", "exp", "style", "emotion")]).mean(0)
        state = net.fuse["fc"](torch.cat([fused, net.field(means)], -1))
        d_means = net.heads["means"][1](net.heads["means"][0](state.relu()).relu()) * 0.01
    assert np.allclose(even.face.d_means[0], d_means.numpy(), atol=1e-6)
    assert not np.allclose(even.face.d_means, subject.deformer.motion(views).face.d_means, atol=1e-6)


def test_a_portrait_holds_the_face_whatever_its_axes(subject: Subject) -> None:
    viewmat, K = subject.portrait(64)
    pixels, depth = project(subject.means, viewmat, K)
    assert (depth > 0).all() and pixels.min() > 0 and pixels.max() < 64 and np.ptp(pixels[:, 1]) > 40
    top, front = subject.means[subject.means[:, 1].argmax()], subject.means[subject.means[:, 2].argmax()]
    assert project(top, viewmat, K)[0][1] < 20 and project(front, viewmat, K)[1] == pytest.approx(depth.min(), abs=0.01)


def test_static_avatars_are_refused(tmp_path: Path) -> None:
    save_avatar(static_avatar(), tmp_path / "still.safetensors")
    with pytest.raises(UserError, match="static"):
        Subject(tmp_path / "still.safetensors")


# --- landmarks ----------------------------------------------------------------------------------------------------------------


def test_landmarks_follow_the_gaussians_they_are_bound_to(data) -> None:
    head = make_head(np.random.default_rng(0))
    is_face = head.kind < 2
    coefficients = data.labels.expression
    frames = data.splits["train"]
    points = lambda some: np.stack([moved(head, head.means, coefficients[f.number])[is_face] for f in some])  # noqa: E731
    viewmats = lambda some: np.stack([f.viewmat for f in some])  # noqa: E731
    few, held = frames[::4], data.splits["val"]
    bound = lm.bind(
        points(few), head.means[is_face], np.arange(is_face.sum()), data.landmarks[[f.number for f in few]], viewmats(few), data.K
    )
    seen = lambda places: np.stack([project(p, view, data.K)[0] for p, view in zip(places, viewmats(held))])  # noqa: E731
    found = seen(bound.places(points(held)[:, bound.rows]))
    truth = data.landmarks[[f.number for f in held]]
    still = seen(bound.places(np.repeat(head.means[is_face][None, bound.rows], len(held), 0)))
    mine, rest = (measures.landmark_distance(x, truth).mean() for x in (found, still))
    assert mine < 0.35 * rest and mine < 0.25  # of 48 px
    places = [lm.aperture(lm.frontal(x, viewmats(held), data.K, bound.depth)) for x in (found, truth, still)]
    assert np.corrcoef(places[0], places[1])[0, 1] > 0.95 and places[2].std() < 0.1 * places[1].std()


def test_an_offset_holds_before_every_camera(random: np.random.Generator, data) -> None:
    frames = data.splits["train"][:20]
    viewmats, points, offset = np.stack([f.viewmat for f in frames]), random.uniform(-0.05, 0.05, (20, 3)), np.array([0.004, -0.006, 0.01])
    truth = np.stack([project(p + offset, view, data.K)[0] for p, view in zip(points, viewmats)])
    truth[3] = np.nan
    found = lm._offset(points, truth, viewmats, data.K)
    assert np.allclose(found[:2], offset[:2], atol=5e-4) and found[2] == pytest.approx(offset[2], abs=0.005)
    again = np.stack([project(p + found, view, data.K)[0] for p, view in zip(points, viewmats)])
    assert np.nanmax(np.abs(again - truth)) < 0.3  # px, of 3 without it


def test_frontal_undoes_the_camera(random: np.random.Generator, data) -> None:
    points = random.uniform(-0.1, 0.1, (68, 3))
    frames = data.splits["train"][:5]
    pixels = np.stack([project(points, f.viewmat.astype(float), data.K.astype(float))[0] for f in frames])
    found = lm.frontal(pixels, np.stack([f.viewmat for f in frames]).astype(float), data.K.astype(float), points[:, 2])
    assert np.allclose(found, points[:, :2], atol=1e-6)


def test_what_landmarks_say_is_learned_from_the_true_ones(random: np.random.Generator) -> None:
    x = random.normal(size=(300, 68, 2))
    weights = random.normal(size=(136, 3)) * (random.random((136, 3)) < 0.1)
    y = x.reshape(300, -1) @ weights + [1, 2, 3]
    x[5, 3] = np.nan  # a face that was not found
    read = lm.Reader(x[:250], y[:250])
    assert np.abs(read(x[250:]) - y[250:]).max() < 0.05 * y.std()
    # Half a thousandth of the face's width apart decides nothing, even where the training frames would have it so.
    x = np.tile(np.linspace(0, 1, 68)[None, :, None], (300, 1, 2)) + 0.02 * random.normal(size=(300, 1, 1)) * [1, 0]
    x[:, 5, 1] += 5e-4 * random.normal(size=300)
    shaky = lm.Reader(x, 1e4 * (x[:, 5, 1:] - x[:, 5, 1:].mean()))
    assert np.abs(shaky(x)).std() < 1 < 4 < np.std(1e4 * x[:, 5, 1])
    x = random.normal(size=(300, 68, 2))
    noise = lm.Reader(x[:250], random.normal(size=(250, 3)))
    assert np.abs(noise(x[250:])).std() < 1  # nothing to learn: the strongest ridge keeps it quiet


def test_pieces_end_with_the_take_and_where_frames_are_missing(data) -> None:
    frames = data.splits["val"]
    assert lm.pieces(data, frames).tolist() == np.repeat([0, 1, 2, 3], 4).tolist()
    one = data.splits["train"][:16]
    assert lm.pieces(data, one).tolist() == [0] * 16 and lm.pieces(data, one[:5] + one[7:]).tolist() == [0] * 5 + [1] * 9


# --- pictures -----------------------------------------------------------------------------------------------------------------




def test_pictures_of_the_right_head_at_rest(subject: Subject, data, judged, folder: Path, tmp_path: Path) -> None:
    figures = judged.figures
    assert figures["frames drawn"] == figures["frames followed"] == 16
    frames = held_out(data, "val")
    by_hand: dict[str, list[float]] = {"psnr": [], "psnr still": []}
    for f in frames:
        motion = subject.deformer.motion(subject.views(data.sound, **lm.view_of(data, [f])))
        for name, how in (("psnr", motion), ("psnr still", None)):
            picture = subject.draw(how, 0, f.viewmat, data.K, 48, 48).over(data.behind(f) / 255)
            by_hand[name].append(measures.psnr(picture, data.picture(f) / 255))
    assert {name: pytest.approx(np.mean(values), abs=1e-3) for name, values in by_hand.items()} == {name: figures[name] for name in by_hand}
    assert 25 < figures["psnr still"] and abs(figures["psnr"] - figures["psnr still"]) > 0.05
    assert figures["psnr head still"] < figures["psnr still"]
    other = load_avatar(folder / "head.safetensors")
    other.tensors = dict(other.tensors) | {"face.means": np.asarray(other.tensors["face.means"]) + np.float32(0.02)}
    save_avatar(other, tmp_path / "moved.safetensors")
    assert judge_pictures(Subject(tmp_path / "moved.safetensors", "cpu", 1), data, "val", every=5, rows=0).figures["psnr still"] < 20


def test_mouths_and_expressions_are_followed(judged) -> None:
    figures = judged.figures
    assert figures["aue lower of the true landmarks"] < 0.2 * figures["aue lower still"]
    assert figures["frechet distance of expression still"] > 0 and 0 < figures["lmd still"] < 5
    assert np.isfinite([figures["aue upper"], figures["lip correlation"], figures["lmd"]]).all()
    assert figures["lip travel"] == pytest.approx(judged.opening.std() / judged.true_opening.std()) and judged.true_opening.std() > 1e-4
    assert judged.opening.shape == judged.true_opening.shape == judged.times.shape == (16,)
    assert "Gaussians bound" in judged.notes[0] and "AU25" in judged.notes[1] and "not E-FID" in judged.notes[2]
    assert len(judged.sheet) == 3 and all(x.shape == (48, 48, 3) and x.dtype == np.uint8 for row in judged.sheet for x in row)
    assert len(judged.error) == len(judged.variance) and len(judged.frame_error) == 16 and (judged.variance > 0).all()


def test_closures_are_counted_where_the_truth_closes() -> None:
    viseme = np.array([AA, AA, MBP, MBP, AA, AA, MBP, AA, MBP, AA])
    truth = np.array([1, 1, 0, 0, 1, 1, 0, 1, 0.8, 1.0])
    mine = np.array([1, 1, 1, 0, 1, 0, 1, 1, 1, 0.1])
    mine[5:8] = 1  # the second stays open, the third is none: the true lips do not close on it
    found = closures(mine, truth, viseme, np.zeros(10, int), 0.3)
    assert found == {"closure recall": 0.5, "closures": 2, "open vowels open": 0.75}
    # A closure is not excused by one that belongs to another piece.
    late = np.array([1.0, 1, 0, 1])
    assert closures(late, np.array([1.0, 0, 0, 1]), np.array([AA, MBP, MBP, AA])[[0, 1, 2, 3]], np.array([0, 0, 1, 1]), 0.3)["closure recall"] == 0.5
    assert np.isnan(closures(truth, truth, np.full(10, SIL), np.zeros(10, int), 0.3)["closure recall"])


def test_a_split_that_is_not_there(data) -> None:
    with pytest.raises(UserError, match="no frames in split `test`"):
        held_out(data, "test")


# --- emotion ------------------------------------------------------------------------------------------------------------------


def test_the_nearest_class_in_units_of_speech(random: np.random.Generator) -> None:
    """Speech moves the face far along one axis; the emotions differ little along another."""
    def show(at: float) -> np.ndarray:
        return random.normal(size=(60, 5)) * [10, 0.1, 0.1, 0.1, 0.1] + [0, at, 0, 0, 0]

    nearest = Nearest([show(0), show(1), show(2)])
    for number in range(3):
        assert (nearest(show(number)) == number).mean() > 0.98
    assert (nearest(show(1)) == 2).mean() < 0.02


def test_emotions_are_heard_or_not(folder: Path, tmp_path: Path) -> None:
    loud = load_avatar(folder / "head.safetensors")
    loud.tensors = dict(loud.tensors)
    for name, factor in (("face.net.emotion.query.weight", 8), ("face.net.fuse.emotion.fc1.weight", 8), ("face.net.fuse.emotion.mean.weight", 8)):
        loud.tensors[name] = factor * np.asarray(loud.tensors[name])
    save_avatar(loud, tmp_path / "loud.safetensors")
    sentences = [Sentence(folder / f"{name}.wav", np.linspace(0.1, 1.3, 6), [(0.4, 0.5), (0.8, 0.9)]) for name in ("one", "two")]
    found = judge_emotion(Subject(tmp_path / "loud.safetensors", "cpu", 1), sentences)
    assert found["nearest"] > 0.9 and found["spearman"] > 0.9 and found["closures"] == 4 and found["sentences"] == 2
    assert set(found["per emotion"]) == set(EMOTIONS[1:]) and 0 <= found["closure recall, neutral"] <= 1
    deaf = load_avatar(folder / "head.safetensors")
    deaf.tensors = dict(deaf.tensors) | {"face.net.emotion.query.weight": np.zeros_like(deaf.tensors["face.net.emotion.query.weight"])}
    save_avatar(deaf, tmp_path / "deaf.safetensors")
    found = judge_emotion(Subject(tmp_path / "deaf.safetensors", "cpu", 1), sentences)
    assert found["nearest"] < 0.3 and abs(found["spearman"]) < 0.3 and found["closure recall falls by (points)"] == 0


def test_sentences_and_closures_of_a_data_set(data) -> None:
    sentences = sentences_of_data(data, "train", 5)
    assert len(sentences) == 4 and all(len(s.times) == 5 and s.sound == data.sound for s in sentences)
    numbers = np.array([f.number for f in data.splits["train"][:16]])
    closed = data.labels.viseme[numbers] == MBP
    starts = np.flatnonzero(closed & ~np.concatenate([[False], closed[:-1]]))
    assert len(sentences[0].closures) == len(starts) > 0 and sentences[0].closures[0][0] == pytest.approx(numbers[starts[0]] / 25)
    assert all(closed[round(end * 25)] for _, end in sentences[0].closures)


# --- the whole ----------------------------------------------------------------------------------------------------------------


def test_everything_on_a_data_set(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(un, "CASES", {view: cases[-1:] if view == "style" else cases[:2] for view, cases in un.CASES.items()})
    arguments = [str(folder / "head.safetensors"), str(folder / "data"), "--out", str(tmp_path), "--every", "5", "--frames", "3", "--spoilt-pictures", "2"]
    arguments += ["--beside", f"twin={folder / 'head.safetensors'}", "--strangers", str(folder / "two.wav"), "--device", "cpu", "--threads", "1"]
    assert main(["evaluate", *arguments]) == 0
    result = json.loads((tmp_path / "evaluation.json").read_text(), parse_constant=lambda text: pytest.fail(f"{text} is not JSON"))
    figures = result["pictures"]["head"]
    assert figures == result["pictures"]["twin"] and figures["frames drawn"] == 4 and figures["frames followed"] == 16
    assert {"intensity 1", "intensity 2", "other speakers", "split val"} <= set(result["uncertainty"]["unseen"])
    assert set(result["emotion"]["head"]["nearest to the person's, each"]) == {"neutral", "happy", "surprised"}
    lost = result["uncertainty"]["spoilt views"]["exp"]["20 dB"]
    text = (tmp_path / "evaluation.md").read_text("utf-8")
    assert f" {lost['loses, fusion']:.3f} | {lost['loses ±, fusion']:.3f} |" in text
    assert f"| PSNR, dB ↑ | {figures['psnr']:.2f} | {figures['psnr']:.2f} | {figures['psnr still']:.2f} |" in text and "Calibration error" in text
    assert Image.open(tmp_path / "sheet.png").size == (4 * 50 - 2, 4 * 50 - 2)
    assert {"evaluation.md", "evaluation.json", "sheet.png"} <= {path.name for path in tmp_path.iterdir()}


def test_an_avatar_whose_film_names_no_emotion(folder: Path, tmp_path: Path) -> None:
    avatar = load_avatar(folder / "head.safetensors")
    neutral = np.repeat(np.asarray(avatar.tensors["emotion.prototypes"])[:1], len(avatar.meta.emotions), 0)
    save_avatar(Avatar(avatar.meta, dict(avatar.tensors) | {"emotion.prototypes": neutral}), tmp_path / "calm.safetensors")
    settings = EvaluateSettings(
        sections=("emotion",), sounds=(folder / "one.wav",), transcripts={"one": "hello"}, frames=3, device="cpu", threads=1,
        beside={"head": folder / "head.safetensors"},
    )  # fmt: skip
    result = run_evaluation(tmp_path / "calm.safetensors", None, tmp_path, settings)
    assert list(result["emotion"]) == ["head"] and result["without emotions"] == ["calm"]
    text = (tmp_path / "evaluation.md").read_text("utf-8")
    assert "calm: the film names no emotion" in text and "| emotion |" in text
    alone = run_evaluation(tmp_path / "calm.safetensors", None, tmp_path, replace(settings, beside={}))
    assert alone["emotion"] == {} and "| emotion |" not in (tmp_path / "evaluation.md").read_text("utf-8")


def test_without_a_data_set(folder: Path, tmp_path: Path) -> None:
    settings = EvaluateSettings(
        sections=("emotion",), sounds=(folder / "one.wav", folder / "two.wav"), transcripts={"one": "hello", "two": "hello"}, frames=3,
        device="cpu", threads=1,
    )  # fmt: skip
    result = run_evaluation(folder / "head.safetensors", None, tmp_path, settings)
    assert result["files"] == ["evaluation.json", "evaluation.md"] and result["emotion"]["head"]["frames"] == 6 and "pictures" not in result


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ([], "nothing to judge"),
        (["--sounds", "one.wav", "--only", "looks"], "no section looks"),
        (["data", "--split", "later"], "split `later`"),
        (["data", "--beside", "twin"], "NAME=AVATAR"),
        (["--sounds", "one.wav", "--ablate", "there"], "no data set to train on"),
        (["data", "--train", "config.json"], "--ablate"),
        (["--sounds", "one.wav", "--only", "pictures"], "held against a data set"),
        (["--sounds", "one.wav", "--syncnet", "syncnet_v2.model"], "judge pictures"),
        (["data", "--syncnet", "syncnet_v2.model"], "30 frames in a row"),
        (["data", "--ablate", "there", "--lpips", "alex.pth", "lin.pth"], "no file alex.pth"),
        (["data", "--every", "0"], "at least 1"),
        (["data", "--spoilt-pictures", "0"], "at least 1"),
        (["--sounds", "none.wav"], "none.wav"),
        (["--sounds", "one.wav", "--transcripts", "none.txt"], "none.txt"),
    ],
)
def test_what_cannot_be_done_is_said_in_one_line(
    folder: Path, arguments: list[str], says: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    assert main(["evaluate", "head.safetensors", *arguments]) == 1
    told = capsys.readouterr().err.strip().splitlines()
    assert says in told[-1] and told[-1].startswith("error: ")


def test_tables_and_sheets(tmp_path: Path) -> None:
    rows = (("a", "A", 2), ("b", "B", 0), ("c", "C", 1))
    assert table(rows, {"one": {"a": 1.234}, "two": {"a": float("nan"), "b": 3.0, "c": float("nan")}, "none": {}}) == [
        "| | one | two |", "|---|---|---|", "| A | 1.23 |  |", "| B |  | 3 |",
    ]  # fmt: skip
    red = np.full((4, 5, 3), [255, 0, 0], np.uint8)
    page = sheet([[red, red], [red, red]])
    assert page.shape == (10, 12, 3) and (page[4:6] == 255).all() and (page[:4, :5] == [255, 0, 0]).all()
    assert json.loads(as_json({"x": float("inf"), "y": np.float32(1), "z": (True, None)})) == {"x": None, "y": 1.0, "z": [True, None]}
    (tmp_path / "t.txt").write_text("a|hello there\n\nb|you|me\n", "utf-8")
    assert load_transcripts(tmp_path / "t.txt") == {"a": "hello there", "b": "you|me"}
