"""One rendered frame as PNG files or as one OpenEXR file, each replaced in one step."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..cache import SHARES
from ..errors import UserError
from ..files import atomic_path

EMPTY_DEPTH = 1e10
"""Depth where nothing is, in OpenEXR: what Blender's engines write."""

DEPTH_UNIT = 1e-4
"""Metres that one step of a depth PNG stands for (0: nothing there; 65535: 6.5535 m or more)."""


@dataclass
class Picture:
    """One frame: color [H,W,3] display sRGB over black (premultiplied), alpha [H,W] 0..1, depth [H,W] metres along the view axis
    (0 where nothing is), aleatoric, epistemic [H,W] expected variances (0 where nothing is), shares [H,W,4] expected shares of the
    views in the order of cache.SHARES (0 where nothing is or moves), or None where nobody asks for them."""

    color: np.ndarray
    alpha: np.ndarray
    depth: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    shares: np.ndarray | None = None


def srgb_to_linear(value: np.ndarray) -> np.ndarray:
    """Display sRGB, 0 or more and beyond 1 too, to linear light."""
    return np.where(value <= 0.04045, value / 12.92, ((value + 0.055) / 1.055) ** 2.4)


def write_png(picture: Picture, folder: Path, stem: str, largest_uncertainty: float) -> list[Path]:
    """`<stem>.png` (8 bit, sRGB, straight alpha), `<stem>_depth.png` (16 bit, 0.1 mm) and `<stem>_uncertainty.png`.

    The last is 16 bit: total variance, 65535 is `largest_uncertainty`. The units stand in the files' text entries.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    rgba = np.concatenate([_straight(picture), picture.alpha[..., None]], axis=2)
    total = (picture.aleatoric + picture.epistemic) / max(largest_uncertainty, 1e-30)
    layers = {
        "": (np.rint(np.clip(rgba, 0, 1) * 255).astype(np.uint8), ""),
        "_depth": (_whole(picture.depth / DEPTH_UNIT), f"depth, {DEPTH_UNIT} m a step, 0: nothing there"),
        "_uncertainty": (_whole(total * 65535), f"variance, 65535 is {largest_uncertainty:.6g}"),
    }
    paths = []
    for suffix, (array, unit) in layers.items():
        info = PngInfo()
        if unit:
            info.add_text("unit", unit)
        path = folder / f"{stem}{suffix}.png"
        with atomic_path(path) as temporary:
            Image.fromarray(array).save(temporary, format="PNG", pnginfo=info, compress_level=4)
        paths.append(path)
    return paths


def write_exr(picture: Picture, folder: Path, stem: str) -> list[Path]:
    """`<stem>.exr`: R G B A (scene linear, premultiplied), Z (metres), Uncertainty, Aleatoric, Epistemic, and where the picture has
    them ShareAudio, ShareExp, ShareStyle, ShareEmotion; all 32 bit float.

    The whole blended picture is turned to linear, as Blender's side does, not every splat.
    """
    try:
        import OpenEXR
    except ImportError as error:
        raise UserError("OpenEXR is not installed in the engine's environment.", "Set the environment up again, or use PNG.") from error

    linear = srgb_to_linear(_straight(picture)) * picture.alpha[..., None]
    channels = {name: linear[..., i] for i, name in enumerate("RGB")}
    channels |= {"A": picture.alpha, "Z": np.where(picture.alpha > 0, picture.depth, EMPTY_DEPTH)}
    channels |= {"Uncertainty": picture.aleatoric + picture.epistemic, "Aleatoric": picture.aleatoric, "Epistemic": picture.epistemic}
    if picture.shares is not None:
        channels |= {f"Share{view.capitalize()}": picture.shares[..., i] for i, view in enumerate(SHARES)}
    header = {"compression": OpenEXR.ZIP_COMPRESSION, "type": OpenEXR.scanlineimage}
    path = folder / f"{stem}.exr"
    with atomic_path(path) as temporary, OpenEXR.File(header, {k: np.ascontiguousarray(v, np.float32) for k, v in channels.items()}) as file:
        file.write(str(temporary))
    return [path]


def _straight(picture: Picture) -> np.ndarray:
    return picture.color / np.maximum(picture.alpha, 1e-6)[..., None]


def _whole(value: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(value, 0, 65535)).astype(np.uint16)
