"""What stays in memory between bakes: the avatar made ready, what the last sounds say, and the cache folder written last."""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..audio import Sound
from ..avatar import AvatarMeta, Gaussians, load_avatar, regions, strength_masks
from ..avatar.gaussians import matrix_to_quat, quat_multiply
from ..cache import CacheHeader, CacheWriter
from ..deform.fast import Deformer
from ..errors import UserError
from ..views import EMOTION_VIEW, EmotionTrack, Provider, Track, TrackStore, build_providers

SOUNDS_KEPT = 4


@dataclass(frozen=True, eq=False)
class Head:
    """An avatar ready to be baked. The file it came from may be written over: nothing here is a view of it.

    Attributes:
        path, hash, meta: of the avatar file.
        deformer: its networks; None for a static one.
        providers: the providers it was trained with, by view; none for a static one.
        prototypes: [E,128] float32 emotion prototypes, or None.
        action_units: [8,6] float32, what each of EMOTIONS at full intensity brings of AU_NAMES, or None.
        static, branch: all N Gaussians at rest in Blender's frame, and [N] uint8: 0 face, 1 mouth.
        region: [N] uint8, index into `avatar.REGIONS`.
        color_variance: whether variances are of colour, see `Avatar.knows_color_variance`.
        still_variance: [N] float32, see `Avatar.still_variance`.
        moving: [M] rows of `static` that the networks move.
        masks: [3,M] float32, where the strengths of upper face, lower face and lips act (`avatar.strength_masks`).
        turn_means, turn_quats: [3,3] and [4,4] float32 from avatar axes to Blender's, means to metres; rows times matrix.
    """

    path: Path
    hash: str
    meta: AvatarMeta
    deformer: Deformer | None
    providers: dict[str, Provider]
    prototypes: np.ndarray | None
    action_units: np.ndarray | None
    static: Gaussians
    branch: np.ndarray
    region: np.ndarray
    color_variance: bool
    still_variance: np.ndarray
    moving: np.ndarray
    masks: np.ndarray
    turn_means: np.ndarray
    turn_quats: np.ndarray


class Session:
    """Loads avatars and sounds once. `device`: `auto`, `cpu` or `cuda`; `threads`: on the processor, None for a default."""

    def __init__(self, device: str = "auto", threads: int | None = None) -> None:
        self.device, self.threads = device, threads
        self._head: tuple[tuple[object, ...], Head] | None = None
        self._tracks: OrderedDict[tuple[str, str], dict[str, Track]] = OrderedDict()
        self._store = TrackStore()
        self._writer: CacheWriter | None = None

    def head(self, path: Path) -> Head:
        """The avatar made ready, from memory while the file stays the same.

        Raises:
            UserError: the file is not a valid avatar, or its networks or providers are not; or it changed while being read.
        """
        stamp = _stamp(path)
        if self._head is None or self._head[0] != stamp:
            self._head = self._writer = None  # two avatars need not fit into memory
            avatar = load_avatar(path)
            static, branch = avatar.rest()
            moving, prototypes = avatar.moving_rows(), avatar.tensors.get("emotion.prototypes")
            deformer = None if avatar.is_static else Deformer(avatar, self.device, self.threads)
            weights = {name: tensor for name, tensor in avatar.tensors.items() if name.startswith("provider.")}
            views = {name: asdict(view) for name, view in avatar.meta.views.items() if name != "au"}
            rotation = avatar.rotation_to_blender()
            head = Head(
                Path(path),
                avatar.hash,
                avatar.meta,
                deformer,
                {} if deformer is None else build_providers(views, weights),
                None if prototypes is None else np.array(prototypes, np.float32),
                avatar.emotion_action_units(),
                static,
                branch,
                regions(avatar),
                avatar.knows_color_variance,
                avatar.still_variance(),
                moving,
                np.stack(strength_masks(avatar)),
                (avatar.meta.metres_per_unit * rotation.T).astype(np.float32),
                quat_multiply(matrix_to_quat(rotation), np.eye(4)).astype(np.float32),
            )
            avatar.tensors = {}  # the deformer knows the avatar; the file is to be let go
            if _stamp(path) != stamp:
                raise UserError(f"{path} was written to while it was being read.", "Bake again when it is whole.")
            self._head = (stamp, head)
        return self._head[1]

    def tracks(self, head: Head, path: Path | None, sound_hash: str) -> dict[str, Track]:
        """What a sound, or silence (None), says to each of the avatar's views, and its automatic emotion.

        Raises:
            UserError: unreadable sound, or another one than the shot was made with.
        """
        key = (head.hash, sound_hash)
        if key not in self._tracks:
            if path is None:
                silence = Sound(np.zeros(16000, np.float32), 16000, 1.0, "", 16000, 1)
                self._tracks[key] = {view: provider.track(silence) for view, provider in head.providers.items()}
            else:
                self._tracks[key] = self._store.tracks(head.providers, path, sound_hash)
            while len(self._tracks) > SOUNDS_KEPT:
                self._tracks.popitem(last=False)
        self._tracks.move_to_end(key)
        return self._tracks[key]

    def emotion(self, head: Head, path: Path, sound_hash: str) -> EmotionTrack:
        """The automatic emotion of a sound, which a static avatar has too. Raises UserError as `tracks` does."""
        if (head.hash, sound_hash) in self._tracks:
            return self._tracks[head.hash, sound_hash][EMOTION_VIEW]  # type: ignore[return-value]
        providers = head.providers or build_providers({}, {})
        return self._store.tracks({EMOTION_VIEW: providers[EMOTION_VIEW]}, path, sound_hash)[EMOTION_VIEW]  # type: ignore[return-value]

    def writer(self, folder: Path, head: Head, header: CacheHeader) -> CacheWriter:
        """The cache folder opened for writing; where it is the one written last, at once.

        Raises:
            UserError: it cannot be written, or another bake is writing it.
        """
        last = self._writer
        if last is not None and last.folder == folder and last.header.avatar_hash == head.hash:
            last.begin(header)
        else:
            self._writer = None
            self._writer = CacheWriter(folder, header, head.static, head.branch, head.moving, head.region, head.still_variance)
        return self._writer


def _stamp(path: Path) -> tuple[object, ...]:
    try:
        status = Path(path).stat()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Point the shot at the avatar file.") from error
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino
