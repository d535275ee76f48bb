"""Frozen avatars: no planes, the same motion to the last bit."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from support import ROOT
from support.networks import SMALL, make_avatar, make_views

from ua3dtalk.engine.avatar import load_avatar, save_avatar
from ua3dtalk.engine.deform import reference
from ua3dtalk.engine.deform.fast import Deformer, Motion
from ua3dtalk.engine.deform.freeze import freeze, freeze_file
from ua3dtalk.engine.deform.networks import BranchNetwork
from ua3dtalk.engine.deform.parameters import VIEWS, branch_tensors, check_network
from ua3dtalk.engine.errors import Cancelled, UserError

torch.set_num_threads(1)
PLANES = ".field."


def equal(a: Motion, b: Motion) -> bool:
    """True where both hold the same bytes."""
    pairs = [(getattr(getattr(a, branch), name), getattr(getattr(b, branch), name)) for branch in VIEWS
             for name in ("d_means", "d_quats", "d_scales", "aleatoric", "epistemic")]  # fmt: skip
    return all(x is y is None or x.tobytes() == y.tobytes() for x, y in pairs)


@given(
    field=st.lists(st.integers(2, 9), min_size=1, max_size=3), channels=st.integers(1, 5),
    emotion=st.lists(st.integers(2, 6), min_size=1, max_size=3), members=st.integers(1, 4), face=st.integers(1, 600),
    mouth=st.integers(1, 40), moving=st.booleans(), bound=st.sampled_from([None, 7.0]), float16=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
@settings(max_examples=10, deadline=None)
def test_a_frozen_avatar_moves_the_same(
    tmp_path_factory: pytest.TempPathFactory, field: list[int], channels: int, emotion: list[int], members: int, face: int,
    mouth: int, moving: bool, bound: float | None, float16: bool, seed: int,
) -> None:  # fmt: skip
    sizes = replace(
        SMALL, members=members, field=tuple(field), field_channels=channels, emotion_field=tuple(emotion),
        codebook=tuple(cells + 1 for cells in emotion),
    )  # fmt: skip
    avatar, views = make_avatar(sizes, (face, mouth), seed, moving, bound=bound), make_views(sizes, 2, seed)
    if float16:
        avatar.tensors = {k: v.astype(np.float16) if ".net." in k else v for k, v in avatar.tensors.items()}
    wanted = Deformer(avatar, "cpu", threads=1).motion(views)
    path = tmp_path_factory.mktemp("frozen") / "frozen.safetensors"
    save_avatar(freeze(avatar), path)
    frozen = load_avatar(path)
    assert equal(Deformer(frozen, "cpu", threads=2).motion(views), wanted)
    assert not any(name.endswith((".xy", ".xz", ".yz", ".aabb")) for name in frozen.tensors)
    kept = {name for name in avatar.tensors if PLANES not in name}
    assert {name for name in frozen.tensors if PLANES not in name} == kept
    assert all(frozen.tensors[name].tobytes() == avatar.tensors[name].tobytes() for name in kept)
    assert frozen.meta == avatar.meta and frozen.hash != avatar.hash and freeze(avatar).hash != avatar.hash
    for branch in VIEWS:  # the plain formulation reads frozen networks too
        network, one = branch_tensors(frozen.tensors, branch), {k: v[1] for k, v in views.items()}
        means = avatar.tensors[f"{branch}.means"][avatar.moving(branch)]
        plain = reference.deform(branch, means, network, one, bound).d_means
        assert np.abs(getattr(wanted, branch).d_means[1] - plain).max(initial=0) <= 1e-5 * np.abs(plain).max(initial=0)


def test_freezing_a_frozen_avatar_changes_nothing() -> None:
    once = freeze(make_avatar(SMALL, moving=True))
    again = freeze(once)
    assert again.tensors.keys() == once.tensors.keys() and again.hash == once.hash
    assert freeze(once, half=True).hash == freeze(make_avatar(SMALL, moving=True), half=True).hash


def test_nothing_need_move() -> None:
    avatar = make_avatar(SMALL)
    avatar.tensors["mouth.moving"] = np.zeros(0, np.int32)
    for each in (avatar, freeze(avatar)):
        motion = Deformer(each, "cpu").motion(make_views(SMALL, 2))
        assert motion.mouth.d_means.shape == (2, 0, 3) and motion.face.d_means.shape == (2, 70, 3)


def test_half_precision_is_stated(tmp_path: Path) -> None:
    avatar, path = make_avatar(SMALL, counts=(900, 40)), tmp_path / "whole.safetensors"
    avatar.meta.metres_per_unit = 2.0
    avatar.tensors["face.net.fuse.fc.bias"][0] = 1e5  # beyond half precision: stays
    save_avatar(avatar, path)
    steps: list[tuple[int, int]] = []
    exact = freeze_file(path, tmp_path / "exact.safetensors", progress=lambda *a: steps.append(a))
    rounded = freeze_file(path, tmp_path / "half.safetensors", half=True)
    assert steps[-1][0] == steps[-1][1] == len(steps)
    assert exact["bytes_before"] == path.stat().st_size and exact["largest_error_m"] == exact["mean_error_m"] == 0
    assert exact["bytes_after"] == (tmp_path / "exact.safetensors").stat().st_size
    assert rounded["bytes_after"] < 0.6 * exact["bytes_after"]
    half = load_avatar(tmp_path / "half.safetensors")
    assert half.tensors["face.means"].dtype == np.float32 and half.tensors["face.sh"].dtype == np.float16
    assert half.tensors["face.net.fuse.fc.bias"].dtype == np.float32 and half.tensors["face.net.fuse.fc.weight"].dtype == np.float16
    # The error again, from other frames: of the same size, and not nothing.
    views = make_views(SMALL, 8, seed=5)
    want, have = (Deformer(each, "cpu").motion(views).face.d_means for each in (avatar, half))
    apart = 2 * np.linalg.norm(have - want, axis=2)
    assert 0 < apart.max() < 5 * rounded["largest_error_m"] and 0 < rounded["mean_error_m"] < rounded["largest_error_m"]


def test_frozen_planes_cannot_be_trained() -> None:
    frozen = freeze(make_avatar(SMALL))
    with pytest.raises(UserError, match="frozen") as caught:
        BranchNetwork.from_tensors("face", branch_tensors(frozen.tensors, "face"), source="some.avatar")
    assert "some.avatar" in str(caught.value) and "Train from" in caught.value.remedy


@pytest.mark.parametrize("change", ["missing", "width", "nan", "emotion"])
def test_damaged_samples_are_refused_by_name(change: str) -> None:
    tensors = branch_tensors(freeze(make_avatar(SMALL)).tensors, "face")
    name = "emotion.field.samples" if change in ("missing", "emotion") else "field.samples"
    if change == "missing":
        del tensors[name]
    elif change == "nan":
        tensors[name] = np.full_like(tensors[name], np.nan)
    else:
        tensors[name] = tensors[name][:, 1:]
    with pytest.raises(UserError, match="some.avatar") as caught:
        check_network("face", tensors, "some.avatar")
    assert "\n" not in str(caught.value) and (f"face.net.{name}" in str(caught.value) or change == "width")


def test_samples_of_other_gaussians_are_refused() -> None:
    frozen = freeze(make_avatar(SMALL, moving=True))
    frozen.tensors["face.moving"] = frozen.tensors["face.moving"][1:]
    with pytest.raises(UserError, match="35 moving Gaussians, but 34"):
        Deformer(frozen, "cpu")


def test_what_cannot_be_frozen(tmp_path: Path) -> None:
    avatar, path, out = make_avatar(SMALL), tmp_path / "a.safetensors", tmp_path / "b.safetensors"
    save_avatar(avatar, path)
    with pytest.raises(UserError, match="itself"):
        freeze_file(path, path)

    def stop(done: int, steps: int) -> None:
        raise Cancelled

    with pytest.raises(Cancelled):
        freeze_file(path, out, progress=stop)
    assert list(tmp_path.iterdir()) == [path]
    avatar.tensors = {k: v for k, v in avatar.tensors.items() if ".net." not in k}
    with pytest.raises(UserError, match="no networks"):
        freeze(avatar)


@pytest.mark.skipif(sys.platform == "win32", reason="a mapped file cannot be written over there")
@pytest.mark.parametrize("frozen", [False, True])
def test_a_file_that_is_written_over_does_not_change_the_motion(tmp_path: Path, frozen: bool) -> None:
    made = make_avatar(SMALL, moving=True)
    path, views = tmp_path / "a.safetensors", make_views(SMALL, 2)
    save_avatar(freeze(made) if frozen else made, path)
    deformer = Deformer(load_avatar(path), "cpu")
    before = deformer.motion(views)
    moved = deformer.moved(before)
    with open(path, "r+b") as handle:
        handle.write(bytes([255]) * path.stat().st_size)
    after = deformer.motion(views)
    assert equal(after, before)
    again = deformer.moved(after)
    assert all(a.tobytes() == b.tobytes() for branch in VIEWS for a, b in zip(moved[branch], again[branch]))


def test_the_demo_avatar_freezes(tmp_path: Path) -> None:
    path = ROOT / "addon" / "assets" / "demo_avatar.safetensors"
    if not path.is_file():
        pytest.skip("no demo avatar in this checkout")
    avatar = load_avatar(path)
    rng = np.random.default_rng(0)
    deformers = [Deformer(each, "cpu") for each in (avatar, freeze(avatar))]
    views = {name: rng.normal(size=(1, *shape)).astype(np.float32) for name, shape in deformers[0].frame_shapes.items()}
    assert equal(*(deformer.motion(views) for deformer in deformers))
