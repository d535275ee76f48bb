"""The command `evaluate`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, Callable


def add(command: Callable[[str, Callable[[argparse.Namespace], dict[str, Any] | None], str], argparse.ArgumentParser]) -> None:
    """Add `evaluate` to the command line."""
    sub = command("evaluate", _evaluate, "is an avatar like its person, does it feel as told, does it know what it does not know")
    sub.epilog = (
        "Measured: pictures (PSNR, SSIM, LMD, action units, expression, lips; beside the same head kept still), emotion (is the right one nearest, does"
        " it follow its slider, do lips still close), uncertainty (noise on views, strangers, calibration). evaluation.md says what each figure means."
    )
    sub.add_argument("avatar", type=Path, help="avatar file (.safetensors) with networks")
    sub.add_argument("data", type=Path, nargs="?", help="data set folder; without it emotion and uncertainty are judged on --sounds")
    sub.add_argument("--split", default="val", help="frames of the data set that were not trained on (val)")
    sub.add_argument("--out", type=Path, metavar="FOLDER", help="where evaluation.md, evaluation.json, sheet.png, curves.png go (nowhere)")
    sub.add_argument("--only", metavar="SECTIONS", help="some of pictures,emotion,uncertainty, by commas (all)")
    sub.add_argument("--sounds", type=Path, nargs="+", default=[], metavar="SOUND", help="speech that was not trained on, a sentence a file")
    sub.add_argument(
        "--transcripts", type=Path, metavar="FILE",
        help="what the sounds say: lines `name|text`, name without suffix; without it pocketsphinx listens, where it is installed (English)",
    )  # fmt: skip
    sub.add_argument("--strangers", type=Path, nargs="+", default=[], metavar="SOUND", help="speech of people that were not trained on: are they told apart, and what becomes of the fusion with their style")
    sub.add_argument("--beside", action="append", default=[], metavar="NAME=AVATAR", help="another avatar for the table (again and again)")
    sub.add_argument("--baseline", type=Path, metavar="AVATAR", help="one without the fusion, whose views are spoilt the same way (+P+E of --ablate)")
    sub.add_argument(
        "--lpips", type=Path, nargs=2, metavar=("ALEXNET", "LINEAR"),
        help="measure LPIPS with these weights (torchvision's AlexNet, LPIPS' own v0.1); none come with us",
    )  # fmt: skip
    sub.add_argument(
        "--syncnet", type=Path, metavar="FILE",
        help="measure Sync-C and Sync-D with these weights (syncnet_v2.model, or its tensors as .safetensors); none come with us",
    )  # fmt: skip
    sub.add_argument(
        "--landmark-python", type=Path, metavar="PYTHON",
        help="a Python that has mediapipe, where the engine's own has not: landmarks are found in the pictures themselves, too",
    )  # fmt: skip
    sub.add_argument("--ablate", type=Path, metavar="FOLDER", help="train the same avatar without parts of the method there, and put all in the table")
    sub.add_argument("--train", type=Path, metavar="JSON", help="with --ablate: settings of all trainings (engine/train/config.py)")
    sub.add_argument("--priors", type=Path, nargs="*", metavar="FILE", help="with --ablate: whose providers and emotion prototypes (AVATAR's)")
    sub.add_argument("--every", type=int, default=1, metavar="N", help="draw every n-th frame (1); landmarks and Sync-C are of all")
    sub.add_argument("--frames", type=int, default=12, metavar="N", help="moments of each sentence for emotions and strangers (12)")
    sub.add_argument("--spoilt-pictures", type=int, default=24, metavar="N", help="pictures that are drawn for each way to spoil a view (24)")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where networks and rasteriser run (CUDA where it is)")
    sub.add_argument("--threads", type=int, metavar="N", help="CPU threads (one below the core count)")


def _evaluate(options: argparse.Namespace) -> dict[str, Any]:
    from dataclasses import replace

    from ..cli import Printer
    from ..errors import UserError
    from ..train.config import TrainConfig
    from .report import plain, without_curves
    from .run import SECTIONS, EvaluateSettings, load_transcripts, prepared, run_evaluation

    beside, printer = {}, Printer(options.json)
    for text in options.beside:
        name, equals, path = text.partition("=")
        if not (name and equals and path):
            raise UserError(f"--beside {text}: not of the form NAME=AVATAR.", "For example --beside baseline=baseline.safetensors.")
        beside[name] = Path(path)
    if options.every < 1 or options.frames < 2 or options.spoilt_pictures < 1:
        raise UserError("--every and --spoilt-pictures are to be at least 1, --frames at least 2.", "Leave them out for the usual numbers.")
    settings = EvaluateSettings(
        options.split, tuple(options.only.split(",")) if options.only else SECTIONS, tuple(options.sounds),
        load_transcripts(options.transcripts) if options.transcripts else {}, tuple(options.strangers), beside, options.baseline,
        options.every, options.frames, options.spoilt_pictures, lpips=tuple(options.lpips) if options.lpips else None, syncnet=options.syncnet,
        landmark_python=options.landmark_python, device=options.device,
        threads=options.threads,
    )  # fmt: skip
    if options.ablate is None and (options.train is not None or options.priors is not None):
        raise UserError("--train and --priors are of the trainings of --ablate.", "Name a folder for those with --ablate, or leave them out.")
    if options.ablate is not None:
        if options.data is None:
            raise UserError("--ablate trains, and there is no data set to train on.", "Name the data set folder after the avatar.")
        prepared(options.data, settings)  # what is wrong with it is not to be told after hours
        from .ablation import train_variants

        config = TrainConfig() if options.train is None else TrainConfig().changed(options.train)
        priors = [options.avatar] if options.priors is None else options.priors
        made = train_variants(options.data, options.ablate, config, priors, options.device, options.threads, printer)
        settings = replace(settings, beside=made | beside, baseline=options.baseline or made["+P+E"])
    result = plain(run_evaluation(options.avatar, options.data, options.out, settings, printer))
    return result if options.json else without_curves(result)
