"""Neck and shoulders (`engine/train`, part `body`): learned last and alone, among the face's Gaussians in the file, never moved."""

from __future__ import annotations

from copy import deepcopy
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.face_data import make_face_data

from ua3dtalk.engine.avatar import Avatar, load_avatar, save_avatar
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.evaluate.pictures import judge_pictures
from ua3dtalk.engine.evaluate.subject import Subject
from ua3dtalk.engine.train import export
from ua3dtalk.engine.train.config import BranchPlan, TrainConfig
from ua3dtalk.engine.train.material import Material, spaced
from ua3dtalk.engine.train.sources import find_sources
from ua3dtalk.engine.train.start import VIEWS, begin
from ua3dtalk.engine.train.trainer import Trainer
from ua3dtalk.engine.train.unit import variance_units

CPU = torch.device("cpu")
FEW = replace(
    TrainConfig.quick(), mouth=BranchPlan(1, 0, 1, 40, 40), face=BranchPlan(12, 4, 12, 120, 120), agree_steps=4, fuse_steps=2,
    body=BranchPlan(160, 160, 160, 300, 340), members=2, field=(8,), emotion_field=(4,), codebook=(4,), grow_from=20, grow_every=20,
)  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_face_data(tmp_path_factory.mktemp("face"), frames=40)


@pytest.fixture(scope="module")
def trainer(folder: Path) -> Trainer:
    """Trained to where the body begins."""
    found = Trainer(Material(read_data(folder), find_sources([]), CPU), FEW)
    while found.name != "body":
        found.step_once()
    return found


@pytest.fixture(scope="module")
def path(trainer: Trainer, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The avatar, trained to its end."""
    while not trainer.done:
        trainer.step_once()
    out = tmp_path_factory.mktemp("trained") / "head.safetensors"
    export.save(trainer, out, variance_units(trainer.scene, FEW.sh_degree))
    return out


def test_it_begins_on_a_bust_where_its_pictures_show_it(trainer: Trainer) -> None:
    material = trainer.material
    splats, where = begin("body", material, FEW, np.random.default_rng(0))
    means = splats.parameters["means"].numpy()
    assert where == "bust" and len(means) == 300 and np.abs(means).max() < 1
    inside = np.zeros(len(means), bool)
    for frame in spaced(material.with_body(material.train), VIEWS):
        place = (means @ frame.viewmat[:3, :3].T + frame.viewmat[:3, 3]) @ material.data.K.T
        x, y = np.floor(place[:, :2] / place[:, 2:]).astype(int).clip(0, material.size[0] - 1).T
        masks = material.data.masks(frame)
        inside |= (masks.neck | masks.torso)[y, x]
    assert inside.mean() > 0.8


def test_the_head_learns_nothing_from_it(trainer: Trainer) -> None:
    head = {
        f"{branch}.{name}": value.detach().clone() for branch in ("face", "mouth") for name, value in trainer.scene.splats[branch].parameters.items()
    }
    nets = [value.clone() for net in trainer.scene.nets.values() for value in net.state_dict().values()]
    before = {name: value.detach().clone() for name, value in trainer.scene.splats["body"].parameters.items()}
    trainer.step_once()
    after = trainer.scene.splats
    assert all(value.equal(after[key.split(".")[0]].parameters[key.split(".")[1]]) for key, value in head.items())
    assert all(value.equal(now) for value, now in zip(nets, (v for net in trainer.scene.nets.values() for v in net.state_dict().values())))
    assert not any(value.equal(after["body"].parameters[name]) for name, value in before.items() if name in ("means", "scales", "opacities", "sh"))


def test_a_stopped_body_goes_on_to_the_same(trainer: Trainer) -> None:
    other = Trainer(trainer.material, FEW)
    other.restore(deepcopy(trainer.state()))
    assert other.name == "body"
    for each in (trainer, other):
        for _ in range(25):  # a refinement among them
            each.step_once()
    for name, value in trainer.scene.splats["body"].parameters.items():
        assert value.equal(other.scene.splats["body"].parameters[name]), name


def test_it_looks_like_the_film_and_is_judged_apart(path: Path, folder: Path) -> None:
    avatar, subject, data = load_avatar(path), Subject(path, "cpu", 1), read_data(folder)
    body = avatar.body()
    assert 250 < len(body) <= 340 and body[-1] == avatar.count("face") - 1 and not np.isin(body, avatar.moving("face")).any()
    assert (avatar.still_variance()[body] > 0).all(), "it knows its errors"
    frame = data.splits["val"][0]
    masks = data.masks(frame)
    shown = masks.neck | masks.torso
    whole, head = (subject.draw(None, 0, frame.viewmat, data.K, data.width, data.height, body=body) for body in (True, False))
    assert whole.alpha[shown].mean() > 0.9 and head.alpha[shown].mean() < 0.3
    error = np.abs(whole.over(np.zeros(3, np.float32)) - data.picture(frame) / 255)[shown]
    assert error.mean() < 0.05, error.mean()
    figures = judge_pictures(subject, data, "val", rows=2).figures
    plain = {name: value for name, value in avatar.tensors.items() if name != "face.body"}
    opacities = np.array(plain["face.opacities"])
    opacities[body] = -30
    save_avatar(Avatar(avatar.meta, plain | {"face.opacities": opacities}), path.with_name("head_alone.safetensors"))
    alone = judge_pictures(Subject(path.with_name("head_alone.safetensors"), "cpu", 1), data, "val", rows=2).figures
    assert figures["psnr"] == pytest.approx(alone["psnr"], abs=1e-3), "before the film's own neck and shoulders"
    assert "psnr with its body" in figures and "psnr with its body" not in alone


def test_without(folder: Path, trainer: Trainer, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "body" not in Trainer(trainer.material, replace(FEW, body=BranchPlan(0, 0, 0, 0, 0))).parts
    monkeypatch.setattr(Material, "with_body", lambda self, frames: [])
    assert "body" not in Trainer(trainer.material, FEW).parts, "pictures of nothing but a head"


@pytest.mark.parametrize("wrong", [np.float32([1]), np.int32([[1]]), np.int32([-1]), np.int32([10**6]), "moving"])
def test_damaged_files_are_named(path: Path, wrong: np.ndarray | str, tmp_path: Path) -> None:
    avatar = load_avatar(path)
    rows = avatar.moving("face")[:2].astype(np.int32) if isinstance(wrong, str) else wrong
    with pytest.raises(UserError, match="face.body"):
        save_avatar(Avatar(avatar.meta, dict(avatar.tensors) | {"face.body": rows}), tmp_path / "a.safetensors")
