"""`python -m engine bake`."""

from __future__ import annotations

import argparse
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any, Callable

from ..arguments import add_shot_rules, frame_range
from ..errors import UserError
from ..events import Events

if TYPE_CHECKING:
    from ..shot import Shot

DESCRIPTION = """A shot, or an avatar with sound and emotion, -> a cache folder. Only frames that are missing or out of date are computed,
so that a bake that was stopped goes on where it was. Exit codes: 0 done (--check: all is whole), 1 refused or failed (--check: not all is
whole), 2 wrong usage, 130 interrupted. --json: one object a line, each with `event`: start, progress, frame, result or error."""
_COMPOSED = ("audio", "emotion", "fps", "offset", "lead", "smoothing")


def add(command: Any, compute: Callable[[argparse.ArgumentParser], None]) -> None:
    """Add the command; `command(name, run, text)` gives its parser, `compute` adds where the networks run."""
    sub = command("bake", _run, "a shot file, or avatar + sound + emotion -> a cache folder")
    sub.description = DESCRIPTION
    what = sub.add_mutually_exclusive_group()
    what.add_argument("--shot", type=Path, help="shot file (.json) as Blender or you wrote it, see engine/shot/document.py")
    what.add_argument("--avatar", type=Path, help="instead of a shot: avatar file, with the next six")
    sub.add_argument("--audio", type=Path, help="sound file; without it, only emotion and blinks move the face")
    sub.add_argument("--emotion", type=Path, help="emotion keys (.json), a table (.csv) or key frames of Audio2Face (.json); without it, neutral with automatic blinks")
    sub.add_argument("--fps", type=float, help="frames a second (25)")
    sub.add_argument("--offset", type=float, help="seconds by which the sound starts after frame 0 (0)")
    sub.add_argument("--lead", type=float, metavar="MS", help="milliseconds by which the mouth is ahead of the sound (0; negative: behind)")
    sub.add_argument("--smoothing", type=float, metavar="S", help="seconds over which what the sound says is averaged (0: off)")
    sub.add_argument("--frames", help="FIRST:LAST, inclusive (all of the shot; as long as the sound)")
    sub.add_argument("--out", type=Path, help="cache folder (the shot's own)")
    how = sub.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="say what would be computed, and why; nothing is written")
    how.add_argument("--check", action="store_true", help="verify the cache: checksums, and against the shot if one is given; nothing is written")
    add_shot_rules(sub)
    compute(sub)
    sub.set_defaults(wrong_usage=sub.error)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    _check_usage(options)
    frames, tell = frame_range(options.frames), Events(options.json)
    from ..shot.plan import check_bake, check_folder, check_sources, plan_bake

    if options.shot is None and options.avatar is None:
        return _result({"shot": None, **check_bake(options.out, None, tell)}, options)
    name, shot, out = _shot(options, frames, tell)
    tell.start(name, shot, out)
    if options.check:
        return _result({"shot": name, **check_bake(out, shot, tell)}, options)
    if options.shot is not None:
        check_sources(shot)
    check_folder(out, shot, options.resume)
    if options.dry_run:
        return _result({"shot": name, "ok": True, "dry_run": True, "cache": str(out), **plan_bake(shot, out).result()}, options)

    from dataclasses import asdict

    from ..cache import SHOT_FILE
    from ..shot import save_shot
    from . import Baker, Session

    if threading.current_thread() is threading.main_thread():  # what a farm sends is as Ctrl-C: the lock goes, 130
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    result = Baker(Session(options.device, options.threads), shot).bake(out, progress=tell)
    if options.shot is None or frames is None:
        save_shot(shot, out / SHOT_FILE, durable=False)
    return _result({"shot": name, "ok": True, **asdict(result)}, options)


def _check_usage(options: argparse.Namespace) -> None:
    given = [f"--{name}" for name in _COMPOSED if getattr(options, name) is not None]
    if given and options.avatar is None:
        options.wrong_usage(f"{', '.join(given)}: only with --avatar; a shot file says this itself")
    if options.shot is None and options.out is None:
        options.wrong_usage("give --shot FILE, or --out FOLDER and --avatar FILE, or --out FOLDER and --check")
    if options.shot is None and options.avatar is None and not options.check:
        options.wrong_usage("give --shot FILE or --avatar FILE")
    if options.shot is None and options.avatar is None and options.frames is not None:
        options.wrong_usage("--frames: give --shot FILE or --avatar FILE, whose frames are checked")
    if (options.root or options.allow_outside) and options.shot is None:
        options.wrong_usage("--root and --allow-outside are about shot files: give --shot FILE")


def _shot(options: argparse.Namespace, frames: tuple[int, int] | None, tell: Events) -> tuple[str, Shot, Path]:
    """Name, shot and folder of what is asked for."""
    if options.shot is None:
        return options.avatar.stem, _composed(options, frames, tell), options.out
    import numpy as np

    from ..shot.document import Rules, read_document

    rules = Rules(options.root, options.allow_outside)
    shot, settings = read_document(options.shot, rules, options.out is None)
    out: Path | None = options.out or settings.output
    if out is None:
        raise UserError(f"{options.shot}: names no output folder.", "Give --out FOLDER.")
    if frames is not None:
        first, last = frames
        rows = np.flatnonzero((shot.frames >= first) & (shot.frames <= last))
        if first < shot.frames[0] or last > shot.frames[-1] or not len(rows):
            remedy = f"It has {shot.frames[0]} to {shot.frames[-1]}."
            raise UserError(f"{options.shot}: frames {first} to {last} are not all in the shot.", remedy)
        shot = shot.part(rows)
    return settings.name, shot, out


def _composed(options: argparse.Namespace, frames: tuple[int, int] | None, tell: Events) -> Shot:
    from ..files import file_hash
    from ..shot import EmotionCurves, compose_shot, load_emotion

    fps = 25.0 if options.fps is None else options.fps
    if not 0 < fps < 100_000:
        raise UserError(f"{fps:g} frames a second cannot be baked.", "Give --fps a number such as 24, 25 or 30.")
    emotion = EmotionCurves() if options.emotion is None else load_emotion(options.emotion, fps)
    for note in emotion.notes:
        tell.note(f"{options.emotion}: {note}")
    from ..audio import read_sound  # scipy loads only once the arguments make sense

    duration = 0.0 if options.audio is None else read_sound(options.audio).duration
    return compose_shot(
        options.avatar, file_hash(options.avatar), options.audio, duration, emotion, fps, frames, options.offset or 0.0,
        (options.lead or 0.0) / 1000, options.smoothing or 0.0,
    )  # fmt: skip


def _result(result: dict[str, Any], options: argparse.Namespace) -> dict[str, Any]:
    if options.json:
        return {"event": "result", **result}
    from ..shot.plan import in_words

    return in_words(result)
