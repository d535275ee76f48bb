"""An .spz file (Niantic) -> static avatar: versions 2 and 3 (gzip), and 4 (zstd, needs the package zstandard).

Numbers of a Gaussian, each kind after the other: positions (3 x 24 bits, fixed point), alphas (1 byte), colours (3), log scales (3),
rotations (3 bytes x, y, z in version 2; from 3 on 32 bits: the largest of x, y, z, w is left out, 3 x 10 bits with a sign), SH (a byte
each, colour fastest). Axes are +X right, +Y up, +Z back to who looks, which are the importer's default ones.
"""

from __future__ import annotations

import gzip
import os
import struct
import zlib
from pathlib import Path
from typing import BinaryIO, Iterator

import numpy as np

from ..avatar import Avatar
from ..errors import UserError
from .static import Placing, raw_opacity, refuse, static_avatar, unreadable

MAGIC = 0x5053474E  # "NGSP"
HEADER = struct.Struct("<IIIBBBB")
"""Magic, version, count, SH degree, fractional bits, flags; what follows is reserved, in version 4 the number of streams."""
CONTENTS = struct.Struct("<I12x")
"""Version 4: where the table of contents begins; after HEADER."""
ENTRY = struct.Struct("<QQ")
"""Version 4: bytes of a stream, packed and unpacked."""
EXTENDED = 0x2
"""Flag: there are extensions, which are passed over."""
COLOUR_SCALE = 0.15
"""A colour's byte is 255 * (0.5 + COLOUR_SCALE * DC coefficient)."""
COEFFICIENTS = (0, 3, 8, 15, 24)
"""SH coefficients beyond DC of each degree; degree 4 is read and left out."""
MOST = 10_000_000
"""Gaussians of a file at most, as in the format's own library."""
MOST_FRACTION = 24
_GREATEST_RATIO = 1100
"""No deflate stream unpacks to more than 1032 times its length."""
_MOST_STREAMS = 6


def import_spz(path: Path, placing: Placing = Placing()) -> Avatar:
    """Read an .spz.

    Raises:
        UserError: unreadable, damaged, of another version, or of version 4 where zstandard is not installed.
    """
    path = Path(path)
    try:
        with path.open("rb") as handle:
            packed = handle.read(2) == b"\x1f\x8b"
            handle.seek(0)
            size = os.fstat(handle.fileno()).st_size
            count, degree, fraction, version, data = _unzipped(handle, size, path) if packed else _unpacked_4(handle, size, path)
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise refuse(path, "damaged or cut short") from error
    except OSError as error:
        raise unreadable(path, error) from error
    lengths = section_lengths(count, degree, version)
    at = np.cumsum([0, *lengths])
    positions, alphas, colours, scales, rotations, sh = (data[a:b] for a, b in zip(at[:-1], at[1:]))
    # Three bytes become the upper ones of a whole number of four, which has the sign right.
    whole = np.zeros((count * 3, 4), np.uint8)
    whole[:, 1:] = positions.reshape(-1, 3)
    means = (whole.view("<i4").reshape(count, 3) >> 8) / 2.0**fraction
    dc = (colours.reshape(count, 1, 3) / 255 - 0.5) / COLOUR_SCALE
    higher = (sh.reshape(count, COEFFICIENTS[degree], 3)[:, : COEFFICIENTS[3]] - 128.0) / 128
    return static_avatar(
        path, placing, ".spz file",
        means=means,
        quats=_smallest_three(rotations) if version > 2 else _first_three(rotations),
        scales=np.exp(scales.reshape(count, 3) / 16 - 10.0),
        opacities=raw_opacity(alphas / 255),
        sh=np.concatenate([dc, higher], 1),
    )  # fmt: skip


def section_lengths(count: int, degree: int, version: int) -> tuple[int, ...]:
    """Bytes of positions, alphas, colours, scales, rotations and SH."""
    return 9 * count, count, 3 * count, 3 * count, (4 if version > 2 else 3) * count, 3 * COEFFICIENTS[degree] * count


def _header(data: bytes, path: Path) -> tuple[int, int, int, int, int, int]:
    """Version, count, degree, fractional bits, flags, last byte."""
    if len(data) < HEADER.size or HEADER.unpack_from(data)[0] != MAGIC:
        raise refuse(path, "no .spz file")
    _, version, count, degree, fraction, flags, last = HEADER.unpack_from(data)
    if version not in (2, 3, 4):
        raise refuse(path, f"written in version {version} of .spz", "Save it in version 2, 3 or 4.")
    if not 0 < count <= MOST:
        raise refuse(path, f"its header speaks of {count:,} Gaussians; 1 to {MOST:,} are read")
    if degree >= len(COEFFICIENTS) or fraction > MOST_FRACTION:
        raise refuse(path, f"damaged (SH degree {degree}, {fraction} fractional bits)")
    return version, count, degree, fraction, flags, last


def _unzipped(handle: BinaryIO, size: int, path: Path) -> tuple[int, int, int, int, np.ndarray]:
    with gzip.GzipFile(fileobj=handle) as stream:
        version, count, degree, fraction, flags, _ = _header(stream.read(HEADER.size), path)
        wanted = sum(section_lengths(count, degree, version))
        if version > 3 or wanted > size * _GREATEST_RATIO:
            raise refuse(path, f"damaged ({count:,} Gaussians are not in {size} bytes)")
        data = stream.read(wanted)
        if len(data) < wanted:
            raise refuse(path, "cut short")
        if stream.read(1) and not flags & EXTENDED:  # also where the checksum is looked at
            raise refuse(path, "damaged (it goes on behind its last Gaussian)")
    return count, degree, fraction, version, np.frombuffer(data, np.uint8)


def _unpacked_4(handle: BinaryIO, size: int, path: Path) -> tuple[int, int, int, int, np.ndarray]:
    head = handle.read(HEADER.size + CONTENTS.size)
    version, count, degree, fraction, _, streams = _header(head, path)
    if version != 4 or len(head) < HEADER.size + CONTENTS.size:
        raise refuse(path, "damaged or cut short")
    lengths = section_lengths(count, degree, version)
    (start,) = CONTENTS.unpack_from(head, HEADER.size)
    if streams > _MOST_STREAMS or not len(head) <= start <= size - streams * ENTRY.size:
        raise refuse(path, "damaged (its table of contents is not there)")
    handle.seek(start)
    entries = list(ENTRY.iter_unpack(handle.read(streams * ENTRY.size)))
    if [unpacked for _, unpacked in entries] != [length for length in lengths if length]:
        raise refuse(path, f"damaged (its parts do not fit {count:,} Gaussians)")
    if sum(packed for packed, _ in entries) > size:
        raise refuse(path, "cut short")
    data = b"".join(_streams(handle, entries, path))
    return count, degree, fraction, version, np.frombuffer(data, np.uint8)


def _streams(handle: BinaryIO, entries: list[tuple[int, int]], path: Path) -> Iterator[bytes]:
    try:
        import zstandard
    except ImportError as error:
        raise UserError(
            f"{path}: version 4 of .spz needs the package zstandard, which is not installed.",
            "Install engine/requirements-interchange.txt, or save the file in version 3.",
        ) from error
    for packed, unpacked in entries:
        try:
            # Read as a stream: no more than was announced is ever unpacked, whatever the frame says of itself.
            with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(handle.read(packed)) as reader:
                data = reader.read(unpacked)
        except zstandard.ZstdError as error:
            raise refuse(path, "damaged or cut short") from error
        if len(data) != unpacked:
            raise refuse(path, "cut short")
        yield data


def _first_three(rotations: np.ndarray) -> np.ndarray:
    three = rotations.reshape(-1, 3) / 127.5 - 1
    return np.concatenate([np.sqrt(np.maximum(1 - (three**2).sum(1), 0))[:, None], three], 1)


def _smallest_three(rotations: np.ndarray) -> np.ndarray:
    words = rotations.reshape(-1, 4).copy().view("<u4")[:, 0].astype(np.uint32)
    largest, rows = (words >> np.uint32(30)).astype(np.intp), np.arange(len(words))
    quats = np.empty((len(words), 4))  # x, y, z, w
    squares = np.zeros(len(words))
    for number in range(3):
        part = words >> np.uint32(10 * (2 - number))
        value = (part & np.uint32(511)) / (511 * 2**0.5) * np.where(part & np.uint32(512), -1, 1)
        quats[rows, number + (number >= largest)] = value
        squares += value**2
    quats[rows, largest] = np.sqrt(np.maximum(1 - squares, 0))
    return quats[:, [3, 0, 1, 2]]
