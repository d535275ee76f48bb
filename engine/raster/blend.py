"""Tiles: which Gaussians touch them, in drawing order, and blending them front to back.

The picture is linear in the blended values; `adjoint` is the transpose of `forward` in them (the colour part of a backward pass).
"""

from __future__ import annotations

import numpy as np
from numba import njit, prange
from numpy.polynomial import chebyshev

from . import conventions as c

TILE = c.TILE
# Sums may be taken in any order (they run in vector registers); NaN and infinity keep their meaning.
_FAST = {"contract", "nsz", "arcp", "reassoc"}
_MAX_ALPHA = np.float32(c.MAX_ALPHA)
_MIN_TRANSMITTANCE = np.float32(c.MIN_TRANSMITTANCE)

# exp(-s) for 0 <= s <= 6 as p(s / 8) ** 8: no library call in the inner loop, so that it runs in vector registers.
_LAST = 6.0
_EXP = chebyshev.cheb2poly(
    chebyshev.Chebyshev.interpolate(lambda t: np.exp(-t), 6, domain=[0, _LAST / 8]).convert(domain=[-1, 1]).coef
).astype(np.float32)
_E0, _E1, _E2, _E3, _E4, _E5, _E6 = (np.float32(v) for v in _EXP)


@njit(cache=True)
def tile_lists(order, means2d, reach, width, height):
    """Gaussians of each tile in drawing order. order [M] ids, front first -> ids [L] int32, starts [tiles+1] int64."""
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    starts = np.zeros(across * down + 1, np.int64)
    for step in range(2):
        if step == 1:
            for t in range(1, len(starts)):
                starts[t] += starts[t - 1]
            ids = np.empty(starts[-1], np.int32)
            fill = starts[:-1].copy()
        for g in order:
            x0 = max(0, int(np.floor((means2d[g, 0] - reach[g, 0]) / TILE)))
            x1 = min(across - 1, int(np.floor((means2d[g, 0] + reach[g, 0]) / TILE)))
            y0 = max(0, int(np.floor((means2d[g, 1] - reach[g, 1]) / TILE)))
            y1 = min(down - 1, int(np.floor((means2d[g, 1] + reach[g, 1]) / TILE)))
            for ty in range(y0, y1 + 1):
                for tx in range(x0, x1 + 1):
                    if step == 0:
                        starts[ty * across + tx + 1] += 1
                    else:
                        ids[fill[ty * across + tx]] = g
                        fill[ty * across + tx] += 1
    return ids, starts


@njit(cache=True, fastmath=_FAST, inline="always")
def _row(g, row, left, means2d, conics, opacities, limit, T, live, weight):
    """Blending weights of Gaussian g on one row of a tile; moves the row's transmittance T on. True if any is not zero."""
    dy = np.float32(row) + np.float32(0.5) - means2d[g, 1]
    a, b, d = np.float32(0.5) * conics[g, 0], conics[g, 1] * dy, np.float32(0.5) * conics[g, 2] * dy * dy
    first = np.float32(left) + np.float32(0.5) - means2d[g, 0]
    opacity, last = opacities[g], limit[g]
    total = np.float32(0.0)
    for i in range(TILE):
        dx = first + np.float32(i)
        s = (a * dx + b) * dx + d
        t = min(max(s, np.float32(0.0)), np.float32(_LAST)) * np.float32(0.125)
        e = _E0 + t * (_E1 + t * (_E2 + t * (_E3 + t * (_E4 + t * (_E5 + t * _E6)))))
        e = e * e
        e = e * e
        e = e * e
        alpha = min(_MAX_ALPHA, opacity * e)
        seen = live[i] if s <= last else np.float32(0.0)
        after = T[i] * (np.float32(1.0) - alpha)
        go_on = np.float32(1.0) if after > _MIN_TRANSMITTANCE else np.float32(0.0)
        live[i] = live[i] - seen * (np.float32(1.0) - go_on)
        use = seen * go_on
        w = use * alpha * T[i]
        weight[i] = w
        T[i] = T[i] - w
        total += w
    return total > 0.0


@njit(parallel=True, cache=True, fastmath=_FAST)
def forward(ids, starts, means2d, reach, conics, opacities, limit, values, width, height):
    """Blend values [N,C] -> picture [H,W,C], transmittance left [H,W]. limit [N]: the exponent past which alpha < 1/255."""
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    channels = values.shape[1]
    picture = np.zeros((height, width, channels), np.float32)
    left_over = np.ones((height, width), np.float32)
    for tile in prange(across * down):
        x0, y0 = (tile % across) * TILE, (tile // across) * TILE
        T, live = np.ones((TILE, TILE), np.float32), np.ones((TILE, TILE), np.float32)
        sums, weight = np.zeros((TILE, channels, TILE), np.float32), np.zeros(TILE, np.float32)
        for k in range(starts[tile], starts[tile + 1]):
            if (k - starts[tile]) % 32 == 31 and live.max() == 0.0:
                break
            g = ids[k]
            first = max(0, int(np.floor(means2d[g, 1] - reach[g, 1])) - y0)
            last = min(TILE - 1, int(np.floor(means2d[g, 1] + reach[g, 1])) - y0)
            for r in range(first, last + 1):
                if _row(g, y0 + r, x0, means2d, conics, opacities, limit, T[r], live[r], weight):
                    for ch in range(channels):
                        v = values[g, ch]
                        for i in range(TILE):
                            sums[r, ch, i] += weight[i] * v
        for r in range(min(TILE, height - y0)):
            for i in range(min(TILE, width - x0)):
                left_over[y0 + r, x0 + i] = T[r, i]
                for ch in range(channels):
                    picture[y0 + r, x0 + i, ch] = sums[r, ch, i]
    return picture, left_over


@njit(parallel=True, cache=True, fastmath=_FAST)
def _adjoint_lists(ids, starts, means2d, reach, conics, opacities, limit, picture, squared):
    height, width, channels = picture.shape
    across, down = (width + TILE - 1) // TILE, (height + TILE - 1) // TILE
    out = np.zeros((len(ids), channels), np.float32)
    for tile in prange(across * down):
        x0, y0 = (tile % across) * TILE, (tile // across) * TILE
        rows, columns = min(TILE, height - y0), min(TILE, width - x0)
        T, live = np.ones((TILE, TILE), np.float32), np.ones((TILE, TILE), np.float32)
        given, weight = np.zeros((TILE, channels, TILE), np.float32), np.zeros(TILE, np.float32)
        for r in range(rows):
            for i in range(columns):
                for ch in range(channels):
                    given[r, ch, i] = picture[y0 + r, x0 + i, ch]
        for k in range(starts[tile], starts[tile + 1]):
            if (k - starts[tile]) % 32 == 31 and live.max() == 0.0:
                break
            g = ids[k]
            first = max(0, int(np.floor(means2d[g, 1] - reach[g, 1])) - y0)
            last = min(TILE - 1, int(np.floor(means2d[g, 1] + reach[g, 1])) - y0)
            for r in range(first, last + 1):
                if _row(g, y0 + r, x0, means2d, conics, opacities, limit, T[r], live[r], weight):
                    if squared:
                        for i in range(TILE):
                            weight[i] = weight[i] * weight[i]
                    for ch in range(channels):
                        total = np.float32(0.0)
                        for i in range(TILE):
                            total += weight[i] * given[r, ch, i]
                        out[k, ch] += total
    return out


@njit(cache=True)
def _gather(ids, per_entry, count):
    out = np.zeros((count, per_entry.shape[1]), np.float64)
    for k in range(len(ids)):
        for ch in range(per_entry.shape[1]):
            out[ids[k], ch] += per_entry[k, ch]
    return out


def adjoint(ids, starts, means2d, reach, conics, opacities, limit, picture, squared=False):
    """Transpose of `forward` in its values: picture [H,W,C] -> [N,C] float64, each Gaussian's sum of weight * pixel (weight^2 if
    squared)."""
    per_entry = _adjoint_lists(ids, starts, means2d, reach, conics, opacities, limit, picture, squared)
    return _gather(ids, per_entry, len(means2d))
