"""Training of an avatar (`engine/train`) on a small Gaussian head whose motion is known."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from support import ROOT
from support.face_data import make_face_data
from ua3dtalk.engine.avatar import EMOTIONS, load_avatar
from ua3dtalk.engine.bake import Baker, Session
from ua3dtalk.engine.cache import CacheReader
from ua3dtalk.engine.dataset import read_data
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.deform.parameters import VIEWS
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.raster import rasterization
from ua3dtalk.engine.shot import EmotionCurves, compose_shot
from ua3dtalk.engine.train import checkpoint
from ua3dtalk.engine.train.config import BranchPlan, TrainConfig
from ua3dtalk.engine.train.densify import Densifier, Rules
from ua3dtalk.engine.train.losses import attention_loss, likelihood_loss, ssim, state_variance
from ua3dtalk.engine.train.material import Material
from ua3dtalk.engine.train.perceptual import Lpips
from ua3dtalk.engine.train.run import train_avatar
from ua3dtalk.engine.train.sources import find_sources
from ua3dtalk.engine.train.splats import Splats
from ua3dtalk.engine.train.start import begin
from ua3dtalk.engine.train.trainer import Trainer

CPU = torch.device("cpu")
SMALL = replace(
    TrainConfig.quick(), mouth=BranchPlan(60, 20, 50, 100, 130), face=BranchPlan(430, 80, 412, 500, 600), agree_steps=60, fuse_steps=30,
    body=BranchPlan(60, 60, 60, 200, 220), grow_from=20,
    grow_every=30, grow_before_end=100, members=2, field=(8, 24), emotion_field=(8,), codebook=(8,), networks_rate=6e-3, planes_rate=2e-2, means_rate=5e-4,
    sh_every=50, preview_every=200, checkpoint_every=200, held_out=4,
)  # fmt: skip
TINY = {
    "mouth": {"steps": 12, "static_until": 4, "ensemble_from": 10, "points": 40, "most": 60},
    "face": {"steps": 40, "static_until": 10, "ensemble_from": 34, "points": 120, "most": 200},
    "agree_steps": 9, "fuse_steps": 8, "body": {"steps": 14, "points": 60, "most": 80}, "grow_from": 4, "grow_every": 6, "grow_before_end": 4, "grow_gradient": 1e-5, "checkpoint_every": 7, "preview_every": 500,
    "log_every": 5, "members": 2, "field": [8], "emotion_field": [4], "codebook": [4], "likelihood": 0.001,
}  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_face_data(tmp_path_factory.mktemp("face"), frames=80)


@pytest.fixture(scope="module")
def trained(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict]:
    out = tmp_path_factory.mktemp("trained") / "head.safetensors"
    return out, train_avatar(folder, out, SMALL, priors=[], device="cpu", threads=1)


def test_it_learns_to_move(folder: Path, trained: tuple[Path, dict]) -> None:
    """Held-out pictures are better than those of a head that was trained alike but cannot move."""
    still = replace(SMALL, mouth=replace(SMALL.mouth, static_until=10**9), face=replace(SMALL.face, static_until=10**9))
    trainer = Trainer(Material(read_data(folder), find_sources([]), CPU), still)
    while not trainer.done:
        trainer.step_once()  # its networks never learn, and begin with no motion
    found, known = trained[1]["quality"]["val"], trainer.scene.quality(trainer.material.val, 1)
    assert known["psnr_head"] > 24  # the head that stands still is a fair one
    assert found["psnr_head"] > known["psnr_head"] + 0.5
    assert found["psnr"] > known["psnr"] + 0.4 and found["ssim"] > known["ssim"]


def test_the_avatar_bakes(trained: tuple[Path, dict], folder: Path, tmp_path: Path) -> None:
    """What training writes is an avatar like any other: it says what it is, and its mouth opens with the sound."""
    path, _ = trained
    avatar = load_avatar(path)
    assert avatar.meta.name == "Test head" and avatar.meta.composite == "layered" and avatar.thumbnail is not None
    assert "happy up to 1, surprised" in avatar.meta.provenance and "Never trained: sad" in avatar.meta.provenance
    assert set(avatar.meta.views) == {"audio", "exp", "style"} and len(avatar.tensors["emotion.prototypes"]) == 8
    is_neutral = (avatar.tensors["emotion.prototypes"] == avatar.tensors["emotion.prototypes"][0]).all(1)
    assert [name for name, same in zip(EMOTIONS, is_neutral) if not same] == ["happy", "surprised"], "what was never shown does nothing"
    again = find_sources([path]).prototypes  # for another film, which may show them
    assert len(np.unique(again, axis=0)) == 8 and np.array_equal(again[~is_neutral], avatar.tensors["emotion.prototypes"][~is_neutral])
    rest = avatar.gaussians("face").means
    upper, lower = (rest[avatar.tensors[f"landmarks.{name}"]] for name in ("lip_upper", "lip_lower"))
    brow, lid = (rest[avatar.tensors[f"landmarks.{name}"]] for name in ("brow", "lid_lower"))
    assert upper[:, 1].mean() > lower[:, 1].mean() and abs(upper[:, 1].mean() + 0.035) < 0.008
    assert brow[:, 1].mean() > lid[:, 1].mean() > upper[:, 1].mean() and (upper[:, 2] > 0.04).all()
    shot = compose_shot(path, avatar.hash, folder / "aud.wav", 3.2, EmotionCurves(), 25.0, (0, 24), 0.0, 0.0, 0.0)
    Baker(Session("cpu", 1), shot).bake(tmp_path / "cache")
    reader = CacheReader(tmp_path / "cache")
    rows = np.concatenate([avatar.tensors[f"landmarks.{name}"] for name in ("lip_lower",)])
    height = np.array([reader.at(frame).means[rows, 2].mean() for frame in range(25)])
    reader.close()
    opening = read_data(folder).labels.expression[:25, 0]
    assert np.corrcoef(-height, opening)[0, 1] > 0.5 and np.ptp(height) > 0.0003, np.ptp(height)


def test_what_it_leaves_behind(trained: tuple[Path, dict]) -> None:
    path, result = trained
    work = path.with_name(path.name + ".train")
    lines = [json.loads(line) for line in (work / "log.jsonl").read_text().splitlines()]
    assert {line["part"] for line in lines} == {"mouth", "face", "agree", "fuse", "body"} and {"psnr", "psnr_head", "cpu"} <= set(lines[-1])
    assert [line["step"] for line in lines] == sorted(line["step"] for line in lines)
    page = (work / "report.html").read_text()
    assert "held_out_val.png" in page and (work / "held_out_val.png").stat().st_size > 1000 and "<polyline" in page
    assert f"{result['quality']['val']['psnr']:.2f}" in page
    assert len(list((work / "previews").glob("*.png"))) >= 2
    assert result["gaussians"]["face"] <= SMALL.face.most


def test_killed_and_gone_on_with(folder: Path, tmp_path: Path) -> None:
    """A training killed by force ends, when it is started again, in the same bytes as one that was never stopped."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(TINY))
    config = TrainConfig.quick().changed(settings)
    train_avatar(folder, tmp_path / "whole.safetensors", config, priors=[], device="cpu", threads=1)
    out, work = tmp_path / "killed.safetensors", tmp_path / "work"
    command = [sys.executable, "-m", "ua3dtalk.engine", "train", "avatar", str(folder), "--out", str(out), "--quick", "--json"]
    command += ["--config", str(settings), "--work", str(work), "--device", "cpu", "--threads", "1", "--priors"]
    place = {"cwd": ROOT / "build" / "stage", "env": os.environ | {"NUMBA_CACHE_DIR": str(ROOT / "build" / "numba-tests")}}  # as conftest.py
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, **place)
    while process.poll() is None and not (work / checkpoint.NAME).exists():
        time.sleep(0.01)
    process.kill()
    process.wait()
    assert process.returncode not in (0, 1, 2) and not out.exists()
    before = torch.load(work / checkpoint.NAME, weights_only=True)["trainer"]
    assert (before["part"], before["step"]) != (3, 0)  # it really was in the middle
    result = train_avatar(folder, out, config, work, [], "cpu", 1)
    assert out.read_bytes() == (tmp_path / "whole.safetensors").read_bytes()
    steps = [line["step"] for line in map(json.loads, (work / "log.jsonl").read_text().splitlines())]
    assert steps == sorted(set(steps)) or len(steps) - len(set(steps)) <= 2  # a line with the quality shares its step
    with pytest.raises(UserError, match="other settings"):
        train_avatar(folder, out, replace(config, seed=1), work, [], "cpu", 1)
    (work / checkpoint.NAME).write_bytes(b"half a file")
    with pytest.raises(UserError, match="damaged"):
        train_avatar(folder, out, config, work, [], "cpu", 1)
    assert result["quality"]["val"]["psnr"] > 0


@pytest.mark.parametrize("stop", [3, 13, 30, 48, 54, 58, 64])
def test_state_is_everything(folder: Path, tmp_path: Path, stop: int) -> None:
    """Wherever a training is stopped, in each part and phase: what comes after is the same to the last bit."""
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(TINY))
    config = TrainConfig.quick().changed(settings)
    material = Material(read_data(folder), find_sources([]), CPU)
    one = Trainer(material, config)
    for _ in range(stop):
        one.step_once()
    torch.save(one.state(), tmp_path / "state.pt")
    other = Trainer(material, config)
    other.restore(torch.load(tmp_path / "state.pt", weights_only=True))
    for _ in range(5):
        assert one.step_once() == other.step_once()
    assert one.name == other.name and one.step == other.step


def _scene(count: int = 300) -> tuple[Splats, torch.Generator]:
    random = np.random.default_rng(0)
    splats = Splats.at(random.uniform(-0.1, 0.1, (count, 3)), random.random((count, 3)), 1)
    generator = torch.Generator().manual_seed(0)
    splats.parameters["scales"] += torch.randn(count, 1, generator=generator)
    splats.parameters["opacities"] += 3 * torch.randn(count, generator=generator)
    splats.train({name: 1e-3 for name in splats.parameters})
    return splats, generator


def _drawn(splats: Splats, cameras: int = 2):  # noqa: ANN202 - a Rasterised
    viewmats = torch.eye(4).repeat(cameras, 1, 1)
    viewmats[:, 2, 3] = torch.linspace(0.7, 0.9, cameras)
    K = torch.tensor([[70.0, 0, 24], [0, 70, 20], [0, 0, 1]]).expand(cameras, 3, 3)
    drawn = rasterization(*splats.posed(), viewmats, K, 48, 40, sh=splats.sh(1), threads=1)
    drawn.means2d.retain_grad()
    (drawn.colors - 0.5).square().sum().backward()
    return drawn


def test_densification_is_gsplats() -> None:
    """The same Gaussians are cloned, split and pruned as by gsplat's DefaultStrategy on the same picture."""
    strategies = pytest.importorskip("gsplat.strategy")
    splats, generator = _scene()
    drawn = _drawn(splats)
    strategy = strategies.DefaultStrategy(grow_grad2d=0.05, grow_scale3d=0.01, prune_opa=0.05, prune_scale3d=0.2, reset_every=10)
    theirs = {name: torch.nn.Parameter(splats.parameters[name].detach().clone()) for name in ("means", "quats", "opacities")}
    theirs["scales"] = torch.nn.Parameter(F.softplus(splats.parameters["scales"].detach()).log())
    optimisers = {name: torch.optim.Adam([value]) for name, value in theirs.items()}
    for name, optimiser in optimisers.items():
        theirs[name].grad = torch.ones_like(theirs[name])
        optimiser.step()
    with torch.no_grad():  # as they were before that step, which only fills the moments
        for name in ("means", "quats", "opacities"):
            theirs[name].copy_(splats.parameters[name])
        theirs["scales"].copy_(F.softplus(splats.parameters["scales"].detach()).log())
    state = strategy.initialize_state(scene_scale=1.0)
    strategy._update_state(theirs, state, drawn.info)
    ours = Densifier(len(splats))
    ours.observe(drawn)
    torch.testing.assert_close(ours.sums, state["grad2d"])
    torch.testing.assert_close(ours.seen, state["count"])
    cloned, split = strategy._grow_gs(theirs, optimisers, state, 100)
    pruned = strategy._prune_gs(theirs, optimisers, state, 100)
    splats.optimiser.step()
    with torch.no_grad():  # as before that step, here too
        for name, value in _scene()[0].parameters.items():
            splats.parameters[name].copy_(value)
    counts = ours.refine(splats, Rules(0.05, 0.01, 0.05, 0.2, 0), generator)
    assert (counts.cloned, counts.split, counts.pruned) == (cloned, split, pruned) and min(cloned, split, pruned) > 3
    assert len(splats) == len(theirs["means"])
    # All but the places of the halves, which are drawn.
    for name in ("quats", "opacities"):
        torch.testing.assert_close(splats.parameters[name].detach().sort(0).values, theirs[name].detach().sort(0).values)
    torch.testing.assert_close(F.softplus(splats.parameters["scales"].detach()).sort(0).values, theirs["scales"].detach().exp().sort(0).values)
    for name in ("quats", "opacities"):  # new ones begin without moments, old ones keep theirs
        own, known = (o.state[p]["exp_avg"] for o, p in ((splats.optimiser, splats.parameters[name]), (optimisers[name], theirs[name])))
        assert own.shape == known.shape and int(known.count_nonzero()) > 0
        assert bool((own.reshape(len(own), -1) != 0).any(1).sum() <= (known.reshape(len(known), -1) != 0).any(1).sum())


def test_growth_has_a_limit_and_opacities_can_be_reset() -> None:
    splats, generator = _scene()
    drawn, densifier = _drawn(splats), Densifier(300)
    densifier.observe(drawn)
    strongest = int((densifier.sums / densifier.seen.clamp(min=1)).argmax())
    place = splats.parameters["means"].detach()[strongest].clone()
    splats.optimiser.step()
    counts = densifier.refine(splats, Rules(1e-6, 10.0, 0.0, float("inf"), 310), generator)
    assert (counts.cloned, counts.split, counts.pruned, len(splats)) == (10, 0, 0, 310)
    assert int((splats.parameters["means"].detach() - place).abs().sum(1).lt(0.01).sum()) >= 2  # the one that needs it most is doubled
    moments = splats.optimiser.state[splats.parameters["means"]]["exp_avg"]
    assert moments[:290].any() and not moments[300:].any()
    Densifier.reset_opacities(splats, 0.01)
    assert float(splats.parameters["opacities"].detach().sigmoid().max()) <= 0.0101
    assert not splats.optimiser.state[splats.parameters["opacities"]]["exp_avg"].any()
    assert splats.optimiser.state[splats.parameters["means"]]["exp_avg"].any()


def test_similarity_is_the_usual_one() -> None:
    """SSIM by blurring matrices against SSIM by convolution with an 11 x 11 window."""
    generator = torch.Generator().manual_seed(1)
    one, other = torch.rand(30, 40, 3, generator=generator), torch.rand(30, 40, 3, generator=generator)
    other = 0.7 * one + 0.3 * other
    x = torch.exp(-(torch.arange(11.0) - 5).square() / (2 * 1.5**2))
    window = torch.outer(x / x.sum(), x / x.sum())[None, None]
    blur = lambda value: F.conv2d(value.permute(2, 0, 1)[:, None], window, padding=5)  # noqa: E731
    a, b = blur(one), blur(other)
    va, vb, vab = blur(one * one) - a * a, blur(other * other) - b * b, blur(one * other) - a * b
    wanted = ((2 * a * b + 1e-4) * (2 * vab + 9e-4) / ((a * a + b * b + 1e-4) * (va + vb + 9e-4))).mean()
    assert float(ssim(one, other)) == pytest.approx(float(wanted), abs=1e-5) and float(wanted) < 0.95
    assert float(ssim(one, one)) == pytest.approx(1, abs=1e-6)


def test_the_likelihood_knows_the_error() -> None:
    """Its smallest value is where the variance is the mean squared error."""
    error = 0.05
    truth, unit, floor = torch.zeros(8, 8, 3), 0.01, 1e-4
    variances = torch.linspace(0.01, 1, 400)
    losses = [float(likelihood_loss(truth + error, truth, v.expand(8, 8), unit, floor)) for v in variances]
    assert floor + unit * float(variances[int(np.argmin(losses))]) == pytest.approx(error**2, rel=0.02)


def test_attention_counts_where_there_must_be_none(folder: Path) -> None:
    maps, hair, lips = torch.zeros(4, 4, 2), torch.zeros(4, 4), torch.zeros(4, 4)
    hair[0], lips[3] = 1, 1
    maps[1:3] = 1
    assert attention_loss(maps, hair, lips) == 0, "elsewhere it is free"
    maps[3, :, 0] = 1
    assert attention_loss(maps, hair, lips) == 0, "lips hear the sound"
    maps[3, :, 1] = 1
    assert attention_loss(maps, hair, lips) == 4 / 16
    maps[0] = 1
    assert attention_loss(maps, hair, lips) == 12 / 16
    few = replace(SMALL, mouth=BranchPlan(1, 0, 1, 40, 40), face=BranchPlan(8, 2, 8, 60, 60), attention=1e-4, attention_from=0.5)
    trainer = Trainer(Material(read_data(folder), find_sources([]), CPU), few)
    counts = []
    while trainer.name != "fuse":
        is_face = trainer.name == "face"
        found = trainer.step_once()
        counts += ["attention" in found] if is_face else []
    assert counts == [False] * 5 + [True] * 3, "only after half of the moving steps"


def test_phases_and_what_trains(folder: Path, tmp_path: Path) -> None:
    settings = tmp_path / "settings.json"
    settings.write_text(json.dumps(TINY))
    trainer = Trainer(Material(read_data(folder), find_sources([]), CPU), TrainConfig.quick().changed(settings))
    seen = []
    while not trainer.done:
        kind = f"{trainer.name} {trainer.phase}"
        if kind not in seen:
            seen.append(kind)
        nets = {b: {k: v.clone() for k, v in net.state_dict().items()} for b, net in trainer.scene.nets.items()}
        means = {b: splats.parameters["means"].detach().clone() for b, splats in trainer.scene.splats.items()}
        name, degree = trainer.name, trainer.degree
        found = trainer.step_once()
        assert np.isfinite(found["loss"]) and 0 <= degree <= 1
        changed = {b: {k for k, v in state.items() if not v.equal(trainer.scene.nets[b].state_dict()[k])} for b, state in nets.items()}
        moved = {b for b, names in changed.items() if names}
        assert moved == {"static": set(), "fuse": set(), "body": set(), "agree": {"face", "mouth"}}.get(kind.split()[1], {name})
        if name == "agree":
            assert all(k.startswith("fuse.") and not k.startswith("fuse.fc.") and ".logvar." not in k for names in changed.values() for k in names)
        if name in ("agree", "fuse"):
            assert all(trainer.scene.splats[b].parameters["means"].equal(value) for b, value in means.items())
        if kind == "face ensemble":
            out = trainer.scene.motion("face", trainer.material.val[0])
            assert out.view_means["exp"].shape[0] == 2 and bool((state_variance("face", out) > 0).all())
    parts = [f"{b} {p}" for b in ("mouth", "face") for p in ("static", "single", "ensemble")]
    assert seen == [*parts, "agree agree", "fuse fuse", "body body"]


def test_members_learn_to_agree_on_the_film(folder: Path) -> None:
    """On what was trained on; the motion stays where it was."""
    config = replace(SMALL, mouth=BranchPlan(1, 0, 1, 40, 40), face=BranchPlan(400, 40, 390, 150, 150), agree_steps=120, swapped=0.0)
    trainer = Trainer(Material(read_data(folder), find_sources([]), CPU), config)
    while trainer.name != "agree":
        trainer.step_once()
    net, material = trainer.scene.nets["face"], trainer.material
    before = {name: value.clone() for name, value in net.state_dict().items()}
    means = trainer.scene.splats["face"].parameters["means"].detach()[:40]
    each = [material.views(frame) for frame in material.train[::4]]
    clean = {view: torch.cat([one[view] for one in each]) for view in each[0]}

    @torch.no_grad()
    def said() -> tuple[torch.Tensor, torch.Tensor]:
        out = net(means, clean)
        return out.d_means, torch.stack([mean.var(0).mean() for mean in out.view_means.values()])

    motion, apart = said()
    while trainer.name == "agree":
        trainer.step_once()
    now, together = said()
    assert bool((together < apart).all()) and float((together / apart).median()) < 0.45
    changed = float((now - motion).square().mean() / motion.square().mean())
    assert changed < 0.02, changed
    learned = {name for name, value in before.items() if not value.equal(net.state_dict()[name])}
    assert learned == {name for name in before if name.startswith("fuse.") and name.split(".")[2] in ("fc1", "mean")}


def test_an_avatar_knows_its_film(folder: Path, trained: tuple[Path, dict]) -> None:
    """Noise takes a view's say away step by step, and shows in the epistemic variance."""
    avatar = load_avatar(trained[0])
    material = Material(read_data(folder), find_sources([]), CPU)
    deformer = Deformer(avatar, "cpu", threads=1)
    views = {view: material.film(view) for view in deformer.frame_shapes}
    assert {name.split(".")[1] for name in avatar.tensors if name.startswith("doubt.")} == {"audio", "exp", "style", "emotion", "au"}
    for number, view in enumerate(VIEWS["face"]):
        shares, epistemic = [], []
        for level in (0.0, 1.0, 2.0, 4.0):  # less goes unnoticed after a film of 80 pictures
            noise = level * views[view].std(0) * np.random.default_rng(0).normal(size=views[view].shape)
            found = deformer.motion(views | {view: views[view] + noise.astype(np.float32)}).face
            shares.append(float(found.shares[..., number].mean()))
            epistemic.append(float(found.epistemic.mean()))
        assert shares == sorted(shares, reverse=True) and shares[0] > 1.1 * shares[-1], (view, shares)
        assert epistemic[-1] > epistemic[0], view
    shares, chance = [], np.random.default_rng(0).uniform(size=views["au"].shape)
    for gone in (0.0, 0.3, 0.7, 1.0):  # action units that nobody measured
        found = deformer.motion(views | {"au": np.where(chance < gone, np.nan, views["au"]).astype(np.float32)}).face
        shares.append(float(found.shares[..., VIEWS["face"].index("audio")].mean()))
    assert shares == sorted(shares, reverse=True) and shares[0] > 1.1 * shares[-1], shares


@pytest.mark.parametrize("kind", ["depth", "hull", "random"])
def test_where_gaussians_begin(folder: Path, kind: str) -> None:
    material = Material(read_data(folder), find_sources([]), CPU)
    splats, told = begin("face", material, replace(SMALL, start=kind), np.random.default_rng(0))
    means = splats.parameters["means"].numpy()
    assert told == kind and means.shape == (500, 3) and float(np.abs(means).max()) < 0.13
    surface = np.linalg.norm(means / [0.065, 0.085, 0.07], axis=1)
    if kind == "depth":
        assert np.percentile(np.abs(surface - 1), 90) < 0.12 and (means[:, 2] > -0.03).all()
    if kind == "hull":
        assert (np.abs(means[:, 0]) < 0.08).all()


def test_data_without_depth_or_labels(tmp_path: Path) -> None:
    data = read_data(make_face_data(tmp_path / "plain", frames=20, labels=False, depth=False))
    material = Material(data, find_sources([]), CPU, without=("emotion",))
    assert material.emotions() == {} and not material.views(material.train[0])["emotion"].any()
    splats, told = begin("mouth", material, SMALL, np.random.default_rng(0))
    assert told == "hull" and abs(float(splats.parameters["means"][:, 1].median()) + 0.045) < 0.02
    with pytest.raises(UserError, match="no depth"):
        begin("face", material, replace(SMALL, start="depth"), np.random.default_rng(0))
    with pytest.raises(UserError, match="no view smell"):
        Material(data, find_sources([]), CPU, without=("smell",))


def test_refusals(folder: Path, tmp_path: Path) -> None:
    broken = make_face_data(tmp_path / "broken", frames=20)
    (broken / "bc.jpg").unlink()
    (broken / "gt_imgs" / "3.jpg").unlink()
    out = tmp_path / "out.safetensors"
    with pytest.raises(UserError) as refused:
        train_avatar(broken, out, SMALL, device="cpu")
    assert "bc.jpg" in str(refused.value) and "3.jpg" in str(refused.value) and list(tmp_path.iterdir()) == [broken]
    for text, wanted in (
        ('{"steps": 3, "depth": 1}', "steps, depth"), ('{"face": {"stps": 3}}', "face.stps"), ('{"face": 3}', "face"), ("[]", "object"),
        ('{"seed": "x"}', "seed"), ("{", "JSON"),
    ):  # fmt: skip
        (tmp_path / "c.json").write_text(text)
        with pytest.raises(UserError, match=wanted):
            TrainConfig.quick().changed(tmp_path / "c.json")
    torch.save({"features.0.weight": torch.zeros(1)}, tmp_path / "alex.pth")
    with pytest.raises(UserError, match="features.3.weight"):
        Lpips(tmp_path / "alex.pth", tmp_path / "alex.pth", CPU)
    with pytest.raises(UserError, match="cuda|CUDA" if not torch.cuda.is_available() else "no avatar"):
        train_avatar(folder, out, SMALL, device="cuda", priors=[tmp_path / "alex.pth"])


def test_lpips_with_weights_of_its_shape(tmp_path: Path) -> None:
    """Zero for the same picture, more for a stranger one; the gradient leads back."""
    generator = torch.Generator().manual_seed(0)
    shapes = {"0": (64, 3, 11), "3": (192, 64, 5), "6": (384, 192, 3), "8": (256, 384, 3), "10": (256, 256, 3)}
    network = {f"features.{n}.weight": 0.05 * torch.randn(o, i, k, k, generator=generator) for n, (o, i, k) in shapes.items()}
    network |= {f"features.{n}.bias": torch.zeros(o) for n, (o, _, _) in shapes.items()}
    torch.save(network, tmp_path / "alex.pth")
    torch.save({f"lin{i}.model.1.weight": torch.rand(1, o, 1, 1, generator=generator) for i, (o, _, _) in enumerate(shapes.values())}, tmp_path / "lin.pth")
    distance = Lpips(tmp_path / "alex.pth", tmp_path / "lin.pth", CPU)
    picture = torch.rand(40, 48, 3, generator=generator)
    near, far = (picture + s * torch.randn(40, 48, 3, generator=generator) for s in (0.02, 0.3))
    assert float(distance(picture, picture)) == 0 and 0 < float(distance(near, picture)) < float(distance(far, picture))
    far.requires_grad_(True)
    distance(far, picture).backward()
    assert far.grad.abs().sum() > 0
