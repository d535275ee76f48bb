"""From Blender's passes to what a data set holds of a frame. numpy alone: Blender's Python reads the classes from here too."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from engine.errors import UserError

CLASSES = ("background", "face", "hair", "mouth", "teeth", "neck", "torso")
"""What the material index counts."""

MATERIAL_CLASSES = {
    "bag": "mouth", "gums": "mouth", "teeth": "teeth", "hair": "hair", "scalp": "hair", "neck": "neck", "sweater": "torso",
}  # fmt: skip
"""Materials of look_render by name; the others (skin, eyes, brows, lashes) are face."""

NECK, SCALP = 1, 2
"""Regions of the skin that are classes of their own."""

METRES_PER_UNIT = 0.1  # of the Blender scene

_PIXEL_TYPES = {0: np.dtype("<u4"), 1: np.dtype("<f2"), 2: np.dtype("<f4")}


def read_exr(path: Path) -> dict[str, np.ndarray]:
    """Channels [H,W] by name of an OpenEXR file of uncompressed scan lines. Raises UserError for any other file."""
    try:
        return _read_exr(Path(path).read_bytes())
    except (OSError, ValueError, KeyError, IndexError, struct.error) as error:
        raise UserError(f"{path} is no OpenEXR file of uncompressed scan lines.", "Delete it and run the command again.") from error


def _read_exr(data: bytes) -> dict[str, np.ndarray]:
    magic, version = struct.unpack_from("<II", data)
    if magic != 20000630 or version & 0x1A00:  # tiles, deep data, several parts
        raise ValueError(magic)
    header: dict[str, bytes] = {}
    at = 8
    while data[at]:
        end = data.index(b"\0", at)
        stop = data.index(b"\0", end + 1)
        (size,) = struct.unpack_from("<I", data, stop + 1)
        header[data[at:end].decode()] = data[stop + 5 : stop + 5 + size]
        at = stop + 5 + size
    left, top, right, bottom = struct.unpack("<4i", header["dataWindow"])
    if header["compression"] != b"\0":
        raise ValueError("compressed")
    width, height = right - left + 1, bottom - top + 1
    channels, place = [], 0
    listed = header["channels"]
    while listed[place]:
        end = listed.index(b"\0", place)
        (kind,) = struct.unpack_from("<I", listed, end + 1)
        channels.append((listed[place:end].decode(), _PIXEL_TYPES[kind]))
        place = end + 17
    line = np.dtype([("y", "<i4"), ("size", "<i4"), *((name, kind, (width,)) for name, kind in channels)])
    lines = np.frombuffer(data, line, height, at + 1 + 8 * height)
    lines = lines[np.argsort(lines["y"])]
    if not np.array_equal(lines["y"], np.arange(top, bottom + 1)):
        raise ValueError("lines are missing")
    return {name: lines[name] for name, _ in channels}


@dataclass
class Pieces:
    """picture [H,W,3] uint8; parsing [H,W] indices into PARSING; teeth [H,W] bool; torso [H,W,4] uint8; depth [H,W] m, 0 where nothing is."""

    picture: np.ndarray
    parsing: np.ndarray
    teeth: np.ndarray
    torso: np.ndarray
    depth: np.ndarray


# Index into PARSING (face, hair, mouth, neck, torso, background) of each class. Teeth are face with a tooth mask, as that family of tools has it.
_PARSING = np.array([5, 0, 1, 2, 0, 3, 4])


def pieces(rgba: np.ndarray, torso: np.ndarray, index: np.ndarray, depth: np.ndarray, background: np.ndarray) -> Pieces:
    """rgba, torso [H,W,4] uint8 straight alpha; index [H,W] material index; depth [H,W] Blender units; background [H,W,3] uint8.

    The torso's picture is the picture itself where neck or sweater are seen and have no other class beside them, so that light and
    shadow there are the same; at other edges it is the second render. Behind the chin that one looks into the open neck: the colour of the
    topmost neck that is seen goes on upwards.
    """
    classes = np.rint(index).astype(np.int64).clip(0, len(CLASSES) - 1)
    body = np.isin(classes, [CLASSES.index("neck"), CLASSES.index("torso")])
    padded = np.pad(body, 1, mode="edge")
    inside = np.logical_and.reduce([padded[1 + y : padded.shape[0] - 1 + y, 1 + x : padded.shape[1] - 1 + x] for y in (-1, 0, 1) for x in (-1, 0, 1)])
    top, number = inside.argmax(0), np.arange(inside.shape[1])
    necked = np.flatnonzero(inside.any(0) & (classes[top, number] == CLASSES.index("neck")))
    covered = np.where(inside[..., None], rgba, torso)
    if len(necked):
        nearest = necked[np.abs(number[:, None] - necked).argmin(1)]
        behind = np.isin(classes, [CLASSES.index(name) for name in ("face", "mouth", "teeth", "neck")])
        above = (np.arange(len(inside))[:, None] < top[nearest]) & (torso[..., 3] > 0) & behind & ~inside
        covered[above, :3] = np.broadcast_to(rgba[top, number][nearest], rgba.shape)[above, :3]
    return Pieces(
        over(rgba, background), _PARSING[classes], classes == CLASSES.index("teeth"), covered,
        np.where(classes > 0, depth * METRES_PER_UNIT, 0).astype(np.float32),
    )  # fmt: skip


def over(rgba: np.ndarray, background: np.ndarray) -> np.ndarray:
    """[H,W,3] uint8: a picture with straight alpha over a background."""
    alpha = rgba[..., 3:].astype(np.float32) / 255
    return (rgba[..., :3] * alpha + background * (1 - alpha) + 0.5).astype(np.uint8)
