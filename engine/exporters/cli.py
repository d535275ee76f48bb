"""`python -m engine export`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(command: Any) -> None:
    """Add the command; `command(name, run, text)` gives its parser."""
    sub = command("export", _run, "frames of a cache for other programs: .ply and .spz sequences, one OpenUSD file, a glTF still")
    sub.add_argument("--cache", type=Path, required=True, help="cache folder")
    sub.add_argument("--format", required=True, metavar="ply|spz|usd|gltf")
    sub.add_argument("--frames", help="FIRST:LAST, inclusive (all that are baked); gltf takes one")
    sub.add_argument("--out", type=Path, required=True, help="folder of a sequence (ply, spz), or the file (.usd, .usdc, .usda; .glb)")
    sub.add_argument("--up", metavar="AXIS", help="of a .ply: its up axis (-Y; +Z as in Blender)")
    sub.add_argument("--front", metavar="AXIS", help="of a .ply: where its face looks (-Z; -Y as in Blender)")


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from ..arguments import frame_range
    from ..events import Events
    from .frames import BLENDER, Axes
    from .run import FORMATS, ExportSettings, export_cache

    axes, usual = None, FORMATS.get(options.format, BLENDER)
    if options.up or options.front:
        axes = Axes(options.up or usual.up, options.front or usual.front)
    settings = ExportSettings(options.format, axes)
    return export_cache(options.cache, options.out, settings, frame_range(options.frames), Events(options.json))
