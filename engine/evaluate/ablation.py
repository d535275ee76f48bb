"""The same avatar trained without parts of the method: same data, same steps, same Gaussians to begin with.

P is Prior Extraction (f_exp, f_tone), E the emotion view, U the uncertainty. Without U every view has one network of variance 1, so
that the fused state is the plain mean of what the views say: a linear layer over their hidden units side by side, which is
concatenation. The baseline has the audio view (with the action units in it) alone, as TalkingGaussian has.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any, Callable, Sequence

import numpy as np

from ..avatar import load_avatar, save_avatar
from ..train.config import TrainConfig
from ..train.run import train_avatar

Progress = Callable[[int, int, str], None]
VARIANTS: dict[str, tuple[tuple[str, ...], bool]] = {
    "baseline": (("exp", "style", "emotion"), False),
    "+P": (("emotion",), False),
    "+E": (("exp", "style"), False),
    "+P+E": ((), False),
    "+P+U": (("emotion",), True),
    "+P+E+U": ((), True),
}
"""Name -> views left out, whether uncertainty weighs the others."""
_EVEN = 1e-6
"""Bound of log-variances that makes every variance 1."""


def variant(config: TrainConfig, name: str) -> TrainConfig:
    """The settings that train a variant."""
    without, uncertain = VARIANTS[name]
    config = replace(config, without=without)
    return config if uncertain else replace(config, members=1, logvar_bound=_EVEN, likelihood=0.0)


def train_variants(
    data: Path, folder: Path, config: TrainConfig, priors: Sequence[Path] | None = None, device: str = "auto", threads: int | None = None,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Path]:  # fmt: skip
    """Train all variants, one after the other; what is finished in the folder stays, what was stopped goes on.

    Args:
        priors: see `train_avatar`.

    Returns:
        name -> avatar file, which hears nothing through the views it was trained without.
    """
    made = {}
    for name in VARIANTS:
        path = Path(folder) / f"{name.replace('+', '_').strip('_')}.safetensors"
        if not path.exists():
            trained = path.with_name(f"{path.stem}.trained.safetensors")
            train_avatar(
                data, trained, variant(config, name), path.with_name(path.stem), priors, device, threads,
                progress=lambda done, total, text, name=name: progress(done, total, f"{name}: {text}"),
            )  # fmt: skip
            silence(trained, path, VARIANTS[name][0])
            trained.unlink()
        made[name] = path
    return made


def silence(source: Path, out: Path, views: tuple[str, ...]) -> None:
    """Write an avatar whose networks take these views (exp, style, emotion) for zeros, as they had them in training."""
    avatar = load_avatar(source)
    tensors: dict[str, Any] = dict(avatar.tensors)
    for branch in avatar.branches:
        for view in views:
            if view == "emotion":
                if branch == "face":
                    tensors["face.net.emotion.query.weight"] = np.zeros_like(tensors["face.net.emotion.query.weight"])
                continue
            weight = np.array(tensors[f"{branch}.net.fuse.{view}.fc1.weight"])
            weight[..., : avatar.meta.views[view].dim[-1]] = 0  # what is behind it belongs to the place
            tensors[f"{branch}.net.fuse.{view}.fc1.weight"] = weight
    avatar.tensors = tensors
    save_avatar(avatar, out)
