"""Parts of the method left out: what is trained, and what an avatar without a view is."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from support.evaluation import folder, subject  # noqa: F401 - fixtures

from ua3dtalk.engine.avatar import Avatar, save_avatar
from ua3dtalk.engine.evaluate import ablation
from ua3dtalk.engine.evaluate.subject import Subject
from ua3dtalk.engine.train.config import BranchPlan, TrainConfig
from ua3dtalk.engine.train.export import silenced

TINY = TrainConfig(
    mouth=BranchPlan(4, 1, 3, 60, 80), face=BranchPlan(6, 2, 4, 200, 220), fuse_steps=2, body=BranchPlan(0, 0, 0, 0, 0), members=2, field=(8,), emotion_field=(4,), codebook=(4,),
    grow_before_end=2, preview_every=1000, checkpoint_every=1000, held_out=1,
)  # fmt: skip


def test_variants_leave_out_what_they_say() -> None:
    assert list(ablation.VARIANTS) == ["baseline", "+P", "+E", "+P+E", "+P+U", "+P+E+U"]
    for name in ablation.VARIANTS:
        config = ablation.variant(TINY, name)
        assert (config.members > 1) == name.endswith("U") == (config.logvar_bound > 1)
        assert ("emotion" in config.without) == ("E" not in name) and ("exp" in config.without) == ("P" not in name)
        assert (config.face, config.mouth, config.fuse_steps) == (TINY.face, TINY.mouth, TINY.fuse_steps)


@pytest.mark.parametrize("views", [("exp", "style", "emotion"), ("au",), ("audio", "emotion")])
def test_a_silenced_view_counts_as_zeros(folder: Path, subject: Subject, tmp_path: Path, views: tuple[str, ...]) -> None:
    tensors = {name: np.asarray(value) for name, value in subject.avatar.tensors.items()}
    tensors["face.net.au.attention.1.weight"] = 1000 * tensors["face.net.au.attention.1.weight"]  # random ones hardly see them
    save_avatar(Avatar(subject.avatar.meta, tensors), tmp_path / "all.safetensors")
    for branch in subject.avatar.branches:
        tensors |= silenced({name: value for name, value in tensors.items() if name.startswith(f"{branch}.net.")}, branch, views)
    save_avatar(Avatar(subject.avatar.meta, tensors), tmp_path / "deaf.safetensors")
    subject, deaf = (Subject(tmp_path / f"{name}.safetensors", "cpu", 1) for name in ("all", "deaf"))
    given = subject.views(folder / "one.wav", np.array([0.3, 0.8]), np.eye(8)[2], np.full(6, 0.6))
    zeros = given | {name: np.zeros_like(given[name]) for name in views}
    found, wanted, open_to_all = deaf.deformer.motion(given), subject.deformer.motion(zeros), subject.deformer.motion(given)
    assert np.allclose(found.face.d_means, wanted.face.d_means, atol=1e-7) and np.allclose(found.mouth.d_means, wanted.mouth.d_means, atol=1e-7)
    apart = [np.abs(one.face.d_means - wanted.face.d_means).max() for one in (found, open_to_all)]
    assert apart[0] < 0.02 * apart[1]


def test_variants_are_trained_and_compared(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ablation, "VARIANTS", {name: ablation.VARIANTS[name] for name in ("baseline", "+P+E")})
    made = ablation.train_variants(folder / "data", tmp_path, TINY, [], "cpu", 1)
    assert list(made) == ["baseline", "+P+E"] and all(path.exists() for path in made.values())
    baseline = Subject(made["baseline"], "cpu", 1)
    views = baseline.views(folder / "one.wav", np.array([0.2, 0.7]), np.eye(8)[1])
    motion = baseline.deformer.motion(views).face
    assert np.allclose(motion.shares, 1 / 4, atol=1e-4) and (motion.epistemic == 0).all()
    other = views | {name: np.random.default_rng(0).normal(size=views[name].shape).astype(np.float32) for name in ("exp", "style", "emotion")}
    assert np.array_equal(baseline.deformer.motion(other).face.d_means, motion.d_means)
    stamps = [path.stat().st_mtime_ns for path in made.values()]
    assert [path.stat().st_mtime_ns for path in ablation.train_variants(folder / "data", tmp_path, TINY, [], "cpu", 1).values()] == stamps
