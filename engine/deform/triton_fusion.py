"""The fusion of `fusion.py` as one Triton kernel for CUDA: a Gaussian's system never leaves the registers.

Eight lanes of a warp work on one Gaussian, four Gaussians share a warp, and nothing is exchanged between warps. A lane
belongs to one view and holds every PER-th of its contrasts, so that whatever a view shares (precision, centre) is the
lane's own number; the system's unknown (view, t) sits in group t // PER, lane view * PER + t % PER. A column of the
system is one number per lane and group, from the group of its diagonal on: 116 registers for four views of ten members.

Triton's tuples are what holds the columns: their indices are known when the kernel is compiled, so they are registers.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_layout
from .fusion import PIVOT
from .triton_layout import GROUP, Layout, pack

LANES = tl.constexpr(triton_layout.LANES)

LIMIT = tl.constexpr(PIVOT * 2.0**-23)

AHEAD = tl.constexpr(2)
"""Channels that are read ahead of their use."""


@triton.jit
def _of(values, lane: tl.constexpr):
    """Every lane gets what `lane` holds of its Gaussian: one shuffle."""
    return tl.gather(values, tl.full(values.shape, lane, tl.int32), 1)


@triton.jit
def _over_view(values, lane, PER: tl.constexpr):
    """The sum over a view's lanes, in each of them."""
    for step in tl.static_range(3):
        if 2**step < PER:
            values += tl.gather(values, lane ^ (2**step), 1)
    return values


@triton.jit
def _apart(precision, places, VIEWS: tl.constexpr, PER: tl.constexpr):
    """sum_w p_w (z_w - z_v) for a lane's view v, without cancellation, and the sum of the p_w."""
    total = tl.zeros_like(places)
    apart = tl.zeros_like(places)
    for w in tl.static_range(VIEWS):
        p = _of(precision, w * PER)
        total += p
        apart += p * (_of(places, w * PER) - places)
    return apart, total


@triton.jit
def _places(base, lane, g, GROUPS: tl.constexpr, PER: tl.constexpr, GROUP: tl.constexpr):
    """Where a lane finds channel 0: its contrasts, its view's centre and variance.

    Two things keep the compiler from harm. The gather changes nothing, but hides that neighbours lie side by side, for
    which the lanes would be dealt out anew around every read; a read is one line of memory either way. And the loops move
    these pointers along: for each that is an expression in a loop it searches all of the kernel, which takes minutes.
    """
    own = tl.gather(lane * GROUP + g, lane, 1)
    found = ()
    for a in tl.static_range(GROUPS):
        found = found + (base + (a * LANES * GROUP + own),)
    centre = base + tl.gather((GROUPS * LANES + lane // PER) * GROUP + g, lane, 1)
    return found + (centre, centre + LANES // PER * GROUP)


@triton.jit
def _step(k, LATENT: tl.constexpr, STRIDE: tl.constexpr):
    """From channel k to the next one; after the last comes the first."""
    return tl.where(k % LATENT == LATENT - 1, -(LATENT - 1) * STRIDE, STRIDE)


@triton.jit
def _read(ahead, places, step, COUNT: tl.constexpr):
    """The next channel: what was read first leaves `ahead` for what lies at the places, which move on by `step`."""
    found = ()
    following = ()
    for i in tl.static_range(COUNT):
        found = found + (tl.load(places[i]),)
        following = following + (places[i] + step,)
    return ahead[0], ahead[1:] + (found,), following


@triton.jit
def _combined(u, weights, lane, GROUPS: tl.constexpr, PER: tl.constexpr):
    """sum_t u_t y_t of the lane's view."""
    found = tl.zeros_like(weights[0])
    for a in tl.static_range(GROUPS):
        found += u[a] * weights[a]
    return _over_view(found, lane, PER)


@triton.jit
def _factor(columns, lane, whole, zero, FIRST: tl.constexpr, HERE: tl.constexpr, COUNT: tl.constexpr, GROUPS: tl.constexpr):
    """Cholesky factor: the columns below the diagonal, the diagonal's inverse by groups, and whether each pivot holds."""
    factor = ()
    inverse = ()
    limits = ()
    for a in tl.static_range(GROUPS):
        inverse = inverse + (zero,)
        limit = zero
        for c in tl.static_range(COUNT):
            if FIRST[c] == a:
                limit = tl.where(lane == HERE[c], columns[c][0] * LIMIT, limit)
        limits = limits + (limit,)
    for c in tl.static_range(COUNT):
        diagonal = columns[c][0]
        whole = tl.where((lane == HERE[c]) & ~(diagonal > limits[FIRST[c]]), 0, whole)  # not a number counts as spoilt
        root = tl.rsqrt(_of(diagonal, HERE[c]))
        updated = ()
        for a in tl.static_range(GROUPS):
            updated = updated + (tl.where(lane == HERE[c], root, inverse[a]) if a == FIRST[c] else inverse[a],)
        inverse = updated
        column = (tl.where(lane > HERE[c], diagonal * root, 0.0),)
        for a in tl.static_range(GROUPS):
            if a > FIRST[c]:
                column = column + (columns[c][a - FIRST[c]] * root,)
        factor = factor + (column,)
        rest = ()
        for other in tl.static_range(COUNT):
            if other <= c:
                rest = rest + (columns[other],)
            else:
                weight = _of(column[FIRST[other] - FIRST[c]], HERE[other])
                changed = ()
                for a in tl.static_range(GROUPS):
                    if a >= FIRST[other]:
                        changed = changed + (columns[other][a - FIRST[other]] - column[a - FIRST[c]] * weight,)
                rest = rest + (changed,)
        columns = rest
    return factor, inverse, whole


@triton.jit
def _solve(factor, inverse, side, lane, zero, FIRST: tl.constexpr, HERE: tl.constexpr, COUNT: tl.constexpr, GROUPS: tl.constexpr):
    """Both triangular solves."""
    for c in tl.static_range(COUNT):
        value = _of(side[FIRST[c]] * inverse[FIRST[c]], HERE[c])
        updated = ()
        for a in tl.static_range(GROUPS):
            if a < FIRST[c]:
                updated = updated + (side[a],)
            else:
                less = side[a] - factor[c][a - FIRST[c]] * value
                updated = updated + (tl.where(lane == HERE[c], value, less) if a == FIRST[c] else less,)
        side = updated
    answer = ()
    for a in tl.static_range(GROUPS):
        answer = answer + (zero,)
    for c in tl.static_range(COUNT - 1, -1, -1):
        known = zero
        for a in tl.static_range(GROUPS):
            if a >= FIRST[c]:
                known += factor[c][a - FIRST[c]] * answer[a]
        value = (side[FIRST[c]] - tl.sum(known, 1)[:, None]) * inverse[FIRST[c]]
        updated = ()
        for a in tl.static_range(GROUPS):
            updated = updated + (tl.where(lane == HERE[c], value, answer[a]) if a == FIRST[c] else answer[a],)
        answer = updated
    return answer


@triton.jit(do_not_specialize=["rows"])  # another number of rows is not another kernel
def fuse_kernel(
    packed, doubt, mean, summary, rows,
    VIEWS: tl.constexpr, PER: tl.constexpr, GROUPS: tl.constexpr, LATENT: tl.constexpr, SLOTS: tl.constexpr,
    FIRST: tl.constexpr, HERE: tl.constexpr, COUNT: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """GROUP rows: three passes over the channels, for the system, its residual and the mean; see `fuse_packed`.

    Args:
        packed: see `Layout`.
        doubt: [V] what the packed variances were multiplied with.
        mean: [L, R] out.
        summary: [3 + V, R] out: aleatoric, epistemic, 1 for good rows and 0 for others, and the views' shares.
        rows: R.
        FIRST, HERE: group and lane of each of the COUNT unknowns.
    """
    STRIDE: tl.constexpr = SLOTS * GROUP
    g = tl.arange(0, GROUP)[:, None]
    lane = tl.arange(0, LANES)[None, :] + tl.zeros((GROUP, LANES), tl.int32)
    view = lane // PER
    zero = tl.zeros((GROUP, LANES), tl.float32)
    base = packed + tl.program_id(0).to(tl.int64) * (LATENT * SLOTS * GROUP)

    # Channels are read AHEAD of their use, round and round.
    nothing = ()
    for i in tl.static_range(GROUPS + 2):
        nothing = nothing + (zero,)
    ahead = ()
    for i in tl.static_range(AHEAD):
        ahead = ahead + (nothing,)
    places = _places(base, lane, g, GROUPS, PER, GROUP)
    u = nothing
    for k in range(AHEAD):
        u, ahead, places = _read(ahead, places, _step(k, LATENT, STRIDE), GROUPS + 2)

    # The system: one pass over the channels.
    columns = ()
    for c in tl.static_range(COUNT):
        column = (tl.where(lane == HERE[c], 1.0, 0.0),)
        for a in tl.static_range(GROUPS):
            if a > FIRST[c]:
                column = column + (zero,)
        columns = columns + (column,)
    side = ()
    for a in tl.static_range(GROUPS):
        side = side + (zero,)
    sum_a = zero
    sum_e = zero
    share = zero
    for k in range(LATENT):
        u, ahead, places = _read(ahead, places, _step(k + AHEAD, LATENT, STRIDE), GROUPS + 2)
        centre, variance = u[GROUPS], u[GROUPS + 1]
        p = tl.where(view < VIEWS, 1 / variance, 0.0)
        spread = zero
        for a in tl.static_range(GROUPS):
            spread += u[a] * u[a]
        spread = _over_view(spread, lane, PER)
        weight = tl.where(view < VIEWS, 1 / (variance + spread), 0.0)
        weight = weight * PER / tl.sum(weight, 1)[:, None]
        share += weight
        sum_a += weight * weight * variance
        sum_e += weight * weight * spread

        apart, total = _apart(p, centre, VIEWS, PER)
        others = zero  # not total - p, which cancels where one view's precision dwarfs the others'
        for w in tl.static_range(VIEWS):
            others += tl.where(view == w, 0.0, _of(p, w * PER))
        ratio = p / total
        pulled = ()
        for a in tl.static_range(GROUPS):
            pulled = pulled + (side[a] + u[a] * (ratio * apart),)
        side = pulled
        grown = ()
        for c in tl.static_range(COUNT):
            value = _of(u[FIRST[c]] * ratio, HERE[c])
            scale = tl.where(view == HERE[c] // PER, others, -p)
            column = ()
            for a in tl.static_range(GROUPS):
                if a >= FIRST[c]:
                    column = column + (columns[c][a - FIRST[c]] + (u[a] * scale) * value,)
            grown = grown + (column,)
        columns = grown

    whole = tl.full((GROUP, LANES), 1, tl.int32)
    factor, inverse, whole = _factor(columns, lane, whole, zero, FIRST, HERE, COUNT, GROUPS)
    answer = _solve(factor, inverse, side, lane, zero, FIRST, HERE, COUNT, GROUPS)

    # One correction with the residual of the problem itself, see fusion.py.
    residual = ()
    for a in tl.static_range(GROUPS):
        residual = residual + (-answer[a],)
    for k in range(LATENT):
        u, ahead, places = _read(ahead, places, _step(k + AHEAD, LATENT, STRIDE), GROUPS + 2)
        centre, variance = u[GROUPS], u[GROUPS + 1]
        p = tl.where(view < VIEWS, 1 / variance, 0.0)
        if GROUPS:
            centre += _combined(u, answer, lane, GROUPS, PER)
        apart, total = _apart(p, centre, VIEWS, PER)
        pulled = ()
        for a in tl.static_range(GROUPS):
            pulled = pulled + (residual[a] + u[a] * (p / total * apart),)
        residual = pulled
    correction = _solve(factor, inverse, residual, lane, zero, FIRST, HERE, COUNT, GROUPS)
    final = ()
    for a in tl.static_range(GROUPS):
        final = final + (answer[a] + correction[a],)

    row = tl.program_id(0) * GROUP + tl.arange(0, GROUP)
    into = mean + row
    finite = tl.full((GROUP,), 0.0, tl.float32)  # stays zero only where every number is finite
    for k in range(LATENT):
        u, ahead, places = _read(ahead, places, _step(k + AHEAD, LATENT, STRIDE), GROUPS + 2)
        centre, variance = u[GROUPS], u[GROUPS + 1]
        p = tl.where(view < VIEWS, 1 / variance, 0.0)
        if GROUPS:
            centre += _combined(u, final, lane, GROUPS, PER)
        fused = tl.sum(p * centre, 1) / tl.sum(p, 1)
        finite += fused - fused
        tl.store(into, fused, mask=row < rows)
        into += rows
    own = sum_a / tl.load(doubt + view, mask=view < VIEWS, other=1.0)
    sum_e += sum_a - own
    sum_a = own
    found = tl.where(lane == 0, tl.sum(sum_a, 1)[:, None], tl.sum(sum_e, 1)[:, None]) / (PER * LATENT)
    finite += tl.sum(found - found, 1)
    spoilt = (tl.min(whole, 1) == 0) | (finite != 0)
    found = tl.where(lane == 2, tl.where(spoilt, 0.0, 1.0)[:, None], found)
    place = tl.program_id(0) * GROUP + g
    tl.store(summary + lane.to(tl.int64) * rows + place, found, mask=(lane < 3) & (place < rows))
    own = summary + (3 + view).to(tl.int64) * rows + place
    tl.store(own, share / LATENT, mask=(lane % PER == 0) & (view < VIEWS) & (place < rows))


def fuse_packed(layout: Layout, packed: Tensor, rows: int, doubt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Fuse R rows that lie packed.

    Args:
        layout: of `packed`; it must fit (`Layout.fits`).
        packed: [ceil(R / group), L, slots, group], float32.
        rows: R.
        doubt: [V] what the packed variances were multiplied with.

    Returns:
        mean [L, R], aleatoric [R], epistemic [R], shares [V, R] (as `fusion.diagonal_uncertainty`), good [R] bool: False where
        rounding spoilt the factor or a number is not finite.
    """
    mean, summary = packed.new_empty(layout.latent, rows), packed.new_empty(3 + layout.views, rows)
    with torch.cuda.device_of(packed):
        fuse_kernel[(len(packed),)](packed, doubt.contiguous(), mean, summary, rows, **fuse_constants(layout), num_warps=1)
    return mean, summary[0], summary[1], summary[3:], summary[2] > 0


def fuse_constants(layout: Layout) -> dict[str, int | tuple[int, ...]]:
    """What `fuse_kernel` is compiled for; it wants one warp."""
    columns = layout.columns
    return {
        "VIEWS": layout.views,
        "PER": layout.per,
        "GROUPS": layout.groups,
        "LATENT": layout.latent,
        "SLOTS": layout.slots,
        "FIRST": tuple(c // triton_layout.LANES for c in columns),
        "HERE": tuple(c % triton_layout.LANES for c in columns),
        "COUNT": len(columns),
        "GROUP": layout.group,
    }


def fuse_rows(
    both: Tensor, variance: Tensor, group: int = GROUP, doubt: Tensor | None = None
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """`fuse_packed` of rows as `kernel.fuse_rows` takes them: both [V, T, >=L, R], variance [V, L, R] with the doubt [V] in it."""
    layout = Layout(*both.shape[:2], variance.shape[1], group)
    return fuse_packed(layout, pack(both, variance, group), both.shape[-1], variance.new_ones(len(both)) if doubt is None else doubt)
