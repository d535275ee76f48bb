"""What training makes small (paper sec 2.4). Pictures are [H,W,3] in 0..1."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor

from ..deform.networks import BranchOutput
from ..deform.parameters import VIEWS

WINDOW, SIGMA = 11, 1.5
"""Of the SSIM (Wang et al. 2004)."""


@lru_cache(maxsize=4)
def _blur(size: int, device: torch.device) -> Tensor:
    """[size,size] matrix that blurs a row of pixels, zero padded. On processors its products are faster than a convolution's gradient."""
    apart = torch.arange(size, dtype=torch.float32, device=device)
    apart = (apart[:, None] - apart).abs()
    kernel = torch.exp(-apart.square() / (2 * SIGMA**2)) * (apart <= WINDOW // 2)
    inside = torch.exp(-torch.arange(-(WINDOW // 2), WINDOW // 2 + 1).square() / (2 * SIGMA**2)).sum()
    return kernel / inside.to(device)


def ssim(one: Tensor, other: Tensor) -> Tensor:
    """Mean structural similarity of two pictures [H,W,C] in 0..1, zero padded; 1 where they are the same."""
    a, b = (x.permute(2, 0, 1) for x in (one, other))
    rows, columns = (_blur(size, one.device) for size in one.shape[:2])
    mean_a, mean_b, aa, bb, ab = (rows @ torch.cat([a, b, a * a, b * b, a * b]) @ columns).chunk(5)
    var_a, var_b, cov = aa - mean_a**2, bb - mean_b**2, ab - mean_a * mean_b
    c1, c2 = 0.01**2, 0.03**2
    return (((2 * mean_a * mean_b + c1) * (2 * cov + c2)) / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean()


def picture_loss(found: Tensor, truth: Tensor, dssim: float) -> Tensor:
    """L1 + dssim (1 - SSIM)."""
    loss = (found - truth).abs().mean()
    return loss + dssim * (1 - ssim(found, truth)) if dssim else loss


def details_loss(found: Tensor, truth: Tensor, boxes: Tensor) -> Tensor:
    """L1 inside boxes [H,W]: a moving lip or lid is some pixels, which the whole picture's mean hardly sees."""
    return ((found - truth).abs().mean(-1) * boxes).sum() / boxes.sum().clamp(min=1)


def alpha_loss(alpha: Tensor, mask: Tensor) -> Tensor:
    """Alpha [H,W] must be 1 inside the mask [H,W] (0..1) and 0 outside."""
    return ((1 - alpha) * mask + alpha * (1 - mask)).mean()


def motion_size(out: BranchOutput) -> Tensor:
    """Mean |motion| of what moves: means, and raw quaternions and scales where they do."""
    return sum((part.abs().mean() for part in (out.d_means, out.d_quats, out.d_scales) if part is not None), out.d_means.new_zeros(()))


def attention_loss(maps: Tensor, hair: Tensor, lips: Tensor) -> Tensor:
    """maps [H,W,2]: rendered attention to the audio and to the action units; hair must have neither, the lips' box no action units."""
    audio, au = maps[..., 0], maps[..., 1]
    return (audio * hair).mean() + (au * torch.maximum(hair, lips)).mean()


def state_variance(branch: str, out: BranchOutput) -> Tensor:
    """Variance [M] of the fused state of frame 0, averaged over its channels, by the diagonals of the views' covariances (eq. 9 to 12)."""
    precision = 0
    for view in VIEWS[branch]:
        means, logvars = out.view_means[view][:, 0], out.view_logvars[view][:, 0]
        total = logvars.exp().mean(0)
        if len(means) > 1:
            total = total + means.var(0)
        precision = precision + 1 / total
    return (1 / precision).mean(-1)


def likelihood_loss(found: Tensor, truth: Tensor, variance: Tensor, unit: float, floor: float) -> Tensor:
    """Negative log-likelihood of the error that is left, under floor + unit * rendered state variance [H,W]; the error is a constant to it."""
    error = (found.detach() - truth).square().mean(-1)
    spread = floor + unit * variance
    return 0.5 * (spread.log() + error / spread).mean()
