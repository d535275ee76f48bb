"""What command lines take, the engine's and Blender's. Standard library alone."""

from __future__ import annotations

import argparse
from pathlib import Path

from .errors import UserError


def frame_range(text: str | None) -> tuple[int, int] | None:
    """(first, last) of FIRST:LAST; None for None. Raises UserError where it is not of that form."""
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"--frames {text}: not of the form FIRST:LAST.", "For example --frames 0:249.") from None
    if last < first:
        raise UserError(f"--frames {text}: the last frame lies before the first.", "For example --frames 0:249.")
    return first, last


def add_shot_rules(parser: argparse.ArgumentParser) -> None:
    """What shot files may do: --resume, --root, --allow-outside (`shot.document.Rules`)."""
    parser.add_argument("--resume", action="store_true", help="go on in a folder even where it holds the bake of another avatar or sound; a shot's own always goes on")
    parser.add_argument("--root", type=Path, metavar="FOLDER", help="the folder that shots may write in and read unhashed files from (each shot file's)")
    parser.add_argument("--allow-outside", action="store_true", help="trust the shot files: they may write and read anywhere")
