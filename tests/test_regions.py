"""Regions of the face and the reach of the strengths: on the demo avatar, whose landmarks say where things are, and on any cloud."""

from __future__ import annotations

import itertools
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from support import STAGE
from support.avatars import static_avatar

from ua3dtalk.engine.avatar import REGIONS, Avatar, load_avatar, regions, strength_masks

ID = {name: number for number, name in enumerate(REGIONS)}
AXES = [s + a for s, a in itertools.product("+-", "XYZ")]


@pytest.fixture(scope="module")
def demo() -> Avatar:
    return load_avatar(STAGE / "ua3dtalk" / "addon" / "assets" / "demo_avatar.safetensors")


def without_landmarks(avatar: Avatar) -> Avatar:
    return replace(avatar, tensors={name: tensor for name, tensor in avatar.tensors.items() if not name.startswith("landmarks.")})


def test_landmarks_lie_in_their_regions(demo: Avatar) -> None:
    found = regions(demo)
    assert found.shape == (demo.count("face") + demo.count("mouth"),) and found.dtype == np.uint8
    assert (found[demo.count("face") :] == ID["mouth"]).all() and not (found[: demo.count("face")] == ID["mouth"]).any()
    for landmark, region in (("brow", "brows"), ("lid_upper", "eyes"), ("lid_lower", "eyes"), ("lip_upper", "lips"), ("lip_lower", "lips")):
        assert (found[demo.tensors[f"landmarks.{landmark}"]] == ID[region]).all(), landmark


def test_regions_lie_where_a_face_has_them(demo: Avatar) -> None:
    """The demo looks along +Z with +Y up: heights, sides and depths of the regions' middles."""
    found, means = regions(demo)[: demo.count("face")], np.asarray(demo.tensors["face.means"], np.float64)
    middle = {name: means[found == ID[name]].mean(0) for name in REGIONS if name != "mouth"}
    heights = [middle[name][1] for name in ("jaw", "lips", "nose", "eyes", "brows")]
    assert heights == sorted(heights)
    assert middle["lips"][1] < middle["cheeks"][1] < middle["eyes"][1]
    tip = np.argmax(means[:, 2])  # the tip of the nose is the foremost
    assert found[tip] == ID["nose"]
    chin = means[found == ID["jaw"]]
    assert 0.03 < means[demo.tensors["landmarks.lip_lower"]][:, 1].mean() - chin[:, 1].min() < 0.07
    for name in ("brows", "eyes", "nose", "cheeks", "lips", "jaw"):
        part = means[found == ID[name]]
        assert abs(part[:, 0].mean()) < 0.006, name  # the same on both sides
        assert part[:, 2].min() > -0.02, name  # nothing at the back of the head
        assert len(part) > 300, name


def test_proportions_find_the_same_face_as_landmarks(demo: Avatar) -> None:
    marked, moving = regions(demo), demo.moving_rows()
    bare = without_landmarks(demo)
    assert (regions(bare) == marked)[moving].mean() > 0.95
    mouthless = replace(bare, tensors={name: t for name, t in bare.tensors.items() if not name.startswith("mouth.")})
    rows = demo.moving("face")
    assert (regions(mouthless)[rows] == marked[rows]).mean() > 0.85
    for mask, other in zip(strength_masks(demo), strength_masks(bare)):
        assert np.abs(mask - other).mean() < 0.02


def test_strengths_reach_what_they_are_named_after(demo: Avatar) -> None:
    upper, lower, lips = strength_masks(demo)
    found = regions(demo)[demo.moving_rows()]
    assert upper.shape == lower.shape == lips.shape == (len(found),) and upper.dtype == np.float32
    assert (upper[found == ID["brows"]] == 1).all() and upper[found == ID["eyes"]].min() > 0.9
    for name in ("lips", "jaw", "mouth"):
        assert (lower[found == ID[name]] == 1).all() and (upper[found == ID[name]] == 0).all(), name
    assert (lips[found == ID["lips"]] == 1).all() and (lips[found == ID["mouth"]] == 1).all()
    assert not lips[(found == ID["brows"]) | (found == ID["eyes"])].any()
    assert np.allclose(upper + lower, 1)
    assert all(0 <= mask.min() and mask.max() <= 1 for mask in (upper, lower, lips))


def test_no_seam_opens_where_a_strength_ends(demo: Avatar) -> None:
    """Neighbours on the face, a millimetre apart at most, differ by little."""
    face = demo.moving("face")
    means = np.asarray(demo.tensors["face.means"], np.float64)[face]
    rows = np.random.default_rng(0).choice(len(face), 400, replace=False)
    apart = np.linalg.norm(means[rows, None] - means, axis=2)
    near = apart < 1e-3
    assert near.sum() > 800
    for mask in strength_masks(demo):
        assert np.abs(mask[rows, None] - mask[: len(face)])[near].max() < 0.2


@given(seed=st.integers(0, 99), up=st.sampled_from(AXES), front=st.sampled_from(AXES), scale=st.floats(0.01, 100), marked=st.booleans())
@settings(max_examples=40, deadline=None)
def test_regions_do_not_depend_on_axes_or_units(seed: int, up: str, front: str, scale: float, marked: bool) -> None:
    if up[1] == front[1]:
        return
    avatar = static_avatar(400, 60, seed=seed)
    if marked:
        means = avatar.tensors["face.means"]
        for name, at in (("brow", (0.03, 0.04)), ("lid_upper", (0.03, 0.012)), ("lid_lower", (0.03, 0.008)), ("lip_upper", (0, -0.05)), ("lip_lower", (0, -0.06))):
            rows = [np.argmin(np.hypot(means[:, 0] - side * at[0], means[:, 1] - at[1])) for side in (-1, 1)]
            avatar.tensors[f"landmarks.{name}"] = np.array(rows, np.int32)
    other = replace(avatar, meta=replace(avatar.meta, up=up, front=front), tensors=dict(avatar.tensors))
    # Into the other axes: where the first avatar has up and front, the second has its own.
    turn = other.rotation_to_blender().T @ avatar.rotation_to_blender()
    for branch in ("face", "mouth"):
        other.tensors[f"{branch}.means"] = (scale * (avatar.tensors[f"{branch}.means"].astype(float) @ turn.T)).astype(np.float32)
    one, two = regions(avatar), regions(other)
    assert (one == two).mean() > 0.99  # a mean on a border may fall on either side of it
    assert set(np.unique(one[:400])) <= set(range(8)) - {ID["mouth"]}


@pytest.mark.parametrize("value", [np.zeros(0, np.int32), np.array([10**6], np.int32), np.array([-1], np.int32), np.zeros((2, 2), np.int32), np.array([0.5])])
def test_landmarks_that_make_no_sense_are_left_out(demo: Avatar, value: np.ndarray) -> None:
    odd = replace(demo, tensors=dict(demo.tensors) | {"landmarks.brow": value})
    np.testing.assert_array_equal(regions(odd), regions(without_landmarks(demo)))


@pytest.mark.parametrize("count", [1, 2, 50])
def test_tiny_and_flat_clouds_have_regions_too(count: int) -> None:
    avatar = static_avatar(count, 0)
    avatar.tensors["face.means"] *= 0
    assert regions(avatar).shape == (count,)
    assert [mask.shape for mask in strength_masks(avatar)] == [(0,)] * 3  # nothing moves
