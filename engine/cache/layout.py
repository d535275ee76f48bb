"""What the files of a cache folder hold, byte by byte (docs/architecture.md, "Cache folder").

- `header.json`: CacheHeader.
- `<store>/static.safetensors`: means, quats, scales, opacities, sh, branch, moving, region (index into avatar.REGIONS), still_variance (aleatoric, of
  what stands still; earlier bakes have none).
- `<store>/motion.bin`: slots of [10][M] uint16: means x y z, quats w x y z, scales x y z.
- `<store>/uncertainty.bin`: slots of [2][M] uint16: log aleatoric, log epistemic.
- `<store>/shares.bin`: slots of [4][M] uint8: how much each view (SHARES) has in the fused state, in 255ths; their sum is 255, or
  0 where nothing is known of them.
- `<store>/index.bin`: ENTRY records, appended. The last whole one of a frame counts. Several frames may share a slot.

A number q of channel c of the first two stands for low[c] + q / 65535 * (high[c] - low[c]).
"""

from __future__ import annotations

import json
import zlib
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import atomic_write

FORMAT_VERSION = 2
LOCK_FILE = "writing.lock"
"""In a cache folder while a bake writes there."""
SHOT_FILE = "shot.safetensors"
"""In a cache folder: the shot of the last whole bake (`engine.shot.save_shot`), which tells why frames are out of date."""
SHARES = ("audio", "exp", "style", "emotion")
"""Views of the fused state in the order of a frame's shares; the inside of the mouth has no emotion."""
MOTION_CHANNELS = 10
UNCERTAINTY_CHANNELS = 2
CHANNELS = MOTION_CHANNELS + UNCERTAINTY_CHANNELS
FRAME_FILES = {"motion.bin": (MOTION_CHANNELS, "<u2"), "uncertainty.bin": (UNCERTAINTY_CHANNELS, "<u2"), "shares.bin": (len(SHARES), "u1")}
"""Files of a store with a slot for each frame: channels and type of a slot. The index follows them."""
MAGIC = 0x5541334D
ENTRY = np.dtype(
    [
        ("magic", "<u4"),
        ("frame", "<i4"),
        ("slot", "<u4"),
        ("motion_crc", "<u4"),
        ("uncertainty_crc", "<u4"),
        ("shares_crc", "<u4"),
        ("key", "u1", 16),
        ("low", "<f4", CHANNELS),
        ("high", "<f4", CHANNELS),
        ("entry_crc", "<u4"),
    ]
)


class OlderFormat(UserError):
    """A bake of an earlier version, which cannot be read any more."""


@dataclass
class CacheHeader:
    """`header.json`.

    Attributes:
        avatar_name, avatar_hash, sound_hash: of the bake; sound_hash is "" without sound.
        composite: `layered` or `sorted`, as in the avatar.
        fps: frames a second of the scene.
        store: folder with the data.
        count, moving: number of Gaussians N, and of those that move M.
        engine_version, device: what computed it.
        coordinates: the frame of the numbers.
        pixel_size: metres that a pixel covered at the head in the pictures that the avatar was trained on; 0: not known (earlier bakes do not say).
        color_variance: whether variances are of colour (display, 0..1), so that their roots are expected errors; earlier bakes do not say.
    """

    avatar_name: str
    avatar_hash: str
    sound_hash: str
    composite: str
    fps: float
    store: str
    count: int
    moving: int
    engine_version: str
    device: str
    coordinates: str = "Blender: right-handed, Z up, face along -Y, metres; quats w x y z; scales linear; colours sRGB"
    format: str = "ua3dtalk-cache"
    format_version: int = FORMAT_VERSION
    pixel_size: float = 0.0
    color_variance: bool = False


def write_header(folder: Path, header: CacheHeader) -> None:
    """Replace `header.json` in one step."""
    with atomic_write(folder / "header.json") as handle:
        handle.write(json.dumps(asdict(header), indent=1).encode())


def read_header(folder: Path) -> CacheHeader:
    """Read `header.json`.

    Raises:
        OlderFormat: of an earlier version.
        UserError: none there, foreign, damaged or newer.
    """
    path = Path(folder) / "header.json"
    try:
        values = json.loads(path.read_text("utf-8"))
        if values["format"] != "ua3dtalk-cache" or not isinstance(values["format_version"], int):
            raise ValueError("format")
    except FileNotFoundError as error:
        raise UserError(f"{folder}: no bake here.", "Bake first.") from error
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the folder and its permissions.") from error
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path}: not the header of a UA-3DTalk bake.", "Bake again.") from error
    if values["format_version"] > FORMAT_VERSION:
        raise UserError(f"{path}: baked by a newer version of UA-3DTalk.", "Update the extension, or bake again.")
    if values["format_version"] < FORMAT_VERSION:
        raise OlderFormat(f"{path}: baked by an older version of UA-3DTalk.", "Bake again.")
    try:
        values = {"pixel_size": 0.0, "color_variance": False} | values
        header = CacheHeader(**{item.name: values[item.name] for item in fields(CacheHeader)})
        whole = (header.count, header.moving)
        if not all(type(number) is int and 0 <= number < 1 << 31 for number in whole) or header.moving > header.count:
            raise ValueError("count")
        if not isinstance(header.store, str) or not header.store.isascii() or Path(header.store).name != header.store or header.store in ("", ".", ".."):
            raise ValueError("store")  # a store lies in its own cache folder, never elsewhere
        header.fps, header.pixel_size = float(header.fps), float(header.pixel_size)
        if not 0 <= header.pixel_size < 1e6:
            raise ValueError("pixel_size")
        if type(header.color_variance) is not bool:
            raise ValueError("color_variance")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: damaged ({error}).", "Bake again.") from error
    return header


def seal(entry: np.void) -> bytes:
    """An entry's bytes with its own checksum."""
    entry["magic"] = MAGIC
    data = entry.tobytes()[:-4]
    return data + zlib.crc32(data).to_bytes(4, "little")


def quantise(values: np.ndarray, whole: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """[C,M] float32 -> `whole` uint16 [C,M]. Largest error (high - low) / 131070.

    Returns:
        low, high: [C] float32.

    Raises:
        FloatingPointError: numbers are not finite.
    """
    if not values.shape[1]:
        return np.zeros(len(values), np.float32), np.zeros(len(values), np.float32)
    low, high = values.min(axis=1), values.max(axis=1)
    if not (np.isfinite(low) & np.isfinite(high)).all():  # NaN is both least and greatest
        raise FloatingPointError("not finite")
    scaled = values - low[:, None]
    scaled *= (np.float32(65535.0) / np.where(high > low, high - low, np.float32(1)))[:, None]  # at most 65535.01
    np.copyto(whole, np.rint(scaled, out=scaled), casting="unsafe")
    return low, high


def quantise_shares(shares: np.ndarray, whole: np.ndarray) -> None:
    """[M,4] of sum 1 (or 0: unknown) -> `whole` uint8 [4,M] of sum 255 (or 0). Largest error 1/255; what is 0 stays 0.

    Raises:
        FloatingPointError: numbers are not finite.
    """
    edges = np.empty((len(SHARES), len(shares)), np.float32)
    total = np.float32(0)
    for view, share in enumerate(np.asarray(shares, np.float32).T):
        total = np.add(total, share, out=edges[view])
    if not np.isfinite(edges[-1]).all():
        raise FloatingPointError("not finite")
    edges *= 255
    np.rint(edges, out=edges)
    np.minimum(edges, 255, out=edges)
    np.copyto(whole, edges, casting="unsafe")
    whole[1:] -= whole[:-1].copy()


def restore(whole: np.ndarray, low: np.ndarray, high: np.ndarray, out: np.ndarray) -> None:
    """Inverse of `quantise`, into `out` float32 [C,M]."""
    step = ((high.astype(np.float64) - low) / 65535.0).astype(np.float32)
    np.multiply(whole, step[:, None], out=out)
    out += low[:, None]
