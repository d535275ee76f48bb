"""What the demo avatar's variances are worth in its picture: `python -m character.unit --avatar AVATAR --film DATA`.

The avatar learned from known motion, not from a film, so nothing told it which errors its pictures are left with. A data set of the same person
(`character.synthetic`, its usual identity) does: as `engine.train.unit`, over drawings of the finished avatar. Writes the file anew.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import numpy as np
import torch

from engine.avatar import Avatar, load_avatar, save_avatar
from engine.dataset import FaceData, read_data
from engine.evaluate import landmarks as lm
from engine.evaluate.subject import Subject
from engine.train.material import spaced
from engine.train.unit import PICTURES, left


def variance_units(subject: Subject, data: FaceData) -> dict[str, np.ndarray]:
    """Branch -> [N] float32 as `engine.train.unit.variance_units` has them, of an avatar without a unit.

    The film's action units hold what an emotion shows of itself, and so do the avatar's emotions: only what moves beside them is given.
    """
    count = sum(subject.avatar.count(branch) for branch in subject.avatar.branches)
    spoilt, seen = np.zeros(count), np.zeros(count)
    usual = {branch: np.zeros(len(subject.avatar.moving(branch))) for branch in subject.avatar.branches}
    frames = spaced(data.splits["train"], PICTURES)
    for frame in frames:
        keyed = lm.view_of(data, [frame])
        keyed["au"] = np.where(np.arange(6) == 5, keyed["au"], 0)  # blinks
        motion = subject.deformer.motion(subject.views(data.sound, **keyed))
        for branch in usual:
            own = getattr(motion, branch)
            usual[branch] += (own.aleatoric[0] + own.epistemic[0]) / len(frames)
        drawn = subject.draw(motion, 0, frame.viewmat, data.K, data.width, data.height)
        error = (drawn.over(data.behind(frame) / np.float32(255)) - data.picture(frame) / np.float32(255)).mean(-1)
        weights = subject.weights(motion, 0, frame.viewmat, data.K, np.stack([error**2, np.ones_like(error)], -1))
        spoilt, seen = spoilt + weights[:, 0], seen + weights[:, 1]
    found, start = {}, 0
    errors = left(torch.from_numpy(spoilt), torch.from_numpy(seen)).numpy()
    for branch, variance in usual.items():
        own = errors[start : start + subject.avatar.count(branch)]
        start += len(own)
        own[subject.avatar.moving(branch)] /= np.maximum(variance, np.finfo(np.float32).tiny)
        found[branch] = own.astype(np.float32)
    return found


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.unit", description="Give the demo avatar's variances a unit.")
    parser.add_argument("--avatar", type=Path, required=True)
    parser.add_argument("--film", type=Path, required=True, help="data set folder of the same person")
    given = parser.parse_args()
    avatar = load_avatar(given.avatar)
    plain = {name: np.array(value) for name, value in avatar.tensors.items() if not name.endswith(".variance_unit")}
    with tempfile.TemporaryDirectory() as folder:  # the avatar stays as it is until the new one stands
        save_avatar(Avatar(avatar.meta, plain), Path(folder) / "plain.safetensors")
        units = variance_units(Subject(Path(folder) / "plain.safetensors", "cpu"), read_data(given.film))
    save_avatar(Avatar(avatar.meta, plain | {f"{branch}.variance_unit": unit for branch, unit in units.items()}), given.avatar)


if __name__ == "__main__":
    main()
