"""The members of a view as one Triton kernel for CUDA (paper sec 2.3, eq. 8): what the fusion wants, straight away.

A program takes some rows through all members, one after the other: first layer, ReLU, both second layers side by side.
Neither hidden values nor member means reach memory: what is written are Helmert contrasts, made with a running sum as the
members come, the mean of the means and the mean of the variances, in the layout of `triton_layout`.

The products run on tensor cores in three parts (tf32x3), which keeps float32's digits; plain tf32 does not.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from . import triton_layout
from .triton_layout import Layout

LANES = tl.constexpr(triton_layout.LANES)

ROWS = 64
"""Rows of a program."""

PIECE = 32
"""Outputs of the second layers that are computed at a time."""

LOG2_E = tl.constexpr(1.4426950408889634)

DEPTH = tl.constexpr(32)
"""Inputs of the first layer that are multiplied at a time."""


@dataclass(frozen=True)
class View:
    """The constants of a view; float32, contiguous.

    Attributes:
        first: [M or 1, T * H] the part of the first layer that never changes, bias included.
        gain: [M, dim] what each Gaussian multiplies the frame's vector with; None where no Gaussian gates it.
        frame_weight: [T * H, dim] the part of the first layer's weight that meets the gated vector; None without gain.
        weight, bias: [T, 2 L, H] and [T, 2 L] of the second layers, means before log-variances.
        bound: b of b * tanh(v / b) for the log-variances; None leaves them as they are.
    """

    first: Tensor
    gain: Tensor | None
    frame_weight: Tensor | None
    weight: Tensor
    bias: Tensor
    bound: float | None


# Another number of rows or another frame is not another kernel.
@triton.jit(do_not_specialize=["rows", "blocks", "bound"], do_not_specialize_on_alignment=["x"])
def members_kernel(
    first, x, gain, frame_weight, weight, bias, packed, rows, blocks, bound,
    SHARED: tl.constexpr, DIM: tl.constexpr, BOUNDED: tl.constexpr, MEMBERS: tl.constexpr, HIDDEN: tl.constexpr,
    WIDTH: tl.constexpr, LATENT: tl.constexpr, PIECE: tl.constexpr,
    CONTRAST: tl.constexpr, CENTRE: tl.constexpr, VARIANCE: tl.constexpr, PER: tl.constexpr,
    SLOTS: tl.constexpr, GROUP: tl.constexpr, ROWS: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """ROWS rows of one view, see `members`. DIM is 0 without gain; CONTRAST, CENTRE, VARIANCE are the view's first slots."""
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    real = (row < rows)[:, None]
    wide = row.to(tl.int64)
    n = tl.arange(0, WIDTH)  # of the hidden layer
    known = (n < HIDDEN)[None, :]
    # Whole groups are written, the last one's spare rows too: so that four rows are one store.
    kept = (row // GROUP < blocks)[:, None]
    target = packed + ((row // GROUP).to(tl.int64) * (LATENT * SLOTS * GROUP) + row % GROUP)[:, None]
    sums = ()
    for i in tl.static_range((2 * LATENT + PIECE - 1) // PIECE):
        sums = sums + (tl.zeros((ROWS, PIECE), tl.float32),)
    for t in range(MEMBERS):
        if SHARED:
            hidden = tl.load(first + t * HIDDEN + n[None, :], mask=known, other=0.0) + tl.zeros((ROWS, WIDTH), tl.float32)
        else:
            hidden = tl.load(first + wide[:, None] * (MEMBERS * HIDDEN) + t * HIDDEN + n[None, :], mask=real & known, other=0.0)
        if DIM:
            for start in range(0, DIM, DEPTH):
                d = start + tl.arange(0, DEPTH)
                gate = tl.load(x + d, mask=d < DIM, other=0.0)[None, :]
                gated = tl.load(gain + wide[:, None] * DIM + d[None, :], mask=real & (d < DIM)[None, :], other=0.0) * gate
                place = frame_weight + (t * HIDDEN + n)[None, :] * DIM + d[:, None]
                w = tl.load(place, mask=known & (d < DIM)[:, None], other=0.0)
                hidden = tl.dot(gated, w, hidden, input_precision=PRECISION)
        else:
            hidden += tl.load(x + t * HIDDEN + n[None, :], mask=known, other=0.0)
        hidden = tl.maximum(hidden, 0.0)
        scale = 1 / tl.sqrt(tl.maximum(t * (t + 1.0) * (MEMBERS - 1), 1.0))
        slot = CONTRAST + (t - 1) // PER * LANES + (t - 1) % PER
        grown = ()
        for i in tl.static_range((2 * LATENT + PIECE - 1) // PIECE):
            column = i * PIECE + tl.arange(0, PIECE)
            made = column < 2 * LATENT
            place = weight + (t * 2 * LATENT + column)[None, :] * HIDDEN + n[:, None]
            w = tl.load(place, mask=made[None, :] & (n < HIDDEN)[:, None], other=0.0)
            b = tl.load(bias + t * 2 * LATENT + column, mask=made, other=0.0)
            value = tl.dot(hidden, w, input_precision=PRECISION) + b[None, :]
            is_mean = (column < LATENT)[None, :]
            if i * PIECE < LATENT:
                place = target + column[None, :] * (SLOTS * GROUP) + slot * GROUP
                tl.store(place, (sums[i] - t * value) * scale, mask=kept & is_mean & (t > 0))
            if (i + 1) * PIECE > LATENT:
                power = value * LOG2_E
                if BOUNDED:  # bound * tanh(value / bound), with tanh(y) = 1 - 2 / (exp(2 y) + 1)
                    power = (bound * LOG2_E) * (1 - 2 / (tl.exp2(value * (2 * LOG2_E / bound)) + 1))
                value = tl.where(is_mean, value, tl.exp2(power))
            grown = grown + (sums[i] + value,)
        sums = grown
    for i in tl.static_range((2 * LATENT + PIECE - 1) // PIECE):
        column = i * PIECE + tl.arange(0, PIECE)
        place = tl.where(column < LATENT, column * SLOTS + CENTRE, (column - LATENT) * SLOTS + VARIANCE) * GROUP
        tl.store(target + place[None, :], sums[i] / MEMBERS, mask=kept & (column < 2 * LATENT)[None, :])


def members(
    view: View, number: int, x: Tensor, layout: Layout, packed: Tensor, rows: int, precision: str = "tf32x3"
) -> None:
    """Evaluate a view's members in R rows.

    Args:
        view: its constants.
        number: of the view, 0 to V - 1.
        x: with gain [dim], the frame's vector; without, [T * H]: its product with the first layer's weight.
        layout, packed: where the contrasts, the centre and the variance go.
        rows: R.
        precision: of the products: `tf32x3`, or `ieee` for plain float32 (slow).
    """
    with torch.cuda.device_of(packed):
        members_kernel[(triton.cdiv(rows, ROWS),)](
            view.first, x, view.gain, view.frame_weight, view.weight, view.bias, packed, rows, len(packed), view.bound or 0.0,
            **members_constants(view, number, layout, precision), num_warps=4, num_stages=1,
        )  # fmt: skip


def members_constants(view: View, number: int, layout: Layout, precision: str) -> dict[str, int | bool | str]:
    """What `members_kernel` is compiled for; it wants four warps."""
    hidden = view.weight.shape[2]
    return {
        "SHARED": len(view.first) == 1,
        "DIM": 0 if view.gain is None else view.gain.shape[1],
        "BOUNDED": view.bound is not None,
        "MEMBERS": layout.members,
        "HIDDEN": hidden,
        "WIDTH": max(16, triton.next_power_of_2(hidden)),
        "LATENT": layout.latent,
        "PIECE": PIECE,
        "CONTRAST": layout.slot(number, 0),
        "CENTRE": layout.centre_slot(number),
        "VARIANCE": layout.variance_slot(number),
        "PER": layout.per,
        "SLOTS": layout.slots,
        "GROUP": layout.group,
        "ROWS": ROWS,
        "PRECISION": precision,
    }
