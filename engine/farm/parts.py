"""Parts of a shot: frames that several workers bake at once, each into a folder of its own, and that one of them takes in at last.

    shot_010/                 the shot's cache folder, untouched until all parts are whole
    shot_010.parts/1-100/     cache folders too: a part that was stopped goes on where it was, and what an earlier run left is used
    shot_010.parts/101-200/
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, suppress
from pathlib import Path

import numpy as np

from ..cache import LOCK_FILE, CacheWriter
from ..cache.index import Index
from ..cache.layout import FRAME_FILES, CacheHeader, read_header
from ..cache.lock import lock_is_dead
from ..errors import UserError
from ..shot import Shot, frame_keys
from ..shot.document import Rules

_NAME = re.compile(r"-?\d+--?\d+")


def parts_folder(shot_file: Path, output: Path, rules: Rules) -> Path | None:
    """Where a shot's parts lie, beside its cache folder; None where the rules do not let it write there."""
    folder = output.with_name(f"{output.name}.parts")
    root = shot_file.absolute().parent if rules.root is None else rules.root
    if rules.allow_outside or folder.resolve().is_relative_to(root.resolve()):
        return folder
    return None


def part_name(frames: Sequence[int]) -> str:
    """The name of a part's folder. No two parts of a shot begin with the same frame."""
    return f"{frames[0]}-{frames[-1]}"


def left_parts(folder: Path) -> list[Path]:
    """The parts that lie in a folder of parts, also those of earlier runs."""
    try:
        return sorted(path for path in folder.iterdir() if _NAME.fullmatch(path.name) and path.is_dir() and not path.is_symlink())
    except OSError:
        return []


def frames_to_compute(shot: Shot, output: Path, parts: Iterable[Path]) -> list[int]:
    """Frames of which neither the cache folder nor a part holds the data; one for each key."""
    wanted = [key.tobytes() for key in frame_keys(shot)]
    by_frame = dict(zip(shot.frames.tolist(), wanted))
    known: set[bytes] = set()
    for _, index in _stores(shot, [output]):
        known.update(index.keys.values())
    for _, index in _stores(shot, parts):
        known.update(key for frame, key in index.keys.items() if by_frame.get(frame) == key)
    first = {key: frame for frame, key in reversed(by_frame.items()) if key not in known}
    return sorted(first.values())


def split(frames: Sequence[int], parts: int) -> list[list[int]]:
    """Frames as so many runs of about equal length, none of them empty."""
    return [run.tolist() for run in np.array_split(np.asarray(frames, np.int64), max(1, min(parts, len(frames)))) if len(run)]


def take_in(writer: CacheWriter, shot: Shot, parts: Iterable[Path]) -> int:
    """Write what parts hold of a shot, byte by byte; damaged data is left out. Returns how many frames that were.

    Raises:
        UserError: the cache folder cannot be written.
    """
    wanted = dict(zip(shot.frames.tolist(), (key.tobytes() for key in frame_keys(shot))))
    taken = 0
    for store, index in _stores(shot, parts):
        sizes = {name: channels * np.dtype(kind).itemsize * writer.header.moving for name, (channels, kind) in FRAME_FILES.items()}
        with ExitStack() as stack:
            try:
                files = [stack.enter_context(open(store / name, "rb")) for name in FRAME_FILES]
            except OSError:
                continue
            for frame, entry in sorted(index.entries.items(), key=lambda item: int(item[1]["slot"])):
                key = index.keys[frame]
                if wanted.get(frame) != key or writer.has(frame, key):
                    continue
                slots = []
                for file, size in zip(files, sizes.values()):
                    file.seek(int(entry["slot"]) * size)
                    slots.append(file.read(size))
                taken += writer.adopt(entry, slots)
    return taken


def remove(folder: Path) -> None:
    """Remove parts whose frames are in the shot's cache folder now. One that another process is writing stays."""
    for part in left_parts(folder):
        if lock_is_dead(part / LOCK_FILE):
            shutil.rmtree(part, ignore_errors=True)
    with suppress(OSError):  # not empty: somebody else's, or still in use
        folder.rmdir()


def _stores(shot: Shot, folders: Iterable[Path]) -> Iterator[tuple[Path, Index]]:
    """Store and index of each cache folder that holds a bake of the shot's avatar."""
    for folder in folders:
        try:
            header: CacheHeader = read_header(folder)
            index = Index(folder / header.store)
            index.refresh()
        except UserError:
            continue
        if header.avatar_hash == shot.avatar_hash:
            yield folder / header.store, index
