"""Avatars of any size with the paper's networks, for figures that do not depend on who it is."""

from __future__ import annotations

import numpy as np
import torch

from ..avatar import EMOTIONS, Avatar, AvatarMeta
from ..avatar.gaussians import softplus_inverse
from ..deform.networks import BranchNetwork, NetworkSizes


def random_avatar(face: int, mouth: int = 0, members: int = 10, seed: int = 0) -> Avatar:
    """A head-sized ball of Gaussians with random networks of the paper's sizes; all of them move.

    Args:
        face, mouth: Gaussians of each branch; 0 leaves a branch out.
        members: T.
    """
    random = np.random.default_rng(seed)
    torch.manual_seed(seed)
    tensors: dict[str, np.ndarray] = {}
    for branch, count in (("face", face), ("mouth", mouth)):
        if count:
            ball = random.normal(size=(count, 3))
            ball *= random.uniform(0.2, 1, (count, 1)) ** (1 / 3) * 0.12 / np.linalg.norm(ball, axis=1, keepdims=True)
            tensors[f"{branch}.means"] = ball.astype(np.float32)
            tensors[f"{branch}.quats"] = random.normal(size=(count, 4)).astype(np.float32)
            tensors[f"{branch}.scales"] = softplus_inverse(random.lognormal(np.log(0.002), 0.5, (count, 3)).astype(np.float32))
            tensors[f"{branch}.opacities"] = random.normal(1, 2, count).astype(np.float32)
            tensors[f"{branch}.sh"] = random.normal(0, 0.3, (count, 9, 3)).astype(np.float32)
            tensors |= BranchNetwork(branch, NetworkSizes(members=members)).to_tensors()
    tensors["emotion.prototypes"] = random.normal(size=(len(EMOTIONS), 128)).astype(np.float32)
    return Avatar(AvatarMeta("Random head"), tensors)


def random_views(frames: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Views of some frames for `random_avatar`; every view changes from frame to frame."""
    random = np.random.default_rng(seed)
    shapes = NetworkSizes().frame_shapes("face")
    views = {name: random.normal(size=(frames, *shape)).astype(np.float32) for name, shape in shapes.items()}
    return views | {"au": random.uniform(0, 1, (frames, *shapes["au"])).astype(np.float32)}
