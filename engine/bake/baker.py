"""Baking a shot."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Callable, Sequence

import numpy as np

from .. import __version__
from ..audio import Sound
from ..avatar import EMOTIONS, Avatar
from ..avatar.gaussians import turn_geometry
from ..cache import CacheHeader, CacheWriter
from ..errors import Cancelled, UserError
from ..shot import Shot, frame_keys
from ..views import EMOTION_VIEW, Track
from .session import Session

BATCH = 8
"""Frames computed together: enough to share work, few enough to cancel and to show progress soon."""

Progress = Callable[[int, int, str], None]


@dataclass
class BakeResult:
    """What a bake did: frames computed, taken over from others with the same key, up to date before; seconds; folder."""

    computed: int
    moved: int
    up_to_date: int
    seconds: float
    cache: str


class Baker:
    """Bakes one shot of one avatar.

    Args:
        session: keeps avatar and sounds in memory.
        shot: what to bake; its avatar and sound files must still be those of its hashes.

    Raises:
        UserError: files missing or changed, providers that do not fit.
    """

    def __init__(self, session: Session, shot: Shot) -> None:
        self.shot = shot
        self.avatar, self.deformer = session.avatar(shot.avatar)
        if self.avatar.hash != shot.avatar_hash:
            raise UserError(f"{shot.avatar} has changed since the shot was made.", "Write the shot again, or bake from Blender again.")
        # Asked for even without sound: an avatar whose providers are missing is refused before anything is computed.
        providers = {} if self.deformer is None else session.providers(self.avatar)
        self.tracks: dict[str, Track] = {}
        if providers and shot.sound is not None and np.isfinite(shot.times).any():
            self.tracks = session.tracks(self.avatar, shot.sound, shot.sound_hash)
        elif providers:
            silence = Sound(np.zeros(16000, np.float32), 16000, 1.0, "", 16000, 1)
            self.tracks = {view: provider.track(silence) for view, provider in providers.items()}

    def views(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the networks get for rows [F] of the shot: audio [F,8,29,16], exp, style [F,1,64], emotion [F,1,128], au [F,6]."""
        shot = self.shot
        times = np.where(bool(shot.sound_hash), shot.times[rows], np.nan)
        views = {view: track.at(times) for view, track in self.tracks.items() if view != EMOTION_VIEW}
        keyed, share = shot.emotion_parts()
        said = np.where(np.isfinite(times)[:, None], self.tracks[EMOTION_VIEW].at(times), 0)
        x = keyed[rows] + share[rows, None] * said
        return views | {"emotion": emotion_vectors(self.avatar, x)[:, None], "au": np.asarray(shot.au[rows], np.float32)}

    def frames(self, rows: np.ndarray) -> list[tuple[np.ndarray, ...]]:
        """The moving Gaussians of rows [F] of the shot, in Blender's frame.

        Returns:
            for each row: means [M,3], quats [M,4], scales [M,3], aleatoric [M], epistemic [M].
        """
        avatar = self.avatar
        if self.deformer is None:
            return [(np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros(0)) for _ in rows]
        motion = self.deformer.motion(self.views(rows))
        moved = [(branch, getattr(motion, branch)) for branch in avatar.branches if getattr(motion, branch) is not None]
        result = []
        for f in range(len(rows)):
            whole = self.deformer.deformed(motion, f)
            geometry = [
                np.concatenate([getattr(whole[branch], name)[avatar.moving(branch)] for branch, _ in moved])
                for name in ("means", "quats", "scales")
            ]
            turned = turn_geometry(*geometry, avatar.rotation_to_blender(), avatar.meta.metres_per_unit)
            result.append((*turned, *(np.concatenate([getattr(m, name)[f] for _, m in moved]) for name in ("aleatoric", "epistemic"))))
        return result

    def bake(
        self,
        folder: Path,
        first: Sequence[int] = (),
        progress: Progress = lambda done, total, text: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> BakeResult:
        """Bring a cache folder up to date with the shot; only frames whose key changed are computed.

        Args:
            folder: cache folder, made if missing.
            first: scene frames to compute before the others, in this order.
            progress: called with frames done, frames in all, and a line of text.
            stopped: asked between batches; True ends the bake.

        Raises:
            Cancelled: `stopped` said so; what was baked until then is valid.
            UserError: the folder cannot be written, or a frame cannot be computed.
        """
        begin = time.perf_counter()
        keys = [key.tobytes() for key in frame_keys(self.shot)]
        numbers = [int(frame) for frame in self.shot.frames]
        place = {frame: row for row, frame in enumerate(numbers)}
        early = [place[frame] for frame in first if frame in place]
        order = list(dict.fromkeys([*early, *range(len(numbers))]))
        static, branch = self.avatar.rest()
        header = CacheHeader(
            avatar_name=self.avatar.meta.name,
            avatar_hash=self.avatar.hash,
            sound_hash=self.shot.sound_hash,
            composite=self.avatar.meta.composite,
            fps=float(self.shot.fps),
            store="",
            count=0,
            moving=0,
            engine_version=__version__,
            device="none" if self.deformer is None else str(self.deformer.device),
        )
        result = BakeResult(0, 0, 0, 0.0, str(folder))
        with CacheWriter(folder, header, static, branch, self.avatar.moving_rows()) as writer:
            # Frames with the same key are the same frame: computed once, shared by the rest (silence, a held pose).
            todo: dict[bytes, list[int]] = {}
            for row in order:
                if writer.has(numbers[row], keys[row]):
                    result.up_to_date += 1
                elif writer.reuse(numbers[row], keys[row]):
                    result.moved += 1
                else:
                    todo.setdefault(keys[row], []).append(row)
            done = result.up_to_date + result.moved
            progress(done, len(order), f"{done} frames up to date")
            groups = list(todo.values())
            for at in range(0, len(groups), BATCH):
                if stopped():
                    raise Cancelled()
                batch = groups[at : at + BATCH]
                rows = np.array([group[0] for group in batch])
                for group, frame in zip(batch, self.frames(rows)):
                    row, *others = group
                    writer.put(numbers[row], keys[row], *frame)
                    for other in others:
                        writer.reuse(numbers[other], keys[other])
                    result.computed += 1
                    result.moved += len(others)
                    done += len(group)
                left = (time.perf_counter() - begin) / result.computed * (len(groups) - result.computed)
                progress(done, len(order), f"frame {numbers[rows[-1]]}, {left:.0f} s left")
            writer.finish()
        result.seconds = time.perf_counter() - begin
        return result


def emotion_vectors(avatar: Avatar, x: np.ndarray) -> np.ndarray:
    """f_emotion [F,D] = p_neutral + sum_e x_e (p_e - p_neutral), for x [F,8] in the order of EMOTIONS.

    Raises:
        UserError: the avatar has no prototypes, or lacks neutral.
    """
    prototypes = avatar.tensors.get("emotion.prototypes")
    if prototypes is None or "neutral" not in avatar.meta.emotions:
        raise UserError(
            f"{avatar.path or avatar.meta.name}: the avatar has no emotion prototypes, so emotion keys cannot move it.",
            "Give it prototypes when it is imported, or feed its networks with `python -m engine deform`.",
        )
    prototypes = np.asarray(prototypes, np.float32)
    neutral = prototypes[avatar.meta.emotions.index("neutral")]
    vectors = np.repeat(neutral[None], len(x), axis=0)
    for index, name in enumerate(EMOTIONS):
        if name in avatar.meta.emotions:
            vectors = vectors + x[:, index, None] * (prototypes[avatar.meta.emotions.index(name)] - neutral)
    return vectors.astype(np.float32)

