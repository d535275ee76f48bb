"""Textures that are drawn into off screen, full-screen passes, and the state of the GPU around them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import gpu
import numpy as np
from gpu_extras.batch import batch_for_shader
from numpy.typing import NDArray


def drawn(width: int, height: int, draw: Callable[[], None], blend: str = "NONE",
          depth: gpu.types.GPUTexture | None = None) -> gpu.types.GPUTexture:
    """A new RGBA32F texture, cleared to zero, and draw() called with it as the active framebuffer.

    blend: as for `gpu.state.blend_set`. depth: depth texture of this size that is tested against and not written.
    """
    color = gpu.types.GPUTexture((width, height), format="RGBA32F")
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,), depth_slot=depth)
    with buffer.bind(), state(blend, "LESS_EQUAL" if depth else "NONE"):
        buffer.clear(color=(0.0, 0.0, 0.0, 0.0))
        draw()
    return color


def full_screen(program: gpu.types.GPUShader) -> None:
    """Run a shader with the input `pos` over the whole viewport; its uniforms are set."""
    batch_for_shader(program, "TRIS", {"pos": ((-1.0, -1.0), (3.0, -1.0), (-1.0, 3.0))}).draw(program)


def read(color: gpu.types.GPUTexture) -> NDArray[np.float32]:
    """An RGBA32F texture's numbers [h,w,4], row 0 at the bottom."""
    width, height = color.width, color.height
    pixels = gpu.types.Buffer("FLOAT", width * height * 4)
    buffer = gpu.types.GPUFrameBuffer(color_slots=(color,))
    with buffer.bind():
        buffer.read_color(0, 0, width, height, 4, 0, "FLOAT", data=pixels)
    return np.frombuffer(pixels, dtype=np.float32).reshape(height, width, 4).copy()


@contextmanager
def state(blend: str, depth_test: str, depth_mask: bool = False) -> Iterator[None]:
    """Blending and depth testing for a draw; put back afterwards, also after an error."""
    old = gpu.state.blend_get(), gpu.state.depth_test_get(), gpu.state.depth_mask_get()
    gpu.state.blend_set(blend)
    gpu.state.depth_test_set(depth_test)
    gpu.state.depth_mask_set(depth_mask)
    gpu.state.face_culling_set("NONE")
    try:
        yield
    finally:
        gpu.state.blend_set(old[0])
        gpu.state.depth_test_set(old[1])
        gpu.state.depth_mask_set(old[2])
