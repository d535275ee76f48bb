"""Reads OpenEXR files, uncompressed or ZIP: a third look at the passes, independent of Blender's own reading."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path

import numpy as np

_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def _attributes(data: bytes) -> tuple[dict[str, bytes], int]:
    """The header's attributes, and where it ends."""
    magic, version = struct.unpack_from("<II", data)
    assert magic == 20000630 and not version & 0x1A00, "one part, scan lines"
    at, attributes = 8, {}
    while data[at]:
        name, at = _name(data, at)
        _, at = _name(data, at)
        (size,) = struct.unpack_from("<I", data, at)
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    return attributes, at


def read_attributes(path: Path) -> dict[str, str]:
    """What the header says in words."""
    return {name: value.decode("utf-8", "replace") for name, value in _attributes(path.read_bytes())[0].items()}


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Channels [h,w] of a scan-line file, row 0 at the bottom, by name (`ViewLayer.Combined.R`).

    Raises AssertionError for files of another kind (otherwise compressed, tiled, multi-part).
    """
    data = path.read_bytes()
    attributes, at = _attributes(data)
    packed = attributes["compression"][0]
    assert packed in (0, 3), "uncompressed, or ZIP of 16 lines"
    x0, y0, x1, y1 = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x1 - x0 + 1, y1 - y0 + 1
    channels, place = [], 0
    while attributes["channels"][place]:
        name, place = _name(attributes["channels"], place)
        channels.append((name, _TYPES[struct.unpack_from("<i", attributes["channels"], place)[0]]))
        place += 16
    lines = 16 if packed else 1
    offsets = struct.unpack_from(f"<{-(-height // lines)}Q", data, at + 1)
    found = {name: np.empty((height, width), kind) for name, kind in channels}
    for offset in offsets:
        y, size = struct.unpack_from("<iI", data, offset)
        block, place = data[offset + 8 : offset + 8 + size], 0
        here = range(y, min(y + lines, y1 + 1))
        raw = sum(kind.itemsize for _, kind in channels) * width * len(here)
        if packed and size < raw:
            block = _unpack(block)
        for line in here:
            for name, kind in channels:
                found[name][y1 - line] = np.frombuffer(block, kind, width, place)
                place += width * kind.itemsize
    return found


def _unpack(block: bytes) -> bytes:
    """Undo ZIP: each byte is a difference to the one before, and first all even ones, then all odd ones."""
    values = np.frombuffer(zlib.decompress(block), np.uint8).astype(np.int64)
    values[1:] -= 128
    values = (np.cumsum(values) & 255).astype(np.uint8)
    half = (len(values) + 1) // 2
    whole = np.empty_like(values)
    whole[::2], whole[1::2] = values[:half], values[half:]
    return whole.tobytes()
