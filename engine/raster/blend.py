"""Blending the tiles front to back, and what flows back.

The picture is sum_i w_i v_i with w_i = alpha_i prod_{j<i} (1 - alpha_j) (3DGS, eq. 3). It is linear in the values v: `adjoint` is the
transpose of `forward` in them; `backward` gives the gradients of everything. Pictures are planes, [C,H,W].
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numba import njit, prange
from numpy.polynomial import chebyshev
from numpy.typing import NDArray

from . import conventions as c
from .lanes import LANES, ROUNDING, absolute, both, least, load, ramp, scaled, some, store, total, where, zeros
from .projection import ACROSS, BASE, DOWN, HEIGHT, OPACITY, SLOPE, X, Y, Projected
from .tiles import TILE, Tiles

assert LANES == TILE
FloatArray = NDArray[np.float32]

_MAX_ALPHA = np.float32(c.MAX_ALPHA)
_NOT_CLAMPED = np.nextafter(_MAX_ALPHA, np.float32(0))
_MIN_TRANSMITTANCE = np.float32(c.MIN_TRANSMITTANCE)
_HALF, _ONE = np.float32(0.5), np.float32(1)

# 2^-t = 2^-n 2^-f with n the nearest whole number and -1/2 <= f <= 1/2: no library call in the inner loop. At t = _LAST alpha is MIN_ALPHA.
_LOG2E = 1 / math.log(2)
_LAST = np.float32(-math.log2(c.MIN_ALPHA))
_ROUNDING = np.float32(ROUNDING)
_POWER = chebyshev.cheb2poly(chebyshev.Chebyshev.interpolate(lambda f: 2 ** (-f / 2), 5).coef) * 2.0 ** np.arange(6)
_P0, _P1, _P2, _P3, _P4, _P5 = (np.float32(v) for v in _POWER)

_GROUPS = 64
"""Groups of tiles that are blended one after another in the same scratch memory; a group's tiles lie far apart."""

_GEOMETRY = 8
"""Columns of an entry's gradients before those of the values: centre x, y, across, slope, down, opacity, |x|, |y|."""


@dataclass
class Gradients:
    """means2d [N,2], shapes [N,3] (across, slope, down), opacities [N], absolute [N,2] (sums of each pixel's |d / d means2d|), values
    [N,C]."""

    means2d: FloatArray
    shapes: FloatArray
    opacities: FloatArray
    absolute: FloatArray
    values: FloatArray


def forward(
    tiles: Tiles, projected: Projected, values: FloatArray, blended: FloatArray, alphas: FloatArray, left: FloatArray
) -> None:
    """values [N,C] -> blended [C,H,W], alphas [H,W] and what light is left [H,W], all written. Alpha is the sum of the weights; each of
    alpha and 1 - alpha keeps its digits where it is small."""
    _forward(tiles.ids, tiles.starts, projected.ellipses, values, blended, alphas, left)


def adjoint(tiles: Tiles, projected: Projected, planes: FloatArray, squared: bool = False) -> NDArray[np.float64]:
    """planes [C,H,W] -> [N,C]: each Gaussian's sum over the pixels of weight (or its square) * value."""
    entries = np.zeros((len(tiles.ids), len(planes)), np.float32)
    _adjoint(tiles.ids, tiles.starts, tiles.boxes, tiles.slots, projected.ellipses, planes, squared, entries)
    return _sum_entries(tiles.slots, entries)


def backward(
    tiles: Tiles, projected: Projected, values: FloatArray, v_blended: FloatArray, v_alphas: FloatArray, absgrad: bool = False,
) -> Gradients:
    """Gradients of what a loss with gradients v_blended [C,H,W] and v_alphas [H,W] depends on; `absolute` only with absgrad, else 0."""
    entries = np.zeros((len(tiles.ids), _GEOMETRY + values.shape[1]), np.float32)
    _backward(
        tiles.ids, tiles.starts, tiles.boxes, tiles.slots, projected.ellipses, values, v_blended, v_alphas, absgrad, entries,
    )  # fmt: skip
    sums = _sum_entries(tiles.slots, entries).astype(np.float32)
    return Gradients(*(np.ascontiguousarray(x) for x in (sums[:, :2], sums[:, 2:5], sums[:, 5], sums[:, 6:8], sums[:, 8:])))


@njit
def _add(state, k, g, row, alpha, weight):
    values, sums, alphas = state
    channels = values.shape[1]
    store(alphas, row * LANES, load(alphas, row * LANES) + weight)
    for channel in range(channels):
        at = (row * channels + channel) * LANES
        store(sums, at, load(sums, at) + weight * values[g, channel])


@njit
def _collect(state, k, g, row, alpha, weight):
    given, out, squared = state
    channels = out.shape[1]
    if squared:
        weight = weight * weight
    for channel in range(channels):
        out[k, channel] += total(weight * load(given, (row * channels + channel) * LANES))


@njit
def _remember(state, k, g, row, alpha, weight):
    alphas, places, count = state
    store(alphas, count[0] * LANES, alpha)
    places[count[0], 0], places[count[0], 1] = k, row
    count[0] += 1


def _walk_with(act):
    """A walk through a tile's Gaussians, front to back, that calls act(state, k, g, row, alpha, weight) for each row of pixels that
    Gaussian g = ids[k] adds to; alpha and weight are 0 in the lanes that it does not add to.

    walk(ids, begin, end, ellipses, left, top, light, state): begin, end of the tile in ids; light [TILE,TILE], transmittance, is moved
    on, and is below zero where the pixel is finished.
    """

    @njit
    def walk(ids, begin, end, ellipses, left, top, light, state):
        lit = -1  # a bit for each row that is not finished
        for k in range(begin, end):
            if (k - begin) % 16 == 15:
                lit = 0
                for row in range(TILE):
                    lit |= int(some(load(light, row * LANES) > 0.0)) << row
                if lit == 0:
                    break
            g = ids[k]
            x, y = ellipses[g, X] - left - 0.5, ellipses[g, Y] - top - 0.5
            # -log2 of alpha, opacity included.
            slope, base = ellipses[g, SLOPE], _LOG2E * ellipses[g, BASE]
            across, down = np.float32(0.5 * _LOG2E * ellipses[g, ACROSS]), 0.5 * _LOG2E * ellipses[g, DOWN]
            first = int(max(0.0, math.ceil(y - ellipses[g, HEIGHT])))
            last = int(min(TILE - 1.0, math.floor(y + ellipses[g, HEIGHT])))
            for row in range(first, last + 1):
                if (lit >> row) & 1 == 0:
                    continue
                dy = row - y
                start, rest = np.float32(-x - slope * dy), np.float32(base + down * dy * dy)
                # The tile may lie beside the ellipse in this row.
                off = max(start, -start - np.float32(LANES - 1))
                if off > 0 and across * off * off + rest > _LAST:
                    continue
                u = ramp() + start
                t = u * u * across + rest
                whole = _ROUNDING - t
                f = t - (_ROUNDING - whole)
                f2 = f * f
                power = (f * _P1 + _P0) + f2 * ((f * _P3 + _P2) + f2 * (f * _P5 + _P4))
                alpha = least(scaled(power, whole), _MAX_ALPHA)
                before = load(light, row * LANES)
                after = before * (_ONE - alpha)
                seen = t <= _LAST
                used = both(seen, after > _MIN_TRANSMITTANCE)
                store(light, row * LANES, where(used, after, where(seen, -1.0 * absolute(before), before)))
                if some(used):
                    act(state, k, g, row, where(used, alpha, 0.0), where(used, alpha * before, 0.0))

    return walk


_walk_adding, _walk_collecting, _walk_remembering = _walk_with(_add), _walk_with(_collect), _walk_with(_remember)


@njit
def _read(plane, top, left, out, offset, step):
    """A tile of a plane [H,W] into rows of out, flat, from offset on, every step; 0 outside the picture."""
    height, width = plane.shape
    for row in range(min(TILE, height - top)):
        if left + TILE <= width:
            store(out, offset + row * step, load(plane, (top + row) * width + left))
        else:
            store(out, offset + row * step, zeros())
            for i in range(width - left):
                out.ravel()[offset + row * step + i] = plane[top + row, left + i]
    for row in range(height - top, TILE):
        store(out, offset + row * step, zeros())


@njit
def _write(plane, top, left, tile, offset, step):
    """The other way round."""
    height, width = plane.shape
    for row in range(min(TILE, height - top)):
        if left + TILE <= width:
            store(plane, (top + row) * width + left, load(tile, offset + row * step))
        else:
            for i in range(width - left):
                plane[top + row, left + i] = tile.ravel()[offset + row * step + i]


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _forward(ids, starts, ellipses, values, blended, alphas, left_over):
    channels, height, width = blended.shape
    across, tiles = (width + TILE - 1) // TILE, len(starts) - 1
    for group in prange(min(_GROUPS, tiles)):
        light, sum_of_weights = np.empty((TILE, LANES), np.float32), np.empty((TILE, LANES), np.float32)
        sums = np.empty((TILE, channels, LANES), np.float32)
        for tile in range(group, tiles, _GROUPS):
            left, top = (tile % across) * TILE, (tile // across) * TILE
            light[:], sum_of_weights[:], sums[:] = 1.0, 0.0, 0.0
            _walk_adding(ids, starts[tile], starts[tile + 1], ellipses, left, top, light, (values, sums, sum_of_weights))
            _write(alphas, top, left, sum_of_weights, 0, LANES)
            for row in range(TILE):
                store(light, row * LANES, absolute(load(light, row * LANES)))
            _write(left_over, top, left, light, 0, LANES)
            for channel in range(channels):
                _write(blended[channel], top, left, sums, channel * LANES, channels * LANES)


@njit(inline="always")
def _slot(boxes, slots, g, column, row):
    return slots[g] + (row - boxes[g, 2]) * (boxes[g, 1] - boxes[g, 0] + 1) + column - boxes[g, 0]


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _adjoint(ids, starts, boxes, slots, ellipses, planes, squared, entries):
    channels, height, width = planes.shape
    across, tiles = (width + TILE - 1) // TILE, len(starts) - 1
    found = np.zeros(entries.shape, np.float32)
    for group in prange(min(_GROUPS, tiles)):
        light, given = np.empty((TILE, LANES), np.float32), np.empty((TILE, channels, LANES), np.float32)
        for tile in range(group, tiles, _GROUPS):
            column, row = tile % across, tile // across
            light[:] = 1.0
            for channel in range(channels):
                _read(planes[channel], row * TILE, column * TILE, given, channel * LANES, channels * LANES)
            _walk_collecting(ids, starts[tile], starts[tile + 1], ellipses, column * TILE, row * TILE, light, (given, found, squared))
            for k in range(starts[tile], starts[tile + 1]):
                entries[_slot(boxes, slots, ids[k], column, row)] = found[k]


@njit(parallel=True, cache=True, nogil=True, error_model="numpy")
def _backward(ids, starts, boxes, slots, ellipses, values, v_blended, v_alphas, absgrad, entries):
    channels, height, width = v_blended.shape
    across, tiles = (width + TILE - 1) // TILE, len(starts) - 1
    for group in prange(min(_GROUPS, tiles)):
        most = 0
        for tile in range(group, tiles, _GROUPS):
            most = max(most, starts[tile + 1] - starts[tile])
        alphas, places = np.empty((most * TILE, LANES), np.float32), np.empty((most * TILE, 2), np.int64)
        count = np.zeros(1, np.int64)
        light, behind = np.empty((TILE, LANES), np.float32), np.empty((TILE, LANES), np.float32)
        given, spread = np.empty((TILE, channels, LANES), np.float32), np.empty((channels, LANES), np.float32)
        for tile in range(group, tiles, _GROUPS):
            if starts[tile] == starts[tile + 1]:
                continue
            column, row = tile % across, tile // across
            left, top = column * TILE, row * TILE
            light[:] = 1.0
            count[0] = 0
            _walk_remembering(ids, starts[tile], starts[tile + 1], ellipses, left, top, light, (alphas, places, count))
            for channel in range(channels):
                _read(v_blended[channel], top, left, given, channel * LANES, channels * LANES)
            _read(v_alphas, top, left, behind, 0, LANES)
            for r in range(TILE):
                after = absolute(load(light, r * LANES))
                store(light, r * LANES, after)
                store(behind, r * LANES, -1.0 * load(behind, r * LANES) * after)
            at = count[0]
            while at > 0:
                k = places[at - 1, 0]
                start = at - 1
                while start > 0 and places[start - 1, 0] == k:
                    start -= 1
                g = ids[k]
                _back(alphas, places, start, at, ellipses[g], left, top, values[g], given, light, behind, spread, absgrad,
                      entries[_slot(boxes, slots, g, column, row)])  # fmt: skip
                at = start


@njit
def _back(alphas, places, begin, end, ellipse, left, top, values, given, light, behind, spread, absgrad, out):
    """One Gaussian in one tile: its gradients into out, the state of the tile moved from behind it to before it.

    light [TILE,TILE]: transmittance; behind [TILE,TILE]: what of the loss's gradient comes from behind, sum_j w_j v_j . v_blended.
    """
    x, y = ellipse[X] - left - 0.5, ellipse[Y] - top - 0.5
    across, slope, down = np.float32(ellipse[ACROSS]), np.float32(ellipse[SLOPE]), np.float32(ellipse[DOWN])
    channels = len(values)
    m, m_u, m_y, m_uu, m_uy, m_yy, abs_x, abs_y = zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros(), zeros()
    for channel in range(channels):
        store(spread, channel * LANES, zeros())
    for at in range(begin, end):
        row = places[at, 1]
        alpha = load(alphas, at * LANES)
        again = 1.0 / (_ONE - alpha)
        before = load(light, row * LANES) * again
        weight = alpha * before
        dot = zeros()
        for channel in range(channels):
            v = load(given, (row * channels + channel) * LANES)
            dot += v * values[channel]
            store(spread, channel * LANES, load(spread, channel * LANES) + v * weight)
        rest = load(behind, row * LANES)
        v_alpha = before * dot - rest * again
        store(behind, row * LANES, rest + weight * dot)
        store(light, row * LANES, before)
        v_s = where(alpha > _NOT_CLAMPED, 0.0, -1.0 * alpha * v_alpha)
        dy = np.float32(row - y)
        u = ramp() + np.float32(-x - ellipse[SLOPE] * (row - y))
        p, q = v_s * u, v_s * dy
        m += v_s
        m_u += p
        m_y += q
        m_uu += p * u
        m_uy += p * dy
        m_yy += q * dy
        if absgrad:
            abs_x += absolute(p)
            abs_y += absolute(p * (across * slope) - q * down)
    sum_u = total(m_u)
    out[0], out[1] = -across * sum_u, across * slope * sum_u - down * total(m_y)
    out[2], out[3], out[4] = _HALF * total(m_uu), -across * total(m_uy), _HALF * total(m_yy)
    out[5] = -total(m) / np.float32(ellipse[OPACITY])
    out[6], out[7] = across * total(abs_x), total(abs_y)
    for channel in range(channels):
        out[_GEOMETRY + channel] = total(load(spread, channel * LANES))


@njit(parallel=True, cache=True, nogil=True)
def _sum_entries(slots, entries):
    count, columns = len(slots) - 1, entries.shape[1]
    out = np.zeros((count, columns))
    for g in prange(count):
        for k in range(slots[g], slots[g + 1]):
            for column in range(columns):
                out[g, column] += entries[k, column]
    return out
