"""Tracks on disk: what a sound says to a provider is worked out once, whichever process or avatar asks.

A file is named by what its numbers depend on: the sound's bytes, and the provider's name, version and weights. Tracks are
mapped into memory, so that an hour of sound costs what is looked at.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from ..audio import read_sound
from ..avatar.tensors import load_tensors, save_tensors
from ..errors import UserError
from ..files import file_hash
from .track import EmotionTrack, Provider, Track

REVISION = 1
"""Raised whenever a provider gives other numbers without being of another version."""
LIMIT = 1 << 30
"""Bytes kept on disk; what was not used for longest goes first. An hour of sound takes 160 MB."""
FOLDER_VARIABLE = "UA3DTALK_CACHE"
_KEY = "ua3dtalk_track"
_ABANDONED = 24 * 3600.0


class TrackStore:
    """A folder of tracks. A disk that refuses, or a damaged file, costs the work of making the track, nothing else.

    Args:
        folder: None: the folder that the environment variable UA3DTALK_CACHE names, else the user's cache folder.
        limit: bytes to keep.
    """

    def __init__(self, folder: Path | None = None, limit: int = LIMIT) -> None:
        named = os.environ.get(FOLDER_VARIABLE)
        base = Path(named) if named else user_cache_path("ua3dtalk", appauthor=False)
        self.folder = Path(folder) if folder is not None else base / "tracks"
        self.limit = limit

    def tracks(self, providers: Mapping[str, Provider], path: Path, sound_hash: str) -> dict[str, Track]:
        """What a sound file says to each provider.

        Args:
            sound_hash: SHA-256 that the file's bytes must have.

        Raises:
            UserError: the file is missing, has other bytes, or is no sound.
        """
        changed = UserError(f"{path} has changed since the shot was made.", "Write the shot again, or bake from Blender again.")
        if file_hash(path) != sound_hash:
            raise changed
        found, sound = {}, None
        for view, provider in providers.items():
            track = self._load(provider, sound_hash)
            if track is None:
                if sound is None:
                    sound = read_sound(path)
                    if sound.sha256 != sound_hash:
                        raise changed
                track = provider.track(sound)
                if self._save(provider, sound_hash, track):
                    track = self._load(provider, sound_hash) or track  # the one in memory goes
            found[view] = track
        return found

    def _place(self, provider: Provider, sound_hash: str) -> tuple[Path, str]:
        about = f"{REVISION}|{sound_hash}|{provider.view}|{provider.name}|{provider.version}|{provider.weights}"
        return self.folder / f"{hashlib.sha256(about.encode()).hexdigest()[:32]}.safetensors", about

    def _load(self, provider: Provider, sound_hash: str) -> Track | None:
        """The track, or None where there is none or it is damaged."""
        path, about = self._place(provider, sound_hash)
        if not path.is_file():
            return None
        try:
            tensors, metadata = load_tensors(path)
            told = json.loads(metadata[_KEY])
            if told["about"] != about or told["crc"] != _checksum(tensors):
                raise ValueError("checksum")
            arrays = {name: tensors[name] for name in told["arrays"]}
            kind = EmotionTrack if "confidences" in arrays else Track
            track = kind(
                **arrays,
                rate=float(told["rate"]),
                duration=float(told["duration"]),
                shape=tuple(told["shape"]),
                feature_axis=int(told["feature_axis"]),
            )
            os.utime(path)  # used now
            return track
        except (UserError, OSError, KeyError, ValueError, TypeError, RecursionError):
            return None

    def _save(self, provider: Provider, sound_hash: str, track: Track) -> bool:
        path, about = self._place(provider, sound_hash)
        fields = {name: getattr(track, name, None) for name in ("features", "silence", "offsets", "confidences")}
        arrays = {name: value for name, value in fields.items() if value is not None}
        told = {
            "about": about,
            "crc": _checksum(arrays),
            "arrays": sorted(arrays),
            "rate": track.rate,
            "duration": track.duration,
            "shape": list(track.shape),
            "feature_axis": track.feature_axis,
        }
        try:
            save_tensors(path, arrays, {_KEY: json.dumps(told)})
        except UserError:  # no room, no right to write
            return False
        self._shrink(path)
        return True

    def _shrink(self, keep: Path) -> None:
        """Remove what was not used for longest until the limit holds, and what killed processes left half-written."""
        try:
            for part in self.folder.glob(".*.part"):
                if time.time() - part.stat().st_mtime > _ABANDONED:
                    part.unlink()
            files = sorted((path.stat().st_mtime_ns, path.stat().st_size, path) for path in self.folder.glob("*.safetensors"))
        except OSError:  # another process is at it
            return
        total = sum(size for _, size, _ in files)
        for _, size, path in files:
            if total <= self.limit:
                return
            if path != keep:
                try:
                    path.unlink()
                    total -= size
                except OSError:  # mapped by another process, on Windows
                    pass


def _checksum(arrays: Mapping[str, np.ndarray]) -> int:
    """Of the arrays' bytes and shapes."""
    crc = 0
    for name in sorted(arrays):
        array = np.ascontiguousarray(arrays[name])
        crc = zlib.crc32(f"{name}{array.dtype.str}{array.shape}".encode(), crc)
        for start in range(0, len(array), 1 << 14):
            crc = zlib.crc32(array[start : start + (1 << 14)], crc)
    return crc
