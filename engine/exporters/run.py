"""`export_cache`: which format is written how."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from ..errors import Cancelled, UserError
from .frames import BLENDER, Axes, Frames

Progress = Callable[[int, int, str], None]

FORMATS: dict[str, Axes] = {
    # +X right, +Y down, +Z away from who looks, as COLMAP and most that 3DGS wrote: what viewers of .ply turn by half a turn.
    "ply": Axes("-Y", "-Z"),
    "spz": Axes("+Y", "+Z"),
    "usd": BLENDER,  # the file says which axis is up
    "gltf": Axes("+Y", "+Z"),
}
"""Formats, and the axes that each is written in."""

USD_SUFFIXES = (".usd", ".usdc", ".usda")


@dataclass(frozen=True)
class ExportSettings:
    """How a cache is written.

    Attributes:
        format: one of FORMATS.
        axes: of a .ply, which has none of its own; None takes FORMATS'.
    """

    format: str
    axes: Axes | None = None


def export_cache(
    cache: Path,
    out: Path,
    settings: ExportSettings,
    frames: tuple[int, int] | None = None,
    progress: Progress = lambda done, total, text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Write frames of a cache for other programs; each file in one step.

    Args:
        out: folder of a sequence (`ply`, `spz`: <frame, four digits>.<format>), or the file (`usd`, `gltf`).
        frames: first and last, both included; None takes all that are baked. `gltf` takes one.

    Returns:
        out, format, frames, files, gaussians, up and front axis; a note where the format cannot say how the avatar is composited;
        of `usd`, whether this usd-core knows the schema.

    Raises:
        UserError: no cache, frames that are not baked, a package that is missing, a place that cannot be written.
        Cancelled: `stopped` said so; files of a sequence that were written until then are whole, a single file is not there.
    """
    out, kind = Path(out), settings.format
    if kind not in FORMATS:
        raise UserError(f"There is no format {kind!r}.", f"Choose one of {', '.join(FORMATS)}.")
    if settings.axes not in (None, FORMATS[kind]) and kind != "ply":
        raise UserError(f"The axes of {kind} are part of the format.", "Leave --up and --front out.")
    axes = settings.axes or FORMATS[kind]
    suffixes = {"usd": USD_SUFFIXES, "gltf": (".glb",)}.get(kind)
    if suffixes and out.suffix.lower() not in suffixes:
        raise UserError(f"{out}: {kind} is written to one file {', '.join(suffixes)}.", f"Give --out a name such as head{suffixes[0]}.")

    with Frames(cache, frames, axes) as source:
        total = len(source.numbers)

        def told(done: int) -> None:
            progress(done, total, f"frame {source.numbers[done - 1]}")
            if done < total and stopped():
                raise Cancelled()

        if stopped():
            raise Cancelled()
        result: dict[str, Any] = {"out": str(out), "format": kind, "frames": total, "files": 1, "gaussians": source.count}
        result |= {"up": axes.up, "front": axes.front}
        if source.composite == "layered":
            result["note"] = "drawn elsewhere, the inside of the mouth is no longer kept behind the face: depth alone decides"
        if kind == "usd":
            from .usd import write_usd

            result["schema_known"] = write_usd(source, out, told)
        elif kind == "gltf":
            from .gltf import write_glb

            if total != 1:
                raise UserError(f"A glTF file is a still, and {total} frames are asked for.", "Name one, such as --frames 12:12.")
            write_glb(source.at(source.numbers[0]), out, source.name)
            told(1)
        else:
            from .ply import write_ply
            from .spz import write_spz

            for done, (number, gaussians) in enumerate(source, 1):
                path = out / f"{number:04d}.{kind}" if number >= 0 else out / f"-{-number:04d}.{kind}"
                if kind == "ply":
                    write_ply(gaussians, path, axes)
                else:
                    write_spz(gaussians, path)
                told(done)
            result["files"] = total
    return result
