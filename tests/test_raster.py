"""The fast rasteriser against its plain twin, and what pictures must obey."""

from __future__ import annotations

import numpy as np
import pytest

from engine.errors import UserError
from engine.raster import Splatting, reference, render

WIDTH, HEIGHT = 53, 37


def camera(distance: float = 4.0, focal: float = 60.0):
    K = np.array([[focal, 0, WIDTH / 2], [0, focal, HEIGHT / 2], [0, 0, 1]], np.float32)
    view = np.eye(4, dtype=np.float32)
    view[2, 3] = distance
    return view, K


def scene(count: int, seed: int, degree: int = 1, spread: float = 1.0, size: float = 0.15):
    rng = np.random.default_rng(seed)
    return dict(
        means=rng.normal(0, spread, (count, 3)), quats=rng.normal(size=(count, 4)), scales=size * rng.uniform(0.05, 1.5, (count, 3)),
        opacities=rng.random(count), sh=rng.normal(0, 0.5, (count, (degree + 1) ** 2, 3)),
    )


def agree(arguments: dict, tolerance: float = 4e-5, **more) -> None:
    fast, plain = render(**arguments, **more, threads=1), reference.render(**arguments, **more)
    np.testing.assert_array_equal(fast.drawn, plain.drawn)
    # A pixel on the edge of alpha = 1/255 may fall either way in float32: it may differ by that much, and few may.
    for name in ("colors", "alphas"):
        gap = np.abs(getattr(fast, name) - getattr(plain, name))
        assert gap.max() < 0.02 and (gap > tolerance).mean() < 2e-3, name
    gap = np.abs(fast.depth - plain.depth) * (plain.alphas > 0.05)
    assert (gap > 1e-3).mean() < 2e-3
    if plain.features is not None:
        assert (np.abs(fast.features - plain.features) > 10 * tolerance).mean() < 2e-3


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("count", [1, 40, 600])
def test_same_as_reference(seed, count):
    view, K = camera()
    agree(dict(scene(count, seed, degree=seed), viewmat=view, K=K, width=WIDTH, height=HEIGHT), background=[0.2, 0.5, 0.9])


def test_turned_camera_and_features():
    view, K = camera()
    angle = 0.7
    view[:3, :3] = [[np.cos(angle), 0, np.sin(angle)], [0, 1, 0], [-np.sin(angle), 0, np.cos(angle)]]
    features = np.random.default_rng(0).normal(size=(200, 5))
    agree(dict(scene(200, 9), viewmat=view, K=K, width=WIDTH, height=HEIGHT), features=features)


def test_layered_puts_every_mouth_splat_behind():
    view, K = camera()
    branch = np.arange(300) % 2
    arguments = dict(scene(300, 3), viewmat=view, K=K, width=WIDTH, height=HEIGHT, branch=branch)
    agree(arguments, composite="layered")
    # The paper's composite of the two branches drawn apart: face + (1 - a_face) * mouth.
    apart = []
    for value in (0, 1):
        keep = branch == value
        apart.append(render(**{k: v[keep] if k in ("means", "quats", "scales", "opacities", "sh") else v
                               for k, v in arguments.items() if k != "branch"}))
    both = render(**arguments, composite="layered")
    wanted = apart[0].colors + (1 - apart[0].alphas)[..., None] * apart[1].colors
    np.testing.assert_allclose(both.colors, wanted, atol=3e-4)  # the stop at transmittance 1e-4 comes earlier together
    assert np.abs(both.colors - render(**arguments).colors).max() > 0.05


def test_around_and_behind_the_camera():
    view, K = camera(distance=0.0)
    agree(dict(scene(300, 5, spread=2.0, size=0.3), viewmat=view, K=K, width=WIDTH, height=HEIGHT))
    behind = scene(50, 6)
    behind["means"][:, 2] = -np.abs(behind["means"][:, 2]) - 0.01
    picture = render(**behind, viewmat=view, K=K, width=WIDTH, height=HEIGHT, background=[0.1, 0.2, 0.3])
    assert not picture.drawn.any() and picture.alphas.max() == 0 and picture.depth.max() == 0
    np.testing.assert_array_equal(picture.colors[3, 4], np.float32([0.1, 0.2, 0.3]))


@pytest.mark.parametrize("opacity", [0.0, 1 / 254.0, 1.0])
def test_opacities(opacity):
    view, K = camera()
    arguments = dict(scene(60, 8), viewmat=view, K=K, width=WIDTH, height=HEIGHT)
    arguments["opacities"] = np.full(60, opacity)
    agree(arguments)
    assert (render(**arguments).alphas.max() > 0) == (opacity > 0)


@pytest.mark.parametrize("scales", [[0, 0, 0], [1e-9, 0.3, 0.3], [0, 0, 2.0], [50.0, 50.0, 50.0]])
def test_degenerate_scales(scales):
    view, K = camera()
    arguments = dict(scene(12, 2), viewmat=view, K=K, width=WIDTH, height=HEIGHT)
    arguments["scales"] = np.tile(np.float64(scales), (12, 1))
    arguments["quats"][0] = 0.0
    agree(arguments)


def test_not_a_number_is_left_out():
    view, K = camera()
    arguments = dict(scene(30, 4), viewmat=view, K=K, width=WIDTH, height=HEIGHT)
    for name, row in (("means", 0), ("quats", 1), ("scales", 2), ("opacities", 3)):
        arguments[name][row] = np.nan
    picture = render(**arguments)
    assert not picture.drawn[:4].any() and picture.drawn[4:].any()
    assert np.isfinite(picture.colors).all() and np.isfinite(picture.depth).all()


def test_nothing_and_one_pixel():
    view, K = camera()
    empty = render(**{k: v[:0] for k, v in scene(1, 0).items()}, viewmat=view, K=K, width=5, height=3, background=[1, 0, 0])
    assert empty.colors.shape == (3, 5, 3) and (empty.colors[..., 0] == 1).all() and empty.alphas.max() == 0
    K[:2, 2] = 0.5
    agree(dict(scene(80, 1, spread=0.05), viewmat=view, K=K, width=1, height=1))


def test_pixel_centres_are_at_half():
    view, K = camera()
    K[:2, 2] = [10.5, 6.5]
    spot = dict(means=[[0, 0, 0]], quats=[[1, 0, 0, 0]], scales=[[0.01] * 3], opacities=[0.9], sh=np.zeros((1, 1, 3)))
    alphas = render(**spot, viewmat=view, K=K, width=WIDTH, height=HEIGHT).alphas
    assert alphas[6, 10] == pytest.approx(0.9, abs=1e-6)
    assert alphas[6, 9] == pytest.approx(alphas[6, 11], abs=1e-6) and alphas[5, 10] == pytest.approx(alphas[7, 10], abs=1e-6)


def test_equal_depths_keep_the_order_given():
    view, K = camera()
    sh = np.zeros((2, 1, 3))
    sh[0, 0], sh[1, 0] = 1.0, -1.0
    pair = dict(means=np.zeros((2, 3)), quats=np.tile([1.0, 0, 0, 0], (2, 1)), scales=np.full((2, 3), 0.3), opacities=[0.99, 0.99])
    first = render(**pair, sh=sh, viewmat=view, K=K, width=WIDTH, height=HEIGHT).colors
    second = render(**pair, sh=sh[::-1], viewmat=view, K=K, width=WIDTH, height=HEIGHT).colors
    assert first[HEIGHT // 2, WIDTH // 2, 0] > 0.7 > 0.3 > second[HEIGHT // 2, WIDTH // 2, 0]


def test_adjoint_is_the_transpose():
    view, K = camera()
    arguments = scene(150, 7)
    arguments.pop("sh")
    splatting = Splatting(**arguments, viewmat=view, K=K, width=WIDTH, height=HEIGHT, threads=1)
    rng = np.random.default_rng(0)
    values, picture = rng.normal(size=(150, 3)), rng.normal(size=(HEIGHT, WIDTH, 3))
    assert np.vdot(splatting.forward(values)[0], picture) == pytest.approx(np.vdot(values, splatting.adjoint(picture)), rel=1e-4)
    # Weights of one Gaussian, asked for one at a time, against the squared sums.
    one = np.zeros((150, 1))
    one[11] = 1.0
    weights = splatting.forward(one)[0]
    squares = splatting.adjoint(np.ones((HEIGHT, WIDTH, 1)), squared=True)
    assert squares[11, 0] == pytest.approx(float((weights.astype(np.float64) ** 2).sum()), rel=1e-4, abs=1e-9)


def test_threads_do_not_change_the_picture():
    view, K = camera()
    arguments = dict(scene(400, 12), viewmat=view, K=K, width=WIDTH, height=HEIGHT)
    np.testing.assert_array_equal(render(**arguments, threads=1).colors, render(**arguments, threads=2).colors)


@pytest.mark.parametrize("change, word", [
    ({"quats": np.zeros((3, 3))}, "quats"), ({"opacities": np.zeros((3, 1))}, "opacities"), ({"sh": np.zeros((3, 2, 3))}, "sh"),
    ({"composite": "layered"}, "branch"), ({"composite": "additive"}, "additive"), ({"width": 0}, "pixel"),
])
def test_arrays_that_do_not_fit_are_named(change, word):
    view, K = camera()
    arguments = dict(scene(3, 0), viewmat=view, K=K, width=WIDTH, height=HEIGHT) | change
    with pytest.raises(UserError, match=word):
        render(**arguments)
