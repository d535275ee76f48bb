"""Draw order of splats, back to front. numpy alone.

Splats are blended in the order of their centres' depth, as in 3DGS (Kerbl et al. 2023, section 6: sorting by view space depth).
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

MOUTH = 1
"""Number of the mouth branch in `branch` arrays (0 is the face)."""


def depth_keys(means: NDArray[np.float32], view_model: NDArray[np.floating]) -> NDArray[np.float32]:
    """Distance of each mean in front of the camera, along the view axis.

    means: [N,3] in object space. view_model: [4,4], object space to camera space (camera looks along -Z).
    Returns [N] float32, positive in front of the camera, in the units of the camera space.
    """
    # Rounded once each, the matrix and the sum, as the engine's rasteriser does: near ties then fall the same way in both.
    row = np.asarray(view_model, dtype=np.float32)[2].astype(np.float64)
    # A splat may hold NaN or infinity; its key then does, too, and whoever draws leaves it out.
    with np.errstate(invalid="ignore", over="ignore"):
        return -(means.astype(np.float64) @ row[:3] + row[3]).astype(np.float32)


def argsort_float32(keys: NDArray[np.float32]) -> NDArray[np.intp]:
    """Stable ascending argsort of finite float32 keys [N]; NaN sorts to an end.

    Two radix passes over the halves of the order-preserving integer: several times faster than a comparison sort.
    """
    bits = np.ascontiguousarray(keys, dtype=np.float32).view(np.uint32)
    # IEEE floats order like integers once negative ones are inverted and positive ones get the sign bit.
    flip = np.where(bits >> 31, np.uint32(0xFFFFFFFF), np.uint32(0x80000000))
    ordered = bits ^ flip
    order = np.argsort((ordered & 0xFFFF).astype(np.uint16), kind="stable")
    high = (ordered >> 16).astype(np.uint16)
    return order[np.argsort(high[order], kind="stable")]


def back_to_front(
    depths: Sequence[NDArray[np.float32]],
    branches: Sequence[NDArray[np.uint8]],
    layered: Sequence[bool],
    visible: NDArray[np.bool_] | None = None,
) -> NDArray[np.intp]:
    """Order in which to blend the splats of several avatars, the farthest first.

    depths: for each avatar [N_i], as from `depth_keys`. branches: for each avatar [N_i]. layered: for each avatar, whether
    all its mouth splats lie behind all its face splats (the paper's face + (1 - a_face) * mouth); otherwise depth alone counts.
    visible: [sum N_i] or None; splats to leave out are False.
    Returns indices into the concatenation of all avatars' splats. Of splats of equal depth the first one is in front.

    The mouth splats of a layered avatar keep their own order and take the place just behind its farthest visible face splat,
    so that another avatar in front of or behind the head is still blended in front of or behind all of it.
    """
    if not depths:
        return np.empty(0, dtype=np.intp)
    depth = np.concatenate(depths).astype(np.float32, copy=False)
    front_to_back = argsort_float32(depth)
    if visible is not None:
        front_to_back = front_to_back[visible[front_to_back]]
    if not any(layered):
        return front_to_back[::-1]

    place = depth.copy()
    start = 0
    for own, branch, is_layered in zip(depths, branches, layered):
        span = slice(start, start + len(own))
        start = span.stop
        if not is_layered:
            continue
        mouth = branch == MOUTH
        face = ~mouth if visible is None else ~mouth & visible[span]
        if mouth.any() and face.any():
            place[span][mouth] = np.nextafter(own[face].max(), np.float32(np.inf))
    return front_to_back[argsort_float32(place[front_to_back])][::-1]
