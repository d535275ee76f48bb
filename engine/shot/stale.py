"""What of a bake is out of date, and why, in words."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from .shot import Shot, frame_keys


@dataclass(frozen=True)
class StaleReport:
    """The state of a bake against its shot.

    Attributes:
        total: frames the shot has.
        missing: frames never baked, rising.
        outdated: frames baked from something else, rising.
        reasons: what changed, in words; empty where nothing is outdated.
    """

    total: int
    missing: tuple[int, ...] = ()
    outdated: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()

    @property
    def fresh(self) -> bool:
        """True where every frame of the shot is baked from what it says now."""
        return not self.missing and not self.outdated

    @property
    def frames(self) -> tuple[int, ...]:
        """Frames that a bake would compute."""
        return tuple(sorted(self.missing + self.outdated))

    def lines(self) -> list[str]:
        """One to three short lines for the panel."""
        if self.fresh:
            return [f"Up to date: {count(self.total)}"]
        lines = []
        if len(self.missing) == self.total:
            return [f"Not baked: {count(self.total)}"]
        if self.missing:
            lines.append(f"Not baked: {ranges(self.missing)} ({len(self.missing)} of {self.total})")
        if self.outdated:
            lines.append(f"Out of date: {ranges(self.outdated)} ({len(self.outdated)} of {self.total})")
            lines.append("Changed: " + ", ".join(self.reasons))
        return lines


def count(number: int) -> str:
    """`1 frame`, `2 frames`."""
    return f"{number} frame" if number == 1 else f"{number} frames"


def ranges(frames: tuple[int, ...], most: int = 3) -> str:
    """Frames as text: `1-20, 25, 30-40 ...`."""
    parts: list[str] = []
    start = previous = None
    for frame in (*frames, None):
        if previous is not None and frame is not None and frame == previous + 1:
            previous = frame
            continue
        if start is not None:
            parts.append(f"{start}" if start == previous else f"{start}-{previous}")
        start = previous = frame
    return ", ".join(parts[:most]) + (" ..." if len(parts) > most else "")


def stale_report(
    shot: Shot,
    baked: Mapping[int, bytes],
    avatar_hash: str = "",
    sound_hash: str = "",
    last: Shot | None = None,
    keys: np.ndarray | None = None,
) -> StaleReport:
    """Compare a shot with a cache.

    Args:
        shot: as it is to be now.
        baked: the cache's frames and their keys.
        avatar_hash, sound_hash: of the cache's header.
        last: the shot of the last bake, which tells the reasons apart; None where it is not there any more.
        keys: [F,16] uint8 keys of the shot's frames where they are known already.
    """
    keys = frame_keys(shot) if keys is None else keys
    missing, outdated = [], []
    for row, frame in enumerate(shot.frames.tolist()):
        key = baked.get(frame)
        if key is None:
            missing.append(frame)
        elif key != keys[row].tobytes():
            outdated.append(frame)
    reasons = _reasons(shot, outdated, avatar_hash, sound_hash, last) if outdated else ()
    return StaleReport(len(shot), tuple(missing), tuple(outdated), reasons)


def _reasons(shot: Shot, outdated: list[int], avatar_hash: str, sound_hash: str, last: Shot | None) -> tuple[str, ...]:
    reasons = []
    if avatar_hash and avatar_hash != shot.avatar_hash:
        reasons.append("the avatar's file")
    # A bake of nothing but silent frames and one without sound are the same.
    heard = bool(shot.sound_hash) and bool(np.isfinite(shot.times).any())
    if sound_hash != shot.sound_hash and (sound_hash or heard):
        reasons.append("the sound file" if sound_hash and heard else "sound added" if heard else "sound removed")
    if last is not None:
        reasons += _differences(shot, last, outdated)
    if not reasons:
        reasons.append("settings since an earlier bake")
    return tuple(reasons)


def _differences(shot: Shot, last: Shot, outdated: list[int]) -> list[str]:
    common = np.intersect1d(np.intersect1d(shot.frames, last.frames), np.asarray(outdated, np.int32))
    now, then = np.searchsorted(shot.frames, common), np.searchsorted(last.frames, common)
    if not len(common):
        return []

    def differ(a: np.ndarray, b: np.ndarray) -> bool:
        a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
        return bool(np.any(np.rint(np.nan_to_num(a, nan=-1e6) * 1e6) != np.rint(np.nan_to_num(b, nan=-1e6) * 1e6)))

    words = []
    if shot.sound_hash and shot.sound_hash == last.sound_hash and differ(shot.times[now], last.times[then]):
        words.append("the sound's place")
    (keyed, share), (keyed_then, share_then) = shot.emotion_parts(), last.emotion_parts()
    if differ(keyed[now, 1:], keyed_then[then, 1:]) or differ(share[now], share_then[then]):
        words.append("emotion")
    if differ(shot.au[now, 5], last.au[then, 5]):
        words.append("blinks")
    if differ(shot.au[now, :5], last.au[then, :5]):
        words.append("brows and eyes")
    for name, what in (("upper", "the upper face's strength"), ("lower", "the lower face's strength"), ("lips", "the lips' strength")):
        if differ(getattr(shot, name)[now], getattr(last, name)[then]):
            words.append(what)
    if shot.sound_hash and differ([shot.smoothing], [last.smoothing]):
        words.append("smoothing")
    return words
