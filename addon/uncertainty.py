"""The uncertainty of an avatar's bake over time: read frame by frame, a little at a time where somebody waits for the screen."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from pathlib import Path

import bpy
import numpy as np

from ..engine.avatar import REGIONS
from ..engine.cache import SHARES, FrameMissing, FrameSummary
from ..engine.errors import UserError
from . import avatar, frames, shots
from .core.trust import Trust
from .draw.graph import Graph
from .feedback import tag_redraw
from .places import folder_of

SLICE = 0.004
"""Seconds that a redraw or a timer may spend on reading."""
_PAUSE = 0.02


@dataclass
class _Book:
    """What was read of one cache: frame -> (key, summary; None where the frame is damaged); and the Trust made of it."""

    read: dict[int, tuple[bytes, FrameSummary | None]] = field(default_factory=dict)
    made: Trust | None = None


_books: dict[Path, _Book] = {}
_wanted: set[int] = set()


def trust_of(obj: bpy.types.Object, scene: bpy.types.Scene, seconds: float | None = None) -> tuple[Trust, bool]:
    """What is known of the baked frames of an avatar's range, and whether that is all of them.

    Args:
        seconds: time that reading may take; None reads all.

    Raises:
        UserError: no bake there, or one that cannot be read.
    """
    folder = folder_of(obj)
    reader = frames.pool.reader(folder)
    keys = reader.keys()
    if folder not in _books:
        for gone in set(_books) - frames.pool.folders:
            del _books[gone]
    book = _books.setdefault(folder, _Book())
    numbers = _range(obj, scene, keys)
    end = None if seconds is None else time.perf_counter() + seconds
    whole, changed = True, False
    for frame in _here_first(numbers, scene.frame_current):
        found = book.read.get(frame)
        if found is not None and found[0] == keys[frame]:
            continue
        if changed and end is not None and time.perf_counter() > end:  # one at least: it gets there
            whole = False
            break
        changed = True
        try:
            book.read[frame] = (keys[frame], frames.summary(folder, frame))
        except FrameMissing:  # damaged, or written over just now: then it comes with another key
            book.read[frame] = (keys[frame], None)
    known = [frame for frame in numbers if (found := book.read.get(frame)) and found[0] == keys[frame] and found[1] is not None]
    if changed or book.made is None or len(known) != len(book.made) or not np.array_equal(book.made.frames, known):
        book.made = _assemble(known, [book.read[frame][1] for frame in known], reader.header.color_variance)
    return book.made, whole


def _range(obj: bpy.types.Object, scene: bpy.types.Scene, keys: dict[int, bytes]) -> list[int]:
    try:
        numbers = shots.bake_frames(obj, scene)
    except UserError:  # its range is that of a sound which is gone: what is baked is all there is
        return sorted(keys)
    first, last = int(numbers[0]), int(numbers[-1])
    return sorted(frame for frame in keys if first <= frame <= last)


def _here_first(numbers: list[int], here: int) -> list[int]:
    return sorted(numbers, key=lambda frame: frame != here)


def _assemble(numbers: list[int], found: list[FrameSummary], color_variance: bool) -> Trust:
    many = len(found)
    return Trust(
        tuple(REGIONS),
        tuple(SHARES),
        np.array(numbers, np.int64),
        np.array([one.aleatoric for one in found], np.float64).reshape(many, len(REGIONS)),
        np.array([one.epistemic for one in found], np.float64).reshape(many, len(REGIONS)),
        np.array([one.shares for one in found], np.float64).reshape(many, len(REGIONS), len(SHARES)),
        color_variance,
    )


def shown(obj: bpy.types.Object, scene: bpy.types.Scene) -> tuple[Trust, bool] | None:
    """For panels and the graph: what is known by now, while a timer reads on. None where nothing is baked."""
    try:
        found = trust_of(obj, scene, SLICE)
    except UserError:
        return None
    if not found[1]:
        _wanted.add(obj.session_uid)
        if not bpy.app.background and not bpy.app.timers.is_registered(read_on):
            bpy.app.timers.register(read_on, first_interval=_PAUSE)
    return found


def graph_shown() -> Graph | None:
    """What the Graph Editors draw: of the active avatar, as the display settings say."""
    context = bpy.context
    display = context.scene.ua3dtalk_display
    if not display.graph or not avatar.is_avatar(context.object):
        return None
    found = shown(context.object, context.scene)
    region = display.region.lower()
    return None if found is None else Graph(found[0], display.quantity.lower(), "" if region == "all" else region)


def read_on() -> float | None:
    """Read a slice of what somebody looks at; None when all is there (what Blender's timers ask)."""
    scene = bpy.context.scene
    for obj in avatar.avatars(scene.objects) if scene is not None else ():
        if obj.session_uid not in _wanted:
            continue
        try:
            _, whole = trust_of(obj, scene, SLICE)
        except UserError:
            whole = True
        if not whole:
            return _PAUSE
        _wanted.discard(obj.session_uid)
        tag_redraw(panels_only=True)
    _wanted.clear()
    return None


def forget_all() -> None:
    """As another file is loaded or the extension is switched off."""
    _books.clear()
    _wanted.clear()
    if not bpy.app.background and bpy.app.timers.is_registered(read_on):
        bpy.app.timers.unregister(read_on)
