"""Drawing splats off screen: into arrays for the render engine, onto a viewport for the draw handler."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

import gpu
import numpy as np
from numpy.typing import NDArray

from . import shader
from .batch import SplatBatch, View
from .median import median_places
from .meshes import Meshes
from .offscreen import drawn, full_screen, read, state
from .splats import Splats

EMPTY_DEPTH = 1e10
"""Depth where there is no splat: what Blender's own engines write for the background."""

TILE = 2048
"""Images are drawn in parts of at most this many pixels a side: bounds GPU memory at any resolution."""

USUAL_PASSES = ("Combined", "Depth", "Uncertainty", "Aleatoric", "Epistemic")
PASSES = (*USUAL_PASSES, "DepthMedian", "EmotionWeight", "SplatAlpha", "Avatar", "Coverage")
"""What `render_image` can make; it says what each is."""

Display = Literal["color", "branch", "object", "depth", "uncertainty", "aleatoric", "epistemic",
                  "share_audio", "share_exp", "share_style", "share_emotion"]
Target = Literal["display", "scene_linear", "overlay"]

_TARGETS: tuple[Target, ...] = ("display", "scene_linear", "overlay")
# In the order of `source` in the shader that resolves.
_SOURCES: tuple[Display, ...] = ("color", "branch", "object", "depth", "uncertainty", "aleatoric", "epistemic",
                                 "share_audio", "share_exp", "share_style", "share_emotion")


def accumulate(batch: SplatBatch, view: View, quantity: str = "color", depth: gpu.types.GPUTexture | None = None,
               first_avatar: int = 0) -> gpu.types.GPUTexture:
    """Blend the batch's splats off screen, back to front, in float32.

    depth: depth texture of the drawn part (of meshes); splats whose centre lies behind it are hidden. first_avatar: see
    `SplatBatch.draw`. Returns an RGBA32F texture of the drawn part's size: (value * alpha, alpha), premultiplied.
    """
    return drawn(*view.drawn[2:], lambda: batch.draw(view, quantity, first_avatar), "ALPHA_PREMULT", depth)


def resolve(accumulated: gpu.types.GPUTexture, target: Target, display: Display = "color",
            corner: tuple[int, int] = (0, 0), value_range: tuple[float, float] = (0.0, 1.0),
            from_rec709: NDArray[np.float64] | None = None) -> None:
    """Draw a sum from `accumulate` over the active framebuffer, premultiplied; the caller sets blending.

    corner: where the viewport's lower left pixel lies in the framebuffer. value_range: ends of the colour ramp on which
    depth and uncertainties are shown. from_rec709: [3,3] from linear Rec.709 to the scene's working space.
    """
    program = shader.resolve_shader()
    rows = np.eye(3) if from_rec709 is None else np.asarray(from_rec709, dtype=np.float64)
    shader.bind(program)
    program.uniform_float("area", (*corner, *value_range))
    for name, row in zip(("to_red", "to_green", "to_blue"), rows):
        program.uniform_float(name, (*row, 0.0))
    program.uniform_int("source", _SOURCES.index(display))
    program.uniform_int("target", _TARGETS.index(target))
    program.uniform_sampler("accumulated", accumulated)
    full_screen(program)


def quantity_of(display: Display) -> str:
    """What the splat shader has to sum up for something to be displayed."""
    return display if display in shader.QUANTITIES else "data"


def draw_view(batch: SplatBatch, view: View, target: Target, display: Display = "color",
              value_range: tuple[float, float] = (0.0, 1.0), from_rec709: NDArray[np.float64] | None = None,
              hidden_by: Meshes | Literal["framebuffer"] | None = "framebuffer") -> None:
    """Draw the batch's splats into the active viewport, over what is there.

    view: the region's matrices; width and height are those of the region. target: `overlay` from a POST_VIEW draw handler,
    `scene_linear` from `RenderEngine.view_draw`, `display` for a plain framebuffer that is shown as it is.
    hidden_by: what hides splats behind it: meshes, the depth that the active framebuffer holds, or nothing. Framebuffer and
    state are as before on return.
    """
    x, y, _, _ = gpu.state.viewport_get()
    px, py, width, height = view.drawn
    in_buffer = hidden_by == "framebuffer"
    depth = _depth_of_active(x + px, y + py, width, height) if in_buffer else _depth_of(hidden_by, view)
    summed = accumulate(batch, view, quantity_of(display), depth)
    with state("ALPHA_PREMULT", "NONE"):
        resolve(summed, target, display, (x + px, y + py), value_range, from_rec709)


def render_image(splats: Sequence[Splats], view_matrix: NDArray[np.float64], projection_matrix: NDArray[np.float64],
                 width: int, height: int, part: tuple[int, int, int, int] | None = None,
                 passes: Sequence[str] = USUAL_PASSES, target: Target = "display",
                 from_rec709: NDArray[np.float64] | None = None, batch: SplatBatch | None = None,
                 tile: int = TILE, meshes: Meshes | None = None, shift: tuple[float, float] = (0.0, 0.0)) -> dict[str, NDArray[np.float32]]:
    """Draw avatars off screen and read the passes back. Needs a GPU context (inside `RenderEngine.render`, or `gpu.init`).

    view_matrix, projection_matrix, width, height, part: as in `View`. passes: which of `PASSES` to make. target: `display` leaves
    Combined in the display-referred sRGB the avatars were trained in, `scene_linear` converts the finished picture.
    batch: GPU data to use again; None makes and frees its own. tile: largest side drawn at once, px. meshes: what hides
    splats, pixel by pixel, where their centres lie behind it; shift: see `Meshes.depth`.

    Returns float32 arrays [h,w,C] of the part, row 0 at the bottom as Blender has it. With w the weight of a splat in a pixel
    (its alpha times the light that those before it let through), depths along the view axis in world units, positive in front:
    Combined (C=4): premultiplied colour and alpha. SplatAlpha (C=1): sum(w).
    Depth (C=1): the expected one, sum(w depth) / sum(w). DepthMedian (C=1): that of the median splat, the first from the front by
    which sum(w) reaches half of the pixel's. Both have a value wherever alpha is not 0, and `EMPTY_DEPTH` where it is.
    Uncertainty, Aleatoric, Epistemic (C=1): expected values sum(w u) / sum(w), 0 where alpha is 0; Uncertainty is the sum of
    the other two. EmotionWeight (C=1): expected share of the emotion view in the motion, in the same way.
    Avatar (C=1): the number in `splats` of the avatar that the median splat is of, -1 where alpha is 0.
    Coverage (C=len(splats)): of sum(w), what each avatar's splats are.
    """
    own = batch is None
    batch = batch or SplatBatch()
    batch.update(splats)
    x0, y0, w, h = part or (0, 0, width, height)
    side = min(tile, gpu.capabilities.max_texture_size_get())
    found: dict[str, NDArray[np.float32]] = {}
    try:
        for y in range(0, h, side):
            for x in range(0, w, side):
                tw, th = min(side, w - x), min(side, h - y)
                view = View(view_matrix, projection_matrix, width, height, (x0 + x, y0 + y, tw, th))
                depth = _depth_of(meshes, view, shift)
                for name, values in _passes(batch, view, len(splats), passes, target, from_rec709, depth).items():
                    whole = found.setdefault(name, np.empty((h, w, values.shape[2]), dtype=np.float32))
                    whole[y:y + th, x:x + tw] = values
    finally:
        if own:
            batch.free()
    return found


def _passes(batch: SplatBatch, view: View, avatars: int, passes: Sequence[str], target: Target,
            from_rec709: NDArray[np.float64] | None, depth: gpu.types.GPUTexture | None) -> dict[str, NDArray[np.float32]]:
    """The passes [h,w,C] of a view's drawn part."""
    wanted = set(passes)
    found: dict[str, NDArray[np.float32]] = {}
    if "Combined" in wanted:
        summed = accumulate(batch, view, depth=depth)
        if target != "display":
            plain = summed
            summed = drawn(*view.drawn[2:], lambda: resolve(plain, target, from_rec709=from_rec709))
        found["Combined"] = read(summed)
    if wanted & {"Depth", "Uncertainty", "Aleatoric", "Epistemic", "SplatAlpha", "DepthMedian", "Avatar"}:
        summed = accumulate(batch, view, "data", depth)
        data = read(summed)
        expected, alpha = _expected(data), data[..., 3:]
        found |= {"SplatAlpha": alpha, "Aleatoric": expected[..., 1:2], "Epistemic": expected[..., 2:3]}
        found["Depth"] = np.where(alpha > 0.0, expected[..., 0:1], np.float32(EMPTY_DEPTH))
        found["Uncertainty"] = expected[..., 1:2] + expected[..., 2:3]
        if wanted & {"DepthMedian", "Avatar"}:
            found |= _median(batch, view, summed, alpha, depth)
    if "EmotionWeight" in wanted:
        found["EmotionWeight"] = _expected(read(accumulate(batch, view, "share_emotion", depth)))[..., :1]
    if "Coverage" in wanted:
        _, _, width, height = view.drawn
        found["Coverage"] = np.zeros((height, width, avatars), dtype=np.float32)
        for first in range(0, avatars, 3):
            three = found["Coverage"][..., first:first + 3]
            three[:] = read(accumulate(batch, view, "coverage", depth, first))[..., :three.shape[2]]
    return {name: values for name, values in found.items() if name in wanted}


def _expected(data: NDArray[np.float32]) -> NDArray[np.float32]:
    alpha = data[..., 3:]
    return np.divide(data[..., :3], alpha, out=np.zeros_like(data[..., :3]), where=alpha > 0.0)


def _median(batch: SplatBatch, view: View, summed: gpu.types.GPUTexture, alpha: NDArray[np.float32],
            depth: gpu.types.GPUTexture | None) -> dict[str, NDArray[np.float32]]:
    order, seen = batch.order(view), alpha > 0.0
    if not len(order):
        return {"DepthMedian": np.full_like(alpha, EMPTY_DEPTH), "Avatar": np.full_like(alpha, -1.0)}
    places = median_places(batch, view, summed, depth)[..., None]
    return {
        "DepthMedian": np.where(seen, order.depths[places], np.float32(EMPTY_DEPTH)),
        "Avatar": np.where(seen, order.avatars[places].astype(np.float32), np.float32(-1.0)),
    }


def _depth_of(meshes: Meshes | None, view: View, shift: tuple[float, float] = (0.0, 0.0)) -> gpu.types.GPUTexture | None:
    return meshes.depth(view, shift) if meshes else None


def _depth_of_active(x: int, y: int, width: int, height: int) -> gpu.types.GPUTexture:
    """Copy of the active framebuffer's depth; Python can reach it no other way than through memory."""
    depths = gpu.types.Buffer("FLOAT", width * height)
    gpu.state.active_framebuffer_get().read_depth(x, y, width, height, data=depths)
    return gpu.types.GPUTexture((width, height), format="DEPTH_COMPONENT32F", data=depths)
