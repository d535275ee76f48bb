"""The splat shader against a plain float64 rasteriser, the sort, and what is uploaded again."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import gpu
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))

import splat_cases as cases  # noqa: E402
from ua3dtalk.addon.draw import batch as batch_module  # noqa: E402
from ua3dtalk.addon.draw import image, offscreen, shader  # noqa: E402
from ua3dtalk.addon.draw.batch import SplatBatch, View  # noqa: E402
from ua3dtalk.addon.draw.sort import argsort_float32, back_to_front, depth_keys  # noqa: E402
from ua3dtalk.addon.draw.splats import Splats  # noqa: E402

WIDTH, HEIGHT = 128, 96
LARGEST, MEAN = 2 / 255, 0.2 / 255


@pytest.fixture(scope="module", autouse=True)
def context() -> None:
    cases.gpu_context()
    yield
    shader.release()


def make(count: int = 300, coefficients: int = 16, seed: int = 1, spread: float = 1.0, **changes) -> Splats:
    return Splats(**{**cases.random_arrays(count, coefficients, seed, spread), **changes})


def close(found: np.ndarray, expected: np.ndarray) -> None:
    difference = np.abs(found.astype(np.float64) - expected)
    assert difference.max() <= LARGEST and difference.mean() <= MEAN, f"{difference.max() * 255:.3f} {difference.mean() * 255:.4f} /255"


VIEWS = {
    "perspective": (cases.look(4.0), cases.perspective(WIDTH, HEIGHT)),
    "shifted": (cases.look(3.0, -0.8), cases.perspective(WIDTH, HEIGHT, 1.0, (0.5, -0.3))),
    "wide and close": (cases.look(1.2), cases.perspective(WIDTH, HEIGHT, 0.5)),
    "parallel": (cases.look(5.0, 2.0, -0.4), cases.parallel(WIDTH, HEIGHT, 2.6)),
}
MATRICES = {
    "identity": np.eye(4),
    "moved, turned": cases.translate(0.3, -0.2, 0.1) @ cases.rotate(0, 1.0) @ cases.rotate(2, -2.0),
    "stretched": cases.rotate(1, 0.7) @ cases.scaled(0.4, 1.5, 0.9) @ cases.rotate(2, 0.5),
    "mirrored": cases.rotate(2, 0.4) @ cases.scaled(-1.0, 0.7, 1.2),
}


@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("matrix", MATRICES)
def test_equals_the_plain_rasteriser(view: str, matrix: str) -> None:
    splats = make(matrix_world=MATRICES[matrix])
    found = image.render_image([splats], *VIEWS[view], WIDTH, HEIGHT)
    expected = cases.rasterise([splats], *VIEWS[view], WIDTH, HEIGHT)
    assert expected.weight.max() > 0.9 and expected.weight.mean() > 0.1
    close(found["Combined"], expected.combined)
    # Where next to nothing is seen, an expected value is a quotient of two roundings.
    seen = expected.weight[..., 0] > 0.02
    depth = (expected.depth_sum / np.maximum(expected.weight, 1e-9))[seen]
    assert np.abs(found["Depth"][seen] - depth).max() < 0.02 * depth.max()
    assert np.abs(found["Depth"][seen] - depth).mean() < 1e-3 * depth.max()
    doubt = (expected.uncertainty_sum / np.maximum(expected.weight, 1e-9))[seen]
    for number, name in enumerate(("Aleatoric", "Epistemic")):
        assert np.abs(found[name][seen][:, 0] - doubt[:, number]).mean() < 1e-3 * doubt.max()
    assert np.allclose(found["Uncertainty"], found["Aleatoric"] + found["Epistemic"])


@pytest.mark.parametrize("pixel_size", [0.004, 0.03, 0.2])
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("matrix", ["identity", "stretched"])
def test_the_look_of_the_trained_size(view: str, matrix: str, pixel_size: float) -> None:
    splats = make(matrix_world=MATRICES[matrix], pixel_size=pixel_size)
    found = image.render_image([splats], *VIEWS[view], WIDTH, HEIGHT)["Combined"]
    close(found, cases.rasterise([splats], *VIEWS[view], WIDTH, HEIGHT).combined)
    classic = image.render_image([replace(splats, pixel_size=0.0)], *VIEWS[view], WIDTH, HEIGHT)["Combined"]
    assert np.abs(found - classic).max() > 0.05


def test_far_away_is_what_is_near_made_smaller() -> None:
    splats = make(400, 1, seed=3, scales=np.full((400, 3), 0.004, np.float32), pixel_size=0.01)
    view, projection = cases.look(4.0), cases.perspective(WIDTH, HEIGHT)
    large = image.render_image([splats], view, projection, 6 * WIDTH, 6 * HEIGHT)["Combined"].astype(np.float64)
    wanted = large.reshape(HEIGHT, 6, WIDTH, 6, 4).mean((1, 3))
    errors = []
    for size in (0.01, 0.0):
        small = image.render_image([replace(splats, pixel_size=size)], view, projection, WIDTH, HEIGHT)["Combined"]
        errors.append(float(np.square(small - wanted).mean()))
    assert errors[0] < 0.1 * errors[1], errors


@pytest.mark.parametrize("coefficients", [1, 4, 9, 16])
def test_each_degree_of_harmonics(coefficients: int) -> None:
    splats = make(200, coefficients, seed=coefficients, matrix_world=MATRICES["stretched"])
    found = image.render_image([splats], *VIEWS["perspective"], WIDTH, HEIGHT, passes=["Combined"])
    assert set(found) == {"Combined"}
    close(found["Combined"], cases.rasterise([splats], *VIEWS["perspective"], WIDTH, HEIGHT).combined)


@pytest.mark.parametrize("composite", ["sorted", "layered"])
def test_composites(composite: str) -> None:
    splats = make(300, 4, seed=5, composite=composite)
    found = image.render_image([splats], *VIEWS["perspective"], WIDTH, HEIGHT, passes=["Combined"])
    close(found["Combined"], cases.rasterise([splats], *VIEWS["perspective"], WIDTH, HEIGHT).combined)


def test_layered_and_sorted_differ() -> None:
    pictures = [image.render_image([make(300, 4, seed=5, composite=c)], *VIEWS["perspective"], WIDTH, HEIGHT)["Combined"]
                for c in ("sorted", "layered")]
    assert np.abs(pictures[0] - pictures[1]).max() > 0.2


def test_several_avatars_are_sorted_together() -> None:
    avatars = [make(150, 16, seed=7), make(120, 1, seed=8, matrix_world=MATRICES["mirrored"]),
               make(90, 9, seed=9, uncertainty=None, matrix_world=MATRICES["moved, turned"]), make(0, 4)]
    found = image.render_image(avatars, *VIEWS["perspective"], WIDTH, HEIGHT)
    expected = cases.rasterise(avatars, *VIEWS["perspective"], WIDTH, HEIGHT)
    close(found["Combined"], expected.combined)
    seen = expected.weight[..., 0] > 0.02
    doubt = (expected.uncertainty_sum / np.maximum(expected.weight, 1e-9))[seen]
    assert np.abs(found["Epistemic"][seen][:, 0] - doubt[:, 1]).mean() < 1e-3 * doubt.max()


def test_constants_of_a_single_splat() -> None:
    """Alpha at its centre, its cut at 1/255 and its width on the picture, to float precision."""
    sigma, lens = 0.05, 1.4
    one = Splats(means=np.zeros((1, 3), np.float32), quats=np.float32([[1, 0, 0, 0]]), scales=np.full((1, 3), sigma, np.float32),
                 opacities=np.ones(1, np.float32), sh=np.ones((1, 1, 3), np.float32), branch=np.zeros(1, np.uint8))
    view = cases.translate(0, 0, -4.0), cases.perspective(WIDTH + 1, HEIGHT + 1, lens)
    alpha = image.render_image([one], *view, WIDTH + 1, HEIGHT + 1, passes=["Combined"])["Combined"][..., 3]
    middle = alpha[HEIGHT // 2].astype(np.float64)
    assert middle.max() == pytest.approx(0.999, abs=1e-6) == middle[WIDTH // 2]
    variance = (sigma * lens * (WIDTH + 1) / 4.0) ** 2 + 0.3
    distance = np.arange(WIDTH + 1) - WIDTH // 2
    expected = np.exp(-0.5 * distance**2 / variance)
    expected[expected < 1 / 255] = 0.0
    assert np.abs(middle - np.minimum(expected, 0.999)).max() < 1e-5
    assert (middle > 0).sum() == (expected > 0).sum() > 10


def test_tiles_and_parts_are_cut_from_the_same_picture() -> None:
    splats, view = [make()], VIEWS["wide and close"]
    whole = image.render_image(splats, *view, WIDTH, HEIGHT, passes=image.PASSES)
    tiled = image.render_image(splats, *view, WIDTH, HEIGHT, tile=50, passes=image.PASSES)
    part = image.render_image(splats, *view, WIDTH, HEIGHT, part=(37, 11, 60, 44), tile=41, passes=image.PASSES)
    for name in image.PASSES:
        allowed = 1e-4 * np.abs(whole[name]).max()
        # A pixel that is just half covered by a splat has one median or another.
        most = 1.0 if name != "DepthMedian" else 0.999
        assert (np.abs(whole[name] - tiled[name]) <= allowed).mean() >= most
        assert part[name].shape[:2] == (44, 60)
        assert (np.abs(whole[name][11:55, 37:97] - part[name]) <= allowed).mean() >= most


def test_nothing_to_draw_is_empty_not_broken() -> None:
    for splats in ([], [make(0)], [make(matrix_world=cases.translate(0, 0, 1000))]):
        found = image.render_image(splats, *VIEWS["perspective"], WIDTH, HEIGHT, passes=image.PASSES)
        for name in ("Combined", "Uncertainty", "EmotionWeight", "SplatAlpha", "Coverage"):
            assert found[name].shape[:2] == (HEIGHT, WIDTH) and not found[name].any()
        for name in ("Depth", "DepthMedian"):
            assert (found[name] == np.float32(image.EMPTY_DEPTH)).all()
        assert (found["Avatar"] == -1).all()


def test_odd_splats_do_no_harm() -> None:
    """NaN, infinite, degenerate and enormous splats leave the picture finite and the good splats in place."""
    arrays = cases.random_arrays(300, 4, 3)
    good = Splats(**{name: value[8:] for name, value in arrays.items()})
    arrays["means"][0], arrays["means"][1], arrays["means"][2] = np.nan, np.inf, 1e30
    arrays["quats"][3], arrays["opacities"][4], arrays["scales"][5] = 0.0, np.nan, 0.0
    arrays["opacities"][[5, 6, 7]] = 0.0
    expected = image.render_image([good], *VIEWS["perspective"], WIDTH, HEIGHT, passes=image.PASSES)
    found = image.render_image([Splats(**arrays)], *VIEWS["perspective"], WIDTH, HEIGHT, passes=image.PASSES)
    for name in image.PASSES:
        assert np.isfinite(found[name]).all() and np.abs(found[name] - expected[name]).max() < 1e-4 * np.abs(expected[name]).max()


def test_flattened_object() -> None:
    splats = make(matrix_world=cases.scaled(1.0, 0.0, 1.0))
    assert np.isfinite(image.render_image([splats], *VIEWS["perspective"], WIDTH, HEIGHT)["Combined"]).all()


def test_clip_range_and_clip_planes() -> None:
    view, _ = VIEWS["perspective"]
    splats = make()
    depth = depth_keys(splats.means, view)
    near = cases.perspective(WIDTH, HEIGHT, near=3.8, far=4.4)
    kept = (depth > 3.8) & (depth < 4.4)
    chosen = Splats(**{name: value[kept] for name, value in cases.random_arrays(300, 16, 1).items()})
    expected = cases.rasterise([chosen], view, cases.perspective(WIDTH, HEIGHT), WIDTH, HEIGHT)
    close(image.render_image([splats], view, near, WIDTH, HEIGHT)["Combined"], expected.combined)

    moved = splats.at(MATRICES["moved, turned"])
    world = splats.means @ moved.matrix_world[:3, :3].T + moved.matrix_world[:3, 3]
    kept = world[:, 0] >= 0.25
    chosen = Splats(**{name: value[kept] for name, value in cases.random_arrays(300, 16, 1).items()}, matrix_world=moved.matrix_world)
    batch = SplatBatch()
    batch.update([moved])
    planes = np.array([[1.0, 0.0, 0.0, -0.25], [0.0, 1.0, 0.0, 50.0]])
    summed = image.accumulate(batch, View(*VIEWS["perspective"], WIDTH, HEIGHT, clip_planes=planes))
    found = np.array(summed.read().to_list(), dtype=np.float32).reshape(HEIGHT, WIDTH, 4)
    close(found, cases.rasterise([chosen], *VIEWS["perspective"], WIDTH, HEIGHT).combined)


def srgb_to_linear(c: np.ndarray) -> np.ndarray:
    return np.where(c <= 0.04045, c / 12.92, ((np.maximum(c, 0) + 0.055) / 1.055) ** 2.4)


def test_scene_linear_converts_the_finished_picture() -> None:
    splats, view = [make()], VIEWS["perspective"]
    display = image.render_image(splats, *view, WIDTH, HEIGHT, passes=["Combined"])["Combined"].astype(np.float64)
    matrix = np.array([[0.6, 0.3, 0.1], [0.1, 0.9, 0.0], [0.0, 0.2, 0.8]])
    for from_rec709, expect in ((None, np.eye(3)), (matrix, matrix)):
        linear = image.render_image(splats, *view, WIDTH, HEIGHT, passes=["Combined"], target="scene_linear", from_rec709=from_rec709)["Combined"]
        alpha = display[..., 3:]
        straight = np.divide(display[..., :3], alpha, out=np.zeros_like(display[..., :3]), where=alpha > 0)
        assert np.abs(linear[..., :3] - (srgb_to_linear(straight) @ expect.T) * alpha).max() < 1e-4
        assert np.array_equal(linear[..., 3:], display[..., 3:].astype(np.float32))


def draw_over(clear: tuple[float, ...], depth: np.ndarray | None, draw: Callable[[], None], format: str = "RGBA32F") -> np.ndarray:
    """Call draw() in a framebuffer of its own, as a region would be drawn, and read the colours."""
    color = gpu.types.GPUTexture((WIDTH, HEIGHT), format=format)
    data = gpu.types.Buffer("FLOAT", WIDTH * HEIGHT, np.ones(WIDTH * HEIGHT, np.float32) if depth is None else depth.astype(np.float32).ravel())
    # Held here: a framebuffer does not keep its textures alive.
    depths = gpu.types.GPUTexture((WIDTH, HEIGHT), format="DEPTH_COMPONENT32F", data=data)
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,), depth_slot=depths)
    with buffer.bind():
        buffer.clear(color=clear)
        gpu.state.blend_set("NONE")
        before = gpu.state.blend_get(), gpu.state.depth_test_get(), gpu.state.depth_mask_get(), tuple(gpu.state.viewport_get())
        draw()
        assert (gpu.state.blend_get(), gpu.state.depth_test_get(), gpu.state.depth_mask_get(), tuple(gpu.state.viewport_get())) == before
        pixels = gpu.types.Buffer("FLOAT", WIDTH * HEIGHT * 4)
        buffer.read_color(0, 0, WIDTH, HEIGHT, 4, 0, "FLOAT", data=pixels)
    return np.frombuffer(pixels, dtype=np.float32).reshape(HEIGHT, WIDTH, 4).copy()


def test_viewport_draws_over_what_is_there_and_behind_meshes() -> None:
    view, projection = VIEWS["perspective"]
    splats = make()
    batch = SplatBatch()
    batch.update([splats])
    whole = View(view, projection, WIDTH, HEIGHT)
    expected = cases.rasterise([splats], view, projection, WIDTH, HEIGHT).combined
    found = draw_over((0.2, 0.4, 0.6, 1.0), None, lambda: image.draw_view(batch, whole, "display"))
    close(found[..., :3], expected[..., :3] + (1 - expected[..., 3:]) * [0.2, 0.4, 0.6])

    # A wall at depth 4 over the left half: there, only splats before it are seen.
    wall = np.ones((HEIGHT, WIDTH))
    clip = projection @ [0, 0, -4.0, 1]
    wall[:, : WIDTH // 2] = clip[2] / clip[3] * 0.5 + 0.5
    found = draw_over((0, 0, 0, 0), wall, lambda: image.draw_view(batch, whole, "display"))
    before = depth_keys(splats.means, view) < 4.0
    front = Splats(**{name: value[before] for name, value in cases.random_arrays(300, 16, 1).items()})
    expected[:, : WIDTH // 2] = cases.rasterise([front], view, projection, WIDTH, HEIGHT).combined[:, : WIDTH // 2]
    close(found, expected)


def test_overlay_colours_come_out_as_trained() -> None:
    """Blender merges the sRGB overlay with the picture by a power of 2.2: what is seen then are the trained colours."""
    splats = make(400, 1, spread=0.3, opacities=np.full(400, 0.99, np.float32))
    batch = SplatBatch()
    batch.update([splats])
    view = VIEWS["perspective"]
    display = image.render_image([splats], *view, WIDTH, HEIGHT)["Combined"]
    overlay = draw_over((0, 0, 0, 0), None, lambda: image.draw_view(batch, View(*view, WIDTH, HEIGHT), "overlay"))
    solid = display[..., 3] > 0.98
    assert solid.sum() > 500
    seen = np.maximum(overlay[..., :3], 0) ** (1 / 2.2)
    trained = np.clip(display[..., :3] / np.maximum(display[..., 3:], 1e-6), 0, 1) * display[..., 3:] ** (1 / 2.2)
    assert np.abs(seen - trained)[solid].max() < 1e-3


@pytest.mark.parametrize("composite", ["sorted", "layered"])
def test_median_is_a_splat_and_has_no_holes(composite: str) -> None:
    """In blending order, so that a layered avatar's mouth is behind its face whatever its depth."""
    splats = make(300, 1, seed=12, composite=composite)
    found = image.render_image([splats], *VIEWS["perspective"], WIDTH, HEIGHT, passes=["DepthMedian", "SplatAlpha", "Depth"])
    expected = cases.rasterise([splats], *VIEWS["perspective"], WIDTH, HEIGHT)
    seen = found["SplatAlpha"] > 0
    assert seen.any() and not seen.all()
    assert ((found["DepthMedian"] < 100) == seen).all() and ((found["Depth"] < 100) == seen).all(), "wherever alpha is not 0"
    difference = np.abs(found["DepthMedian"] - expected.median_depth)[seen & (expected.weight > 0)]
    # A rounding decides between two splats where one of them reaches just half.
    assert (difference < 1e-5).mean() > 0.998
    assert np.isin(found["DepthMedian"][seen], depth_keys(splats.means, VIEWS["perspective"][0])).all(), "of a splat, never between two"
    assert np.abs(found["Depth"] - found["DepthMedian"])[seen].max() > 0.1


def test_what_belongs_to_which_avatar() -> None:
    avatars = [make(150, 1, seed=7, shares=None), make(0, 1), make(120, 1, seed=8, matrix_world=MATRICES["mirrored"]), make(40, 1, seed=9),
               make(60, 1, seed=10, matrix_world=MATRICES["moved, turned"])]
    found = image.render_image(avatars, *VIEWS["perspective"], WIDTH, HEIGHT, passes=["Coverage", "Avatar", "SplatAlpha", "EmotionWeight"])
    expected = cases.rasterise(avatars, *VIEWS["perspective"], WIDTH, HEIGHT)
    assert found["Coverage"].shape == (HEIGHT, WIDTH, 5) and found["Coverage"].max(axis=(0, 1))[[0, 2, 3, 4]].min() > 0.5
    close(found["Coverage"], expected.coverage)
    close(found["Coverage"].sum(axis=2, keepdims=True), found["SplatAlpha"])
    seen = found["SplatAlpha"] > 0
    assert (found["Avatar"][~seen] == -1).all() and not found["Coverage"][..., 1].any()
    assert (found["Avatar"] == expected.median_avatar)[seen].mean() > 0.998
    seen = expected.weight > 0.02
    share = expected.shares_sum[..., 3:] / np.maximum(expected.weight, 1e-9)
    assert np.abs(found["EmotionWeight"] - share)[seen].mean() < 1e-3 and share[seen].std() > 0.05


def test_shares_go_to_the_gpu_only_where_they_are_shown() -> None:
    splats, view = make(), View(*VIEWS["perspective"], WIDTH, HEIGHT)
    batch = SplatBatch()
    batch.update([splats])
    image.accumulate(batch, view)
    assert batch.uploads["shares"] == 0
    expected = cases.rasterise([splats], *VIEWS["perspective"], WIDTH, HEIGHT)
    for number, name in enumerate(shader.SHARES):
        summed = image.accumulate(batch, view, name)
        found = np.array(summed.read().to_list(), dtype=np.float32).reshape(HEIGHT, WIDTH, 4)
        close(found[..., 0], expected.shares_sum[..., number])
    assert batch.uploads["shares"] == 1
    batch.update([replace(splats, shares=splats.shares[:, ::-1].copy())])
    image.accumulate(batch, view, "share_audio")
    assert batch.uploads == {"static": 1, "motion": 1, "shares": 2, "order": 1}


def test_a_new_shader_is_drawn_with_its_own_program() -> None:
    """Blender takes a shader at the address of the one bound last for that one, also where it was freed since."""
    def square(color: str) -> gpu.types.GPUShader:
        info = gpu.types.GPUShaderCreateInfo()
        info.vertex_in(0, "VEC2", "pos")
        info.fragment_out(0, "VEC4", "result")
        info.vertex_source("void main() { gl_Position = vec4(pos, 0.0, 1.0); }")
        info.fragment_source("void main() { result = vec4(%s); }" % color)
        return gpu.shader.create_from_info(info)

    def drawn(program: gpu.types.GPUShader) -> list[float]:
        def draw() -> None:
            shader.bind(program)
            offscreen.full_screen(program)
        return offscreen.read(offscreen.drawn(4, 4, draw))[0, 0].tolist()

    made = {}
    cases.in_render(lambda: drawn(square("1.0, 1.0, 0.0, 1.0")))
    for _ in range(25):  # the old one is made in a render, which has a context of its own
        cases.in_render(lambda: made.update(old=square("1.0, 0.0, 0.0, 1.0")))
        assert drawn(made["old"]) == [1, 0, 0, 1]
        made.clear()
        made["new"] = square("0.0, 1.0, 0.0, 1.0")
        assert drawn(made["new"]) == [0, 1, 0, 1]
        made.clear()


@pytest.mark.parametrize("display", ["branch", "object", "depth", "uncertainty", "aleatoric", "epistemic", *shader.SHARES])
def test_other_quantities_as_colours(display: str) -> None:
    batch = SplatBatch()
    batch.update([make(300, 1), make(100, 1, seed=4)])
    view = View(*VIEWS["perspective"], WIDTH, HEIGHT)
    span = {"depth": (3.0, 5.0)}.get(display, (0.0, 1.0) if display in shader.SHARES else (0.0, 0.02))
    found = draw_over((0, 0, 0, 0), None, lambda: image.draw_view(batch, view, "display", display, span))
    assert found[..., 3].max() > 0.9 and np.isfinite(found).all()
    solid = found[found[..., 3] > 0.9][:, :3]
    assert solid.std(axis=0).max() > 0.02, "one colour everywhere shows nothing"


def test_unchanged_data_stay_on_the_gpu() -> None:
    splats, view = make(), VIEWS["perspective"]
    batch = SplatBatch()
    for _ in range(3):
        first = image.render_image([splats.at(np.eye(4))], *view, WIDTH, HEIGHT, batch=batch)
    assert batch.uploads == {"static": 1, "motion": 1, "shares": 0, "order": 1}
    other = VIEWS["shifted"]
    for v in (other, view, other):
        image.render_image([splats], *v, WIDTH, HEIGHT, batch=batch)
    assert batch.uploads == {"static": 1, "motion": 1, "shares": 0, "order": 2}, "a second view is sorted once"
    moved = replace(splats, means=splats.means + np.float32(0.2))
    second = image.render_image([moved], *view, WIDTH, HEIGHT, batch=batch)
    assert batch.uploads == {"static": 1, "motion": 2, "shares": 0, "order": 3}
    close(second["Combined"], cases.rasterise([moved], *view, WIDTH, HEIGHT).combined)
    assert np.abs(first["Combined"] - second["Combined"]).max() > 0.1
    back = image.render_image([splats, make(50, 4, seed=3)], *view, WIDTH, HEIGHT, batch=batch)
    assert batch.uploads["static"] == 2
    close(back["Combined"], cases.rasterise([splats, make(50, 4, seed=3)], *view, WIDTH, HEIGHT).combined)


def test_sort_orders_any_float() -> None:
    rng = np.random.default_rng(0)
    keys = np.concatenate([rng.normal(size=5000) * 10.0 ** rng.integers(-30, 30, 5000), [0.0, -0.0, np.inf, -np.inf]]).astype(np.float32)
    order = argsort_float32(keys)
    assert sorted(order) == list(range(len(keys)))
    assert (np.diff(keys[order]) >= 0).sum() == len(keys) - 1
    ties = np.repeat(np.float32([2, 1]), 50)
    assert list(argsort_float32(ties)) == [*range(50, 100), *range(50)]


def test_layers_of_one_avatar_do_not_swallow_another() -> None:
    """Mouth splats lie just behind their own face, still before an avatar that stands behind the whole head."""
    depths = [np.float32([1.0, 1.2, 1.1]), np.float32([0.5, 2.0]), np.float32([1.15])]
    branches = [np.uint8([0, 0, 1]), np.uint8([0, 0]), np.uint8([1])]
    order = list(back_to_front(depths, branches, [True, False, False]))
    assert order == [4, 2, 1, 5, 0, 3]
    assert list(back_to_front(depths, branches, [False] * 3)) == [4, 1, 5, 2, 0, 3]
    hidden = np.array([True, False, True, True, True, True])
    assert list(back_to_front(depths, branches, [True, False, False], hidden)) == [4, 5, 2, 0, 3]
    assert len(back_to_front([], [], [])) == 0


def test_shapes_are_checked() -> None:
    arrays = cases.random_arrays(10, 4, 0)
    for wrong in ({"quats": arrays["quats"][:, :3]}, {"sh": arrays["sh"][:, :2]}, {"uncertainty": arrays["scales"]},
                  {"composite": "mixed"}, {"matrix_world": np.eye(3)}, {"opacities": arrays["opacities"][:4]}):
        with pytest.raises(ValueError, match="splats: "):
            Splats(**{**arrays, **wrong})


def test_too_many_splats_is_one_clear_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(batch_module, "MAX_SPLATS", 100)
    with pytest.raises(ValueError, match="too many splats in one view: 300, at most 100"):
        SplatBatch().update([make()])


def test_speed_is_reported(measured: Callable[[str], None]) -> None:
    for count in (10_000, 50_000):
        arrays = cases.random_arrays(count, 16, 2, spread=0.5)
        arrays["scales"] *= np.float32(0.1)
        splats, view = Splats(**arrays), (cases.look(2.0), cases.perspective(512, 512))
        batch = SplatBatch()
        image.render_image([splats], *view, 512, 512, passes=["Combined"], batch=batch)
        start = time.perf_counter()
        picture = image.render_image([splats], *view, 512, 512, passes=["Combined"], batch=batch)["Combined"]
        drawn = time.perf_counter()
        back_to_front([depth_keys(splats.means, view[0])], [splats.branch], [True])
        done = time.perf_counter()
        assert picture[..., 3].max() > 0.5
        measured(f"{count} splats at 512^2 on {gpu.platform.renderer_get()}: {(drawn - start) * 1e3:.0f} ms, sort (layered) {(done - drawn) * 1e3:.1f} ms")
