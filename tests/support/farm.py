"""A folder with shots to be baked many at a time."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import soundfile

from ua3dtalk.engine.avatar import save_avatar

from .avatars import talking_avatar


def make_show(folder: Path) -> Path:
    """An avatar and a second of sound, for `write_shot`."""
    save_avatar(talking_avatar(), folder / "head.safetensors")
    soundfile.write(folder / "s.wav", np.random.default_rng(0).normal(size=16000) * 0.1, 16000)
    return folder


def write_shot(
    folder: Path, name: str, frames: int, avatar: str = "head.safetensors", digest: str | None = None, out: str = "", smile: float = 1.0,
    sound: bool = True,
) -> Path:  # fmt: skip
    """A shot with a smile that never stands still, so that each frame has a key of its own."""
    known = {} if digest is None else {"sha256": digest}
    document = {
        "ua3dtalk_shot": 1, "name": name, "avatar": {"path": avatar, **known}, "sound": {"path": "s.wav"} if sound else None, "fps": 25,
        "frames": {"first": 0, "last": frames - 1}, "curves": {"happy": [[0, 0], [frames, smile]]}, "output": {"folder": f"cache/{out or name}"},
    }  # fmt: skip
    path = folder / f"{name}.json"
    path.write_text(json.dumps(document), encoding="utf-8")
    return path
