"""`blender -b shot.blend --command ua3dtalk_bake ...`: bakes, plans, checks and shot files without a window.

Exit codes and JSON lines are those of `python -m engine bake` (engine/events.py). Blender's own lines are between the JSON ones.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import bpy

from ..engine.arguments import frame_range
from ..engine.errors import Cancelled, UserError
from ..engine.events import INTERRUPTED, REFUSED, Events
from ..engine.shot.plan import check_bake, check_folder, in_words, plan_bake
from . import api, avatar, baking, compat, frames, shots
from .places import folder_of

COMMAND = "ua3dtalk_bake"
_handle: object = None


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        f"blender -b FILE --command {COMMAND}",
        description="Bake the avatars of a scene, one after the other. Exit codes: 0 done (--check: all is whole), "
        "1 refused or failed (--check: not all is whole), 2 wrong usage, 130 interrupted.",
    )
    parser.add_argument("--object", metavar="NAME", help="one avatar (all of the scene)")
    parser.add_argument("--scene", metavar="NAME", help="the scene (the file's active one)")
    parser.add_argument("--frames", metavar="FIRST:LAST", help="inclusive (each avatar's own range)")
    parser.add_argument("--out", type=Path, metavar="FOLDER", help="cache folder of the one avatar (its own); the .blend is not changed")
    parser.add_argument("--resume", action="store_true", help="go on in FOLDER even where it holds the bake of another avatar or sound")
    parser.add_argument("--json", action="store_true", help="one JSON object a line, each with `event`")
    how = parser.add_mutually_exclusive_group()
    how.add_argument("--dry-run", action="store_true", help="say what would be computed, and why; nothing is written")
    how.add_argument("--check", action="store_true", help="verify the bake: checksums, and whether it is what the scene says now")
    how.add_argument("--shot-file", type=Path, metavar="PATH", help="write the avatar's shot file (.json) and stop")
    return parser


def run(arguments: list[str]) -> int:
    """The command, with its arguments as text. Returns the exit code; one avatar that fails does not stop the others."""
    try:
        options = _parser().parse_args(arguments)
    except SystemExit as ended:  # argparse has said why
        return int(ended.code or 0)
    tell = Events(options.json)
    try:
        scene, found = _targets(options)
        asked = frame_range(options.frames)
    except UserError as error:
        tell.error(error)
        return REFUSED
    codes = []
    for obj in found:
        try:
            codes.append(_one(obj, scene, asked, options, tell))
        except UserError as error:
            tell.error(error, shot=obj.name)
            codes.append(REFUSED)
        except (KeyboardInterrupt, Cancelled):
            tell.error("interrupted; what was finished until now is kept", INTERRUPTED, shot=obj.name)
            return INTERRUPTED
    return max(codes)


def _targets(options: argparse.Namespace) -> tuple[bpy.types.Scene, list[bpy.types.Object]]:
    scene = bpy.context.scene if options.scene is None else bpy.data.scenes.get(options.scene)
    if scene is None:
        raise UserError(f"There is no scene {options.scene!r}.", f"There are {', '.join(one.name for one in bpy.data.scenes)}.")
    found = avatar.avatars(scene.objects)
    if options.object is not None:
        found = [obj for obj in found if obj.name == options.object]
    if not found:
        what = "no avatar" if options.object is None else f"no avatar {options.object!r}"
        raise UserError(f"{bpy.data.filepath or 'The file'}: the scene {scene.name!r} has {what}.", "Name the .blend before --command.")
    if len(found) > 1 and (options.out is not None or options.shot_file is not None):
        raise UserError(f"{len(found)} avatars cannot go to one place.", f"Give --object, one of {', '.join(obj.name for obj in found)}.")
    return scene, found


def _one(
    obj: bpy.types.Object, scene: bpy.types.Scene, asked: tuple[int, int] | None, options: argparse.Namespace, tell: Events
) -> int:
    result: dict[str, Any] = {"shot": obj.name, "ok": True}
    own = obj.ua3dtalk.cache_path
    try:
        if options.out is not None:
            obj.ua3dtalk.cache_path = str(options.out.absolute())
        if options.shot_file is not None:
            output = None if options.out is None else options.out.absolute()
            path = api.write_shot(obj, options.shot_file.absolute(), asked, output=output, scene=scene)
            result["shot_file"] = str(path)
            return _end(result, tell)
        shot = baking.portable(shots.shot_of(obj, scene, api.frame_numbers(asked)))
        folder = folder_of(obj)
        tell.start(obj.name, shot, folder)
        if options.check:
            return _end(result | check_bake(folder, shot, tell), tell)
        check_folder(folder, shot, options.resume or options.out is None)
        if options.dry_run:
            return _end(result | {"dry_run": True, "cache": str(folder)} | plan_bake(shot, folder).result(), tell)
        return _end(result | _bake(baking.BakeRun(obj, scene, shot=shot), tell), tell)
    finally:
        if options.out is not None:
            obj.ua3dtalk.cache_path = own
        frames.show(obj, scene)


def _bake(going: baking.BakeRun, tell: Events) -> dict[str, object]:
    """Wait for a bake and tell of it; where the user ends it, so does the engine, after the frames it is at."""
    try:
        while going.step(0.05):
            tell(going.done, going.total, going.text, going.take_readable())
        tell(going.done, going.total, going.text, going.take_readable())
    except KeyboardInterrupt:
        going.cancel()
        while going.step(0.05):
            pass
        raise
    return going.finish()


def _end(result: dict[str, Any], tell: Events) -> int:
    tell.result(result)
    if not tell.as_json:
        print("\n".join(f"{name}: {value}" for name, value in in_words(result).items()), flush=True)
    return 0 if result["ok"] else REFUSED


def register() -> None:
    """Add the command."""
    global _handle
    _handle = compat.add_command(COMMAND, run)


def unregister() -> None:
    """Remove the command."""
    global _handle
    handle, _handle = _handle, None
    compat.remove_command(handle)
