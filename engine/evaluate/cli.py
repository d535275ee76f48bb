"""The command `evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Callable


def add(command: Callable[[str, Callable[[argparse.Namespace], dict[str, Any] | None], str], argparse.ArgumentParser]) -> None:
    """Add `evaluate` to the command line."""
    sub = command("evaluate", _evaluate, "is an avatar like its person, does it feel as told, does it know what it does not know")
    sub.add_argument("avatar", type=Path)
    sub.add_argument("data", type=Path, nargs="?", help="data set folder; without it emotion and uncertainty are judged on --sounds")
    sub.add_argument("--split", default="val", help="frames that were not trained on (val)")
    sub.add_argument("--out", type=Path, help="folder for evaluation.md, evaluation.json, sheet.png, curves.png")
    sub.add_argument("--only", metavar="SECTIONS", help="of pictures,emotion,uncertainty, by commas (all)")
    sub.add_argument("--sounds", type=Path, nargs="+", default=[], help="speech that was not trained on, a sentence a file")
    sub.add_argument("--transcripts", type=Path, help="what the sounds say: lines `name|text`; without it pocketsphinx listens (English)")
    sub.add_argument("--strangers", type=Path, nargs="+", default=[], help="speech of people that were not trained on")
    sub.add_argument("--beside", action="append", default=[], metavar="NAME=AVATAR", help="another avatar for the table (again and again)")
    sub.add_argument("--baseline", type=Path, metavar="AVATAR", help="one without the fusion, to spoil the same way")
    sub.add_argument("--lpips", type=Path, nargs=2, metavar=("ALEXNET", "LINEAR"), help="weights of AlexNet and of LPIPS: measures that too")
    sub.add_argument("--ablate", type=Path, metavar="FOLDER", help="train the same avatar without parts of the method there, and put all in the table")
    sub.add_argument("--train", type=Path, metavar="JSON", help="settings of those trainings (engine/train/config.py), the same for all")
    sub.add_argument("--priors", type=Path, nargs="*", metavar="FILE", help="whose providers and emotion prototypes they use (AVATAR's)")
    sub.add_argument("--every", type=int, default=1, metavar="N", help="draw every n-th frame (1)")
    sub.add_argument("--frames", type=int, default=12, help="of each sentence for emotions and strangers (12)")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the networks run")
    sub.add_argument("--threads", type=int, help="CPU threads (one below the core count)")


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from ..cli import Printer
    from ..errors import UserError
    from ..train.config import TrainConfig
    from .report import plain, without_curves
    from .run import SECTIONS, EvaluateSettings, load_transcripts, run_evaluation

    beside, printer = {}, Printer(options.json)
    for text in options.beside:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"--beside {text}: not of the form NAME=AVATAR.", "For example --beside baseline=baseline.safetensors.")
        beside[name] = Path(path)
    if options.every < 1 or options.frames < 2:
        raise UserError("--every is to be at least 1, --frames at least 2.", "Leave them out for the usual numbers.")
    settings = EvaluateSettings(
        options.split, tuple(options.only.split(",")) if options.only else SECTIONS, tuple(options.sounds),
        load_transcripts(options.transcripts) if options.transcripts else {}, tuple(options.strangers), beside, options.baseline,
        options.every, options.frames, lpips=tuple(options.lpips) if options.lpips else None, device=options.device, threads=options.threads,
    )  # fmt: skip
    if options.ablate is not None:
        if options.data is None:
            raise UserError("--ablate trains, and there is no data set to train on.", "Name the data set folder after the avatar.")
        from .ablation import train_variants

        config = TrainConfig() if options.train is None else TrainConfig().changed(options.train)
        priors = [options.avatar] if options.priors is None else options.priors
        made = train_variants(options.data, options.ablate, config, priors, options.device, options.threads, printer)
        settings = replace(settings, beside=made | beside, baseline=options.baseline or made["+P+E"])
    result = plain(run_evaluation(options.avatar, options.data, options.out, settings, printer))
    return result if options.json else without_curves(result)
