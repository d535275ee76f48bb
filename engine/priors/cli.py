"""`python -m engine train priors`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(command: Any) -> None:
    """Add the command; `command(name, run, text)` gives its parser."""
    sub = command("priors", _run, "voices, recordings, faces -> what hears the mouth and the manner in a voice (f_exp, f_tone)")
    sub.add_argument("data", type=Path, nargs="*", metavar="DATA", help="data set folders of faces that speak")
    sub.add_argument("--out", type=Path, required=True, help="speech priors to write (.safetensors)")
    sub.add_argument("--clips", type=int, default=420, help="clips by espeak-ng's voices (420; 0: none)")
    sub.add_argument("--recordings", type=Path, nargs="+", default=[], metavar="FILE", help="recordings of English speech (needs pocketsphinx)")
    sub.add_argument("--texts", type=Path, metavar="FILE", help="what they say: lines `name|text` (LJ Speech's metadata.csv)")
    sub.add_argument("--steps", type=int, help="of the lip expert's training (1600); the style encoder takes half as many")
    sub.add_argument("--seed", type=int, default=0)
    sub.add_argument("--threads", type=int, default=1, help="CPU threads (1)")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    import torch

    from ..cli import Printer
    from ..errors import UserError
    from .lip_training import LipSettings
    from .run import PriorSettings, train_priors
    from .tone_training import ToneSettings

    if options.clips < 0 or (options.steps is not None and options.steps < 10):
        raise UserError("--clips must be 0 or more, --steps 10 or more.", "Leave them out for the usual training.")
    torch.set_num_threads(max(1, options.threads))
    lips, tone = LipSettings(seed=options.seed), ToneSettings(seed=options.seed)
    if options.steps is not None:
        lips, tone = replace(lips, steps=options.steps), replace(tone, steps=max(10, options.steps // 2))
    settings = PriorSettings(options.clips, seed=options.seed + 11, lips=lips, tone=tone)
    return train_priors(options.data, options.out, settings, options.recordings, options.texts, Printer(options.json))
