"""The same avatar trained without parts of the method: same data, same steps, same Gaussians to begin with.

P is Prior Extraction (f_exp, f_tone), E the emotion view, U the uncertainty. Without U every view has one network of variance 1, so
that the fused state is the plain mean of what the views say: a linear layer over their hidden units side by side, which is
concatenation. The baseline has the audio view (with the action units in it) alone, as TalkingGaussian has.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Callable, Sequence

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
    return config if uncertain else replace(config, members=1, logvar_bound=_EVEN, likelihood=0.0, agree_steps=0, doubt=False)


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
            train_avatar(
                data, path, variant(config, name), path.with_name(path.stem), priors, device, threads,
                progress=lambda done, total, text, name=name: progress(done, total, f"{name}: {text}"),
            )  # fmt: skip
        made[name] = path
    return made
