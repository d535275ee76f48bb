"""A frame as binary glTF 2.0 (.glb) with the extension KHR_gaussian_splatting, as ratified.

A mesh of points: POSITION, KHR_gaussian_splatting:ROTATION (x y z w), :SCALE (standard deviations, linear), :OPACITY (0..1),
:SH_DEGREE_l_COEF_n, all float32; colour space srgb_rec709_display. COLOR_0 (linear, from DC) is for programs that only see points.
Metres, Y up, the face looks along +Z.
"""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np

from .. import __version__
from ..avatar import Gaussians
from ..avatar.gaussians import sh_basis
from ..files import atomic_write

EXTENSION = "KHR_gaussian_splatting"
_FLOAT, _ARRAY_BUFFER, _POINTS = 5126, 34962, 0
_TYPES = {1: "SCALAR", 3: "VEC3", 4: "VEC4"}


def write_glb(gaussians: Gaussians, path: Path, name: str) -> None:
    """Write one set, activated, Y up and the face along +Z.

    Raises:
        UserError: the file cannot be written.
    """
    quats = gaussians.quats / np.linalg.norm(gaussians.quats, axis=1, keepdims=True)
    dc = np.clip(0.5 + gaussians.sh[:, 0] * sh_basis(np.zeros((1, 3)), 0)[0, 0], 0, 1)
    linear = np.where(dc <= 0.04045, dc / 12.92, ((dc + 0.055) / 1.055) ** 2.4)
    attributes = {
        "POSITION": gaussians.means,
        "COLOR_0": np.concatenate([linear, gaussians.opacities[:, None]], 1),
        f"{EXTENSION}:ROTATION": quats[:, [1, 2, 3, 0]],
        f"{EXTENSION}:SCALE": gaussians.scales,
        f"{EXTENSION}:OPACITY": np.clip(gaussians.opacities, 0, 1)[:, None],
    }
    for degree in range(round(gaussians.sh.shape[1] ** 0.5)):
        for number in range(2 * degree + 1):
            attributes[f"{EXTENSION}:SH_DEGREE_{degree}_COEF_{number}"] = gaussians.sh[:, degree * degree + number]

    accessors, views, buffers, length = [], [], [], 0
    for semantic, values in attributes.items():
        data = np.ascontiguousarray(values, "<f4")
        accessor: dict[str, Any] = {
            "bufferView": len(views), "componentType": _FLOAT, "count": len(data), "type": _TYPES[data.shape[1]], "name": semantic
        }  # fmt: skip
        if semantic == "POSITION":
            accessor |= {"min": data.min(0).tolist(), "max": data.max(0).tolist()}
        accessors.append(accessor)
        views.append({"buffer": 0, "byteOffset": length, "byteLength": data.nbytes, "target": _ARRAY_BUFFER})
        buffers.append(data)
        length += data.nbytes
    primitive = {
        "mode": _POINTS,
        "attributes": {semantic: number for number, semantic in enumerate(attributes)},
        "extensions": {EXTENSION: {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}},
    }
    text = json.dumps(
        {
            "asset": {"version": "2.0", "generator": f"UA-3DTalk {__version__}"},
            "extensionsUsed": [EXTENSION],
            "scene": 0,
            "scenes": [{"nodes": [0]}],
            "nodes": [{"mesh": 0, "name": name}],
            "meshes": [{"primitives": [primitive], "name": name}],
            "accessors": accessors,
            "bufferViews": views,
            "buffers": [{"byteLength": length}],
        },
        separators=(",", ":"),
    ).encode()
    text += b" " * (-len(text) % 4)
    with atomic_write(path) as handle:
        handle.write(struct.pack("<4sIIII", b"glTF", 2, 12 + 8 + len(text) + 8 + length, len(text), 0x4E4F534A))
        handle.write(text)
        handle.write(struct.pack("<II", length, 0x004E4942))
        for data in buffers:
            handle.write(data.tobytes())
