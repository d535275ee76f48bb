"""The rasterisers against gsplat itself: its torch formulas on the CPU, its strategies, and its kernels where there is CUDA."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from engine.avatar import load_avatar
from engine.errors import UserError
from engine.raster import harmonics, on_gsplat, rasterization
from engine.raster.projection import ACROSS, DOWN, SLOPE, X, Y, project
from support import ROOT
from support.raster_scenes import GAUSSIANS, camera, scene

gsplat = pytest.importorskip("gsplat")
formulas = pytest.importorskip("gsplat.cuda._torch_impl")

WIDTH, HEIGHT = 96, 64


def projected_by_gsplat(parts: dict[str, Tensor], viewmats: Tensor, Ks: Tensor) -> tuple[Tensor, ...]:
    covariances, _ = formulas._quat_scale_to_covar_preci(parts["quats"], parts["scales"], compute_preci=False)
    return formulas._fully_fused_projection(parts["means"], covariances, viewmats, Ks, WIDTH, HEIGHT)


@pytest.mark.parametrize("seed", range(3))
def test_projection_is_gsplats(seed):
    viewmats, Ks = camera(3.0, 0.4, WIDTH, HEIGHT)
    parts = scene(800, seed) | {"opacities": torch.ones(800)}  # its torch formulas bound every Gaussian as if it were opaque
    ours = project(*(parts[name].numpy() for name in GAUSSIANS), viewmats[0].numpy(), Ks[0].numpy(), WIDTH, HEIGHT)
    radii, means2d, depths, conics, _ = (None if x is None else x[0] for x in projected_by_gsplat(parts, viewmats, Ks))
    found = torch.from_numpy(ours.radii)
    # 3.33 standard deviations there, 3.3290 where alpha reaches 1/255: rounded up, seldom another pixel.
    assert (found <= radii).all() and (radii - found).max() <= 1 and (found == radii).float().mean() > 0.99
    drawn = found[:, 0] > 0
    assert drawn.sum() > 300
    ellipses = torch.from_numpy(ours.ellipses)[drawn]
    torch.testing.assert_close(ellipses[:, [X, Y]], means2d[drawn].double(), atol=1e-4, rtol=1e-5)
    torch.testing.assert_close(torch.from_numpy(ours.depths)[drawn], depths[drawn], atol=1e-6, rtol=1e-6)
    across, slope, down = ellipses[:, ACROSS], ellipses[:, SLOPE], ellipses[:, DOWN]
    wanted = conics[drawn].double()
    found = torch.stack([across, -across * slope, across * slope**2 + down], 1)
    assert ((found - wanted).abs() / wanted.abs().amax(1, keepdim=True)).max() < 2e-3  # float32 there
    assert ((found - wanted).abs() / wanted.abs().amax(1, keepdim=True)).median() < 1e-6


@pytest.mark.parametrize("degree", range(4))
def test_harmonics_are_gsplats(degree):
    viewmats, Ks = camera(3.0, 0.4, WIDTH, HEIGHT)
    parts = scene(200, 1, degree)
    position = harmonics.camera_position(viewmats[0].numpy())
    every = torch.ones(200, 2, dtype=torch.int32).numpy()
    found = harmonics.colors(parts["means"].numpy(), parts["sh"].numpy(), position, every)
    directions = parts["means"] - torch.from_numpy(position).float()
    wanted = (formulas._spherical_harmonics(degree, directions, parts["sh"]) + 0.5).clamp(min=0)
    torch.testing.assert_close(torch.from_numpy(found), wanted, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("absgrad", [False, True])
def test_feeds_gsplats_default_strategy(absgrad):
    """Densification by gsplat's own strategy, from what `Rasterised.info` tells: it counts what was drawn, and grows by gradients."""
    viewmats, Ks = (torch.cat([x, y]) for x, y in zip(camera(3.0, 0.0, WIDTH, HEIGHT), camera(3.0, 0.6, WIDTH, HEIGHT)))
    parts = scene(120, 2)
    raw = dict(parts, scales=parts["scales"].log(), opacities=parts["opacities"].clamp(0.05, 0.95).logit())
    params = {name: torch.nn.Parameter(value) for name, value in raw.items()}
    optimizers = {name: torch.optim.Adam([value], 1e-3) for name, value in params.items()}
    strategy = gsplat.DefaultStrategy(refine_start_iter=0, refine_every=1000, absgrad=absgrad, grow_grad2d=1e-6)
    strategy.check_sanity(params, optimizers)
    state = strategy.initialize_state()
    drawn = rasterization(
        params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), viewmats, Ks, WIDTH, HEIGHT,
        sh=params["sh"], absgrad=absgrad,
    )  # fmt: skip
    strategy.step_pre_backward(params, optimizers, state, 7, drawn.info)
    (drawn.colors - 0.3).square().mean().backward()
    strategy.step_post_backward(params, optimizers, state, 7, drawn.info)
    seen = (drawn.radii > 0).all(-1)
    assert torch.equal(state["count"], seen.sum(0).float())
    gradient = drawn.means2d.absgrad if absgrad else drawn.means2d.grad
    size = gradient * torch.tensor([WIDTH / 2, HEIGHT / 2]) * 2
    torch.testing.assert_close(state["grad2d"], (size.norm(dim=-1) * seen).sum(0))
    before = len(params["means"])
    drawn = rasterization(
        params["means"], params["quats"], params["scales"].exp(), params["opacities"].sigmoid(), viewmats, Ks, WIDTH, HEIGHT,
        sh=params["sh"], absgrad=absgrad,
    )  # fmt: skip
    strategy.step_pre_backward(params, optimizers, state, 1000, drawn.info)
    (drawn.colors - 0.3).square().mean().backward()
    strategy.step_post_backward(params, optimizers, state, 1000, drawn.info)
    assert len(params["means"]) != before


class TorchKernels:
    """gsplat's calls by its own torch formulas, where it has some: what its CUDA kernels would be asked, asked on the CPU.

    It has none for blending on the CPU: `rasterize_to_pixels` here reads gsplat's tile lists and blends them pixel by pixel.
    """

    @staticmethod
    def fully_fused_projection(
        means, covars, quats, scales, viewmats, Ks, width, height, eps2d, near_plane, far_plane, radius_clip, packed, calc_compensations,
        camera_model, opacities,
    ):  # fmt: skip
        assert covars is None and radius_clip == 0 and not packed and not calc_compensations
        covariances, _ = formulas._quat_scale_to_covar_preci(quats, scales, compute_preci=False)
        radii, *rest = formulas._fully_fused_projection(
            means, covariances, viewmats, Ks, width, height, eps2d, near_plane, far_plane, calc_compensations, camera_model
        )
        return torch.where((opacities >= 1 / 255)[:, None], radii, 0), *rest

    @staticmethod
    def spherical_harmonics(degree, directions, coefficients, masks):
        assert masks.shape == directions.shape[:-1] == coefficients.shape[:-2]
        return formulas._spherical_harmonics(degree, directions, coefficients)

    isect_tiles = staticmethod(formulas._isect_tiles)
    isect_offset_encode = staticmethod(formulas._isect_offset_encode)

    @staticmethod
    def rasterize_to_pixels(means2d, conics, colors, opacities, width, height, tile_size, offsets, ids, absgrad):
        cameras, count = means2d.shape[:2]
        assert conics.shape == (cameras, count, 3) and opacities.shape == (cameras, count) and colors.shape[:2] == (cameras, count)
        ends = torch.cat([offsets.flatten()[1:], torch.tensor([len(ids)])]).view_as(offsets)
        means2d, conics, colors, opacities = (x.flatten(0, 1) for x in (means2d, conics, colors, opacities))
        pictures = torch.zeros(cameras, height, width, colors.shape[-1] + 1)
        for camera_, row, column in torch.cartesian_prod(*(torch.arange(n) for n in offsets.shape)).tolist():
            mine = ids[int(offsets[camera_, row, column]) : int(ends[camera_, row, column])].long()
            ys = torch.arange(row * tile_size, min(height, (row + 1) * tile_size))
            xs = torch.arange(column * tile_size, min(width, (column + 1) * tile_size))
            dx, dy = means2d[mine, 0, None, None] - xs - 0.5, means2d[mine, 1, None, None] - ys[:, None] - 0.5
            a, b, d = (conics[mine, i, None, None] for i in range(3))
            alpha = (opacities[mine, None, None] * torch.exp(-(0.5 * (a * dx**2 + d * dy**2) + b * dx * dy))).clamp(max=0.999)
            alpha = torch.where(alpha >= 1 / 255, alpha, 0.0)
            alpha = torch.where(torch.cumprod(1 - alpha, 0) > 1e-4, alpha, 0.0)
            after = torch.cumprod(1 - alpha, 0)
            before = torch.cat([torch.ones(1, len(ys), len(xs)), after])
            blended = torch.einsum("nhw,nc->hwc", alpha * before[:-1], colors[mine])
            pictures[camera_, ys[0] : ys[-1] + 1, xs[0] : xs[-1] + 1] = torch.cat([blended, 1 - before[-1, ..., None]], -1)
        return pictures[..., :-1], pictures[..., -1:]


@pytest.mark.parametrize("composite", ["sorted", "layered"])
def test_gsplats_calls_are_put_together_right(monkeypatch, composite):
    """`GsplatScene` over gsplat's torch formulas gives the CPU's pictures and gradients: shapes, tile lists, channels, layers."""
    monkeypatch.setattr(on_gsplat, "_library", TorchKernels)
    viewmats, Ks = (torch.cat([x, y]) for x, y in zip(camera(3.0, 0.0, 40, 24), camera(3.0, 0.6, 40, 24)))
    parts = scene(60, 2, 2) | {"features": torch.randn(60, 2, generator=torch.Generator().manual_seed(0))}
    parts["means"][3], parts["quats"][5], parts["opacities"][7] = float("nan"), 0.0, 0.001
    branch, found = torch.arange(60) % 2, []
    for scene_of in ("gsplat", "cpu"):
        leaves = {name: value.clone().requires_grad_() for name, value in parts.items()}
        if scene_of == "gsplat":
            monkeypatch.setattr("engine.raster.interface._choose", lambda *_: "gsplat")
        else:
            monkeypatch.undo()
        drawn = rasterization(
            **leaves, viewmats=viewmats, Ks=Ks, width=40, height=24, branch=branch, composite=composite,
            backgrounds=torch.tensor([0.2, 0.5, 0.9]),
        )  # fmt: skip
        drawn.means2d.retain_grad()
        loss = drawn.colors.square().sum() + (drawn.depth * drawn.alphas.detach()).sum() + drawn.features.square().sum()
        (loss + drawn.alphas.sum()).backward()
        pictures = [drawn.colors.detach(), drawn.alphas.detach(), drawn.features.detach()]
        found.append(pictures + [leaf.grad for leaf in leaves.values()] + [drawn.means2d.grad])
    for theirs, ours in zip(*found):
        rows = torch.isfinite(theirs)
        assert torch.isfinite(ours).all() and rows.float().mean() > 0.95
        assert ((theirs - ours)[rows].abs().max() / ours.abs().max()) < 1e-4


@pytest.mark.parametrize("pixel_size", [0.01, 0.06, 0.3])
def test_gsplats_calls_keep_the_look_of_the_trained_size(monkeypatch, pixel_size):
    viewmats, Ks = (torch.cat([x, y]) for x, y in zip(camera(3.0, 0.0, 40, 24), camera(3.0, 0.6, 40, 24)))
    parts = scene(60, 2, 2, size=0.05)
    parts["means"][3], parts["quats"][5], parts["opacities"][7] = float("nan"), 0.0, 0.001
    place = {"viewmats": viewmats, "Ks": Ks, "width": 40, "height": 24, "pixel_size": pixel_size}
    ours = rasterization(**parts, **place)
    monkeypatch.setattr(on_gsplat, "_library", TorchKernels)
    monkeypatch.setattr("engine.raster.interface._choose", lambda *_: "gsplat")
    theirs = rasterization(**parts, **place)
    rows = torch.isfinite(theirs.colors)
    assert rows.float().mean() > 0.95 and (theirs.colors - ours.colors)[rows].abs().max() < 1e-4
    assert (theirs.colors - rasterization(**parts, **place | {"pixel_size": 0.0}).colors)[rows].abs().max() > 0.01


def test_absolute_gradients_of_layers_are_refused(monkeypatch):
    monkeypatch.setattr(on_gsplat, "_library", TorchKernels)
    monkeypatch.setattr("engine.raster.interface._choose", lambda *_: "gsplat")
    viewmats, Ks = camera()
    with pytest.raises(UserError, match="absolute"):
        rasterization(**scene(4, 0), viewmats=viewmats, Ks=Ks, width=8, height=8, branch=torch.arange(4), composite="layered", absgrad=True)


def test_missing_gsplat_or_kernels_are_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "gsplat.cuda._backend", SimpleNamespace(_C=None))  # what importing it leaves without nvcc
    with pytest.raises(UserError, match="kernels") as error:
        on_gsplat._library()
    assert "cpu" in error.value.remedy
    monkeypatch.setitem(sys.modules, "gsplat", None)
    with pytest.raises(UserError, match="cannot be imported"):
        on_gsplat._library()


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")
@pytest.mark.parametrize("composite", ["sorted", "layered"])
def test_both_back_ends_agree_on_the_demo_avatar(composite):
    """Pictures within 1e-4 but for pixels where rounding decides (alpha >= 1/255 may fall either way), gradients within 1e-3 of
    their largest."""
    rest, branch = load_avatar(ROOT / "addon" / "assets" / "demo_avatar.safetensors").rest()
    middle = torch.from_numpy(rest.means).mean(0)
    Ks = torch.tensor([[[1100.0, 0, 256], [0, 1100, 256], [0, 0, 1]]])
    viewmats = torch.eye(4)[None].clone()
    viewmats[0, :3, :3] = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # from the front: Blender's axes
    viewmats[0, :3, 3] = -viewmats[0, :3, :3] @ (middle - torch.tensor([0.0, 0.9, 0.0]))
    weight = torch.rand(1, 512, 512, 3, generator=torch.Generator().manual_seed(0))
    found: list[dict[str, Any]] = []
    for device in ("cpu", "cuda"):
        leaves = {name: torch.tensor(getattr(rest, name), device=device, requires_grad=True) for name in (*GAUSSIANS, "sh")}
        drawn = rasterization(
            **leaves, viewmats=viewmats.to(device), Ks=Ks.to(device), width=512, height=512, composite=composite,
            branch=torch.from_numpy(branch).to(device),
        )  # fmt: skip
        drawn.means2d.retain_grad()
        (drawn.colors * weight.to(device)).sum().backward()
        pictures = {"colors": drawn.colors, "alphas": drawn.alphas, "depth": drawn.depth * drawn.alphas}
        gradients = {name: leaf.grad for name, leaf in leaves.items()} | {"means2d": drawn.means2d.grad}
        found.append({name: value.detach().cpu() for name, value in (pictures | gradients).items()} | {"radii": drawn.radii.cpu()})
    ours, theirs = found
    assert (ours.pop("radii") != theirs.pop("radii")).any(-1).float().mean() < 1e-3
    for name, value in ours.items():
        gap = (value - theirs[name]).abs()
        if name in ("colors", "alphas", "depth"):
            assert (gap > 1e-4).float().mean() < 1e-3 and gap.max() < 0.02, name
        else:
            assert gap.max() < 1e-3 * value.abs().max(), name
