"""The speech of an avatar: a strip of the sequencer, or a file."""

from __future__ import annotations

import hashlib
import secrets
from pathlib import Path
from typing import Any

import bpy

from ..engine.errors import UserError
from ..engine.files import atomic_write
from . import compat
from .avatar import absolute, hash_of, stored
from .core.paths import temporary_folder
from .core.timing import Placement, file_placement, strip_placement

MARK = "ua3dtalk_id"
"""Custom property of a strip by which an avatar finds it again when it was renamed."""
_seconds: dict[Path, tuple[tuple[int, int], float | None]] = {}
"""Length of each sound file asked for, while it stays the same."""
_packed: dict[tuple[int, int], Path] = {}
"""Where each packed sound was unpacked to, by its place in memory and its size."""


def fps_of(scene: bpy.types.Scene) -> float:
    """Frames a second."""
    return scene.render.fps / scene.render.fps_base


def find_strip(obj: bpy.types.Object, scene: bpy.types.Scene) -> Any:
    """The avatar's sound strip: by its mark, then by its name; in the scene, then in others; None where it is gone."""
    properties = obj.ua3dtalk
    for place in (scene, *(other for other in bpy.data.scenes if other != scene)):
        strips = compat.sound_strips(place)
        marked = [strip for strip in strips if properties.strip_id and strip.get(MARK) == properties.strip_id]
        named = [strip for strip in strips if strip.name == properties.strip_name]
        # A copied strip carries the same mark; the name tells the two apart.
        both = [strip for strip in marked if strip.name == properties.strip_name]
        for found in (both, marked, named):
            if found:
                return found[0]
    return None


def attach_strip(obj: bpy.types.Object, strip: Any) -> None:
    """Let the avatar speak what a strip plays."""
    properties = obj.ua3dtalk
    strip[MARK] = strip.get(MARK) or secrets.token_hex(8)
    properties.strip_id = strip[MARK]
    properties.strip_name = strip.name
    properties.sound_source = "STRIP"


def attach_file(obj: bpy.types.Object, path: Path, start: float) -> None:
    """Let the avatar speak a file that begins at a scene frame. Raises UserError where it is missing."""
    _check_sound(path)
    properties = obj.ua3dtalk
    properties.sound_path, properties.sound_start, properties.sound_source = stored(path), start, "FILE"


def add_strip(scene: bpy.types.Scene, path: Path, frame: int) -> Any:
    """A new sound strip in a free channel. Raises UserError where the file is missing or no sound."""
    seconds = _check_sound(path)
    every = compat.strips(scene, make=True)
    end = frame + seconds * fps_of(scene)
    overlapping = {s.channel for s in every if (t := compat.strip_times(s))[3] > frame and t[2] < end}
    channel = next((c for c in range(1, 129) if c not in overlapping), 128)
    strip = every.new_sound(path.stem, stored(path), channel, frame)
    return strip


def _check_sound(path: Path) -> float:
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
    except OSError as error:
        raise UserError(f"There is no sound file {path}.", "Check the path.") from error
    known = _seconds.get(path)
    if known is None or known[0] != stamp:
        known = _seconds[path] = (stamp, compat.sound_seconds(path))
    if known[1] is None:
        raise UserError(f"{path}: Blender cannot read it as a sound.", "Convert it, for instance to .wav or .flac.")
    return known[1]


def placement(obj: bpy.types.Object, scene: bpy.types.Scene) -> Placement | None:
    """Where the avatar's sound lies on the time line; None without one.

    Raises:
        UserError: the strip is gone or retimed, or the file cannot be read.
    """
    properties = obj.ua3dtalk
    fps = fps_of(scene)
    if properties.sound_source == "FILE":
        return file_placement(properties.sound_start, _check_sound(sound_file(obj, scene)), fps)
    if properties.sound_source != "STRIP":
        return None
    strip = _strip(obj, scene)
    if compat.is_retimed(strip):
        raise UserError(
            f"The strip {strip.name!r} is retimed; Blender does not tell where its sound is at a frame.",
            "Write the sound to a file (Render > Render Audio) and attach that.",
        )
    start, trimmed, first, end = compat.strip_times(strip)
    place = strip_placement(
        frame_start=start, animation_offset=trimmed, sound_offset=strip.sound_offset, first=first, end=end, fps=fps
    )
    parent = strip.parent_meta()
    while parent is not None:
        _, _, first, end = compat.strip_times(parent)
        place = place.cut(first, end)
        parent = parent.parent_meta()
    return place


def sound_file(obj: bpy.types.Object, scene: bpy.types.Scene) -> Path | None:
    """The avatar's sound file, or None without sound; a packed sound is unpacked into a temporary folder.

    Raises:
        UserError: the strip is gone, or holds no sound.
    """
    properties = obj.ua3dtalk
    if properties.sound_source == "FILE":
        return absolute(properties.sound_path, obj)
    if properties.sound_source != "STRIP":
        return None
    strip = _strip(obj, scene)
    sound = strip.sound
    if sound is None:
        raise UserError(f"The strip {strip.name!r} holds no sound.", "Choose another strip.")
    if sound.packed_file is not None:
        return _unpacked(sound)
    return absolute(sound.filepath, sound)


def _strip(obj: bpy.types.Object, scene: bpy.types.Scene) -> Any:
    strip = find_strip(obj, scene)
    if strip is None:
        raise UserError(f"{obj.name}: the sound strip {obj.ua3dtalk.strip_name!r} is gone.", "Attach another strip or file.")
    return strip


def _unpacked(sound: bpy.types.Sound) -> Path:
    key = (sound.packed_file.as_pointer(), sound.packed_file.size)
    path = _packed.get(key)
    if path is not None and path.is_file():
        return path
    data = sound.packed_file.data
    name = hashlib.sha256(data).hexdigest()[:16] + Path(sound.filepath).suffix
    path = temporary_folder("sounds") / name
    if not path.is_file() or path.stat().st_size != len(data):
        with atomic_write(path) as handle:
            handle.write(data)
    _packed[key] = path
    return path


def sound_hash(obj: bpy.types.Object, scene: bpy.types.Scene) -> tuple[Path | None, str]:
    """The avatar's sound file and its hash; (None, "") without sound. Raises UserError where it cannot be read."""
    path = sound_file(obj, scene)
    return (None, "") if path is None else (path, hash_of(path))
