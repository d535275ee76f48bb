"""Which Gaussians touch which tile, in drawing order: a radix sort by depth, then counting."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.typing import NDArray

from . import conventions as c
from .projection import X, Y, Projected

TILE = c.TILE
_CHUNKS = 8
"""Parts of the drawing order that are counted side by side; fixed, so that the result is the same for any number of threads."""


@dataclass
class Tiles:
    """The picture's tiles, row by row, and what touches them.

    Attributes:
        width, height: of the picture, px.
        ids: [L] int32, Gaussians of each tile, front first.
        starts: [tiles + 1] int64, where each tile's part of ids begins.
        boxes: [N,4] int32, first and last tile column, first and last tile row of each Gaussian; last < first: none.
        slots: [N + 1] int64, where each Gaussian's entries begin when entries are laid out Gaussian by Gaussian, its tiles row by row.
    """

    width: int
    height: int
    ids: NDArray[np.int32]
    starts: NDArray[np.int64]
    boxes: NDArray[np.int32]
    slots: NDArray[np.int64]


def sort_into_tiles(projected: Projected, width: int, height: int, members: NDArray[np.bool_] | None = None) -> Tiles:
    """Tiles of a picture; members [N] leaves out those Gaussians where it is False. Equal depths keep the order given."""
    drawn = projected.radii[:, 0] > 0
    order = _by_depth(projected.depths, np.flatnonzero(drawn if members is None else drawn & members).astype(np.int32))
    boxes, slots = _boxes(projected.ellipses, projected.reach, order, width, height)
    ids, starts = _fill(order, boxes, slots[-1], width, height)
    return Tiles(width, height, ids, starts, boxes, slots)


@njit(cache=True, nogil=True)
def _by_depth(depths, ids):
    """ids [M] by depth. Depths are positive, so that their bits sort as they do: three passes of 11 bits."""
    bits = depths.view(np.uint32)
    count = len(ids)
    keys, other_keys, other = np.empty(count, np.uint32), np.empty(count, np.uint32), np.empty(count, np.int32)
    histogram = np.zeros((3, 2048), np.int64)
    for i in range(count):
        key = bits[ids[i]]
        keys[i] = key
        for step in range(3):
            histogram[step, (key >> (11 * step)) & 2047] += 1
    for step in range(3):
        place = 0
        for digit in range(2048):
            found = histogram[step, digit]
            histogram[step, digit] = place
            place += found
        for i in range(count):
            key = keys[i]
            digit = (key >> (11 * step)) & 2047
            to = histogram[step, digit]
            histogram[step, digit] = to + 1
            other_keys[to] = key
            other[to] = ids[i]
        keys, other_keys, ids, other = other_keys, keys, other, ids
    return ids


@njit(cache=True, nogil=True)
def _boxes(ellipses, reach, order, width, height):
    count = len(ellipses)
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    boxes = np.empty((count, 4), np.int32)
    boxes[:, 0], boxes[:, 1], boxes[:, 2], boxes[:, 3] = 0, -1, 0, -1
    slots = np.zeros(count + 1, np.int64)
    for g in order:
        x, y = ellipses[g, X], ellipses[g, Y]
        boxes[g, 0] = int(max(0.0, np.floor((x - reach[g, 0]) / TILE)))
        boxes[g, 1] = int(min(across - 1.0, np.floor((x + reach[g, 0]) / TILE)))
        boxes[g, 2] = int(max(0.0, np.floor((y - reach[g, 1]) / TILE)))
        boxes[g, 3] = int(min(down - 1.0, np.floor((y + reach[g, 1]) / TILE)))
        slots[g + 1] = max(0, boxes[g, 1] - boxes[g, 0] + 1) * max(0, boxes[g, 3] - boxes[g, 2] + 1)
    for g in range(count):
        slots[g + 1] += slots[g]
    return boxes, slots


@njit(parallel=True, cache=True, nogil=True)
def _fill(order, boxes, entries, width, height):
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    tiles, count = across * down, len(order)
    fill = np.zeros((_CHUNKS, tiles), np.int64)
    for chunk in prange(_CHUNKS):
        for at in range(chunk * count // _CHUNKS, (chunk + 1) * count // _CHUNKS):
            g = order[at]
            for row in range(boxes[g, 2], boxes[g, 3] + 1):
                for column in range(boxes[g, 0], boxes[g, 1] + 1):
                    fill[chunk, row * across + column] += 1
    starts = np.zeros(tiles + 1, np.int64)
    place = 0
    for tile in range(tiles):
        starts[tile] = place
        for chunk in range(_CHUNKS):
            found = fill[chunk, tile]
            fill[chunk, tile] = place
            place += found
    starts[tiles] = place
    ids = np.empty(entries, np.int32)
    for chunk in prange(_CHUNKS):
        for at in range(chunk * count // _CHUNKS, (chunk + 1) * count // _CHUNKS):
            g = order[at]
            for row in range(boxes[g, 2], boxes[g, 3] + 1):
                for column in range(boxes[g, 0], boxes[g, 1] + 1):
                    to = fill[chunk, row * across + column]
                    ids[to] = g
                    fill[chunk, row * across + column] = to + 1
    return ids, starts
