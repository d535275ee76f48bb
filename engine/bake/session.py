"""What stays in memory between bakes: the avatar with its networks, and what the last sounds say."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from ..audio import Sound, read_sound
from ..avatar import Avatar, load_avatar
from ..deform.fast import Deformer
from ..errors import UserError
from ..views import Track, build_providers

SOUNDS_KEPT = 4


class Session:
    """Loads avatars and sounds once. `device`: `auto`, `cpu` or `cuda`; `threads`: of torch, None for a default."""

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        self.device, self.threads = device, threads
        self._avatar: tuple[tuple[object, ...], Avatar, Deformer | None] | None = None
        self._tracks: OrderedDict[tuple[str, str], dict[str, Track]] = OrderedDict()

    def avatar(self, path: Path) -> tuple[Avatar, Deformer | None]:
        """The avatar and its networks (None for a static one), from memory while the file stays the same.

        Raises:
            UserError: the file is not a valid avatar, or its networks are not; or it changed while being read.
        """
        stamp = _stamp(path)
        if self._avatar is None or self._avatar[0] != stamp:
            avatar = load_avatar(path)
            # Out of the file's map into memory: somebody may write over the file while a bake goes on.
            avatar.tensors = {name: np.array(tensor) for name, tensor in avatar.tensors.items()}
            if not avatar.hash or _stamp(path) != stamp:
                raise UserError(f"{path} was written to while it was being read.", "Bake again when it is whole.")
            deformer = None if avatar.is_static else Deformer(avatar, self.device, self.threads)
            self._avatar = (stamp, avatar, deformer)
        return self._avatar[1], self._avatar[2]

    def tracks(self, avatar: Avatar, path: Path, expected_hash: str) -> dict[str, Track]:
        """What a sound says to each of the avatar's views, and its automatic emotion.

        Raises:
            UserError: unreadable sound, another one than the shot was made with, or providers that do not fit.
        """
        key = (avatar.hash, expected_hash)
        if key not in self._tracks:
            sound: Sound = read_sound(path)
            if sound.sha256 != expected_hash:
                raise UserError(f"{path} has changed since the shot was made.", "Write the shot again, or bake from Blender again.")
            providers = self.providers(avatar)
            self._tracks[key] = {view: provider.track(sound) for view, provider in providers.items()}
            while len(self._tracks) > SOUNDS_KEPT:
                self._tracks.popitem(last=False)
        self._tracks.move_to_end(key)
        return self._tracks[key]

    @staticmethod
    def providers(avatar: Avatar) -> dict[str, object]:
        """The providers the avatar was trained with. Raises UserError where this engine lacks one."""
        weights = {name: tensor for name, tensor in avatar.tensors.items() if name.startswith("provider.")}
        views = {name: asdict(view) for name, view in avatar.meta.views.items() if name != "au"}
        return build_providers(views, weights)


def _stamp(path: Path) -> tuple[object, ...]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Point the shot at the avatar file.") from error
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino
