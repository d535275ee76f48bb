"""Each pixel's median splat: the first one from the front by which half of the pixel's alpha is reached.

Blending goes back to front and cannot know it. But splats that are behind take no light from those before them: the alpha of the
splats from any place of the draw order to its front end is what these add to the pixel. So the place is searched for, in
all pixels at once, each step drawing the sums for four places between the bounds that the last one left.
"""

from __future__ import annotations

import gpu
import numpy as np
from numpy.typing import NDArray

from . import shader
from .batch import SplatBatch, View
from .offscreen import drawn, full_screen, read


def median_places(batch: SplatBatch, view: View, accumulated: gpu.types.GPUTexture,
                  depth: gpu.types.GPUTexture | None = None) -> NDArray[np.intp]:
    """Places [h,w] of the median splats in `batch.order(view)`, row 0 at the bottom; without meaning where alpha is 0.

    accumulated, depth: the same view's sum of `image.accumulate`, and the depth texture it was made with.
    """
    _, _, width, height = view.drawn
    left = len(batch.order(view))
    bounds = _bounds(width, height, left)
    while left > 1:
        summed = drawn(width, height, lambda: batch.draw_search(view, bounds), "ADDITIVE_PREMULT", depth)
        bounds = drawn(width, height, lambda: _narrow(bounds, summed, accumulated))
        left = -(-left // shader.SEARCH_WAYS)
    return read(bounds)[..., 0].astype(np.intp)


def _bounds(width: int, height: int, count: int) -> gpu.types.GPUTexture:
    everywhere = np.zeros((height, width, 4), dtype=np.float32)
    everywhere[..., 1] = count
    data = gpu.types.Buffer("FLOAT", everywhere.size, everywhere.ravel())
    return gpu.types.GPUTexture((width, height), format="RGBA32F", data=data)


def _narrow(bounds: gpu.types.GPUTexture, summed: gpu.types.GPUTexture, accumulated: gpu.types.GPUTexture) -> None:
    program = shader.narrow_shader()
    shader.bind(program)
    program.uniform_sampler("bounds", bounds)
    program.uniform_sampler("summed", summed)
    program.uniform_sampler("accumulated", accumulated)
    full_screen(program)
