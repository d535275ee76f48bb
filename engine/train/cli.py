"""`python -m engine train avatar`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(command: Any) -> None:
    """Add the command; `command(name, run, text)` gives its parser."""
    sub = command("avatar", _run, "a data set folder -> an avatar file; a stopped run goes on where it was")
    sub.add_argument("data", type=Path, help="data set folder (python -m engine prepare makes one)")
    sub.add_argument("--out", type=Path, required=True, help="avatar file to write (.safetensors)")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--quick", action="store_true", help="minutes on a processor, to see whether the data is right")
    how.add_argument("--paper", action="store_true", help="the paper's sizes and schedule, for a graphics card")
    sub.add_argument("--config", type=Path, metavar="JSON", help="settings to change, see engine/train/config.py")
    sub.add_argument(
        "--priors", type=Path, nargs="*", metavar="FILE",
        help="priors or avatars whose providers and emotion prototypes are used (those that ship; without a name: none that learned)",
    )  # fmt: skip
    sub.add_argument("--work", type=Path, metavar="FOLDER", help="checkpoints, previews, log and report (OUT.train)")
    sub.add_argument("--restart", action="store_true", help="begin anew, whatever was done before")
    sub.add_argument("--lpips", type=Path, nargs=2, metavar=("ALEXNET", "LINEAR"), help="weights of AlexNet and of LPIPS: adds that loss")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"))
    sub.add_argument("--threads", type=int, help="of the CPU rasteriser")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from ..cli import Printer
    from .config import TrainConfig
    from .run import train_avatar

    config = TrainConfig.quick() if options.quick else TrainConfig.paper() if options.paper else TrainConfig()
    if options.config is not None:
        config = config.changed(options.config)
    return train_avatar(
        options.data, options.out, config, options.work, options.priors, options.device, options.threads,
        None if options.lpips is None else tuple(options.lpips), options.restart, Printer(options.json),
    )  # fmt: skip
