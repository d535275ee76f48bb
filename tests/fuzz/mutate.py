"""Damage that knows what it damages: bytes, the JSON headers within them, numbers of a table, seals that are made good again."""

from __future__ import annotations

import copy
import json
import random
import struct
import zlib
from collections.abc import Sequence
from typing import Any

NUMBERS: tuple[Any, ...] = (0, -1, 1, 255, 65535, 2**31 - 1, 2**31, 2**32, 2**48, 2**63, -(2**63), 10**30, 0.5, 1e-300, 1e308, -1e308)
VALUES: tuple[Any, ...] = (*NUMBERS, float("nan"), float("inf"), None, True, "", "x", "\ud800", "a" * 5000, "../..", [], {}, [[]], [None], {"a": 1})
_WORDS = (b"\x00" * 8, b"\xff" * 8, b"\xff\xff\xff\x7f", b"\x00\x00\x80\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x00\x80", b"99999999999", b"-1", b"nan", b"1e999")


def damaged(data: bytes, rng: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Flipped bits, numbers out of range, pieces doubled, left out or of another file, an early end; mostly near the beginning."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        length = max(len(changed), 1)
        at = rng.randrange(min(length, rng.choice((16, 64, 512, length))))
        kind = rng.randrange(8)
        if kind == 0 and changed:
            changed[at] ^= 1 << rng.randrange(8)
        elif kind == 1 and changed:
            changed[at] = rng.choice((0, 1, 48, 57, 127, 128, 255, rng.randrange(256)))
        elif kind == 2:
            word = rng.choice(_WORDS)
            changed[at : at + len(word)] = word
        elif kind == 3:
            del changed[at : at + rng.choice((1, 4, 37, length // 2 + 1))]
        elif kind == 4:
            changed[at:at] = changed[at : at + rng.choice((1, 4, 37, 300))] * rng.choice((1, 2, 50))
        elif kind == 5:
            del changed[rng.randrange(length) :]
        elif kind == 6 and others:
            other = rng.choice(others)
            cut = rng.randrange(len(other) or 1)
            changed[at:] = other[cut : cut + 4096]
        else:
            changed[at : at + 4] = struct.pack(rng.choice("<>") + "I", rng.choice((0, 1, 2**16, 2**24, 2**31 - 1, 2**32 - 1)))
    return bytes(changed)


def changed_json(value: Any, rng: random.Random) -> Any:
    """One to three places of a JSON value replaced, left out, doubled, renamed or nested deeply."""
    value = json.loads(json.dumps(value))
    for _ in range(rng.choice((1, 1, 2, 3))):
        places: list[tuple[Any, Any]] = []
        walk = [value]
        while walk:
            item = walk.pop()
            keys = list(item) if isinstance(item, dict) else list(range(len(item))) if isinstance(item, list) else []
            for key in keys if len(keys) < 60 else rng.sample(keys, 60):
                places.append((item, key))
                walk.append(item[key])
        if not places:
            return copy.deepcopy(rng.choice(VALUES))
        holder, key = rng.choice(places)
        kind = rng.randrange(7)
        if kind <= 3:
            holder[key] = copy.deepcopy(rng.choice(VALUES))  # a copy: it may be changed in its turn
        elif kind == 4:
            del holder[key]
        elif isinstance(holder, dict):
            holder[rng.choice(("x", "", "__proto__", str(key) * 2, "frames", "path"))] = holder[key]
        else:
            holder.insert(key, copy.deepcopy(rng.choice((holder[key], *VALUES))))
    return value


def as_json(value: Any, rng: random.Random) -> bytes:
    """As text; now and then with brackets beyond all depth, an entry twice, a number of ten thousand digits, or damaged bytes."""
    text = json.dumps(value).encode()
    kind = rng.randrange(40)
    if kind == 0:
        depth = rng.choice((100, 1500, 100_000))
        return text.replace(b":", b":" + rng.choice((b"[", b'{"a":')) * depth, 1)
    if kind == 1:
        return text.replace(b"1", b"1" * 10_000, 1)
    if kind == 2:
        return text.replace(b"{", text[:40], 1)
    return damaged(text, rng) if kind < 8 else text


def tensors_file(data: bytes, rng: random.Random) -> bytes:
    """A safetensors file whose header, metadata, numbers or bytes are changed; lengths mostly made to fit again."""
    kind = rng.randrange(5)
    (length,) = struct.unpack_from("<Q", data)
    header, body = json.loads(data[8 : 8 + length]), data[8 + length :]
    if kind == 0:
        return damaged(data, rng)
    if kind == 1:  # what the file says of itself, inside the header
        key = next(iter(header["__metadata__"]))
        about = as_json(changed_json(json.loads(header["__metadata__"][key]), rng), rng)
        header["__metadata__"][key] = about.decode("utf-8", "replace")
    elif kind == 2:
        header = changed_json(header, rng)
    elif kind == 3:  # the numbers themselves: NaN, infinity, indices beyond all
        content = bytearray(body)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(max(len(content) // 4, 1)) * 4
            content[at : at + 4] = rng.choice((b"\x00\x00\xc0\x7f", b"\x00\x00\x80\xff", b"\xff\xff\xff\x7f", b"\xff\xff\xff\xff", rng.randbytes(4)))
        body = bytes(content)
    else:  # two tensors change places
        names = [name for name in header if name != "__metadata__"]
        one, two = rng.choice(names), rng.choice(names)
        header[one], header[two] = header[two], header[one]
    text = as_json(header, rng) if rng.randrange(10) == 0 else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + body


def sealed_entries(data: bytes, size: int, rng: random.Random) -> bytes:
    """Records that end in a CRC-32 of the rest: fields are changed and most seals made good again."""
    records = [bytearray(data[at : at + size]) for at in range(0, len(data) - size + 1, size)]
    for record in rng.sample(records, min(len(records), rng.randrange(1, 4))):
        for _ in range(rng.randrange(1, 4)):
            at = rng.randrange(1, size // 4 - 1) * 4
            record[at : at + 4] = rng.choice((b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\xc0\x7f", b"\x00\x00\x00\x00", rng.randbytes(4)))
        if rng.randrange(6):
            record[-4:] = zlib.crc32(bytes(record[:-4])).to_bytes(4, "little")
    rng.shuffle(records)
    joined = b"".join(bytes(record) for record in records)
    return damaged(joined, rng) if rng.randrange(5) == 0 else joined
