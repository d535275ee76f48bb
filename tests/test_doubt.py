"""What an avatar knows of its film, and what that says of a frame's views: against the plain formulas and against known noise."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from support.networks import SMALL, make_avatar, make_views

from ua3dtalk.engine.avatar import Avatar, load_avatar, save_avatar
from ua3dtalk.engine.deform import reference
from ua3dtalk.engine.deform.doubt import GAIN, MOST, PART, TENSORS, Doubt, Known, KnownUnits, known_views
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.deform.freeze import freeze
from ua3dtalk.engine.deform.parameters import VIEWS, branch_tensors
from ua3dtalk.engine.errors import UserError

torch.set_num_threads(1)
SHAPES = {"audio": (8, 5, 4), "exp": (1, 40)}


def film(shape: tuple[int, ...], directions: int = 6, rest: float = 0.0, frames: int = 600, seed: int = 0) -> np.ndarray:
    """Frames that keep to a few directions, with a little of everything else."""
    random = np.random.default_rng(seed)
    size = int(np.prod(shape[1:]))
    way = random.normal(size=(directions, size))
    told = random.normal(size=(frames, shape[0], directions)) @ way / directions**0.5
    return (3 + told + rest * random.normal(size=told.shape)).reshape(frames, *shape).astype(np.float32)


def doubted(known: dict[str, Known], **views: np.ndarray) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    found, doubt = Doubt(known, torch.device("cpu"))({name: torch.from_numpy(view) for name, view in views.items()})
    return {name: view.numpy() for name, view in found.items()}, {name: value.numpy() for name, value in doubt.items()}


@pytest.mark.parametrize("view", SHAPES)
def test_noise_is_measured_and_taken_away(view: str) -> None:
    clean = film(SHAPES[view], rest=0.1)
    known = {view: Known.of_film(clean[:500])}
    frames, spread = clean[500:], clean[:500].std((0, 1))
    as_it_was, doubt = doubted(known, **{view: frames})
    assert np.sqrt(np.mean((as_it_was[view] - frames) ** 2)) < 0.05 and doubt[view].mean() < 1.02
    last = doubt[view].mean()
    for decibels in (20, 10, 0, -20):
        noise = 10 ** (-decibels / 20) * spread * np.random.default_rng(1).normal(size=frames.shape)
        found, doubt = doubted(known, **{view: (frames + noise).astype(np.float32)})
        assert last < doubt[view].mean() < 1 + GAIN
        left, spoilt = np.sqrt(np.mean((found[view] - frames) ** 2)), np.sqrt(np.mean(noise**2))
        # With the noise known, the mean of what it may have been is at most as far off as the film is wide.
        assert left < 0.85 * spoilt and left < 1.05 * np.sqrt(np.mean((frames - clean.mean(0)) ** 2))
        last = doubt[view].mean()
    assert last > 1 + 0.9 * GAIN


def test_what_is_louder_than_the_film_but_along_it_is_not_doubted() -> None:
    """An emotion beyond its trained intensity stays what the animator keyed."""
    clean = film((1, 40))
    known = {"exp": Known.of_film(clean)}
    louder = clean.mean(0) + 3 * (clean[:50] - clean.mean(0))
    found, doubt = doubted(known, exp=louder)
    assert np.abs(found["exp"] - louder).max() < 1e-3 * np.abs(louder).max() and doubt["exp"].max() < 1.001


def test_a_stranger_is_doubted_and_brought_nearer() -> None:
    known, strange = {"exp": Known.of_film(film((1, 40)))}, film((1, 40), seed=5)[:40]
    found, doubt = doubted(known, exp=strange)
    middle = film((1, 40)).mean(0)
    assert (doubt["exp"] > 1.05).all()
    assert np.linalg.norm(found["exp"] - middle) < 0.9 * np.linalg.norm(strange - middle)


def test_directions_are_few_and_the_rest_is_measured_on_what_they_were_not_found_from() -> None:
    random = np.random.default_rng(0)
    known = Known.of_film(random.normal(size=(100, 1, 60)).astype(np.float32))  # 60 directions, each as wide
    assert len(known.values) == 30 and known.rest[0] > 0.9  # in the film itself the last 30 hold less
    assert len(Known.of_film(random.normal(size=(300, 1, 200)).astype(np.float32)).values) == MOST
    assert Known.of_film(np.ones((50, 1, 8), np.float32)) is None and Known.of_film(np.ones((0, 1, 8), np.float32)) is None


@pytest.fixture(scope="module")
def head(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An avatar that knows its views but one."""
    avatar = make_avatar(SMALL, (9, 5), moving=True, bound=7.0)
    shapes = SMALL.frame_shapes("face")
    for seed, view in enumerate(("audio", "exp", "emotion")):
        avatar.tensors |= Known.of_film(film(shapes[view], 3, 0.05, seed=seed)).tensors(view)
    shown, random = film(shapes["emotion"], 3, 0.05, seed=2), np.random.default_rng(5)
    units = (0.4 + 0.02 * (shown[:, 0, :6] - 3) + 0.1 * random.normal(size=(600, 2)) @ random.normal(size=(2, 6))).clip(0, 1)
    avatar.tensors |= KnownUnits.of_film(units, Known(*(avatar.tensors[f"doubt.emotion.{name}"] for name in TENSORS)), shown).tensors()
    path = tmp_path_factory.mktemp("doubt") / "head.safetensors"
    save_avatar(avatar, path)
    return path


def spoilt_views() -> dict[str, np.ndarray]:
    views = make_views(SMALL, 5)
    for seed, view in enumerate(("audio", "exp", "emotion")):
        views[view] = film(SMALL.frame_shapes("face")[view], 3, 0.05, seed=seed)[:5]
        views[view][1:3] += np.random.default_rng(seed).normal(size=views[view][1:3].shape).astype(np.float32)
    views["au"][2, [0, 4]] = views["au"][3] = np.nan
    return views


def test_the_fast_path_doubts_as_the_plain_formulas(head: Path) -> None:
    avatar, views = load_avatar(head), spoilt_views()
    motion = Deformer(avatar, "cpu", threads=1).motion(views)
    for branch, names in VIEWS.items():
        found, network = getattr(motion, branch), branch_tensors(avatar.tensors, branch)
        means = avatar.tensors[f"{branch}.means"][avatar.moving(branch)]
        for frame in range(5):
            one = {name: view[frame] for name, view in views.items()}
            plain = reference.deform(branch, means, network, one, 7.0, known=avatar.tensors)
            for name in ("d_means", "aleatoric", "epistemic", "shares"):
                wanted = getattr(plain, name)
                assert np.abs(getattr(found, name)[frame] - wanted).max() < 1e-5 * np.abs(wanted).max(), (branch, name)
            trusting = reference.deform(branch, means, network, one, 7.0)
            if branch == "face" and frame == 3:
                audio = names.index("audio")  # which the action units are part of
                assert (plain.shares[:, audio] < trusting.shares[:, audio]).all() and (plain.epistemic > trusting.epistemic).all()
            if frame in (1, 2):  # spoilt views lose their say to the one that nothing is known of, and what is missing is epistemic
                style = names.index("style")
                assert (plain.shares[:, style] > trusting.shares[:, style]).all()
                assert (plain.epistemic > trusting.epistemic).all()


def test_action_units_that_nobody_measured_are_what_goes_with_the_rest() -> None:
    """Of two pairs that go together, beside what the emotion brings: known by the emotion, known by its twin, not known at all."""
    random = np.random.default_rng(0)
    emotion = film((1, 40), 2)
    told = (emotion[:, 0] - emotion[:, 0].mean(0)) @ np.linalg.svd(emotion[:, 0] - emotion[:, 0].mean(0))[2][:1].T
    told /= told.std()
    one, two = 0.1 * random.normal(size=(2, 600, 1))
    units = np.concatenate([0.5 + 0.1 * told + 0.01 * one, 0.4 + one, 0.4 + one + 0.01 * two, 0.5 + two], 1).astype(np.float32)
    known = {"emotion": Known.of_film(emotion[:500])}
    doubt = Doubt(known, torch.device("cpu"), KnownUnits.of_film(units[:500], known["emotion"], emotion[:500]))
    gaps, last = units[500:].copy(), 0.0
    for gone, off in (((0,), (0.02,)), ((0, 2), (0.02, 0.02)), ((0, 1, 2), (0.02, 0.15, 0.15)), ((0, 1, 2, 3), (0.02, 0.15, 0.15, 0.15))):
        gaps[:, gone] = np.nan
        found, grows = doubt({"au": torch.from_numpy(gaps), "emotion": torch.from_numpy(emotion[500:])})
        error = np.sqrt(np.mean((found["au"].numpy() - units[500:]) ** 2, 0))
        assert (error[list(gone)] < off).all() and np.array_equal(np.delete(found["au"].numpy(), gone, 1), np.delete(units[500:], gone, 1))
        assert float(grows["au"].min()) == pytest.approx(float(grows["au"].max())) and float(grows["au"][0]) > last
        last = float(grows["au"][0])
    assert last == pytest.approx(1 + PART * GAIN, rel=1e-5)
    whole, grows = doubt({"au": torch.from_numpy(units), "emotion": torch.from_numpy(emotion)})
    assert np.array_equal(whole["au"].numpy(), units) and (grows["au"] == 1).all()


def test_gaps_without_a_film_are_nothing_and_elsewhere_an_error(head: Path) -> None:
    avatar, views = load_avatar(head), make_views(SMALL, 3)
    plain = Deformer(Avatar(avatar.meta, {name: value for name, value in avatar.tensors.items() if not name.startswith("doubt.")}), "cpu", 1)
    gaps, zeros = dict(views), dict(views)
    gaps["au"], zeros["au"] = views["au"].copy(), views["au"].copy()
    gaps["au"][1], zeros["au"][1] = np.nan, 0
    assert np.array_equal(plain.motion(gaps).face.d_means, plain.motion(zeros).face.d_means)
    gaps["au"][1] = np.inf
    with pytest.raises(UserError, match="`au` holds"):
        plain.motion(gaps)
    with pytest.raises(UserError, match="`exp` holds"):
        plain.motion(views | {"exp": np.full_like(views["exp"], np.nan)})


def test_a_frame_does_not_depend_on_its_neighbours(head: Path) -> None:
    avatar, views = load_avatar(head), spoilt_views()
    deformer = Deformer(avatar, "cpu", threads=1)
    together, alone = deformer.motion(views).face, deformer.motion({name: view[2:3] for name, view in views.items()}).face
    assert np.array_equal(together.d_means[2:3], alone.d_means) and np.array_equal(together.epistemic[2:3], alone.epistemic)


def test_frozen_avatars_doubt_alike(head: Path) -> None:
    avatar, views = load_avatar(head), spoilt_views()
    motions = [Deformer(one, "cpu", threads=1).motion(views).face for one in (avatar, freeze(avatar))]
    assert np.array_equal(motions[0].d_means, motions[1].d_means) and np.array_equal(motions[0].epistemic, motions[1].epistemic)


def test_damaged_knowledge_is_named(head: Path) -> None:
    avatar = load_avatar(head)
    shapes = SMALL.frame_shapes("face")
    assert set(known_views(avatar.tensors, shapes)) == {"audio", "exp", "emotion"} and known_views({}, shapes) == {}
    whole = dict(avatar.tensors)
    wrong = {
        "mean": np.zeros(3, np.float32), "scale": np.zeros_like(whole["doubt.exp.scale"]), "basis": whole["doubt.exp.basis"][:, :-1],
        "values": -whole["doubt.exp.values"], "rest": np.zeros(0, np.float32),
    }  # fmt: skip
    for name, value in wrong.items():
        avatar.tensors = whole | {f"doubt.exp.{name}": value}
        with pytest.raises(UserError, match=rf"doubt\.exp\.{name}"):
            Deformer(avatar, "cpu", threads=1)
    for name, value in {"mean": np.zeros(5), "slope": np.zeros((6, 1)), "covariance": -np.eye(6)}.items():
        avatar.tensors = whole | {f"doubt.au.{name}": value.astype(np.float32)}
        with pytest.raises(UserError, match=rf"doubt\.au\.{name}"):
            Deformer(avatar, "cpu", threads=1)
    avatar.tensors = {name: value for name, value in whole.items() if name != "doubt.exp.basis"}
    with pytest.raises(UserError, match=r"doubt\.exp\.basis"):
        Deformer(avatar, "cpu", threads=1)
