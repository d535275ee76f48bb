"""A small head whose motion is known, its data set and two sounds, as fixtures for the tests of the evaluation."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from ua3dtalk.engine.avatar import Avatar, save_avatar
from ua3dtalk.engine.avatar.gaussians import softplus_inverse
from ua3dtalk.engine.dataset import FaceData, read_data
from ua3dtalk.engine.evaluate.pictures import PictureResult, judge_pictures
from ua3dtalk.engine.evaluate.subject import Subject

from .avatars import talking_avatar
from .face_data import make_face_data, make_head


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data set, a head of its own Gaussians with small random networks, and two sounds."""
    folder = tmp_path_factory.mktemp("evaluate")
    make_face_data(folder / "data", frames=80, size=48)
    save_avatar(head_avatar(), folder / "head.safetensors")
    random = np.random.default_rng(0)
    for name, low in (("one", 150), ("two", 220)):
        tone = np.sin(2 * np.pi * np.cumsum(low + 60 * np.sin(np.arange(24000) / 2500)) / 16000)
        soundfile.write(folder / f"{name}.wav", 0.3 * tone * (1 + np.sin(np.arange(24000) / 800)) + 0.01 * random.normal(size=24000), 16000)
    return folder


def head_avatar(seed: int = 0) -> Avatar:
    """The Gaussians that `make_face_data` draws, under random networks."""
    head = make_head(np.random.default_rng(0))
    avatar = talking_avatar(int((head.kind < 2).sum()), int((head.kind > 1).sum()), members=3, seed=seed)
    for branch, rows in (("face", head.kind < 2), ("mouth", head.kind > 1)):
        count = int(rows.sum())
        avatar.tensors[f"{branch}.means"] = head.means[rows].astype(np.float32)
        avatar.tensors[f"{branch}.quats"] = np.tile(np.float32([1, 0, 0, 0]), (count, 1))
        avatar.tensors[f"{branch}.scales"] = softplus_inverse(np.repeat(head.scales[rows][:, None], 3, 1))
        avatar.tensors[f"{branch}.opacities"] = np.full(count, np.log(0.95 / 0.05), np.float32)
        avatar.tensors[f"{branch}.sh"] = ((head.colors[rows] - 0.5) / 0.28209479)[:, None].astype(np.float32)
    avatar.meta.composite = "layered"
    avatar.tensors["face.moving"] = np.arange(0, int((head.kind < 2).sum()), 7, dtype=np.int32)
    avatar.tensors["mouth.moving"] = np.arange(0, int((head.kind > 1).sum()), 3, dtype=np.int32)
    return avatar


@pytest.fixture(scope="module")
def subject(folder: Path) -> Subject:
    return Subject(folder / "head.safetensors", "cpu", 1)


@pytest.fixture(scope="module")
def data(folder: Path) -> FaceData:
    return read_data(folder / "data")


@pytest.fixture(scope="module")
def judged(subject: Subject, data: FaceData) -> PictureResult:
    return judge_pictures(subject, data, "val", rows=3)
