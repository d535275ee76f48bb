"""safetensors files with numpy alone: Blender's Python has nothing else.

A file is 8 bytes (length of the header, little endian), a JSON header ({name: {dtype, shape, data_offsets}} and
`__metadata__`: {str: str}), and the tensors' bytes. Reading runs no code; what is not small is mapped
into memory instead.
"""

from __future__ import annotations

import json
import os
import struct
from pathlib import Path
from typing import Mapping

import numpy as np

from ..errors import UserError
from ..files import atomic_write

MAX_HEADER = 64 << 20
SMALL = 1 << 18
"""Bytes of a file up to which reading it all is quicker than mapping it."""

_TO_NUMPY = {
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "I64": np.int64, "I32": np.int32, "I16": np.int16,
    "I8": np.int8, "U8": np.uint8, "U16": np.uint16, "U32": np.uint32, "U64": np.uint64, "BOOL": np.bool_,
}  # fmt: skip
_FROM_NUMPY = {np.dtype(kind): name for name, kind in _TO_NUMPY.items()}


def save_tensors(path: Path, tensors: Mapping[str, np.ndarray], metadata: Mapping[str, str], durable: bool = True) -> None:
    """Write a safetensors file in one step.

    Args:
        path: target; replaced only when the new file is whole.
        tensors: name -> array of a plain number type.
        metadata: name -> text.
        durable: see files.atomic_write.

    Raises:
        UserError: the file cannot be written.
    """
    header: dict[str, object] = {"__metadata__": dict(metadata)}
    # Wide types first keeps every tensor aligned to its own size, as the format's own writer does.
    names = sorted(tensors, key=lambda name: (-np.asarray(tensors[name]).dtype.itemsize, name))
    arrays, offset = [], 0
    for name in names:
        array = np.asarray(tensors[name])
        shape = list(array.shape)
        array = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
        header[name] = {
            "dtype": _FROM_NUMPY[array.dtype],
            "shape": shape,
            "data_offsets": [offset, offset + array.nbytes],
        }
        arrays.append(array)
        offset += array.nbytes
    text = json.dumps(header, ensure_ascii=False, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with atomic_write(path, durable) as handle:
        handle.write(struct.pack("<Q", len(text)))
        handle.write(text)
        for array in arrays:
            handle.write(array.reshape(-1).view(np.uint8))


def load_tensors(path: Path) -> tuple[dict[str, np.ndarray], dict[str, str]]:
    """Read a safetensors file: a large one is mapped into memory.

    Returns:
        read-only arrays by name, and the text metadata.

    Raises:
        UserError: unreadable, foreign or truncated file.
    """
    path = Path(path)

    def refuse(why: str) -> UserError:
        return UserError(f"{path}: {why}.", "Choose a whole safetensors file, or copy it again.")

    try:
        with open(path, "rb") as handle:
            size = os.fstat(handle.fileno()).st_size
            data = handle.read(size if size <= SMALL else 8)
            size = len(data) if size <= SMALL else size
            length = struct.unpack("<Q", data[:8])[0] if len(data) >= 8 else 0
            if not 2 <= length <= min(MAX_HEADER, size - 8):
                raise refuse("not a safetensors file, or cut short in its header")
            text = data[8 : 8 + length] if size <= SMALL else handle.read(length)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    try:
        header = json.loads(text)
        if not isinstance(header, dict):
            raise ValueError("header")
        metadata = header.pop("__metadata__", {})
        if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
            raise ValueError("metadata")
    except (ValueError, RecursionError) as error:
        raise refuse("not a safetensors file (its header is no JSON object)") from error

    start_of_data = 8 + length
    buffer = data if size <= SMALL else np.memmap(path, dtype=np.uint8, mode="r")
    tensors: dict[str, np.ndarray] = {}
    for name, entry in header.items():
        try:
            kind = np.dtype(_TO_NUMPY[entry["dtype"]])
            shape = tuple(entry["shape"])
            begin, end = entry["data_offsets"]
            if not all(type(number) is int and 0 <= number < 1 << 48 for number in (*shape, begin, end)):
                raise ValueError("number")
            count = 1
            for number in shape:
                count *= number
            if end - begin != count * kind.itemsize:
                raise ValueError("size")
        except (KeyError, TypeError, ValueError) as error:
            raise refuse(f"tensor {name!r} is described wrongly in the header") from error
        if start_of_data + end > size:
            raise refuse(f"cut short: tensor {name!r} ends at byte {start_of_data + end}, the file at {size}")
        tensor = np.ndarray(shape, kind, buffer, start_of_data + begin)
        tensors[name] = tensor if tensor.flags.aligned else tensor.copy()  # a file of another writer may be unaligned
    return tensors, metadata
