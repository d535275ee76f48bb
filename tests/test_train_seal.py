"""Lips that meet under every emotion (`engine/train/seal.py`), on a small face that smiles and raises its brows with its feelings."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.face_data import make_face_data
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.train.config import BranchPlan, TrainConfig
from ua3dtalk.engine.train.material import Material
from ua3dtalk.engine.train.seal import LipSeal
from ua3dtalk.engine.train.sources import find_sources
from ua3dtalk.engine.train.trainer import Trainer

CPU = torch.device("cpu")
SHORT = replace(
    TrainConfig.quick(), mouth=BranchPlan(1, 0, 1, 40, 40), face=BranchPlan(240, 40, 240, 300, 330), agree_steps=0, fuse_steps=1, body=BranchPlan(0, 0, 0, 0, 0), members=2, field=(8,),
    emotion_field=(4,), codebook=(4,), grow_every=50, grow_from=40, grow_before_end=100, lip_seal=0.5,
)  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(read_data(make_face_data(tmp_path_factory.mktemp("face"), frames=80)), find_sources([]), CPU)


def _trained(material: Material, config: TrainConfig) -> Trainer:
    """The face at its end, before both branches are fused; on the way the seal's splats are the face's."""
    trainer = Trainer(material, config)
    while trainer.name in ("mouth", "face"):
        trainer.step_once()
        for rows in trainer.seal.rows if trainer.seal is not None and trainer.name == "face" and not trainer.seal.stale else []:
            assert len(rows) and int(rows.max()) < len(trainer.scene.splats["face"])
    return trainer


@pytest.fixture(scope="module")
def sealed(material: Material) -> Trainer:
    return _trained(material, SHORT)


@torch.no_grad()
def _differences(trainer: Trainer) -> np.ndarray:
    """px by which the opening of lips that meet differs between every feeling of the film and none."""
    seal, material, found = LipSeal(trainer.scene), trainer.material, []
    seal.look()
    for met in trainer.meeting[::2]:
        for felt in material.train[::5]:
            views = dict(material.views(met))
            calmly = views | {"emotion": torch.from_numpy(material.sources.emotion(np.zeros((1, 8)))[:, None]).float(), "au": torch.zeros(1, 6)}
            feeling = views | {view: material.views(felt)[view] for view in ("emotion", "au")}
            each = [trainer.scene.motion("face", met, views=one).d_means[0] for one in (calmly, feeling)]
            place = {int(row): i for i, row in enumerate(trainer.scene.splats["face"].moving.nonzero()[:, 0])}
            sides = [[place[int(row)] for row in rows] for rows in seal.rows]
            opening = [float(motion[sides[0], 1].mean() - motion[sides[1], 1].mean()) / seal.pixel for motion in each]
            found.append(opening[1] - opening[0])
            close = found[-1] ** 2 / 2 if abs(found[-1]) < 1 else abs(found[-1]) - 0.5
            assert float(seal.loss(met, felt, None)) == pytest.approx(close, abs=1e-4)
    return np.array(found)


def test_lips_that_meet_do_so_whatever_is_felt(material: Material, sealed: Trainer) -> None:
    without = _trained(material, replace(SHORT, lip_seal=0.0))
    assert without.seal is None
    before, now = (np.abs(_differences(trainer)).mean() for trainer in (without, sealed))
    assert 0.01 < before and now < 0.6 * before, (before, now)


def test_upper_lips_lie_above_lower_ones(sealed: Trainer) -> None:
    seal = LipSeal(sealed.scene)
    assert seal.rows == [] and float(seal.loss(sealed.meeting[0], sealed.material.train[0], None)) == 0, "not looked for yet"
    seal.look()
    upper, lower = (sealed.scene.splats["face"].parameters["means"][rows, 1] for rows in seal.rows)
    assert float(upper.mean()) > float(lower.mean()) and not set(seal.rows[0].tolist()) & set(seal.rows[1].tolist())
    frame = sealed.material.train[0]
    assert seal.pixel == pytest.approx(float(frame.viewmat[2, 3]) / float(sealed.material.data.K[0, 0]), rel=0.15)


def test_where_no_emotion_is_named_nothing_is_sealed(tmp_path: Path, material: Material) -> None:
    folder = make_face_data(tmp_path, frames=40)
    (folder / "labels.npz").unlink()
    assert Trainer(Material(read_data(folder), find_sources([]), CPU), SHORT).seal is None
    deaf = Material(material.data, find_sources([]), CPU, without=("emotion",))
    assert Trainer(deaf, replace(SHORT, without=("emotion",))).seal is None
