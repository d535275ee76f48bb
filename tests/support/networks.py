"""Avatars whose networks are random, of any size, and random views for them."""

from __future__ import annotations

import numpy as np
import torch

from ua3dtalk.engine.avatar import Avatar, AvatarMeta
from ua3dtalk.engine.deform.networks import BranchNetwork
from ua3dtalk.engine.deform.parameters import VIEWS, NetworkSizes

SMALL = NetworkSizes(members=3, field=(4, 7), field_channels=3, emotion_field=(5,), emotion_channels=4, codebook=(6,), latent=8)


def make_avatar(
    sizes: NetworkSizes,
    counts: tuple[int, int] = (70, 20),
    seed: int = 0,
    moving: bool = False,
    spread: float = 0.0,
    offset: float = 0.0,
    bound: float | None = None,
) -> Avatar:
    """A random avatar; `spread` and `offset` set the standard deviation and mean of the log-variances' biases."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for branch, n in zip(VIEWS, counts):
        net = BranchNetwork(branch, sizes)
        with torch.no_grad():
            for view in VIEWS[branch]:
                net.fuse[view].logvar.bias.uniform_(-spread, spread).add_(offset)
        tensors |= net.to_tensors()
        # Some lie outside the box of the plane fields.
        tensors[f"{branch}.means"] = rng.uniform(-0.17, 0.17, (n, 3)).astype(np.float32)
        tensors[f"{branch}.quats"] = rng.normal(size=(n, 4)).astype(np.float32)
        tensors[f"{branch}.scales"] = rng.normal(-5, 1, (n, 3)).astype(np.float32)
        tensors[f"{branch}.opacities"] = rng.normal(size=n).astype(np.float32)
        tensors[f"{branch}.sh"] = rng.normal(size=(n, 4, 3)).astype(np.float32)
        if moving:
            tensors[f"{branch}.moving"] = rng.permutation(n)[: n // 2].astype(np.int32)
    return Avatar(AvatarMeta("random", logvar_bound=bound), tensors)


def make_views(sizes: NetworkSizes, frames: int, seed: int = 1) -> dict[str, np.ndarray]:
    rng = np.random.default_rng(seed)
    return {name: rng.normal(size=(frames, *shape)).astype(np.float32) for name, shape in sizes.frame_shapes("face").items()}
