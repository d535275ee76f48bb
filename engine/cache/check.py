"""Is a cache whole? Every byte that a frame is made of, against its checksums; nothing is written."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np

from ..errors import UserError
from .index import Index
from .layout import ENTRY, FRAME_FILES, LOCK_FILE, CacheHeader, read_header
from .reader import CacheReader

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class CacheCheck:
    """What a cache holds.

    Attributes:
        header: of the cache; None where there is none that can be read.
        keys: frame -> key of each frame whose data is whole.
        damaged: frames whose data does not fit its checksum or is not there, rising.
        problems: what is wrong with the folder as a whole, in lines.
        notes: what is worth knowing and no fault: a bake is writing, an entry was torn by a kill.
    """

    header: CacheHeader | None
    keys: Mapping[int, bytes]
    damaged: tuple[int, ...] = ()
    problems: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


def check_cache(folder: Path, progress: Progress = lambda done, total, text: None) -> CacheCheck:
    """Read a cache folder as a whole: header, what does not move, index, each frame's slots.

    Never raises for what is wrong with the cache: `problems` and `damaged` say it.
    """
    folder = Path(folder)
    try:
        header = read_header(folder)
    except UserError as error:
        return CacheCheck(None, {}, problems=(error.message,))
    problems, notes = [], []
    try:
        reader = CacheReader(folder)  # looks at the arrays' shapes and ranges
        still = (reader.static.means, reader.static.quats, reader.static.scales, reader.static.opacities, reader.static.sh)
        reader.close()
        if not all(np.isfinite(array).all() for array in still):
            problems.append(f"{folder / header.store / 'static.safetensors'}: holds numbers that are not finite.")
    except UserError as error:
        problems.append(error.message)
    if (folder / LOCK_FILE).exists():
        notes.append("a bake is writing here, or was killed while it did")
    index = Index(folder / header.store)
    try:
        index.refresh()
    except UserError as error:
        return CacheCheck(header, {}, problems=(*problems, error.message), notes=tuple(notes))
    torn = (index.stamp() or (0,))[0] - index.count * ENTRY.itemsize
    if torn > 0:
        notes.append(f"{torn} bytes of the index belong to no whole entry")
    damaged = _damaged(folder / header.store, header.moving, index, progress)
    keys = {frame: key for frame, key in index.keys.items() if frame not in damaged}
    return CacheCheck(header, keys, tuple(sorted(damaged)), tuple(problems), tuple(notes))


def _damaged(store: Path, moving: int, index: Index, progress: Progress) -> set[int]:
    """Frames of which a slot is missing, short or does not fit its checksum."""
    if not moving:
        return set()
    found: dict[tuple[str, int], int | None] = {}
    bad = set()
    with ExitStack() as open_files:
        files: dict[str, BinaryIO | None] = {}
        for name in FRAME_FILES:
            try:
                files[name] = open_files.enter_context(open(store / name, "rb"))
            except OSError:
                files[name] = None
        # Several frames share a slot; in the order of the file, the disk need not jump.
        order = sorted(index.entries.items(), key=lambda item: int(item[1]["slot"]))
        for done, (frame, entry) in enumerate(order):
            progress(done, len(order), f"frame {frame}")
            slot = int(entry["slot"])
            for name, (channels, kind) in FRAME_FILES.items():
                if (name, slot) not in found:
                    found[name, slot] = _checksum(files[name], slot, channels * np.dtype(kind).itemsize * moving)
                if found[name, slot] != int(entry[f"{name.partition('.')[0]}_crc"]):
                    bad.add(frame)
        progress(len(order), len(order), f"{len(order)} frames read")
    return bad


def _checksum(file: BinaryIO | None, slot: int, size: int) -> int | None:
    if file is None:
        return None
    try:
        file.seek(slot * size)
        data = file.read(size)
    except OSError:
        return None
    return zlib.crc32(data) if len(data) == size else None
