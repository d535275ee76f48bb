"""The CPU rasteriser against its plain float64 twin: pictures and gradients, at random and on the edges."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from engine.avatar.gaussians import sh_basis
from engine.errors import UserError
from engine.raster import Rasterised, Splatting, rasterization, reference
from support.raster_scenes import GAUSSIANS, HEIGHT, WIDTH, camera, scene

TOLERANCE = 1e-5
"""Largest error, as a share of the largest value (of a picture, of a gradient)."""

PICTURES = ("colors", "alphas", "depth", "features")


def agree(parts: dict[str, Tensor], most_doubtful: float = 0.02, **settings: Any) -> Rasterised:
    """Both rasterisers draw the scene and pass back the gradient of one random loss over all pictures; all of it must agree.

    Pixels where rounding decides (`reference.doubtful`) are left out of the comparison and of the loss; they must be few.
    """
    generator = torch.Generator().manual_seed(0)
    drawn = {}
    geometry = {name: parts[name].double() for name in GAUSSIANS}
    known = {name: settings[name] for name in ("branch", "composite", "near") if name in settings}
    places = {name: settings[name] for name in ("viewmats", "Ks", "width", "height")}
    sure = ~reference.doubtful(**geometry, **places, **known)
    assert (~sure).double().mean() <= most_doubtful
    weights: dict[str, Tensor] = {}
    gradients: list[dict[str, Tensor | None]] = []
    for name, function, kind in (("plain", reference.rasterization, torch.float64), ("fast", rasterization, torch.float32)):
        leaves = {key: value.to(kind).requires_grad_() for key, value in parts.items()}
        more = {} if name == "plain" else {"backend": "cpu", "threads": 1}
        result = drawn[name] = function(**leaves, **settings, **more)
        result.means2d.retain_grad()
        loss = torch.zeros((), dtype=torch.float64)
        for picture in PICTURES:
            value = getattr(result, picture)
            if value is None:
                continue
            if picture not in weights:
                weights[picture] = torch.randn(value.shape, generator=generator, dtype=torch.float64)
            mask = sure if value.ndim == 3 else sure[..., None]
            if picture == "depth":  # what hardly covers a pixel has a depth, but gradients of it that no float32 can tell from rounding
                mask = mask * drawn["plain"].alphas.detach()
            loss = loss + (value.double() * weights[picture] * mask).sum()
        loss.backward()
        gradients.append({key: leaf.grad for key, leaf in leaves.items()} | {"means2d": result.means2d.grad})
    fast, plain = drawn["fast"], drawn["plain"]
    assert torch.equal(fast.radii, plain.radii)
    for picture in PICTURES:
        found, wanted = getattr(fast, picture), getattr(plain, picture)
        assert (found is None) == (wanted is None)
        if wanted is not None and wanted.numel():
            mask = sure if wanted.ndim == 3 else sure[..., None]
            close(found.detach().double() * mask, wanted.detach() * mask, picture)
    for name, wanted in gradients[0].items():
        found = gradients[1][name]
        assert found is not None and wanted is not None, name
        assert torch.isfinite(found).all(), name
        # A background's is the light that is left, which behind near opaque Gaussians is a small difference: judged against 1. Gradients
        # that cancel (turning a ball) are judged as if they were 1e-4.
        close(found.double(), wanted, f"gradient of {name}", 1.0 if name == "backgrounds" else 1e-4)
    return fast


def close(found: Tensor, wanted: Tensor, what: str, least: float = 1e-12) -> None:
    assert found.shape == wanted.shape, what
    if wanted.numel():
        error, largest = float((found - wanted).abs().max()), float(wanted.abs().max())
        assert error <= TOLERANCE * max(largest, least), f"{what}: {error:.2g} of {largest:.2g}"


@settings(max_examples=60, deadline=None, derandomize=True)
@given(
    seed=st.integers(0, 2**31), count=st.integers(30, 250), degree=st.integers(0, 3), width=st.integers(4, 50), height=st.integers(4, 40),
    cameras=st.integers(1, 2), features=st.integers(0, 3), layered=st.booleans(), distance=st.sampled_from([0.5, 3.0, 8.0]),
    size=st.sampled_from([0.02, 0.15, 0.6]), tilt=st.floats(-1, 1),
)  # fmt: skip
def test_same_as_reference(seed, count, degree, width, height, cameras, features, layered, distance, size, tilt):
    # Enough Gaussians and pixels that the largest gradient tells the size of what was added up: the few terms of a single Gaussian may
    # cancel. One Gaussian and one pixel are tested below.
    generator = torch.Generator().manual_seed(seed)
    views = [camera(distance, tilt + 0.3 * i, width, height) for i in range(cameras)]
    parts = scene(count, seed, degree, size=size) | {"backgrounds": torch.rand(cameras, 3, generator=generator)}
    if features:
        parts["features"] = torch.randn(count, features, generator=generator)
    more: dict[str, Any] = {"composite": "layered", "branch": torch.arange(count) % 2} if layered else {}
    viewmats, Ks = (torch.cat(x) for x in zip(*views))
    agree(parts, most_doubtful=max(0.02, 2 / (width * height)), viewmats=viewmats, Ks=Ks, width=width, height=height, near=0.2, **more)


@pytest.mark.parametrize("pixel_size", [0.002, 0.05, 0.07, 0.5])
@pytest.mark.parametrize("layered", [False, True])
def test_the_look_of_the_trained_size(pixel_size, layered):
    """Farther and nearer than trained, as the plain formulas have it; one pixel is 0.064 at the origin."""
    viewmats, Ks = (torch.cat([x, y]) for x, y in zip(camera(4.0), camera(2.0, 0.5)))
    parts, place = scene(120, 3, 1, size=0.04), {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT, "pixel_size": pixel_size}
    place |= {"branch": torch.arange(120) % 2, "composite": "layered"} if layered else {}
    sure = ~reference.doubtful(**{k: parts[k].double() for k in GAUSSIANS}, **place)
    plain = reference.rasterization(**{k: v.double() for k, v in parts.items()}, **place)
    fast = rasterization(**parts, **place)
    assert sure.double().mean() > 0.98 and torch.equal(fast.radii, plain.radii)
    for picture in ("colors", "alphas", "depth"):
        mask = sure if getattr(plain, picture).ndim == 3 else sure[..., None]
        close(getattr(fast, picture).double() * mask, getattr(plain, picture) * mask, picture)
    assert (fast.colors - rasterization(**parts, **place | {"pixel_size": 0.0}).colors).abs().max() > 0.02


def test_trained_size_changes_nothing_at_the_trained_distance():
    viewmats, Ks = camera(4.0)
    flat = scene(60, 1, 0, size=0.03)
    flat["means"][:, 2] = 0
    size = 4.0 / float((Ks[0, 0, 0] * Ks[0, 1, 1]).sqrt())
    place = {"viewmats": viewmats, "Ks": Ks, "width": WIDTH, "height": HEIGHT}
    assert torch.allclose(rasterization(**flat, **place).colors, rasterization(**flat, **place, pixel_size=size).colors, atol=1e-5)


@pytest.mark.parametrize("times", [4, 0.25])
def test_another_size_is_the_same_picture_made_larger_or_smaller(times):
    viewmats, Ks = camera(4.0, 0.0, 64, 48)
    parts, size = scene(300, 5, 0, size=0.01), 4.0 / float((Ks[0, 0, 0] * Ks[0, 1, 1]).sqrt())
    parts["means"] *= torch.tensor([0.6, 0.4, 0.02])

    def drawn(scale: float, pixel_size: float) -> Tensor:
        zoom = torch.tensor([scale, scale, 1.0])[:, None]
        return rasterization(**parts, viewmats=viewmats, Ks=Ks * zoom, width=int(64 * scale), height=int(48 * scale), pixel_size=pixel_size).colors[0]

    def smaller(picture: Tensor, by: int) -> Tensor:
        return picture.unflatten(0, (-1, by)).unflatten(2, (-1, by)).mean((1, 3))

    trained = drawn(1, 0)
    errors = []
    for pixel_size in (size, 0.0):
        other = drawn(times, pixel_size)
        error = smaller(other, 4) - trained if times > 1 else other - smaller(trained, 4)
        errors.append(float(error.square().mean()))
    assert errors[0] < 0.2 * errors[1], errors


def test_finite_differences_of_the_reference():
    """Autograd of the plain rasteriser against central differences: the formulas themselves, not autograd's word for them."""
    generator = torch.Generator().manual_seed(5)
    viewmats, Ks = camera(4.0, 0.2, 9, 7)
    # Wide, faint, few: no pixel comes near a bound while the parameters are moved.
    parts = scene(3, 11, 1, spread=0.2, size=2.0) | {"opacities": torch.tensor([0.5, 0.4, 0.3]), "features": torch.rand(3, 1)}
    leaves = {key: value.double().requires_grad_() for key, value in parts.items()}
    weights = [torch.randn(1, 7, 9, n, generator=generator, dtype=torch.float64) for n in (3, 1, 1, 1)]
    assert not reference.doubtful(**{k: parts[k] for k in GAUSSIANS}, viewmats=viewmats, Ks=Ks, width=9, height=7, tolerance=1e-3).any()

    def loss(*values: Tensor) -> Tensor:
        result = reference.rasterization(**dict(zip(leaves, values)), viewmats=viewmats, Ks=Ks, width=9, height=7)
        pictures = (result.colors, result.alphas[..., None], result.depth[..., None], result.features)
        return sum(((x * w).sum() for x, w in zip(pictures, weights)), torch.zeros(()))

    assert torch.autograd.gradcheck(loss, tuple(leaves.values()), eps=1e-6, atol=1e-6, rtol=1e-5)


def test_several_cameras_are_each_drawn_as_alone():
    views = [camera(3.0, tilt, WIDTH, HEIGHT) for tilt in (-0.5, 0.0, 0.7)]
    parts, backgrounds = scene(120, 3), torch.rand(3, 3)
    viewmats, Ks = (torch.cat(x) for x in zip(*views))
    together = rasterization(**parts, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT, backgrounds=backgrounds)
    for i, (viewmat, K) in enumerate(views):
        alone = rasterization(**parts, viewmats=viewmat, Ks=K, width=WIDTH, height=HEIGHT, backgrounds=backgrounds[i])
        for name in ("colors", "alphas", "depth", "means2d", "radii"):
            assert torch.equal(getattr(together, name)[i], getattr(alone, name)[0]), name


def test_layered_is_face_over_mouth():
    """The paper's composite of the two branches drawn apart: face + (1 - a_face) * mouth."""
    viewmats, Ks = camera()
    parts, branch, place = scene(300, 3), torch.arange(300) % 2, dict(viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)
    face, mouth = (rasterization(**{k: v[branch == n] for k, v in parts.items()}, **place) for n in (0, 1))
    both = rasterization(**parts, **place, branch=branch, composite="layered")
    wanted = face.colors + (1 - face.alphas)[..., None] * mouth.colors
    assert (both.colors - wanted).abs().max() < 1e-6
    assert (both.colors - rasterization(**parts, **place).colors).abs().max() > 0.05


def test_around_and_behind_the_camera():
    viewmats, Ks = camera(0.0)
    place = dict(viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)
    drawn = agree(scene(300, 5, spread=2.0, size=0.3), **place)
    assert (drawn.radii[0, :, 0] == 0).float().mean() > 0.4
    behind = scene(50, 6)
    behind["means"][:, 2] = -behind["means"][:, 2].abs() - 0.01
    leaves = {key: value.requires_grad_() for key, value in behind.items()}
    picture = rasterization(**leaves, **place, backgrounds=torch.tensor([0.1, 0.2, 0.3]))
    assert not picture.radii.any() and picture.alphas.max() == 0 and picture.depth.max() == 0
    assert torch.equal(picture.colors[0, 3, 4], torch.tensor([0.1, 0.2, 0.3]))
    (picture.colors.sum() + picture.depth.sum()).backward()
    assert all((leaf.grad == 0).all() for leaf in leaves.values())


@pytest.mark.parametrize("opacity", [0.0, 1 / 255.0, 1 / 254.0, 0.9985, 1.0])
def test_opacities(opacity):
    viewmats, Ks = camera()
    parts = scene(60, 8) | {"opacities": torch.full((60,), opacity)}
    drawn = agree(parts, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)
    assert (drawn.alphas.max() > 0) == (opacity > 1 / 255.0)


@pytest.mark.parametrize("scales", [[0, 0, 0], [1e-9, 0.3, 0.3], [0, 0, 2.0], [50.0, 50.0, 50.0], [0.001, 0.001, 3.0]])
def test_degenerate_and_huge_scales(scales):
    viewmats, Ks = camera()
    parts = scene(12, 2) | {"scales": torch.tensor([scales] * 12)}
    agree(parts, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)


def test_needles_keep_their_digits():
    """Long thin ellipses across a large picture: their exponent is a small difference of large terms in the textbook form."""
    width, height = 500, 40
    viewmats, Ks = camera(4.0, 0.0, width, height, focal=500.0)
    parts = scene(40, 4, spread=0.4) | {"scales": torch.tensor([[1e-4, 1e-4, 0.7]] * 40)}
    agree(parts, viewmats=viewmats, Ks=Ks, width=width, height=height)


def test_a_zero_quaternion_turns_nothing():
    viewmats, Ks = camera()
    place = dict(viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)
    parts = scene(20, 2)
    parts["quats"][:10] = 0.0
    agree(parts, **place)
    other = parts | {"quats": torch.where(torch.arange(20)[:, None] < 10, torch.tensor([2.0, 0, 0, 0]), parts["quats"])}
    assert torch.equal(rasterization(**parts, **place).colors, rasterization(**other, **place).colors)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_what_is_not_finite_is_left_out(bad):
    viewmats, Ks = camera()
    parts = scene(30, 4)
    for row, name in enumerate(("means", "quats", "scales", "opacities")[: 3 if bad == float("inf") else 4]):
        parts[name][row] = bad
    drawn = agree(parts, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)
    assert not drawn.radii[0, :3].any() and drawn.radii[0, 4:].any()
    assert torch.isfinite(drawn.colors).all() and torch.isfinite(drawn.depth).all()


def test_nothing_and_one_pixel():
    viewmats, Ks = camera()
    empty = {key: value[:0].requires_grad_() for key, value in scene(1, 0).items()}
    drawn = rasterization(**empty, viewmats=viewmats, Ks=Ks, width=5, height=3, backgrounds=torch.tensor([1.0, 0, 0]))
    assert drawn.colors.shape == (1, 3, 5, 3) and (drawn.colors[..., 0] == 1).all() and drawn.alphas.max() == 0
    (drawn.colors.sum() + drawn.depth.sum()).backward()
    assert empty["sh"].grad.shape == (0, 4, 3)
    no_cameras = rasterization(**scene(4, 0), viewmats=viewmats[:0], Ks=Ks[:0], width=5, height=3)
    assert no_cameras.colors.shape == (0, 3, 5, 3)
    viewmats, Ks = camera(4.0, 0.0, 1, 1)
    agree(scene(80, 1, spread=0.05), most_doubtful=0, viewmats=viewmats, Ks=Ks, width=1, height=1)


@pytest.mark.parametrize("seed", range(5))
def test_one_gaussian(seed):
    viewmats, Ks = camera()
    agree(scene(1, seed, degree=3, spread=0.3, size=1.0), viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)


def test_pixel_centres_are_at_half():
    viewmats, Ks = camera()
    Ks[:, 0, 2], Ks[:, 1, 2] = 10.5, 6.5
    spot = dict(means=torch.zeros(1, 3), quats=torch.eye(4)[:1], scales=torch.full((1, 3), 0.01), opacities=torch.tensor([0.9]))
    alphas = rasterization(**spot, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT).alphas[0].numpy()
    assert alphas[6, 10] == pytest.approx(0.9, abs=1e-6)
    assert alphas[6, 9] == pytest.approx(alphas[6, 11], abs=1e-6) and alphas[5, 10] == pytest.approx(alphas[7, 10], abs=1e-6)


def test_equal_depths_keep_the_order_given():
    viewmats, Ks = camera()
    sh = torch.tensor([1.0, -1.0])[:, None, None].expand(2, 1, 3)
    pair = dict(means=torch.zeros(2, 3), quats=torch.eye(4)[[0, 0]], scales=torch.full((2, 3), 0.3), opacities=torch.full((2,), 0.99))
    place = dict(viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT)
    first, second = (rasterization(**pair, sh=x, **place).colors[0, HEIGHT // 2, WIDTH // 2, 0] for x in (sh, sh.flip(0)))
    assert first > 0.7 > 0.3 > second


def test_threads_change_no_bit():
    viewmats, Ks = camera()
    found = []
    for threads in (1, 2):
        leaves = {key: value.requires_grad_() for key, value in scene(400, 12).items()}
        drawn = rasterization(**leaves, viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT, threads=threads)
        (drawn.colors.square().sum() + drawn.depth.sum()).backward()
        found.append([drawn.colors.detach(), drawn.depth.detach(), *(leaf.grad for leaf in leaves.values())])
    assert all(torch.equal(a, b) for a, b in zip(*found))


def test_absolute_gradients_are_sums_over_the_pixels():
    viewmats, Ks = camera()
    parts, place = scene(25, 6), dict(viewmats=viewmats, Ks=Ks, width=20, height=12)
    weight = torch.randn(1, 12, 20, generator=torch.Generator().manual_seed(1))
    drawn = rasterization(**{k: v.requires_grad_() for k, v in parts.items()}, **place, absgrad=True)
    (drawn.colors.sum(-1) * weight).sum().backward()
    wanted = torch.zeros(1, 25, 2, dtype=torch.float64)
    plain = reference.rasterization(**{k: v.detach().double().requires_grad_() for k, v in parts.items()}, **place)
    for value in (plain.colors.sum(-1) * weight).flatten():
        wanted += torch.autograd.grad(value, plain.means2d, retain_graph=True)[0].abs()
    close(drawn.means2d.absgrad.double(), wanted, "absgrad")


def test_harmonics_of_the_reference_are_the_avatars():
    directions = torch.nn.functional.normalize(torch.randn(50, 3, dtype=torch.float64), dim=1)
    for degree in range(4):
        found = reference.sh_basis(directions, (degree + 1) ** 2)
        np.testing.assert_allclose(found.numpy(), sh_basis(directions.numpy(), degree), atol=1e-14)


def test_adjoint_is_the_transpose():
    viewmats, Ks = camera()
    parts = {name: value.numpy() for name, value in scene(150, 7).items() if name != "sh"}
    splatting = Splatting(**parts, viewmat=viewmats[0].numpy(), K=Ks[0].numpy(), width=WIDTH, height=HEIGHT, threads=1)
    rng = np.random.default_rng(0)
    values, picture = rng.normal(size=(150, 3)), rng.normal(size=(HEIGHT, WIDTH, 3))
    assert np.vdot(splatting.forward(values)[0], picture) == pytest.approx(np.vdot(values, splatting.adjoint(picture)), rel=1e-4)
    # Weights of one Gaussian, asked for one at a time, against the squared sums.
    one = np.zeros((150, 1))
    one[11] = 1.0
    weights = splatting.forward(one)[0]
    squares = splatting.adjoint(np.ones((HEIGHT, WIDTH, 1)), squared=True)
    assert squares[11, 0] == pytest.approx(float((weights.astype(np.float64) ** 2).sum()), rel=1e-4, abs=1e-9)
    with pytest.raises(UserError, match="values"):
        splatting.forward(values[:-1])


@pytest.mark.parametrize("change, word", [
    ({"quats": torch.zeros(3, 3)}, "quats"), ({"opacities": torch.zeros(3, 1)}, "opacities"), ({"sh": torch.zeros(3, 2, 3)}, "sh"),
    ({"opacities": torch.full((3,), 1.5)}, "opacity"), ({"composite": "layered"}, "branch"), ({"composite": "additive"}, "additive"),
    ({"width": 0}, "pixel"), ({"features": torch.zeros(2, 1)}, "features"), ({"branch": torch.zeros(2)}, "branch"),
    ({"Ks": torch.zeros(2, 3, 3)}, "Ks"), ({"backgrounds": torch.zeros(4)}, "backgrounds"), ({"backend": "mitsuba"}, "mitsuba"),
    ({"viewmats": torch.eye(4)[None].requires_grad_()}, "cameras"), ({"pixel_size": -1.0}, "pixel_size"),
    ({"pixel_size": 0.1, "means": torch.zeros(3, 3, requires_grad=True)}, "not for training"), ({"sh": None, "backgrounds": torch.zeros(3)}, "backgrounds"),
])  # fmt: skip
def test_what_does_not_fit_is_named(change, word):
    viewmats, Ks = camera()
    with pytest.raises(UserError, match=word) as error:
        rasterization(**(scene(3, 0) | dict(viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT) | change))
    assert error.value.remedy


def test_gsplat_without_cuda_is_refused():
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    viewmats, Ks = camera()
    with pytest.raises(UserError, match="CUDA"):
        rasterization(**scene(3, 0), viewmats=viewmats, Ks=Ks, width=WIDTH, height=HEIGHT, backend="gsplat")
