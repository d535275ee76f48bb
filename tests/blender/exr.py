"""Reads what Blender writes as uncompressed OpenEXR: a third look at the passes, independent of Blender's own reading."""

from __future__ import annotations

import struct
from pathlib import Path

import numpy as np

_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def _name(data: bytes, at: int) -> tuple[str, int]:
    end = data.index(b"\0", at)
    return data[at:end].decode(), end + 1


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Channels [h,w] of a scan-line file, row 0 at the bottom, by name (`ViewLayer.Combined.R`).

    Raises AssertionError for files of another kind (compressed, tiled, multi-part).
    """
    data = path.read_bytes()
    magic, version = struct.unpack_from("<II", data)
    assert magic == 20000630 and not version & 0x1A00, "one part, scan lines"
    at, attributes = 8, {}
    while data[at]:
        name, at = _name(data, at)
        _, at = _name(data, at)
        (size,) = struct.unpack_from("<I", data, at)
        attributes[name] = data[at + 4 : at + 4 + size]
        at += 4 + size
    assert attributes["compression"][0] == 0, "uncompressed"
    x0, y0, x1, y1 = struct.unpack("<4i", attributes["dataWindow"])
    width, height = x1 - x0 + 1, y1 - y0 + 1
    channels, place = [], 0
    while attributes["channels"][place]:
        name, place = _name(attributes["channels"], place)
        channels.append((name, _TYPES[struct.unpack_from("<i", attributes["channels"], place)[0]]))
        place += 16
    offsets = struct.unpack_from(f"<{height}Q", data, at + 1)
    found = {name: np.empty((height, width), kind) for name, kind in channels}
    for offset in offsets:
        y, _ = struct.unpack_from("<iI", data, offset)
        offset += 8
        for name, kind in channels:
            found[name][y1 - y] = np.frombuffer(data, kind, width, offset)
            offset += width * kind.itemsize
    return found
