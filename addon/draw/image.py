"""Drawing splats off screen: into arrays for the render engine, onto a viewport for the draw handler."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Literal

import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader
from numpy.typing import NDArray

from . import shader
from .batch import SplatBatch, View
from .splats import Splats

EMPTY_DEPTH = 1e10
"""Depth where there is no splat: what Blender's own engines write for the background."""

TILE = 2048
"""Images are drawn in parts of at most this many pixels a side: bounds GPU memory at any resolution."""

PASSES = ("Combined", "Depth", "Uncertainty", "Aleatoric", "Epistemic")

Display = Literal["color", "branch", "object", "depth", "uncertainty", "aleatoric", "epistemic"]
Target = Literal["display", "scene_linear", "overlay"]

_TARGETS: tuple[Target, ...] = ("display", "scene_linear", "overlay")
_SOURCES: tuple[Display, ...] = ("color", "branch", "object", "depth", "uncertainty", "aleatoric", "epistemic")


def accumulate(batch: SplatBatch, view: View, quantity: str = "color",
               depth: gpu.types.GPUTexture | None = None) -> gpu.types.GPUTexture:
    """Blend the batch's splats off screen, back to front, in float32.

    depth: depth texture of the drawn part (of a viewport's meshes); splats whose centre lies behind it are hidden.
    Returns an RGBA32F texture of the drawn part's size: (value * alpha, alpha), premultiplied, see `SplatBatch.draw`.
    """
    _, _, width, height = view.drawn
    color = gpu.types.GPUTexture((width, height), format="RGBA32F")
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,), depth_slot=depth)
    with buffer.bind(), _state("ALPHA_PREMULT", "LESS_EQUAL" if depth else "NONE"):
        buffer.clear(color=(0.0, 0.0, 0.0, 0.0))
        batch.draw(view, quantity)
    return color


def resolve(accumulated: gpu.types.GPUTexture, target: Target, display: Display = "color",
            corner: tuple[int, int] = (0, 0), value_range: tuple[float, float] = (0.0, 1.0),
            from_rec709: NDArray[np.float64] | None = None) -> None:
    """Draw a sum from `accumulate` over the active framebuffer, premultiplied; the caller sets blending.

    corner: where the viewport's lower left pixel lies in the framebuffer. value_range: ends of the colour ramp on which
    depth and uncertainties are shown. from_rec709: [3,3] from linear Rec.709 to the scene's working space.
    """
    program = shader.resolve_shader()
    rows = np.eye(3) if from_rec709 is None else np.asarray(from_rec709, dtype=np.float64)
    screen = batch_for_shader(program, "TRIS", {"pos": ((-1.0, -1.0), (3.0, -1.0), (-1.0, 3.0))})
    program.bind()
    program.uniform_float("area", (*corner, *value_range))
    for name, row in zip(("to_red", "to_green", "to_blue"), rows):
        program.uniform_float(name, (*row, 0.0))
    # The first three are colours as they are summed up; the rest pick from (depth, aleatoric, epistemic).
    program.uniform_int("source", _SOURCES.index(display))
    program.uniform_int("target", _TARGETS.index(target))
    program.uniform_sampler("accumulated", accumulated)
    screen.draw(program)


def quantity_of(display: Display) -> str:
    """What the splat shader has to sum up for something to be displayed."""
    return display if display in ("color", "branch", "object") else "data"


def draw_view(batch: SplatBatch, view: View, target: Target, display: Display = "color",
              value_range: tuple[float, float] = (0.0, 1.0), from_rec709: NDArray[np.float64] | None = None,
              hide_behind_meshes: bool = True) -> None:
    """Draw the batch's splats into the active viewport, over what is there.

    view: the region's matrices; width and height are those of the region. target: `overlay` from a POST_VIEW draw handler,
    `scene_linear` from `RenderEngine.view_draw`, `display` for a plain framebuffer that is shown as it is.
    hide_behind_meshes: test against the depth that the active framebuffer holds. Framebuffer and state are as before on return.
    """
    x, y, _, _ = gpu.state.viewport_get()
    px, py, width, height = view.drawn
    depth = _depth_of_active(x + px, y + py, width, height) if hide_behind_meshes else None
    summed = accumulate(batch, view, quantity_of(display), depth)
    with _state("ALPHA_PREMULT", "NONE"):
        resolve(summed, target, display, (x + px, y + py), value_range, from_rec709)


def render_image(splats: Sequence[Splats], view_matrix: NDArray[np.float64], projection_matrix: NDArray[np.float64],
                 width: int, height: int, part: tuple[int, int, int, int] | None = None,
                 passes: Sequence[str] = PASSES, target: Target = "display",
                 from_rec709: NDArray[np.float64] | None = None, batch: SplatBatch | None = None,
                 tile: int = TILE) -> dict[str, NDArray[np.float32]]:
    """Draw avatars off screen and read the passes back. Needs a GPU context (inside `RenderEngine.render`, or `gpu.init`).

    view_matrix, projection_matrix, width, height, part: as in `View`. passes: which of `PASSES` to make. target: `display` leaves
    Combined in the display-referred sRGB the avatars were trained in, `scene_linear` converts the finished picture.
    batch: GPU data to use again; None makes and frees its own. tile: largest side drawn at once, px.

    Returns float32 arrays [h,w,C] of the part, row 0 at the bottom as Blender has it:
    Combined (C=4) premultiplied colour and alpha; Depth (C=1) expected depth sum(w z) / sum(w) along the view axis in
    world units, positive in front, `EMPTY_DEPTH` where alpha is 0; Uncertainty, Aleatoric, Epistemic (C=1) expected
    values sum(w u) / sum(w), 0 where alpha is 0; Uncertainty is the sum of the other two.
    """
    own = batch is None
    batch = batch or SplatBatch()
    batch.update(splats)
    x0, y0, w, h = part or (0, 0, width, height)
    side = min(tile, gpu.capabilities.max_texture_size_get())
    combined = np.zeros((h, w, 4), dtype=np.float32) if "Combined" in passes else None
    data = np.zeros((h, w, 4), dtype=np.float32) if set(passes) - {"Combined"} else None
    try:
        for y in range(0, h, side):
            for x in range(0, w, side):
                tw, th = min(side, w - x), min(side, h - y)
                view = View(view_matrix, projection_matrix, width, height, (x0 + x, y0 + y, tw, th))
                if combined is not None:
                    combined[y:y + th, x:x + tw] = _picture(accumulate(batch, view), target, from_rec709, tw, th)
                if data is not None:
                    data[y:y + th, x:x + tw] = _read(accumulate(batch, view, "data"), tw, th)
    finally:
        if own:
            batch.free()
    found = {} if combined is None else {"Combined": combined}
    return found | (_expected(data, passes) if data is not None else {})


def _picture(summed: gpu.types.GPUTexture, target: Target, from_rec709: NDArray[np.float64] | None,
             width: int, height: int) -> NDArray[np.float32]:
    if target == "display":
        return _read(summed, width, height)
    color = gpu.types.GPUTexture((width, height), format="RGBA32F")
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,))
    with buffer.bind(), _state("NONE", "NONE"):
        resolve(summed, target, from_rec709=from_rec709)
    return _read(color, width, height)


def _read(color: gpu.types.GPUTexture, width: int, height: int) -> NDArray[np.float32]:
    pixels = gpu.types.Buffer("FLOAT", width * height * 4)
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,))
    with buffer.bind():
        buffer.read_color(0, 0, width, height, 4, 0, "FLOAT", data=pixels)
    return np.frombuffer(pixels, dtype=np.float32).reshape(height, width, 4).copy()


def _expected(data: NDArray[np.float32], passes: Sequence[str]) -> dict[str, NDArray[np.float32]]:
    alpha = data[..., 3:]
    seen = alpha > 0.0
    values = np.divide(data[..., :3], alpha, out=np.zeros_like(data[..., :3]), where=seen)
    found = {
        "Depth": np.where(seen, values[..., 0:1], np.float32(EMPTY_DEPTH)),
        "Uncertainty": values[..., 1:2] + values[..., 2:3],
        "Aleatoric": values[..., 1:2],
        "Epistemic": values[..., 2:3],
    }
    return {name: np.ascontiguousarray(value) for name, value in found.items() if name in passes}


def _depth_of_active(x: int, y: int, width: int, height: int) -> gpu.types.GPUTexture:
    """Copy of the active framebuffer's depth; Python can reach it no other way than through memory."""
    depths = gpu.types.Buffer("FLOAT", width * height)
    gpu.state.active_framebuffer_get().read_depth(x, y, width, height, data=depths)
    return gpu.types.GPUTexture((width, height), format="DEPTH_COMPONENT32F", data=depths)


@contextmanager
def _state(blend: str, depth_test: str) -> Iterator[None]:
    """Blending and depth testing for a draw; put back afterwards, also after an error."""
    old = gpu.state.blend_get(), gpu.state.depth_test_get(), gpu.state.depth_mask_get()
    gpu.state.blend_set(blend)
    gpu.state.depth_test_set(depth_test)
    gpu.state.depth_mask_set(False)
    gpu.state.face_culling_set("NONE")
    try:
        yield
    finally:
        gpu.state.blend_set(old[0])
        gpu.state.depth_test_set(old[1])
        gpu.state.depth_mask_set(old[2])
