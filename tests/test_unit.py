"""What a variance is worth in the picture (`engine/train/unit.py`), from the film to what a bake says."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.face_data import make_face_data
from support.networks import SMALL, make_avatar, make_views

from ua3dtalk.engine.avatar import Avatar, save_avatar
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.evaluate.measures import sparsification
from ua3dtalk.engine.evaluate.pictures import drawn_frames
from ua3dtalk.engine.evaluate.subject import Subject
from ua3dtalk.engine.train import export, unit
from ua3dtalk.engine.train.config import BranchPlan, TrainConfig
from ua3dtalk.engine.train.losses import state_variance
from ua3dtalk.engine.train.material import Material, spaced
from ua3dtalk.engine.train.sources import find_sources
from ua3dtalk.engine.train.trainer import Trainer

CPU = torch.device("cpu")
SHORT = replace(
    TrainConfig.quick(), mouth=BranchPlan(30, 10, 20, 60, 60), face=BranchPlan(200, 60, 120, 260, 260), agree_steps=0, fuse_steps=20,
    body=BranchPlan(20, 20, 20, 120, 120), members=2,
    field=(8,), emotion_field=(4,), codebook=(4,), grow_from=1000,
)  # fmt: skip


@pytest.fixture(scope="module")
def trainer(tmp_path_factory: pytest.TempPathFactory) -> Trainer:
    data = make_face_data(tmp_path_factory.mktemp("face"), frames=60)
    trained = Trainer(Material(read_data(data), find_sources([]), CPU), SHORT)
    while not trained.done:
        trained.step_once()
    return trained


def test_units_are_what_the_film_is_left_with(trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the sums written out: each Gaussian's own weight in every pixel, blended as its one-hot feature."""
    monkeypatch.setattr(unit, "PICTURES", 4)
    scene, degree = trainer.scene, trainer.config.sh_degree
    found = np.concatenate([unit.variance_units(scene, degree)[branch] for branch in scene.branches])
    moving = np.concatenate([scene.splats[branch].moving.numpy() for branch in scene.branches])
    spoilt, seen, variances = np.zeros(len(found)), np.zeros(len(found)), np.zeros(len(found))
    with torch.no_grad():
        for frame in spaced(trainer.material.train, 4):
            shown = trainer.material.shown(frame)
            outs = {branch: scene.motion(branch, frame) for branch in scene.branches}
            variances += np.concatenate([scene.splats[b].spread(state_variance(b, outs[b])).numpy() for b in scene.branches]) / 4
            for rows in np.array_split(np.arange(len(found)), 20):
                one_hot = torch.zeros(len(found), len(rows))
                one_hot[rows, np.arange(len(rows))] = 1
                drawn = scene.draw_head(frame, outs, degree, shown.behind, one_hot)
                error = (drawn.colors[0].clamp(0, 1) - shown.truth).mean(-1)
                weights = drawn.features[0].double()
                spoilt[rows] += (weights * error.square()[..., None]).sum((0, 1)).numpy()
                seen[rows] += weights.sum((0, 1)).numpy()
    left = (spoilt + unit.SURE * spoilt.sum() / seen.sum()) / (seen + unit.SURE)
    assert moving.any() and not moving.all() and (variances[~moving] == 0).all()
    np.testing.assert_allclose(found, np.where(moving, left / np.where(moving, variances, 1), left), rtol=1e-3)


def test_an_avatar_expects_the_errors_that_it_makes(trainer: Trainer, tmp_path: Path) -> None:
    path = tmp_path / "avatar.safetensors"
    export.save(trainer, path, unit.variance_units(trainer.scene, trainer.config.sh_degree))
    subject, data = Subject(path, "cpu", 1), trainer.material.data
    assert subject.avatar.knows_color_variance
    errors, variances = [], []
    for frame, drawn, picture, truth in drawn_frames(subject, data, data.splits["val"]):
        head = data.masks(frame).head & (drawn.alpha > 0.5)
        assert (drawn.aleatoric + drawn.epistemic)[head].min() > 0, "also where nothing moves"
        errors.append((picture - truth).mean(-1)[head])
        variances.append((drawn.aleatoric + drawn.epistemic)[head])
    error, variance = np.concatenate(errors), np.concatenate(variances)
    assert 0.5 < np.mean(error**2) / np.mean(variance) < 2, "on pictures that it was not trained on"
    order = sparsification(np.abs(error), variance)
    assert order["ause"] < 0.75 * order["ause of no order"]


def test_units_change_variances_and_nothing_else() -> None:
    plain = make_avatar(SMALL, moving=True)
    units = np.random.default_rng(0).uniform(0.1, 3, plain.count("face")).astype(np.float32)
    known = Avatar(plain.meta, plain.tensors | {"face.variance_unit": units})
    a, b = (Deformer(avatar, "cpu", 1).motion(make_views(SMALL, 3)) for avatar in (plain, known))
    assert np.array_equal(a.face.d_means, b.face.d_means) and np.array_equal(a.face.shares, b.face.shares)
    whole = Avatar(plain.meta, known.tensors | {"mouth.variance_unit": np.ones(plain.count("mouth"), np.float32)})
    assert [avatar.knows_color_variance for avatar in (plain, known, whole)] == [False, False, True], "half of a head is not enough"
    rows = known.moving("face")
    for name in ("aleatoric", "epistemic"):
        np.testing.assert_array_equal(getattr(b.face, name), getattr(a.face, name) * units[rows])
        np.testing.assert_array_equal(getattr(b.mouth, name), getattr(a.mouth, name))
    still = known.still_variance()
    assert 0 < len(rows) < len(units) and not still[known.moving_rows()].any() and not still[len(units) :].any()
    assert np.array_equal(np.delete(still[: len(units)], rows), np.delete(units, rows))


@pytest.mark.parametrize("wrong", [np.ones(3, np.float32), np.ones((1, 2), np.float32), "negative", "whole numbers"])
def test_damaged_units_are_named(tmp_path: Path, wrong: np.ndarray | str) -> None:
    avatar = make_avatar(SMALL)
    count = avatar.count("face")
    values = {"negative": np.full(count, -1, np.float32), "whole numbers": np.ones(count, np.int32)}
    avatar.tensors["face.variance_unit"] = values[wrong] if isinstance(wrong, str) else wrong
    with pytest.raises(UserError, match="face.variance_unit"):
        save_avatar(avatar, tmp_path / "wrong.safetensors")
