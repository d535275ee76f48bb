"""Cryptomatte (Friedman and Jones 2015; specification 1.2.0) of the avatars. numpy alone.

Coverage is exact, not sampled: an object's share of a pixel is the sum of its splats' weights, which is the alpha that
it adds to the picture, motion blur and mesh edges included.
"""

from __future__ import annotations

import json
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

PASS = "CryptoObject"
"""The passes are CryptoObject00, CryptoObject01 and so on, as Blender names them."""


def pass_names(levels: int) -> list[str]:
    """The passes that hold so many objects a pixel, two each."""
    return [f"{PASS}{number:02d}" for number in range(-(-levels // 2))]


def murmur3(text: str) -> int:
    """MurmurHash3 (Austin Appleby, public domain), x86, 32 bit, seed 0, of a text in UTF-8."""
    data = text.encode()
    mask, value = 0xFFFFFFFF, 0
    tail = len(data) // 4 * 4
    for at in range(0, len(data), 4):
        block = int.from_bytes(data[at:at + 4], "little") * 0xCC9E2D51 & mask
        block = (block << 15 | block >> 17) & mask
        value ^= block * 0x1B873593 & mask
        if at < tail:
            value = ((value << 13 | value >> 19) & mask) * 5 + 0xE6546B64 & mask
    value ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        value = (value ^ value >> shift) * factor & mask
    return value


def identifier(name: str) -> np.float32:
    """The number that stands for a name in the passes: its hash as a float that is neither denormal, infinite nor NaN."""
    bits = murmur3(name)
    if (bits >> 23 & 255) in (0, 255):
        bits ^= 1 << 23
    return np.uint32(bits).view(np.float32)


def rank(names: Sequence[str], coverage: NDArray[np.float32], levels: int) -> dict[str, NDArray[np.float32]]:
    """The passes [h,w,4], each two pairs of identifier and coverage, the largest first.

    names: of the object of each plane of coverage [h,w,n]; planes of one name are added up. levels: objects kept a pixel.
    """
    alone = sorted(set(names))
    height, width = coverage.shape[:2]
    sums = np.zeros((height, width, len(alone)), dtype=np.float32)
    for number, name in enumerate(names):
        sums[..., alone.index(name)] += coverage[..., number]
    numbers = np.array([identifier(name) for name in alone], dtype=np.float32)
    order = np.argsort(-sums, axis=2, kind="stable")[..., :levels]
    found = np.take_along_axis(sums, order, axis=2)
    pairs = np.zeros((height, width, 4 * -(-levels // 2)), dtype=np.float32)
    pairs[..., 0:2 * order.shape[2]:2] = np.where(found > 0.0, numbers[order], 0.0) if len(alone) else 0.0
    pairs[..., 1:2 * order.shape[2]:2] = found
    return {name: pairs[..., 4 * number:4 * number + 4] for number, name in enumerate(pass_names(levels))}


def metadata(layer: str, names: Sequence[str]) -> dict[str, str]:
    """What a picture's metadata say of the passes of a view layer: how names became numbers, and which."""
    name = f"{layer}.{PASS}"
    manifest = {one: f"{int(identifier(one).view(np.uint32)):08x}" for one in sorted(set(names))}
    prefix = f"cryptomatte/{murmur3(name):08x}"[:19]
    return {
        f"{prefix}/name": name,
        f"{prefix}/hash": "MurmurHash3_32",
        f"{prefix}/conversion": "uint32_to_float32",
        f"{prefix}/manifest": json.dumps(manifest, ensure_ascii=False, separators=(",", ":")),
    }
