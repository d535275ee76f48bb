"""What lets lips and lids begin to move (`engine/train`): Gaussians that rest, boxes that count more, a start on a head's front; and the mouth's
lining, which is there when they open wide."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from support.face_data import make_face_data
from ua3dtalk.engine.avatar import EMOTIONS
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.train.config import BranchPlan, TrainConfig
from ua3dtalk.engine.train.export import BROUGHT, emotion_action_units
from ua3dtalk.engine.train.losses import details_loss
from ua3dtalk.engine.train.material import CLOSED, EYES, LIPS, Material, lips_meet
from ua3dtalk.engine.train.sources import find_sources
from ua3dtalk.engine.train.start import BACK, FRONT, THICK, begin
from ua3dtalk.engine.train.trainer import Trainer

CPU = torch.device("cpu")
FEW = replace(
    TrainConfig.quick(), mouth=BranchPlan(1, 0, 1, 40, 40), face=BranchPlan(14, 4, 14, 60, 60), agree_steps=0, fuse_steps=1, body=BranchPlan(0, 0, 0, 0, 0), members=2, field=(8,),
    emotion_field=(4,), codebook=(4,), grow_from=100, rest=0.5, start="hull",
)  # fmt: skip


@pytest.fixture(scope="module")
def material(tmp_path_factory: pytest.TempPathFactory) -> Material:
    return Material(read_data(make_face_data(tmp_path_factory.mktemp("face"), frames=40)), find_sources([]), CPU)


def test_gaussians_rest_while_motion_begins(material: Material) -> None:
    assert not _resting(material, replace(FEW, start="depth")), "who begins on a surface moves at once"
    assert _resting(material, FEW) == [4, 5, 6, 7, 8], "the first half of the moving steps"


def _resting(material: Material, config: TrainConfig) -> list[int]:
    """Steps of the face in which its Gaussians rest; that they do, and that the networks learn, is checked."""
    trainer, told = Trainer(material, config), []
    while trainer.name != "fuse":
        name, step, rests = trainer.name, trainer.step, trainer.rests
        values = {key: value.detach().clone() for key, value in trainer.scene.splats[name].parameters.items()}
        net = {key: value.clone() for key, value in trainer.scene.nets[name].state_dict().items()}
        trainer.step_once()
        still = all(value.equal(trainer.scene.splats[name].parameters[key]) for key, value in values.items())
        learned = any(not value.equal(trainer.scene.nets[name].state_dict()[key]) for key, value in net.items())
        assert still == rests and learned == (name == "mouth" or step >= 4)
        told += [step] if rests else []
    return told


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_no_action_unit_is_shut_off_before_it_was_tried(material: Material, seed: int) -> None:
    """Every Gaussian attends to every action unit, and so much that 100 steps of Adam against it do not end that for good."""
    config = replace(FEW, seed=seed)
    trainer = Trainer(material, config)
    while trainer.name != "face":
        trainer.step_once()
    net, means = trainer.scene.nets["face"], trainer.scene.splats["face"].parameters["means"]
    with torch.no_grad():
        for _ in range(2):
            gates = net.gates(net.field(means))[1]
            assert gates.shape == (len(means), 6) and float(gates.min()) > 0
            net.au.attention[1].weight.sub_(100 * config.networks_rate)


def test_boxes_count_by_what_is_in_them() -> None:
    found, truth, boxes = torch.zeros(8, 8, 3), torch.zeros(8, 8, 3), torch.zeros(8, 8)
    assert details_loss(found, truth, boxes) == 0, "no landmarks, no boxes"
    boxes[2:4, 2:6] = 1
    found[0] = 1
    assert details_loss(found, truth, boxes) == 0, "outside it is free"
    found[2, 2:6, 0] = 0.6
    assert float(details_loss(found, truth, boxes)) == pytest.approx(0.6 / 3 / 2)


def test_boxes_hold_their_landmarks(material: Material) -> None:
    frame = material.train[3]
    shown, points = material.shown(frame), material.data.landmarks[frame.number]
    for mask, parts in ((shown.lips, [LIPS]), (shown.eyes, EYES)):
        rows, columns = np.floor(np.concatenate([points[part] for part in parts])[:, ::-1]).astype(int).T
        assert bool((mask[rows, columns] == 1).all()) and 0 < float(mask.mean()) < 0.2
    left, right = (slice(None, round(float(points[:, 0].mean()))), slice(round(float(points[:, 0].mean())), None))
    assert float(shown.eyes[:, left].sum()) > 0 < float(shown.eyes[:, right].sum())


def test_a_hull_begins_on_the_front(material: Material) -> None:
    splats, told = begin("face", material, replace(FEW, face=BranchPlan(14, 4, 14, 400, 400)), np.random.default_rng(0))
    x, y, z = splats.parameters["means"].detach().numpy().T
    front = (FRONT[0] + FRONT[1] * y + FRONT[2] * x**2 + FRONT[3] * y**2).clip(BACK)
    assert told == "hull" and len(z) == 400 and np.abs(z - front).max() < 5 * THICK


def test_the_mouth_goes_on_behind_the_lips(material: Material) -> None:
    opened = {}
    for lining in (0.0, 0.05):
        config = replace(FEW, mouth=BranchPlan(100, 40, 90, 200, 200), lining=lining, start="depth")
        trainer = Trainer(material, config)
        while trainer.name == "mouth":
            trainer.step_once()
        shares, errors = [], []
        for frame in trainer.mouthed[::3]:
            shown = material.shown(frame)
            assert bool((shown.hidden >= shown.ring).all()) and float((shown.ring * shown.mouth).sum()) == 0 < float(shown.ring.sum())
            with torch.no_grad():
                drawn = trainer.scene.draw_branch("mouth", frame, trainer.scene.motion("mouth", frame), 0, trainer.background)
            shares.append(float(((1 - drawn.alphas[0]) * shown.ring).sum() / shown.ring.sum()))
            errors.append(float(((drawn.colors[0] - shown.truth).abs().mean(-1) * shown.mouth).sum() / shown.mouth.sum()))
        opened[lining] = np.mean(shares), np.mean(errors)
    assert opened[0.05][0] < 0.7 * opened[0.0][0], opened
    assert opened[0.05][1] < 1.6 * opened[0.0][1], "what is seen of the mouth is learned as well"


def test_other_colours_stand_behind_a_share_of_the_pictures(material: Material) -> None:
    for share in (0.0, 0.3, 1.0):
        trainer = Trainer(material, replace(FEW, recoloured=share))
        colors = torch.stack([trainer._behind() for _ in range(400)])
        others = (colors != torch.tensor(FEW.background)).any(1)
        assert abs(float(others.float().mean()) - share) < 0.08 and (share not in (0, 1) or bool((others == share).all()))
        if share:
            assert float(colors[others].std(0).min()) > 0.2, "another one each time"


@pytest.mark.parametrize("rare", ["blinks", "meetings"])
def test_what_is_rare_comes_more_often_once_the_face_moves(material: Material, rare: str) -> None:
    closed = {frame.number for frame in material.train if material.data.aus[frame.number, 5] > CLOSED}
    assert 0 < len(closed) < 0.3 * len(material.train)
    wanted = {"blinks": closed, "meetings": {frame.number for frame in material.with_meeting_lips(material.train)}}[rare]
    assert 0 < len(wanted) < 0.6 * len(material.train)
    for share in (0.0, 1.0):
        trainer, taken = Trainer(material, replace(FEW, **{"blinks": 0.0, "meetings": 0.0, rare: share}, swapped=0.0)), []
        drawn = trainer._drawn
        trainer._drawn = lambda frames: taken.append(drawn(frames)) or taken[-1]
        while trainer.name != "face":
            trainer.step_once()
        found = []
        while trainer.name == "face":
            taken.clear()
            moves = trainer.phase != "static"
            trainer.step_once()
            found += [taken[0].number in wanted] if moves else []
        assert all(found) if share else not all(found)
        assert len(trainer.blinking) == len(closed)


def test_lips_meet_between_openings() -> None:
    """Not where the mouth rests, nor where it is half shut; whatever the size of the face and the order of the pictures; never where nothing is known."""
    opening = np.repeat([0, 1, 0.05, 0.9, 0, 0.35], [8, 4, 2, 4, 10, 4])
    points = np.random.default_rng(0).uniform(40, 60, (len(opening), 68, 2))
    points[:, [36, 45]] = [30, 40], [70, 40]
    points[:, [67, 66, 65]] = points[:, [61, 62, 63]] + np.stack([0 * opening, 9 * opening], 1)[:, None]
    points[::2] *= 1.7  # as near again
    times, order = np.arange(len(opening)) / 25, np.random.default_rng(1).permutation(len(opening))
    assert np.flatnonzero(lips_meet(points, times)).tolist() == [5, 6, 7, 12, 13, 18, 19, 20]
    assert np.array_equal(lips_meet(points[order], times[order]), lips_meet(points, times)[order])
    points[6, 62] = np.nan
    assert np.flatnonzero(lips_meet(points, times)).tolist() == [5, 7, 12, 13, 18, 19, 20]
    assert not lips_meet(np.full_like(points, np.nan), times).any()


def test_lips_are_taught_to_meet_where_emotions_are_named(tmp_path: Path) -> None:
    """A film that names none keeps the share that its own speech has."""
    folder = make_face_data(tmp_path, frames=40)
    (folder / "labels.npz").unlink()
    data = read_data(folder)
    assert data.emotion is None and Trainer(Material(data, find_sources([]), CPU), FEW).meeting == []


def test_boxes_count_for_every_face_that_moves(material: Material) -> None:
    """Of one that began on a surface, once it moves; of another from its first step; of a mouth never."""
    for start, first in (("depth", FEW.face.static_until), ("hull", 0)):
        trainer, counted = Trainer(material, replace(FEW, start=start)), {"mouth": [], "face": []}
        while trainer.name in counted:
            counted[trainer.name].append("details" in trainer.step_once())
        assert not any(counted["mouth"]) and [i for i, yes in enumerate(counted["face"]) if yes] == list(range(first, FEW.face.steps))


def test_emotions_bring_the_action_units_of_their_film(tmp_path: Path) -> None:
    material = Material(read_data(make_face_data(tmp_path, frames=120)), find_sources([]), CPU)
    found = emotion_action_units(material)
    numbers = [frame.number for frame in material.train]
    weights, units = material.data.labels.emotion[numbers], material.data.aus[numbers]
    named = [EMOTIONS.index(name) for name in material.emotions() if name != "neutral"]
    assert found.shape == (8, 6) and (found >= 0).all() and not np.delete(found, named, 0).any()
    # Another solver of the same: projected gradient, long enough.
    known = np.concatenate([np.ones((len(weights), 1)), weights[:, named]], 1).astype(np.float64)
    slopes, step = np.zeros((known.shape[1], 6)), 1 / np.linalg.norm(known, 2) ** 2
    for _ in range(20_000):
        slopes = np.maximum(slopes - step * known.T @ (known @ slopes - units), 0)
    assert np.allclose(found[named], np.where(slopes[1:] < BROUGHT, 0, slopes[1:]), atol=1e-3)
    assert found.any(), "this head smiles and raises its brows with its feelings"


def test_a_film_whose_emotions_are_written_down_teaches_them(tmp_path: Path) -> None:
    """As by a user of his own video: no labels, an emotion file."""
    folder = make_face_data(tmp_path, frames=80)
    labelled = Material(read_data(folder), find_sources([]), CPU)
    shown = read_data(folder).labels.emotion
    (folder / "labels.npz").unlink()
    lines = [",".join(["frame", *EMOTIONS])] + [",".join([str(k), *(f"{x:g}" for x in row)]) for k, row in enumerate(shown)]
    (folder / "emotions.csv").write_text("\n".join(lines))
    written = Material(read_data(folder), find_sources([]), CPU)
    for frame in written.train:
        assert torch.equal(written.views(frame)["emotion"], labelled.views(frame)["emotion"])
    assert written.emotions() == labelled.emotions() and {"happy", "surprised"} <= set(written.emotions())
    assert np.array_equal(emotion_action_units(written), emotion_action_units(labelled))


def test_a_film_without_labels_tells_no_action_units(tmp_path: Path) -> None:
    assert emotion_action_units(Material(read_data(make_face_data(tmp_path, frames=40, labels=False)), find_sources([]), CPU)) is None
