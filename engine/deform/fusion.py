"""Fusion of the views' Gaussian states (paper sec 2.3, eq. 12) without a single inverse.

A view's total covariance is C_v = U_v^T U_v + D_v: U_v [T-1, L] the Helmert contrasts of its T member means over
sqrt(T-1), so that U_v^T U_v is their sample covariance (epistemic), and D_v the mean over the members of
exp(log-variance) (aleatoric, diagonal). The fused mean is the x that minimises sum_v (x - m_v)^T C_v^-1 (x - m_v).
Writing x = m_v + U_v^T y_v + e_v with y_v ~ N(0, 1), e_v ~ N(0, D_v) and eliminating x, whose system is diagonal,
leaves one system of V(T-1) unknowns:

    (I + blockdiag(W_v U_v^T) - W S^-1 W^T) y = [W_v (x0 - m_v)]_v,    x = x0 + S^-1 W^T y

with W_v = U_v D_v^-1, S = sum_v D_v^-1 and x0 = S^-1 sum_v D_v^-1 m_v. Its matrix is I plus something positive
semi-definite, so one Cholesky factor always exists, and every pivot is at least 1.
"""

from __future__ import annotations

from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor


class Fused(NamedTuple):
    """What the fusion of R rows gives.

    Attributes:
        mean: [R, L] fused mean.
        good: [R] bool; False where rounding spoilt the factor or a number is not finite.
        variance: [R, V, L] diagonal aleatoric variances D_v.
        spread: [R, V, L] diagonals of the epistemic covariances.
    """

    mean: Tensor
    good: Tensor
    variance: Tensor
    spread: Tensor


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


def fuse(means: Tensor, logvars: Tensor) -> Fused:
    """Fuse V views of T members each; differentiable. T = 1 is the precision-weighted mean of diagonal Gaussians.

    Args:
        means: [V, T, R, L] member means.
        logvars: [V, T, R, L] member log-variances.
    """
    views, members, rows, _ = means.shape
    variance = logvars.exp().mean(1).transpose(0, 1)  # [R, V, L]
    centre = means.mean(1).transpose(0, 1)
    precision = 1 / variance
    total = precision.sum(1, keepdim=True)
    share = precision / total
    start = (share * centre).sum(1)  # x0
    if members == 1:
        good = start.detach().isfinite().all(1) & total.detach().isfinite().all(2).all(1)
        return Fused(start, good, variance, torch.zeros_like(variance))

    contrasts = helmert(members, means) / (members - 1) ** 0.5
    spread = torch.einsum("jt,vtrl->rvjl", contrasts, means)  # U
    weighted = spread * precision[:, :, None]  # W
    unknowns = views * (members - 1)
    flat = weighted.reshape(rows, unknowns, -1)
    matrix = -(flat / total) @ flat.transpose(1, 2)
    matrix = matrix.reshape(rows, views, members - 1, views, members - 1)
    diagonal = matrix.diagonal(dim1=1, dim2=3)  # [R, T-1, T-1, V]
    diagonal += (weighted @ spread.transpose(2, 3)).permute(0, 2, 3, 1)
    matrix = matrix.reshape(rows, unknowns, unknowns) + torch.eye(unknowns, dtype=means.dtype, device=means.device)
    side = (weighted @ (start[:, None] - centre)[..., None]).reshape(rows, unknowns, 1)

    factor = torch.linalg.cholesky_ex(matrix).L
    fused = start + (flat.transpose(1, 2) @ torch.cholesky_solve(side, factor))[..., 0] / total[:, 0]
    with torch.no_grad():
        # A pivot is the difference of numbers as large as the diagonal: below this it is mostly rounding.
        pivot = factor.diagonal(dim1=1, dim2=2).square()
        limit = 100 * torch.finfo(means.dtype).eps * matrix.diagonal(dim1=1, dim2=2)
        good = (pivot > limit).all(1) & fused.isfinite().all(1)
    return Fused(fused, good, variance, spread.square().sum(2))


def diagonal_uncertainty(variance: Tensor, spread: Tensor) -> tuple[Tensor, Tensor]:
    """One aleatoric and one epistemic variance per row, out of the diagonals of the views' covariances.

    With s_v = d_v + e_v and A_v = s_v^-1 / sum_u s_u^-1 the fused state is sum_v A_v x_v, so its variance splits into
    sum_v A_v^2 d_v (aleatoric) and sum_v A_v^2 e_v (epistemic); both are averaged over the L channels. Exact where
    the covariances are diagonal; the off-diagonal part of the epistemic ones is left out (sec 2.3, eq. 9 to 11).

    Args:
        variance, spread: [R, V, L] as in `Fused`.

    Returns:
        aleatoric [R], epistemic [R], in squared units of the state.
    """
    precision = 1 / (variance + spread)
    share = (precision / precision.sum(1, keepdim=True)).square()
    return (share * variance).sum(1).mean(1), (share * spread).sum(1).mean(1)
