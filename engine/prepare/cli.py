"""`python -m engine prepare VIDEO OUT`."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any


def add(command: Callable[..., argparse.ArgumentParser]) -> None:
    """Hang the command in."""
    sub = command("prepare", _prepare, "a talking-head video -> a data set folder that an avatar is trained on")
    sub.add_argument("video", type=Path)
    sub.add_argument("out", type=Path, help="data set folder; run again after an interruption, it goes on")
    sub.add_argument("--size", type=int, default=512, metavar="PX", help="longest side of the pictures (512); smaller videos stay as they are")
    sub.add_argument("--whole", action="store_true", help="keep the whole picture: without it, a square around the head is cut out")
    sub.add_argument("--start", type=float, default=0.0, metavar="S", help="second from which the video is used (0)")
    sub.add_argument("--end", type=float, metavar="S", help="second up to which it is used (its end)")
    sub.add_argument("--sound", type=Path, help="speech in a file of its own, beginning with the video")
    sub.add_argument("--sound-shift", type=float, default=0.0, metavar="MS", help="milliseconds by which the sound is moved later (0)")
    sub.add_argument("--face", default="only", choices=("only", "largest"), help="what to do about a second face: refuse (only), or follow the one that is largest at first")
    sub.add_argument("--focal", type=float, metavar="PX", help="focal length in pixels of the video, where the lens is known (fitted)")
    sub.add_argument("--emotions", type=Path, metavar="FILE", help="what the person shows, when: an emotion file (.json, .csv), seconds of the video")
    sub.add_argument("--name", default="", help="who it is (the video's name)")
    sub.add_argument("--landmark-python", type=Path, metavar="PYTHON", help="a Python that has mediapipe, where the engine's own has not")


def _prepare(options: argparse.Namespace) -> dict[str, Any]:
    from ..cli import Printer
    from .pipeline import PrepareSettings, prepare

    settings = PrepareSettings(
        size=options.size, whole=options.whole, start=options.start, end=options.end, sound=options.sound,
        sound_shift=options.sound_shift / 1000, largest_face=options.face == "largest", focal=options.focal, name=options.name,
        landmark_python=options.landmark_python, emotions=options.emotions,
    )  # fmt: skip
    return prepare(options.video, options.out, settings, Printer(options.json))
