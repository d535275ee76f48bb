"""The networks: the authors' numbers, and the fast paths against the plain one."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from support import shared_data
from support.networks import SMALL, make_avatar, make_views

from ua3dtalk.engine.avatar import Avatar
from ua3dtalk.engine.deform import fast, fusion, reference
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.deform.features import OUTPUTS, deform_file
from ua3dtalk.engine.deform.networks import BranchNetwork
from ua3dtalk.engine.deform.parameters import VIEWS, NetworkSizes, branch_tensors, check_network, read_sizes, shapes
from ua3dtalk.engine.errors import Cancelled, UserError
from ua3dtalk.engine.importers.checkpoint import import_checkpoint

torch.set_num_threads(1)
FIELDS = ("d_means", "d_quats", "d_scales", "aleatoric", "epistemic")


def plain(avatar: Avatar, branch: str, views: dict[str, np.ndarray], dtype: torch.dtype = torch.float64) -> dict[str, np.ndarray | None]:
    """The reference in every frame, stacked."""
    means = avatar.tensors[f"{branch}.means"][avatar.moving(branch)]
    network = branch_tensors(avatar.tensors, branch)
    frames = [
        reference.deform(branch, means, network, {k: v[f] for k, v in views.items()}, avatar.meta.logvar_bound, dtype)
        for f in range(len(views["exp"]))
    ]
    return {name: None if getattr(frames[0], name) is None else np.stack([getattr(f, name) for f in frames]) for name in FIELDS}


def assert_close(
    found: object, wanted: dict[str, np.ndarray | None], tolerance: float = 1e-5, single: dict[str, np.ndarray | None] | None = None
) -> None:
    """Within the tolerance, or at least as near as the plain formulation comes in float32 (`single`) where the problem is ill-conditioned."""
    for name, want in wanted.items():
        have = getattr(found, name)
        if want is None:
            assert have is None
        else:
            assert have.shape == want.shape, name
            error, allowed = np.abs(have - want).max(), tolerance * np.abs(want).max()
            assert error <= allowed or single is not None and error <= np.abs(single[name] - want).max(), name


# The authors' numbers


@pytest.fixture(scope="session")
def case() -> tuple[Avatar, dict[str, np.ndarray]]:
    avatar = import_checkpoint(shared_data("reference_case", "chkpnt_fuse_latest.pth"))
    return avatar, dict(np.load(shared_data("reference_case", "expected.npz")))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_reference_gives_the_authors_motion(case: tuple[Avatar, dict[str, np.ndarray]], dtype: torch.dtype) -> None:
    avatar, expected = case
    views = {name: expected[name] for name in ("audio", "au", "exp", "style", "emotion")}
    for branch in VIEWS:
        found = plain(avatar, branch, views, dtype)
        for key, (of, field) in OUTPUTS.items():
            if of == branch:
                error = np.abs(found[field] - expected[key]).max() / np.abs(expected[key]).max()
                assert error < (1e-12 if dtype == torch.float64 else 1e-5), key


def test_deform_command_gives_the_authors_motion(case: tuple[Avatar, dict[str, np.ndarray]], tmp_path: Path) -> None:
    avatar, expected = case
    written = deform_file(avatar, shared_data("reference_case", "expected.npz"), tmp_path / "motion.npz", device="cpu")
    with np.load(tmp_path / "motion.npz") as motion:
        assert set(motion.files) == set(OUTPUTS) == set(written)
        for key in OUTPUTS:
            assert motion[key].shape == expected[key].shape == written[key]
            assert np.abs(motion[key] - expected[key]).max() < 1e-5 * np.abs(expected[key]).max(), key


def test_training_networks_give_the_authors_motion(case: tuple[Avatar, dict[str, np.ndarray]]) -> None:
    avatar, expected = case
    for branch in VIEWS:
        net = BranchNetwork.from_tensors(branch, branch_tensors(avatar.tensors, branch)).double()
        views = {name: torch.from_numpy(expected[name]).double() for name in ("audio", "au", "exp", "style", "emotion")}
        with torch.no_grad():
            out = net(torch.from_numpy(avatar.tensors[f"{branch}.means"]).double(), views)
        for key, (of, field) in OUTPUTS.items():
            if of == branch:
                assert np.abs(getattr(out, field).numpy() - expected[key]).max() < 1e-12 * np.abs(expected[key]).max(), key


# Whole networks


@given(
    members=st.integers(1, 11), field=st.lists(st.integers(2, 9), min_size=1, max_size=3), channels=st.integers(1, 5),
    emotion=st.lists(st.integers(2, 6), min_size=1, max_size=2), latent=st.integers(1, 50), aus=st.integers(2, 7),
    spread=st.sampled_from([0.0, 4.0, 20.0]), bound=st.sampled_from([None, 7.0]), moving=st.booleans(), seed=st.integers(0, 9),
)  # fmt: skip
@example(members=10, field=[4], channels=16, emotion=[4], latent=48, aus=6, spread=20.0, bound=None, moving=True, seed=0)
@example(members=1, field=[4], channels=2, emotion=[4], latent=48, aus=6, spread=20.0, bound=None, moving=False, seed=0)
@example(members=2, field=[2], channels=1, emotion=[2], latent=21, aus=2, spread=20.0, bound=None, moving=False, seed=1)
@settings(max_examples=12, deadline=None)
def test_deformer_agrees_with_the_reference(
    members: int, field: list[int], channels: int, emotion: list[int], latent: int, aus: int,
    spread: float, bound: float | None, moving: bool, seed: int,
) -> None:  # fmt: skip
    sizes = replace(
        SMALL, members=members, field=tuple(field), field_channels=channels, emotion_field=tuple(emotion),
        codebook=tuple(cells + 1 for cells in emotion), latent=latent, aus=aus,
    )  # fmt: skip
    avatar = make_avatar(sizes, seed=seed, moving=moving, spread=spread, bound=bound)
    views = make_views(sizes, 2, seed)
    motion = Deformer(avatar, "cpu", threads=1).motion(views)
    for branch in VIEWS:
        assert_close(getattr(motion, branch), plain(avatar, branch, views), single=plain(avatar, branch, views, torch.float32))


def test_full_size_ensemble_over_all_log_variances() -> None:
    sizes = NetworkSizes(field=(4, 8), emotion_field=(4,), codebook=(8,))
    avatar, views = make_avatar(sizes, counts=(700, 40), spread=20), make_views(sizes, 2)
    motion = Deformer(avatar, "cpu", threads=2).motion(views)
    for branch in VIEWS:
        assert_close(getattr(motion, branch), plain(avatar, branch, views))


@pytest.mark.parametrize(("members", "latent", "offset"), [(12, 4, -20.0), (1, 8, -95.0)])
def test_rows_that_single_precision_spoils_are_solved_in_double(
    monkeypatch: pytest.MonkeyPatch, members: int, latent: int, offset: float
) -> None:
    """More members than channels and tiny variances, or variances that no float32 holds; test_fusion.py shows that they are noticed."""
    again: list[int] = []

    def watched(means: torch.Tensor, logvars: torch.Tensor, doubt: torch.Tensor) -> fusion.Solved:
        assert means.dtype == torch.float64
        again.append(means.shape[2])
        return fusion.solve_rows(means, logvars, doubt)

    monkeypatch.setattr(fast, "solve_rows", watched)
    sizes = replace(SMALL, members=members, latent=latent)
    avatar, views = make_avatar(sizes, offset=offset), make_views(sizes, 2)
    motion = Deformer(avatar, "cpu").motion(views)
    assert sum(again) == 2 * (70 + 20)  # all rows of both frames
    for branch in VIEWS:
        wanted = plain(avatar, branch, views)
        if offset < -90:  # these are 0 in float32
            assert np.abs(getattr(motion, branch).aleatoric).max() < 1e-37
            del wanted["aleatoric"]
        assert_close(getattr(motion, branch), wanted)


@pytest.mark.parametrize("dead", ["uncertain", "silent"])
@pytest.mark.parametrize("view", VIEWS["face"])
def test_a_dead_view_leaves_the_others(view: str, dead: str) -> None:
    """Its variance enormous, or all its weights zero."""
    sizes = replace(SMALL, members=10, latent=48)
    avatar, views = make_avatar(sizes), make_views(sizes, 2)
    for branch in VIEWS:
        for name in [n for n in avatar.tensors if n.startswith(f"{branch}.net.fuse.{view}.")]:
            if dead == "silent":
                avatar.tensors[name] = np.zeros_like(avatar.tensors[name])
            elif name.endswith("logvar.bias"):
                avatar.tensors[name] = avatar.tensors[name] + np.float32(20)
    motion = Deformer(avatar, "cpu").motion(views)
    for branch in VIEWS:
        assert_close(getattr(motion, branch), plain(avatar, branch, views))
        assert all(np.isfinite(getattr(getattr(motion, branch), name)).all() for name in ("d_means", "aleatoric", "epistemic"))


def test_time_against_the_plain_formulation(measured: Callable[[str], None]) -> None:
    """A figure for the report; what is held is that both give the same at the paper's sizes."""
    sizes = NetworkSizes(field=(8, 16, 32, 64), emotion_field=(8, 16, 32), codebook=(8, 16, 32))
    avatar, views = make_avatar(sizes, counts=(2048, 1)), make_views(sizes, 1)
    deformer = Deformer(avatar, "cpu", threads=1)
    deformer.motion(views)  # compiles
    seconds = []
    for run in (lambda: deformer.motion(views).face, lambda: plain(avatar, "face", views, torch.float32)):
        start = time.process_time()
        result = run()
        seconds.append(time.process_time() - start)
        if len(seconds) == 1:
            found = result
    assert_close(found, plain(avatar, "face", views))
    measured(f"deform, 2,048 Gaussians, T = 10, one thread: {seconds[0]:.3f} s a frame, plain {seconds[1]:.3f} s")


def test_one_member_has_no_epistemic_uncertainty() -> None:
    sizes = replace(SMALL, members=1)
    motion = Deformer(make_avatar(sizes), "cpu").motion(make_views(sizes, 2))
    assert (motion.face.epistemic == 0).all() and (motion.mouth.aleatoric > 0).all()
    assert np.isfinite(motion.face.d_means).all()


def test_identical_members_are_one_member() -> None:
    one = replace(SMALL, members=1)
    single = make_avatar(one)
    many = Avatar(single.meta, {k: np.repeat(v, 5, 0) if ".net.fuse." in k and ".fc." not in k else v for k, v in single.tensors.items()})
    views = make_views(one, 2)
    assert read_sizes("face", branch_tensors(many.tensors, "face")).members == 5
    a, b = (Deformer(avatar, "cpu").motion(views) for avatar in (single, many))
    assert_close(b.face, {name: getattr(a.face, name) for name in FIELDS[:4]})
    assert b.face.epistemic.max() < 1e-10


def test_the_order_of_members_does_not_matter() -> None:
    avatar, views = make_avatar(SMALL, spread=5), make_views(SMALL, 2)
    turned = Avatar(avatar.meta, {k: v[[2, 0, 1]] if ".net.fuse." in k and ".fc." not in k else v for k, v in avatar.tensors.items()})
    a, b = (Deformer(each, "cpu").motion(views) for each in (avatar, turned))
    assert_close(b.face, {name: getattr(a.face, name) for name in FIELDS})


def test_frames_do_not_depend_on_their_neighbours_or_on_threads() -> None:
    """Unchanged views are not evaluated again; the result must not show it."""
    views = make_views(SMALL, 6)
    for name, view in views.items():
        view[2] = view[1]
        if name in ("style", "emotion"):
            view[:] = view[0]
    views["audio"][4] = views["audio"][3]
    avatar = make_avatar(SMALL, counts=(1100, 30))
    deformer = Deformer(avatar, "cpu", threads=3)
    whole = deformer.motion(views)
    alone = [Deformer(avatar, "cpu", threads=1).motion({k: v[f] for k, v in views.items()}) for f in range(6)]
    for branch in VIEWS:
        for name in FIELDS:
            have = getattr(getattr(whole, branch), name)
            if have is not None:
                assert np.array_equal(have, np.concatenate([getattr(getattr(m, branch), name) for m in alone])), (branch, name)
    assert not np.array_equal(whole.face.d_means[3], whole.face.d_means[4])


def test_moved_gaussians() -> None:
    avatar, views = make_avatar(SMALL, moving=True), make_views(SMALL, 3)
    deformer = Deformer(avatar, "cpu")
    motion = deformer.motion(views)
    now = deformer.moved(motion)
    for branch in VIEWS:
        rest, rows, moved = avatar.gaussians(branch), avatar.moving(branch), getattr(motion, branch)
        means, quats, scales = now[branch]
        assert means.shape == (3, len(rows), 3) and quats.shape == (3, len(rows), 4) and scales.shape == (3, len(rows), 3)
        assert {x.dtype for x in now[branch]} == {np.dtype(np.float32)}
        assert np.allclose(means, rest.means[rows] + moved.d_means, rtol=0, atol=1e-7)
        if branch == "face":
            raw = avatar.tensors["face.quats"][rows] + moved.d_quats
            assert np.allclose(quats, raw / np.linalg.norm(raw, axis=2, keepdims=True), atol=1e-6)
            assert np.allclose(scales, np.log1p(np.exp(avatar.tensors["face.scales"][rows] + moved.d_scales)), rtol=1e-4)
        else:
            assert all(np.array_equal(frame, rest.quats[rows]) for frame in quats)
            assert all(np.array_equal(frame, rest.scales[rows]) for frame in scales)


@pytest.mark.parametrize("threads", [1, 3])
def test_motion_stops_in_the_middle_of_a_batch(threads: int) -> None:
    deformer, views = Deformer(make_avatar(SMALL, counts=(3000, 600)), "cpu", threads=threads), make_views(SMALL, 4)
    asked: list[int] = []
    whole = deformer.motion(views, stopped=lambda: bool(asked.append(0)))
    questions = len(asked)
    assert questions >= 4 * 6  # in every frame of every some hundred Gaussians

    def stop() -> bool:
        asked.append(1)
        return len(asked) > questions + 3

    with pytest.raises(Cancelled):
        deformer.motion(views, stopped=stop)
    assert len(asked) <= questions + 3 + questions // 4  # at most once more in every chunk
    assert np.array_equal(deformer.motion(views).face.d_means, whole.face.d_means)


def test_a_branch_without_networks_stands_still() -> None:
    avatar = make_avatar(SMALL)
    avatar.tensors = {k: v for k, v in avatar.tensors.items() if not k.startswith("mouth.net.")}
    deformer = Deformer(avatar, "cpu")
    motion = deformer.motion(make_views(SMALL, 1))
    assert motion.mouth is None
    assert set(deformer.moved(motion)) == {"face"}


# Training


@pytest.mark.parametrize("branch", list(VIEWS))
def test_one_member_of_many_is_a_network_of_one(branch: str) -> None:
    torch.manual_seed(0)
    net = BranchNetwork(branch, SMALL, logvar_bound=7)
    pick = {view: number % SMALL.members for number, view in enumerate(VIEWS[branch])}
    single = BranchNetwork(branch, replace(SMALL, members=1), logvar_bound=7)
    state = net.state_dict()
    for name in state:
        view = name.split(".")[1]
        if name.startswith("fuse.") and view != "fc":
            state[name] = state[name][pick[view]][None]
    single.load_state_dict(state)
    means = torch.rand(30, 3) * 0.3 - 0.15
    views = {k: torch.from_numpy(v) for k, v in make_views(SMALL, 2).items()}
    rows = torch.tensor([3, 29, 5])
    with torch.no_grad():
        have, want = net(means, views, subset=rows, members=pick), single(means, views)
    assert torch.allclose(have.d_means, want.d_means[:, rows], atol=1e-8)
    assert torch.allclose(have.view_logvars["exp"], want.view_logvars["exp"][:, :, rows], atol=1e-6)
    assert have.view_means["audio"].shape == (1, 2, 3, SMALL.latent)
    assert set(net.random_members()) == set(VIEWS[branch])


def test_training_learns_a_motion_in_both_stages() -> None:
    torch.manual_seed(0)
    net = BranchNetwork("face", SMALL, logvar_bound=7)
    means = torch.rand(60, 3) * 0.3 - 0.15
    views = {k: torch.from_numpy(v) for k, v in make_views(SMALL, 4).items()}
    target = 0.02 * torch.sin(20 * means)[None] * views["exp"][:, :, :1]
    optimiser = torch.optim.AdamW([{"params": net.field.parameters(), "lr": 5e-3}, {"params": [p for n, p in net.named_parameters() if not n.startswith("field.")], "lr": 3e-3}])

    def error() -> float:
        with torch.no_grad():
            return float((net(means, views).d_means - target).square().mean())

    errors = [error()]
    for members in (True, False):
        for _ in range(80):
            out = net(means, views, members=net.random_members() if members else None)
            loss = (out.d_means - target).square().mean() * 1e4
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
        errors.append(error())
    assert errors[2] < errors[1] < 0.7 * errors[0] and errors[2] < 0.3 * errors[0]
    avatar = make_avatar(SMALL, counts=(60, 20), bound=7.0)
    avatar.tensors |= net.to_tensors() | {"face.means": means.numpy()}
    avatar.tensors |= {f"face.{k}": np.zeros((60, w), np.float32) for k, w in (("quats", 4), ("scales", 3))}
    motion = Deformer(avatar, "cpu").motion({k: v.numpy() for k, v in views.items()})
    assert float(((torch.from_numpy(motion.face.d_means) - target) ** 2).mean()) == pytest.approx(errors[2], rel=1e-4)


# What is refused


def test_sizes_and_shapes_of_the_paper() -> None:
    sizes = NetworkSizes()
    face = shapes("face", sizes)
    assert face["fuse.audio.fc1.weight"] == (10, 64, 102) and face["fuse.emotion.fc1.weight"] == (10, 64, 192)
    assert shapes("mouth", sizes)["fuse.audio.fc1.weight"] == (10, 64, 96)
    assert "heads.quats.0.weight" not in shapes("mouth", sizes)
    small = branch_tensors(make_avatar(SMALL).tensors, "face")
    assert read_sizes("face", small) == SMALL and {k: v.shape for k, v in small.items()} == shapes("face", SMALL)


def damaged() -> list[tuple[str, str, object]]:
    return [
        ("fuse.exp.mean.weight", "missing", None),
        ("heads.quats.1.bias", "missing", None),
        ("field.1.xz", "missing", None),
        ("field.0.xy", "dimensions", np.zeros((3, 4), np.float32)),
        ("fuse.fc.weight", "has shape", np.zeros((64, 3), np.float32)),
        ("emotion.codebook.0", "has shape", np.zeros((6, 5), np.float32)),
        ("audio.conv.2.bias", "finite", np.full(64, np.nan, np.float32)),
        ("audio.fc.1.bias", "finite", np.zeros(32, np.int32)),
        ("field.aabb", "without volume", np.zeros((2, 3), np.float32)),
    ]


@pytest.mark.parametrize(("name", "why", "value"), damaged(), ids=lambda x: x if isinstance(x, str) else "")
def test_damaged_networks_are_refused_by_name(name: str, why: str, value: np.ndarray | None) -> None:
    tensors = branch_tensors(make_avatar(SMALL).tensors, "face")
    check_network("face", tensors)
    if value is None:
        del tensors[name]
    else:
        tensors[name] = value
    with pytest.raises(UserError, match=why) as caught:
        check_network("face", tensors, "some.avatar")
    assert f"face.net.{name}" in str(caught.value) and "some.avatar" in str(caught.value) and "\n" not in str(caught.value)


def test_diverged_networks_give_one_line() -> None:
    avatar = make_avatar(SMALL, offset=1e20)
    with pytest.raises(UserError, match="no finite motion"):
        Deformer(avatar, "cpu").motion(make_views(SMALL, 1))


def test_static_avatars_and_absent_devices_are_refused() -> None:
    avatar = make_avatar(SMALL)
    with pytest.raises(UserError, match="device"):
        Deformer(avatar, "abacus")
    with pytest.raises(UserError, match="not there"):
        Deformer(avatar, "cuda:77")
    avatar.tensors = {k: v for k, v in avatar.tensors.items() if ".net." not in k}
    with pytest.raises(UserError, match="static"):
        Deformer(avatar)


@pytest.mark.parametrize("change", ["missing", "shape", "nan", "length", "empty", "text"])
def test_wrong_views_are_refused(change: str) -> None:
    deformer, views = Deformer(make_avatar(SMALL), "cpu"), make_views(SMALL, 2)
    if change == "missing":
        del views["style"]
    elif change == "nan":
        views["style"][1, 0, 3] = np.nan
    elif change == "text":
        views["style"] = views["style"].astype(str)
    else:
        views["style"] = {"shape": views["style"][:, :, :63], "length": views["style"][:1], "empty": views["style"][:0]}[change]
    with pytest.raises(UserError, match="views" if change == "length" else "style"):
        deformer.motion(views)


def test_a_features_file_that_is_not_whole_leaves_the_old_motion(tmp_path: Path) -> None:
    avatar, features, out = make_avatar(SMALL), tmp_path / "features.npz", tmp_path / "motion.npz"
    np.savez(features, **make_views(SMALL, 40))
    seen: list[tuple[int, int]] = []
    deform_file(avatar, features, out, device="cpu", progress=lambda *a: seen.append(a))
    assert seen[-1] == (40, 40) and len(seen) > 1
    before, raw = out.read_bytes(), features.read_bytes()
    for cut in (0, 3, 100, len(raw) // 2, len(raw) - 5):
        features.write_bytes(raw[:cut])
        with pytest.raises(UserError, match="features.npz"):
            deform_file(avatar, features, out, device="cpu")
    np.save(tmp_path / "one.npy", np.zeros(3))
    np.savez(tmp_path / "objects.npz", **{k: np.array([object()]) for k in make_views(SMALL, 1)})
    for name in ("one.npy", "objects.npz", "absent.npz"):
        with pytest.raises(UserError, match=name):
            deform_file(avatar, tmp_path / name, out, device="cpu")

    def stop(done: int, count: int) -> None:
        raise Cancelled

    features.write_bytes(raw)
    with pytest.raises(Cancelled):
        deform_file(avatar, features, out, device="cpu", progress=stop)
    assert out.read_bytes() == before and not list(tmp_path.glob("*.part"))
