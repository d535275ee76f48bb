"""Fusion of the views' Gaussian states (paper sec 2.3, eq. 12) without a single inverse.

A view's total covariance is C_v = U_v^T U_v + D_v: U_v [T-1, L] the Helmert contrasts of its T member means over
sqrt(T-1), so that U_v^T U_v is their sample covariance (epistemic), and D_v the mean over the members of
exp(log-variance) (aleatoric, diagonal). The fused mean is the x that minimises sum_v (x - m_v)^T C_v^-1 (x - m_v).
Writing x = m_v + U_v^T y_v + e_v with y_v ~ N(0, 1), e_v ~ N(0, D_v) and eliminating x, whose system is diagonal,
leaves one system of V(T-1) unknowns:

    (I + blockdiag(W_v U_v^T) - W S^-1 W^T) y = [W_v (x0 - m_v)]_v,    x = x0 + S^-1 W^T y

with W_v = U_v D_v^-1, S = sum_v D_v^-1 and x0 = S^-1 sum_v D_v^-1 m_v. Its matrix is I plus something positive
semi-definite, so one Cholesky factor always exists, and every pivot is at least 1. These are normal equations: where
variances differ by many orders of magnitude they lose twice the digits that the problem does, so the solution is
corrected once with the residual of the problem itself (Bjoerck's corrected semi-normal equations).
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


PIVOT = 1e4
"""A pivot of the factor is the difference of numbers as large as the diagonal; below this many of their units in the
last place it is mostly rounding, and a row counts as spoilt."""


class Solved(NamedTuple):
    """The fusion of R rows and what it was made of.

    Attributes:
        mean: [R, L] fused mean x.
        good: [R] bool; False where rounding spoilt the factor or a number is not finite.
        centre: [R, V, L] the views' means m_v.
        variance: [R, V, L] diagonal aleatoric variances D_v, with what doubt adds.
        contrasts: [R, V, T-1, L] the factors U_v of the epistemic covariances.
        factor: [R, V(T-1), V(T-1)] Cholesky factor of the system, lower.
        answer: [R, V(T-1)] its solution y.
    """

    mean: Tensor
    good: Tensor
    centre: Tensor
    variance: Tensor
    contrasts: Tensor
    factor: Tensor
    answer: Tensor


@lru_cache(maxsize=32)
def _helmert(members: int) -> tuple[tuple[float, ...], ...]:
    rows = []
    for row in range(1, members):
        length = (row * (row + 1)) ** 0.5
        rows.append((1 / length,) * row + (-row / length,) + (0.0,) * (members - row - 1))
    return tuple(rows)


def helmert(members: int, like: Tensor) -> Tensor:
    """Orthonormal contrasts [T-1, T]: rows of length 1, orthogonal to each other and to the constant vector."""
    return torch.tensor(_helmert(members), dtype=like.dtype, device=like.device).reshape(members - 1, members)


def solve_rows(means: Tensor, logvars: Tensor, doubt: Tensor | None = None) -> Solved:
    """Fuse V views of T members each. T = 1 is the precision-weighted mean of diagonal Gaussians.

    Args:
        means: [V, T, R, L] member means.
        logvars: [V, T, R, L] member log-variances.
        doubt: [V] what the views' aleatoric variances are multiplied with (`doubt.Doubt`); None: 1.
    """
    views, members, rows, _ = means.shape
    centre = means.mean(1).transpose(0, 1)
    variance = logvars.exp().mean(1).transpose(0, 1)
    if doubt is not None:
        variance = variance * doubt[:, None]
    contrasts = torch.tensordot(helmert(members, means) / max(members - 1, 1) ** 0.5, means, ([1], [1]))
    contrasts = contrasts.permute(2, 1, 0, 3).contiguous()  # U, [R, V, T-1, L]
    precision = 1 / variance
    share = precision / precision.sum(1, keepdim=True)

    unknowns, split = views * (members - 1), (rows, views, members - 1, 1)
    root = precision * precision.sum(1, keepdim=True).rsqrt()
    scaled = (contrasts * root[:, :, None]).flatten(1, 2)
    one = torch.eye(unknowns, dtype=means.dtype, device=means.device).expand(rows, -1, -1)
    matrix = torch.baddbmm(one, scaled, scaled.transpose(1, 2), alpha=-1)
    # p_v - p_v^2 / S as p_v sum_{u != v} p_u / S: exact where one view's precision dwarfs the others'.
    others = (precision[:, None] * (1 - torch.eye(views, dtype=means.dtype, device=means.device))[..., None]).sum(2)
    own = (contrasts * (share * others)[:, :, None]) @ contrasts.transpose(2, 3)
    own = own + torch.eye(members - 1, dtype=means.dtype, device=means.device)
    matrix.view(rows, views, members - 1, views, members - 1).diagonal(dim1=1, dim2=3).copy_(own.permute(0, 2, 3, 1))
    factor, failed = torch.linalg.cholesky_ex(matrix)
    side = (contrasts @ _pull(precision, share, centre)[..., None]).reshape(rows, unknowns, 1)
    answer = torch.cholesky_solve(side, factor)
    shifted = centre + _spread(contrasts, answer.reshape(split))
    side = (contrasts @ _pull(precision, share, shifted)[..., None]).reshape(rows, unknowns, 1) - answer
    answer = answer + torch.cholesky_solve(side, factor)
    mean = (share * (centre + _spread(contrasts, answer.reshape(split)))).sum(1)
    pivot, diagonal = factor.diagonal(dim1=1, dim2=2).square(), matrix.diagonal(dim1=1, dim2=2)
    good = (failed == 0) & (pivot > PIVOT * torch.finfo(means.dtype).eps * diagonal).all(1) & mean.isfinite().all(1)
    return Solved(mean, good, centre, variance, contrasts, factor, answer[..., 0])


def _pull(precision: Tensor, share: Tensor, places: Tensor) -> Tensor:
    """D_v^-1 (x - z_v) with x the precision-weighted mean of the z_v [R, V, L], without cancellation."""
    apart = places[:, None] - places[:, :, None]  # [R, v, u, L]
    return precision * (share[:, None] * apart).sum(2)


def _spread(rows: Tensor, weights: Tensor) -> Tensor:
    """sum_j weights[..., j, 0] rows[..., j, :]."""
    return (weights.transpose(-1, -2) @ rows)[..., 0, :]


class _Fusion(torch.autograd.Function):
    """`solve_rows(...).mean` with its exact gradient, in chunks that stay in the processor's cache.

    With A = sum_v C_v^-1 and l = A^-1 dx (the same system again), q_v = C_v^-1 l and r_v = C_v^-1 (m_v - x):
    the gradient is q_v for m_v, -q_v * r_v for D_v and -(U_v q_v) r_v^T - (U_v r_v) q_v^T for U_v.
    """

    CHUNK = 512

    @staticmethod
    def forward(ctx, means: Tensor, logvars: Tensor) -> Tensor:  # type: ignore[no-untyped-def]
        pieces = zip(means.split(_Fusion.CHUNK, 2), logvars.split(_Fusion.CHUNK, 2))
        parts = [solve_rows(*piece) for piece in pieces]
        mean = torch.cat([part.mean for part in parts])
        ctx.save_for_backward(means, logvars, mean, *(part.factor for part in parts), *(part.answer for part in parts))
        return mean

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[no-untyped-def]
        means, logvars, mean, *rest = ctx.saved_tensors
        d_means, d_logvars = torch.empty_like(means), torch.empty_like(logvars)
        views, members = means.shape[:2]
        turn = helmert(members, means) / max(members - 1, 1) ** 0.5
        half = len(rest) // 2
        for number, (factor, answer) in enumerate(zip(rest[:half], rest[half:])):
            rows = slice(number * _Fusion.CHUNK, (number + 1) * _Fusion.CHUNK)
            m, spread = means[:, :, rows], logvars[:, :, rows].exp()
            u = torch.tensordot(turn, m, ([1], [1])).permute(2, 1, 0, 3).contiguous()
            centre, precision = m.mean(1).transpose(0, 1), 1 / spread.mean(1).transpose(0, 1)
            total = precision.sum(1)
            w = u * precision[:, :, None]
            flat = w.flatten(1, 2)
            back = grad[rows] / total
            z = torch.cholesky_solve(flat @ back[..., None], factor)
            back = back + _spread(flat, z) / total  # l
            split = (len(back), views, members - 1, 1)
            q = precision * (back[:, None] - _spread(u, z.reshape(split)))
            r = precision * (centre - mean[rows, None] + _spread(u, answer.reshape(split)))
            d_u = -(u @ q[..., None]) * r[:, :, None] - (u @ r[..., None]) * q[:, :, None]  # [R, V, T-1, L]
            d_means[:, :, rows] = torch.tensordot(turn, d_u, ([0], [2])).permute(2, 0, 1, 3)
            d_means[:, :, rows] += q.transpose(0, 1)[:, None] / members
            d_logvars[:, :, rows] = (-q * r).transpose(0, 1)[:, None] * spread / members
        return d_means, d_logvars


def fuse(means: Tensor, logvars: Tensor) -> Tensor:
    """Fused mean [R, L] of V views of T members [V, T, R, L]; differentiable once."""
    if means.shape[1] == 1:  # diagonal: weighted by precision, nothing to solve
        return (torch.softmax(-logvars[:, 0], 0) * means[:, 0]).sum(0)
    return _Fusion.apply(means, logvars)


def diagonal_uncertainty(variance: Tensor, contrasts: Tensor, doubt: Tensor | None = None) -> tuple[Tensor, Tensor, Tensor]:
    """One aleatoric and one epistemic variance per row and each view's share, out of the diagonals of the views' covariances.

    With d_v and e_v the aleatoric and epistemic diagonals, s_v = d_v + e_v and A_v = s_v^-1 / sum_u s_u^-1 the fused
    state is sum_v A_v x_v, so its variance splits into sum_v A_v^2 d_v (aleatoric) and sum_v A_v^2 e_v (epistemic);
    both are averaged over the L channels, and so is A_v, the share of view v. Exact where the covariances are diagonal; the off-diagonal part of the
    epistemic ones is left out (sec 2.3, eq. 9 to 11).

    Args:
        variance, contrasts: as in `Solved`.
        doubt: [V] as for `solve_rows`; what it added to D_v is epistemic: it tells of what the avatar never saw.

    Returns:
        aleatoric [R], epistemic [R], in squared units of the state; shares [R, V], their sum 1.
    """
    spread = contrasts.square().sum(2)
    precision = 1 / (variance + spread)
    share = precision / precision.sum(1, keepdim=True)
    square = share.square()
    own = variance if doubt is None else variance / doubt[:, None]
    return (square * own).sum(1).mean(1), (square * (spread + (variance - own))).sum(1).mean(1), share.mean(2)
