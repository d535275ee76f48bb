"""The command line: `python -m engine info | import | freeze | deform | bake | render | bench | doctor | worker`."""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path
from typing import Any, Callable

from . import __version__
from .arguments import frame_range
from .bake.cli import add as add_bake
from .errors import Cancelled, UserError
from .evaluate.cli import add as add_evaluate
from .events import INTERRUPTED, REFUSED
from .events import Events as Printer
from .exporters.cli import add as add_export
from .farm.cli import add as add_farm
from .prepare.cli import add as add_prepare
from .priors.cli import add as add_train_priors
from .priors.emotion_cli import add as add_train_emotion
from .train.cli import add as add_train_avatar

Command = Callable[[str, Any, str], argparse.ArgumentParser]
"""(name, what runs it with the parsed options, help) -> a parser to add arguments to."""


def main(arguments: list[str] | None = None) -> int:
    """Run one command. Exit codes: 0 done, 1 refused (one line on standard error), 2 wrong usage, 130 interrupted."""
    options = _parser().parse_args(_joined(sys.argv[1:] if arguments is None else arguments))
    try:
        result = options.run(options)
        if result is not None:
            print(json.dumps(result) if options.json else _readable(result), flush=True)
    except BrokenPipeError:  # the reader, `head` for example, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except UserError as error:
        Printer(options.json).error(error)
        return REFUSED
    except (KeyboardInterrupt, Cancelled):
        Printer(options.json).error("interrupted; what was finished until now is kept", INTERRUPTED)
        return INTERRUPTED
    return 0 if not result or result.get("ok", True) else REFUSED


def _joined(arguments: list[str]) -> list[str]:
    """`--up -Y` as `--up=-Y`: an axis with a minus looks like an option to argparse."""
    joined: list[str] = []
    for argument in arguments:
        if argument in ("-X", "-Y", "-Z") and joined and joined[-1].startswith("--"):
            joined[-1] += f"={argument}"
        else:
            joined.append(argument)
    return joined


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser("python -m engine", description="UA-3DTalk's engine: 3D Gaussian heads that talk with emotion.")
    parser.add_argument("--version", action="version", version=__version__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    def maker(group: Any) -> Command:
        def command(name: str, run: Any, text: str) -> argparse.ArgumentParser:
            sub = group.add_parser(name, help=text, description=text)
            sub.add_argument("--json", action="store_true", help="results (and progress) as JSON lines")
            sub.set_defaults(run=run)
            return sub

        return command

    command = maker(commands)

    def compute(sub: argparse.ArgumentParser) -> None:
        sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where the networks run")
        sub.add_argument("--threads", type=int, help="CPU threads (one below the core count)")

    sub = command("info", _info, "who an avatar is and what it needs")
    sub.add_argument("avatar", type=Path)

    sub = command("import", _import, "a checkpoint of the authors' layout (.pth), or Gaussians at rest (.ply, .spz, .splat) -> an avatar file")
    sub.add_argument("source", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="avatar file to write (.safetensors)")
    sub.add_argument("--name", default="", help="name shown to users")
    sub.add_argument("--up", default="+Y", help="the source's up axis (+Y; scenes from COLMAP often have -Y)")
    sub.add_argument("--front", default="+Z", help="the axis its face looks along (+Z; from COLMAP often -Z)")
    sub.add_argument("--metres", type=float, default=1.0, help="metres per unit (1)")
    sub.add_argument("--pixel", type=float, default=0.0, metavar="M", help="metres that a pixel covered at the face in the pictures it was trained on: it keeps that look at any size (0: not known)")

    sub = command("freeze", _freeze, "an avatar for delivery: its plane fields sampled at its Gaussians, the motion the same bit for bit")
    sub.add_argument("avatar", type=Path)
    sub.add_argument("--out", type=Path, required=True, help="avatar file to write (.safetensors)")
    sub.add_argument("--half", action="store_true", help="store half precision: half the size, with a small error that is measured and shown")

    sub = command("deform", _deform, "run an avatar's networks on per-frame view features")
    sub.add_argument("--avatar", type=Path, required=True)
    sub.add_argument("--features", type=Path, required=True, help=".npz with audio, au, exp, style, emotion")
    sub.add_argument("--out", type=Path, required=True, help=".npz with face_d_xyz, face_d_rot, face_d_scale, mouth_d_xyz")
    compute(sub)

    add_bake(command, compute)
    add_farm(command, compute)

    sub = command("render", _render, "frames of a cache -> PNG or OpenEXR with alpha, depth and uncertainty")
    sub.add_argument("--cache", type=Path, required=True, help="cache folder")
    sub.add_argument("--camera", type=Path, help="camera file (.json); without it, a portrait from the front")
    sub.add_argument("--size", default="512x512", help="WIDTHxHEIGHT of the portrait, pixels (512x512)")
    sub.add_argument("--frames", help="FIRST:LAST, inclusive (all that are baked)")
    sub.add_argument("--out", type=Path, required=True, help="folder for the pictures")
    sub.add_argument("--format", default="png", choices=("png", "exr"))
    sub.add_argument("--background", metavar="#RRGGBB", help="even background of PNGs (transparent)")
    sub.add_argument("--uncertainty-white", type=float, metavar="VARIANCE", help="variance that is white in uncertainty PNGs")
    sub.add_argument("--device", default="auto", choices=("auto", "cpu", "cuda"), help="where it is drawn: gsplat on cuda, else the processor")
    sub.add_argument("--threads", type=int, help="CPU threads (as many as cores)")

    sub = command("bench", _bench, "measure this machine: every fast path beside the plain one")
    sub.add_argument("--only", metavar="SECTIONS", help="of deformation,rasteriser,bake,cuda, by commas (all; cuda where there is one)")
    sub.add_argument("--quick", action="store_true", help="small sizes: some seconds, to see that everything runs")
    sub.add_argument("--avatar", type=Path, help="avatar of the bake (the demo's)")
    sub.add_argument("--audio", type=Path, help="speech of the bake (the demo's)")
    sub.add_argument("--threads", type=int, default=1, help="CPU threads (1)")
    sub.add_argument("--out", type=Path, help="file for the result (.json)")

    train = commands.add_parser("train", help="learn from pictures and speech", description="Learn from pictures and speech.")
    train_command = maker(train.add_subparsers(required=True, metavar="WHAT"))
    add_train_avatar(train_command)
    add_train_priors(train_command)
    add_train_emotion(train_command)

    add_evaluate(command)
    add_export(command)
    add_prepare(command)

    sub = command("doctor", _doctor, "what is installed, which device is used, what is missing")
    compute(sub)

    sub = command("worker", _worker, "serve Blender (started by the extension)")
    sub.add_argument("--connect", type=int, required=True, metavar="PORT", help="loopback port of the parent; token on standard input")
    compute(sub)
    return parser


def _info(options: argparse.Namespace) -> dict[str, Any]:
    from .commands import info

    return info(options.avatar)


def _import(options: argparse.Namespace) -> dict[str, Any]:
    from .commands import import_file

    return import_file(options.source, options.out, options.name, options.up, options.front, options.metres, options.pixel)


def _deform(options: argparse.Namespace) -> dict[str, Any]:
    from .avatar import load_avatar
    from .deform.features import deform_file

    avatar, progress = load_avatar(options.avatar), Printer(options.json)
    shapes = deform_file(
        avatar, options.features, options.out, options.device, options.threads, lambda done, count: progress(done, count, "frames")
    )
    return {"out": str(options.out), "shapes": {name: list(shape) for name, shape in shapes.items()}}


def _freeze(options: argparse.Namespace) -> dict[str, Any]:
    from .deform.freeze import freeze_file

    progress = Printer(options.json)
    return freeze_file(options.avatar, options.out, options.half, lambda done, count: progress(done, count, "frames compared"))


def _render(options: argparse.Namespace) -> dict[str, Any]:
    from .cache import CacheReader
    from .render import RenderSettings, load_camera, portrait, render_frames

    if options.camera is not None:
        cameras = load_camera(options.camera)
    else:
        reader = CacheReader(options.cache)
        cameras = portrait(reader.static.means, *_size(options.size))
        reader.close()
    settings = RenderSettings(
        options.format, options.background, {"cuda": "gsplat"}.get(options.device, options.device), options.threads, options.uncertainty_white
    )
    return render_frames(options.cache, cameras, options.out, frame_range(options.frames), settings, Printer(options.json))


def _bench(options: argparse.Namespace) -> dict[str, Any]:
    from .bench import BenchSettings, run_bench
    from .files import atomic_write

    given = {name: value for name in ("quick", "avatar", "audio", "threads") if (value := getattr(options, name)) is not None}
    if options.only:
        given["sections"] = tuple(options.only.split(","))
    result = run_bench(BenchSettings(**given), Printer(options.json))
    if options.out is not None:
        with atomic_write(options.out) as handle:
            handle.write(json.dumps(result, indent=1).encode())
    return result


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = (int(part) for part in text.lower().split("x"))
        if min(width, height) < 1:
            raise ValueError
    except ValueError:
        raise UserError(f"--size {text}: not of the form WIDTHxHEIGHT.", "For example --size 1024x1024.") from None
    return width, height


def _doctor(options: argparse.Namespace) -> dict[str, Any]:
    from .doctor import diagnose

    return diagnose(options.device, options.threads)


def _worker(options: argparse.Namespace) -> None:
    from .worker.methods import serve

    serve(options.connect, sys.stdin.readline().strip(), options.device, options.threads)


def _readable(result: dict[str, Any], indent: int = 0) -> str:
    lines = []
    for name, value in result.items():
        if isinstance(value, dict) and value:
            lines.append(f"{' ' * indent}{name}:\n{_readable(value, indent + 2)}")
        else:
            lines.append(f"{' ' * indent}{name}: {value}")
    return "\n".join(lines)
