"""Small avatars for tests: random Gaussians, with random networks where a test needs motion."""

from __future__ import annotations

import numpy as np

from ua3dtalk.engine.avatar import EMOTIONS, Avatar, AvatarMeta, View
from ua3dtalk.engine.avatar.gaussians import softplus_inverse


def static_avatar(count: int = 60, mouth: int = 20, degree: int = 1, seed: int = 0) -> Avatar:
    """A head-sized cloud of Gaussians without networks."""
    random = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    for branch, n in (("face", count), ("mouth", mouth)):
        if n:
            tensors[f"{branch}.means"] = random.uniform(-0.1, 0.1, (n, 3)).astype(np.float32)
            tensors[f"{branch}.quats"] = random.normal(size=(n, 4)).astype(np.float32)
            tensors[f"{branch}.scales"] = softplus_inverse(random.uniform(0.002, 0.01, (n, 3)))
            tensors[f"{branch}.opacities"] = random.normal(size=n).astype(np.float32)
            tensors[f"{branch}.sh"] = random.normal(0, 0.3, (n, (degree + 1) ** 2, 3)).astype(np.float32)
    return Avatar(AvatarMeta("Test head", pixel_size=5e-4, provenance="random numbers", consent="nobody"), tensors)


def talking_avatar(count: int = 60, mouth: int = 20, members: int = 3, seed: int = 0) -> Avatar:
    """The same with small random networks for the weightless providers, so that any sound and emotion moves it."""
    import torch

    from ua3dtalk.engine.deform.networks import BranchNetwork, NetworkSizes
    from ua3dtalk.engine.views.builtin import Cepstrum, MelWindow, Prosody

    avatar = static_avatar(count, mouth, seed=seed)
    torch.manual_seed(seed)
    for branch in avatar.branches:
        sizes = NetworkSizes(members=members, field=(8, 16), emotion_field=(8,), codebook=(8,))
        avatar.tensors |= BranchNetwork(branch, sizes, logvar_bound=7).to_tensors()
    for provider in (MelWindow(), Cepstrum(), Prosody()):
        avatar.meta.views[provider.view] = View(provider.name, provider.version, list(provider.shape), float(provider.rate))
    avatar.meta.logvar_bound = 7.0
    avatar.tensors["emotion.prototypes"] = np.random.default_rng(seed).normal(size=(len(EMOTIONS), 128)).astype(np.float32)
    avatar.tensors["face.moving"] = np.arange(0, count, 2, dtype=np.int32)
    return avatar
