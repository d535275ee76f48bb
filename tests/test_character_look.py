"""The demo person: face model, bound splats, colours. What needs the face model's data is skipped where it is absent."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from scipy.spatial.transform import Rotation

from character import face_model, weights
from character.colours import FitSettings, fit, picture_of, psnr
from character.look import AXES, POSES, Person, View, held_out_views, render_views, to_blender, training_views
from character.look_parts import closed_curve, signed_distance
from character.person import BRANCHES, MOST_MOVING, SplatPerson, load_person, save, split, vertex_motion
from character.person_binding import Binding, deform, place_points
from character.person_sampling import MOUTH, PARTS, Splats, blue_noise, join, sample
from engine.errors import UserError
from engine.raster import Splatting
from support import shared_data


@pytest.fixture(scope="module")
def packed() -> Path:
    return shared_data("face_model", "ict_facekit.npz")


@pytest.fixture(scope="module")
def model(packed):
    return face_model.load(packed)


@pytest.fixture(scope="module")
def made(model):
    person = Person(model)
    motion = vertex_motion(model, person.rest)
    return person, split(sample(person, motion), motion)


# --- weights ------------------------------------------------------------------------------------------------------------------


def test_tables_name_both_sides_and_all_emotions():
    assert list(weights.EMOTIONS) == ["neutral", "happy", "sad", "angry", "fear", "disgusted", "surprised", "contempt"]
    assert len(weights.VISEMES) == 20 and not weights.EMOTIONS["neutral"]
    assert weights.both_sides({"a*": 1.0, "b": 2.0}) == {"a_L": 1.0, "a_R": 1.0, "b": 2.0}
    assert weights.combine((0.5, {"a": 1.0}), (2.0, {"a": 1.0, "b": 3.0})) == {"a": 2.5, "b": 6.0}
    for table in (*weights.VISEMES.values(), *weights.EMOTIONS.values()):
        assert not [name for name in table if name.endswith("*")]


def test_every_table_can_be_posed(model):
    for coefficients in (*weights.VISEMES.values(), *weights.EMOTIONS.values(), weights.BLINK, *POSES.values()):
        assert np.isfinite(model.pose(coefficients)).all()
    with pytest.raises(KeyError):
        model.pose({"jawOpne": 1.0})


# --- face model ---------------------------------------------------------------------------------------------------------------


def test_space_and_identity(model, packed):
    rest = model.rest
    head = rest[model.material_vertices("M_Face", "M_IrisLeft", "M_IrisRight", "M_Teeth")]
    assert np.abs(head[head[:, 1] > -0.12]).max() < 0.15
    assert rest[model.landmarks[30], 2] > rest[model.landmarks[8], 2] > rest[model.landmarks[0], 2]  # the nose points along +Z
    np.testing.assert_allclose(face_model.to_model(rest), model.vertices, atol=2e-5)
    assert np.array_equal(face_model.load(packed).vertices, model.vertices)
    other = face_model.load(packed, 7).vertices
    assert 0.05 < np.abs(other - model.vertices).max() < 5.0
    assert np.array_equal(face_model.load(packed, None).vertices, model.mean_vertices)


def test_lips_close_at_rest_and_on_m_but_not_on_a(model):
    upper, lower = model.landmarks[[61, 62, 63]], model.landmarks[[67, 66, 65]]

    def gap(coefficients):
        posed = model.pose(coefficients)
        return (posed[upper, 1] - posed[lower, 1]).max()

    assert gap(weights.NEUTRAL) < 0 and gap(weights.VISEMES["mbp"]) < 0 < 0.01 < gap(weights.VISEMES["aa"])


def test_gaze_turns_the_eye_about_its_centre_and_tongue_moves_alone(model):
    rest, turned = model.pose({}), model.pose({"gazeYaw": 10.0})
    for side in "LR":
        ids, _ = model.eyes[side]
        aligned, _ = Rotation.align_vectors(turned[ids] - turned[ids].mean(0), rest[ids] - rest[ids].mean(0))
        np.testing.assert_allclose(np.degrees(aligned.as_rotvec()), [0, 10, 0], atol=0.05)
    assert model.gaze({"eyeLookOut_L": 0.8})["L"][0] == pytest.approx(22) and model.gaze({"eyeLookOut_R": 0.8})["R"][0] == pytest.approx(-22)
    assert model.gaze(weights.EMOTIONS["sad"])["L"][1] == pytest.approx(-9)
    moved = np.flatnonzero(np.abs(model.pose({"tongueOut": 1.0}) - rest).max(axis=1) > 0)
    assert 100 < len(moved) and np.isin(moved, model.material_vertices("M_GumsTongue")).all()


def test_published_folder_is_read(tmp_path):
    folder = tmp_path / "FaceXModel"
    folder.mkdir()
    points = np.random.default_rng(0).normal(size=(7000, 3)).round(4)

    def write(name: str, shift: float) -> None:
        lines = ["# comment", "mtllib x.mtl", *(f"v {x} {y} {z}" for x, y, z in points + shift), "vt 0 0", "vt 1 0", "vt 0 1"]
        lines += ["usemtl M_Face", "f 1/1/1 2/2/2 3/3/3", "usemtl M_Teeth", "f 4/1/1 3/2/1 2/3/1 1/1/1"]
        (folder / f"{name}.obj").write_text("\n".join(lines))

    for name, shift in (("generic_neutral_mesh", 0), ("jawOpen", 0.5), ("browDown_L", 0.25), ("identity000", 1.0)):
        write(name, shift)
    read = face_model.load(tmp_path, None)
    assert read.expression_names == ("browDown_L", "jawOpen") and read.material_names == ("M_Face", "M_Teeth")
    np.testing.assert_array_equal(read.faces, [[0, 1, 2, -1], [3, 2, 1, 0]])
    np.testing.assert_array_equal(read.triangles, [[0, 1, 2], [3, 2, 1], [3, 1, 0]])
    np.testing.assert_allclose(read.expressions[1], 0.5, atol=1e-3)
    weight = face_model.identity_weights(3)[0]
    np.testing.assert_allclose(face_model.load(tmp_path, 3).vertices - points, weight, atol=1e-3)
    (folder / "jawOpen.obj").write_text("v 0 0 0\n")
    with pytest.raises(UserError, match="jawOpen.obj"):
        face_model.load(tmp_path)


def test_a_path_that_is_no_face_model_is_named(tmp_path):
    with pytest.raises(UserError, match="nothing.npz"):
        face_model.load(tmp_path / "nothing.npz")
    np.savez(tmp_path / "other.npz", vertices=np.zeros((3, 3)))
    with pytest.raises(UserError, match="other.npz lacks"):
        face_model.load(tmp_path / "other.npz")


def test_masks_know_inside_from_outside():
    square = np.array([[0, 0], [1, 0], [1, 1], [0, 1.0]])
    distance = signed_distance(np.array([[0.5, 0.5], [0.5, -0.25], [2.0, 1.0]]), square)
    np.testing.assert_allclose(distance, [0.5, -0.25, -1.0])
    ring = closed_curve(square, 5)
    assert ring.shape == (20, 2) and np.abs(ring[::5] - square).max() < 1e-12


# --- splats -------------------------------------------------------------------------------------------------------------------


def patch(count: int = 300, seed: int = 0) -> Binding:
    """Splats on a bumpy sheet of triangles."""
    rng = np.random.default_rng(seed)
    x, y = np.meshgrid(np.linspace(-0.1, 0.1, 9), np.linspace(-0.1, 0.1, 9))
    vertices = np.stack([x, y, 0.03 * np.cos(20 * x) * np.cos(15 * y)], -1).reshape(-1, 3).astype(np.float32)
    corner = (np.arange(8)[:, None] * 9 + np.arange(8)).ravel()
    tri = np.concatenate([np.stack([corner, corner + 1, corner + 9], 1), np.stack([corner + 1, corner + 10, corner + 9], 1)])
    bary = rng.dirichlet([1, 1, 1], count).astype(np.float32)
    quats = Rotation.random(count, random_state=seed).as_quat(scalar_first=True).astype(np.float32)
    scales = rng.uniform(0.002, 0.012, (count, 3)).astype(np.float32)
    offset = rng.normal(0, 0.004, (count, 3)).astype(np.float32)
    return Binding(tri[rng.integers(len(tri), size=count)].astype(np.int32), bary, offset, quats, scales, vertices)


def test_deform_at_rest_changes_nothing():
    binding = patch()
    means, quats, scales = deform(binding, binding.rest_vertices)
    np.testing.assert_allclose(means, place_points(binding.offset, binding.rest_vertices, binding.tri, binding.bary))
    np.testing.assert_allclose(quats, binding.quats, atol=1e-6)
    np.testing.assert_allclose(scales, binding.scales, rtol=1e-5)


@pytest.mark.parametrize("seed", range(3))
def test_deform_follows_a_rigid_motion(seed):
    binding = patch(seed=seed)
    turn, shift = Rotation.random(random_state=seed + 5), np.array([0.3, -0.1, 0.2])
    rest = deform(binding, binding.rest_vertices)
    means, quats, scales = deform(binding, turn.apply(binding.rest_vertices) + shift)
    np.testing.assert_allclose(means, turn.apply(rest[0]) + shift, atol=1e-6)
    got, wanted = (Rotation.from_quat(q, scalar_first=True) for q in (quats, (turn * Rotation.from_quat(rest[1], scalar_first=True)).as_quat(scalar_first=True)))
    assert (got.inv() * wanted).magnitude().max() < 1e-5
    np.testing.assert_allclose(scales, binding.scales, rtol=1e-4)


def test_deform_stretches_along_the_stretch():
    binding = patch()
    flat = binding.rest_vertices * [1, 1, 0]
    binding = Binding(binding.tri, binding.bary, binding.offset, np.tile(np.float32([1, 0, 0, 0]), (300, 1)), binding.scales, flat.astype(np.float32))
    _, quats, scales = deform(binding, flat * [1.5, 1.0, 1.0])
    np.testing.assert_allclose(scales, binding.scales * [1.5, 1.0, 1.0], rtol=1e-4)
    np.testing.assert_allclose(quats, binding.quats, atol=1e-5)


def test_blue_noise_keeps_its_distance_and_covers():
    points = np.array([[0, 0, 0], [1, 0, 0], [1, 1, 0], [0, 1, 0]], np.float32)
    tri = np.array([[0, 1, 2], [0, 2, 3]])
    owner, bary = blue_noise(np.random.default_rng(0), points, tri, np.full(4, 0.08, np.float32))
    where = np.einsum("nk,nkd->nd", bary, points[tri[owner]])
    gaps = np.linalg.norm(where[:, None] - where[None], axis=2) + 9 * np.eye(len(where))
    assert gaps.min() >= 0.0799
    probes = np.random.default_rng(1).random((500, 2))
    assert np.linalg.norm(probes[:, None] - where[None, :, :2], axis=2).min(axis=1).max() < 0.13


def test_counts_stay_in_the_budget(made):
    _, branches = made
    assert sum(len(part.part) for part, _ in branches.values()) <= 50_000
    for name, (part, moving) in branches.items():
        assert 0 < len(moving) <= MOST_MOVING[name]
        assert (np.diff(moving) > 0).all()
        assert np.isin(part.part, [PARTS.index(p) for p in MOUTH]).all() == (name == "mouth")
        still = np.isin(part.part, [PARTS.index(p) for p in ("hair", "sweater")])
        assert not still[moving].any()


@pytest.mark.parametrize("pose, fewest, most", [("neutral", 0.0, 0.006), ("mbp", 0.0, 0.006), ("aa", 0.05, 1.0), ("sz", 0.02, 1.0)])
def test_mouth_shows_only_when_open(made, model, pose, fewest, most):
    """Mean share of teeth, gums and throat in the pixels round the lips."""
    _, branches = made
    both = join([branches[name][0] for name in BRANCHES])
    inside = np.isin(both.part, [PARTS.index(p) for p in MOUTH]).astype(np.float32)
    teeth = (both.part == PARTS.index("teeth")).astype(np.float32)
    coefficients = weights.NEUTRAL if pose == "neutral" else weights.VISEMES[pose]
    view = View("lips", target=(0.0, -0.062, 0.08), span=0.08, size=160)
    means, quats, scales = deform(both.binding, model.pose(coefficients))
    splatting = Splatting(means, quats, scales, both.opacities, view.viewmat, view.K, 160, 160, threads=1)
    shares, alphas = splatting.forward(np.stack([inside, teeth], axis=1))
    lips = shares[40:120, 30:130]
    assert fewest <= lips[..., 0].mean() <= most
    if most < 0.01:
        assert lips[..., 1].mean() < 0.002 and lips[..., 1].max() < 0.1
    assert alphas[40:120, 30:130].min() > 0.97


# --- colours and cameras --------------------------------------------------------------------------------------------------------


def test_colours_are_found_again():
    """Pictures of known splats give their colours back, also from a view that was not used."""
    binding = patch(400, seed=2)
    rng = np.random.default_rng(3)
    opacities = rng.uniform(0.5, 0.95, 400).astype(np.float32)
    truth = np.concatenate([rng.normal(0, 0.5, (400, 1, 3)), rng.normal(0, 0.1, (400, 3, 3))], axis=1).astype(np.float32)
    views = [View(f"v{yaw}{pitch}", yaw=yaw, pitch=pitch, span=0.26, size=96, target=(0, 0, 0)) for yaw in (-40, -15, 15, 40) for pitch in (-15, 15)]
    bent = binding.rest_vertices * np.float32([1.1, 0.95, 1.3])
    poses = {"neutral": binding.rest_vertices, "bent": bent}
    views.append(View("bent", "bent", span=0.26, size=96, target=(0, 0, 0)))
    part = np.full(400, PARTS.index("teeth"), np.int8)

    def shot(view: View, sh) -> np.ndarray:
        black, white = (picture_of(binding, opacities, sh, poses[view.pose], view, (c, c, c)) for c in (0.0, 1.0))
        alpha = 1 - (white - black).mean(axis=2, keepdims=True)
        return np.concatenate([black / np.maximum(alpha, 1e-3), alpha], axis=2).astype(np.float32)

    pictures = {v.name: shot(v, truth) for v in views}
    settings = FitSettings(degree=1, iterations=60, ridge=1e-3, ridge_higher=1e-2, smooth=0.0)
    found = fit(binding, opacities, part, np.zeros(400, bool), np.full((400, 3), 0.5), views, pictures, poses.__getitem__, settings, lambda _: None)
    held = View("held", yaw=5.0, pitch=3.0, span=0.26, size=96, target=(0, 0, 0))
    want, got = (picture_of(binding, opacities, sh, poses["neutral"], held, (0.3, 0.3, 0.3)) for sh in (truth, found))
    assert psnr(got, want) > 36
    grey = np.zeros_like(truth)
    assert psnr(picture_of(binding, opacities, grey, poses["neutral"], held, (0.3, 0.3, 0.3)), want) < 25


def test_fixed_splats_keep_their_colour():
    binding = patch(50)
    view = View("v", span=0.26, size=48, target=(0, 0, 0))
    fixed = np.arange(50) < 10
    sh = fit(binding, np.full(50, 0.9, np.float32), np.zeros(50, np.int8), fixed, np.full((50, 3), 0.5), [view],
             {"v": np.ones((48, 48, 4), np.float32)}, lambda _: binding.rest_vertices, FitSettings(iterations=5), lambda _: None)
    assert np.abs(sh[fixed]).max() == 0 and (sh[~fixed, 0] > 0.5).any()


def test_blender_camera_is_the_rasterisers():
    for view in training_views() + held_out_views():
        point = np.array([0.03, -0.02, 0.08])
        camera = view.viewmat @ [*point, 1.0]
        pixel = (view.K @ camera[:3])[:2] / camera[2]
        matrix = np.array(view.blender_matrix())
        seen = np.linalg.inv(matrix) @ [*to_blender(face_model.to_model(point[None]))[0], 1.0]
        assert seen[2] < 0
        other = view.size / 2 + view.focal * np.array([seen[0], -seen[1]]) / -seen[2]
        np.testing.assert_allclose(pixel, other, atol=1e-2)
        np.testing.assert_allclose(matrix[:3, :3] @ matrix[:3, :3].T, np.eye(3), atol=1e-5)
    assert np.linalg.det(AXES) == pytest.approx(1.0)


def test_renders_are_kept_and_a_missing_blender_is_named(model, tmp_path):
    person = Person(model)
    views = [View("one", size=16)]
    with pytest.raises(UserError, match="no-such-place"):
        render_views(person, tmp_path, views, tmp_path / "no-such-place")
    Image.new("RGBA", (16, 16), (255, 0, 0, 128)).save(tmp_path / "one.png")
    pictures = render_views(person, tmp_path, views, tmp_path / "no-such-place")  # nothing to do: Blender is not started
    np.testing.assert_allclose(pictures["one"][3, 3], [1, 0, 0, 128 / 255], atol=1e-6)
    with pytest.raises(UserError, match="no-such-place"):  # another camera: the picture is stale
        render_views(person, tmp_path, [View("one", size=16, yaw=5.0)], tmp_path / "no-such-place")


# --- the file -------------------------------------------------------------------------------------------------------------------


def test_person_file_comes_back_and_a_cut_one_is_named(tmp_path):
    binding = patch(60)
    splats = Splats(binding, np.linspace(0, 1, 60).astype(np.float32), np.zeros(60, np.int8))
    sh = np.random.default_rng(0).normal(0, 0.3, (60, 4, 3)).astype(np.float32)
    branches = {name: SplatPerson(splats, sh, np.arange(5, dtype=np.int32)) for name in BRANCHES}

    class Someone:
        identity_seed = 4

    path = tmp_path / "deep" / "person.npz"
    save(path, branches, Someone(), np.zeros((8, 8, 4), np.uint8))
    back = load_person(path)
    for name in BRANCHES:
        np.testing.assert_array_equal(back[name].moving, np.arange(5))
        np.testing.assert_allclose(deform(back[name].splats.binding, binding.rest_vertices)[0], deform(binding, binding.rest_vertices)[0])
        np.testing.assert_allclose(back[name].sh, branches[name].sh, atol=2e-3)
    assert [p.name for p in path.parent.iterdir()] == ["person.npz"]
    data = path.read_bytes()
    for cut in (0, 10, len(data) // 2, len(data) - 5):
        path.write_bytes(data[:cut])
        with pytest.raises(UserError, match="person.npz"):
            load_person(path)
