"""Baking a shot."""

from __future__ import annotations

import math
import time
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Callable, Iterator, Sequence

import numpy as np

from .. import __version__
from ..avatar import EMOTIONS
from ..cache import SHARES, CacheHeader, CacheWriter
from ..cache.layout import CHANNELS
from ..deform.fast import BranchMotion
from ..deform.parameters import VIEWS
from ..errors import Cancelled, UserError
from ..shot import STRENGTHS, Shot, frame_keys
from ..views import EMOTION_VIEW, Track
from .session import Head, Session

BATCH = 8
"""Frames computed together: enough to share work, few enough to cancel and to show progress soon. The first ones come alone."""
KEYS = 4096
"""Frames whose keys are looked at together, at most."""
WAITING = 2
"""Batches that may wait to be written."""

REACH = 2.4
"""How far a smoothing looks to either side, in deviations."""
FINEST = 0.02
"""Seconds between the times at which it looks a view up, at most: further apart, what is faster would be taken for something slow."""

Frame = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray, np.ndarray]
"""means [M,3], quats [M,4], scales [M,3], aleatoric [M], epistemic [M], shares [M,4] of the moving Gaussians, in Blender's frame; in
memory channel by channel."""
Progress = Callable[[int, int, str, Sequence[int]], None]
"""(frames done, frames in all, a line of text, scene frames that have become readable since the last call)."""


@dataclass
class BakeResult:
    """What a bake did: frames computed, taken over from others with the same key, up to date before; seconds; folder."""

    computed: int
    moved: int
    up_to_date: int
    seconds: float
    cache: str


@dataclass
class _Batch:
    """What is done in one go.

    Attributes:
        groups: (key, rows of the shot that have it); the first row is computed, the others share it.
        known: (key, row) that share data that is there, or that an earlier batch brings.
        up_to_date: rows there is nothing to do for.
        views: of the groups' first rows.
        strength: [F,M] of the groups' first rows, or None: 1.
    """

    groups: list[tuple[bytes, list[int]]]
    known: list[tuple[bytes, int]]
    up_to_date: int
    views: dict[str, np.ndarray]
    strength: np.ndarray | None


class Baker:
    """Bakes one shot of one avatar.

    Args:
        session: keeps avatar and sounds in memory.
        shot: what to bake; its avatar and sound files must still be those of its hashes.

    Raises:
        UserError: files missing or changed, providers that do not fit.
    """

    def __init__(self, session: Session, shot: Shot) -> None:
        self.session, self.shot = session, shot
        self.head: Head = session.head(shot.avatar)
        self.deformer = self.head.deformer
        if self.head.hash != shot.avatar_hash:
            raise UserError(f"{shot.avatar} has changed since the shot was made.", "Write the shot again, or bake from Blender again.")
        self.tracks: dict[str, Track] = {}
        if self.deformer is not None:
            heard = shot.sound is not None and bool(np.isfinite(shot.times).any())
            self.tracks = session.tracks(self.head, shot.sound if heard else None, shot.sound_hash if heard else "")

    def views(self, rows: np.ndarray) -> dict[str, np.ndarray]:
        """What the networks get for rows [F] of the shot: audio [F,8,29,16], exp, style [F,1,64], emotion [F,1,128], au [F,6] (those keyed and those
        of the emotion)."""
        shot = self.shot.part(rows)
        times = np.where(bool(shot.sound_hash), shot.times, np.nan)
        said = self._said(times) if shot.smoothing == 0 else smoothed(self._said, times, shot.smoothing)
        keyed, share = shot.emotion_parts()
        x = keyed + share[:, None] * said.pop(EMOTION_VIEW)
        return said | {"emotion": emotion_vectors(self.head, x)[:, None], "au": action_units(self.head, x, shot.au)}

    def _said(self, times: np.ndarray) -> dict[str, np.ndarray]:
        """What the sound says to each view at `times` [F], the automatic emotion's weights among them: 0 where there is no sound."""
        said = {view: track.at(times) for view, track in self.tracks.items()}
        said[EMOTION_VIEW] = np.where(np.isfinite(times)[:, None], said[EMOTION_VIEW], 0)
        return said

    def strength(self, rows: np.ndarray) -> np.ndarray | None:
        """What the motion of each Gaussian in rows [F] of the shot is multiplied with [F,M] float32; None where all is as learned.

        Each of the three strengths s acts as 1 + mask * (s - 1).
        """
        strengths = np.stack([np.asarray(getattr(self.shot, name), np.float32)[rows] for name in STRENGTHS])  # [3,F]
        if (strengths == 1).all():
            return None
        return np.prod(1 + self.head.masks[:, None] * (strengths - 1)[..., None], axis=0, dtype=np.float32)

    def frames(self, rows: np.ndarray) -> list[Frame]:
        """The moving Gaussians of rows [F] of the shot."""
        views = self.views(rows) if self.deformer is not None else {}
        return list(self._deform(views, self.strength(rows), len(rows), lambda: False))

    def _deform(
        self, views: dict[str, np.ndarray], strength: np.ndarray | None, count: int, stopped: Callable[[], bool]
    ) -> Iterator[Frame]:
        """The networks, at once; then frame by frame, when asked for, what the cache holds. Raises Cancelled where `stopped` says so."""
        if self.deformer is None or not count:
            empty = (np.zeros((0, 3)), np.zeros((0, 4)), np.zeros((0, 3)), np.zeros(0), np.zeros(0), np.zeros((0, len(SHARES))))
            return iter([empty] * count)
        head, motion = self.head, self.deformer.motion(views, stopped)

        def frames() -> Iterator[Frame]:
            moved = self.deformer.moved(motion, strength)
            for f in range(count):
                values, end = np.empty((CHANNELS + len(SHARES), len(head.moving)), np.float32), 0  # in the order of the cache
                for branch, (means, quats, scales) in moved.items():
                    own: BranchMotion = getattr(motion, branch)
                    part = values[:, end : end + means.shape[1]]
                    end += means.shape[1]
                    np.matmul(head.turn_means.T, means[f].T, out=part[:3])
                    np.matmul(head.turn_quats.T, quats[f].T, out=part[3:7])
                    np.multiply(scales[f].T, head.meta.metres_per_unit, out=part[7:10], casting="same_kind")
                    part[10], part[11] = own.aleatoric[f], own.epistemic[f]
                    for place, view in enumerate(SHARES, CHANNELS):
                        part[place] = own.shares[f, :, VIEWS[branch].index(view)] if view in VIEWS[branch] else 0
                yield values[:3].T, values[3:7].T, values[7:10].T, values[10], values[11], values[CHANNELS:].T

        return frames()

    def bake(
        self,
        folder: Path,
        first: Sequence[int] = (),
        progress: Progress = lambda done, total, text, frames: None,
        stopped: Callable[[], bool] = lambda: False,
    ) -> BakeResult:
        """Bring a cache folder up to date with the shot; only frames whose key changed are computed.

        Views, networks and writing overlap, each in a thread of its own with little between them. The first frame is
        readable as soon as it alone is computed; batches grow from there.

        Args:
            folder: cache folder, made if missing.
            first: scene frames to compute before the others, in this order.
            progress: called as frames become readable, from one thread after another.
            stopped: asked often, from several threads; True ends the bake, also within a frame.

        Raises:
            Cancelled: `stopped` said so; what was baked until then is valid.
            UserError: the folder cannot be written, or a frame cannot be computed.
        """
        begin = time.perf_counter()
        result, total = BakeResult(0, 0, 0, 0.0, str(folder)), len(self.shot)
        numbers = self.shot.frames

        def write(writer: CacheWriter, batch: _Batch, frames: Iterator[Frame]) -> None:
            readable = []
            for (key, rows), frame in zip(batch.groups, frames):
                writer.put(int(numbers[rows[0]]), key, *frame)
                for row in rows[1:]:
                    writer.reuse(int(numbers[row]), key)
                readable += rows
            for key, row in batch.known:
                writer.reuse(int(numbers[row]), key)
                readable.append(row)
            result.computed += len(batch.groups)
            result.moved += len(readable) - len(batch.groups)
            result.up_to_date += batch.up_to_date
            done = result.computed + result.moved + result.up_to_date
            text = f"{done} frames up to date"
            if readable:
                text = f"frame {numbers[readable[-1]]}, {(time.perf_counter() - begin) / done * (total - done):.0f} s left"
            progress(done, total, text, [int(number) for number in numbers[readable]] if shown else [])

        with (
            self.session.writer(Path(folder), self.head, self.header()) as writer,
            ThreadPoolExecutor(1, "views") as ahead,
            ThreadPoolExecutor(1, "writing") as behind,
        ):
            shown = writer.is_shown
            plan = self._plan(writer, self._order(first))
            batch = next(plan, None)
            written: deque[Future[None]] = deque()
            while batch is not None:
                # No thread lies between the request and its first frame, nor does one take turns with its networks.
                waiting = ahead.submit(next, plan, None) if result.computed else None
                if stopped():
                    raise Cancelled()
                frames = self._deform(batch.views, batch.strength, len(batch.groups), stopped)
                if not result.computed:
                    write(writer, batch, frames)  # the first frame is somebody's request: straight to the disk
                else:
                    written.append(behind.submit(write, writer, batch, frames))
                while len(written) > WAITING or written and written[0].done():
                    written.popleft().result()
                batch = next(plan, None) if waiting is None else waiting.result()
            for future in written:
                future.result()
            writer.finish()
            if not shown:
                progress(total, total, f"{total} frames in the place of another bake", numbers.tolist())
        result.seconds = time.perf_counter() - begin
        return result

    def header(self) -> CacheHeader:
        """Of a cache folder that this is baked into."""
        return CacheHeader(
            avatar_name=self.head.meta.name,
            avatar_hash=self.head.hash,
            sound_hash=self.shot.sound_hash,
            composite=self.head.meta.composite,
            pixel_size=self.head.meta.pixel_metres,
            color_variance=self.head.color_variance,
            fps=float(self.shot.fps),
            store="",
            count=0,
            moving=0,
            engine_version=__version__,
            device="none" if self.deformer is None else str(self.deformer.device),
        )

    def _order(self, first: Sequence[int]) -> np.ndarray:
        """All rows of the shot, those of the frames `first` before the others."""
        numbers = self.shot.frames
        wanted = np.asarray(first, np.int64).reshape(-1)
        place = np.searchsorted(numbers, wanted)
        inside = place < len(numbers)
        early = place[inside][numbers[place[inside]] == wanted[inside]]
        early = np.array(list(dict.fromkeys(early.tolist())), np.int64)
        others = np.ones(len(numbers), bool)
        others[early] = False
        return np.concatenate([early, np.flatnonzero(others)])

    def _plan(self, writer: CacheWriter, order: np.ndarray) -> Iterator[_Batch]:
        """The work, piece by piece in `order`: what is up to date is left out, what has the same key is computed once."""
        todo: dict[bytes, list[int]] = {}
        planned: set[bytes] = set()
        at, look = 0, 1
        while at < len(order) or todo:
            rows = order[at : at + look]
            at, look = at + len(rows), min(2 * look, KEYS)
            known, up_to_date = [], 0
            for row, key in zip(rows.tolist(), frame_keys(self.shot.part(rows))):
                key = key.tobytes()
                if writer.has(int(self.shot.frames[row]), key):
                    up_to_date += 1
                elif key in planned or writer.knows(key):
                    known.append((key, row))
                else:
                    todo.setdefault(key, []).append(row)
            while True:
                size = min(BATCH, max(1, len(planned)))
                groups = list(islice(todo.items(), size)) if len(todo) >= size or at >= len(order) else []
                if not (groups or known or up_to_date):
                    break
                for key, _ in groups:
                    del todo[key]
                    planned.add(key)
                rows = np.array([rows[0] for _, rows in groups], np.int64)
                views = self.views(rows) if groups and self.deformer is not None else {}
                yield _Batch(groups, known, up_to_date, views, self.strength(rows))
                known, up_to_date = [], 0


def smoothed(said: Callable[[np.ndarray], dict[str, np.ndarray]], times: np.ndarray, deviation: float) -> dict[str, np.ndarray]:
    """What `said` gives at `times` [F] seconds, averaged over a Gaussian of a deviation in seconds round each.

    Times outside the sound count as what they are: silence.
    """
    middle = max(3, math.ceil(REACH * deviation / FINEST))
    places = np.linspace(-REACH, REACH, 2 * middle + 1)
    weights = np.exp(-0.5 * places**2)
    weights = (weights / weights.sum()).astype(np.float32)
    found = {}
    for view, values in said((times[:, None] + deviation * places).reshape(-1)).items():
        values = values.reshape(len(times), len(places), *values.shape[1:])
        found[view] = values[:, middle].copy()
        # As differences, so that what stands still stays exactly as it is; one by one, so that no frame depends on its neighbours.
        for tap, weight in enumerate(weights):
            found[view] += weight * (values[:, tap] - values[:, middle])
    return found


def emotion_vectors(head: Head, x: np.ndarray) -> np.ndarray:
    """f_emotion [F,D] = p_neutral + sum_e x_e (p_e - p_neutral), for x [F,8] in the order of EMOTIONS.

    Raises:
        UserError: the avatar has no prototypes, or lacks neutral.
    """
    prototypes, names = head.prototypes, head.meta.emotions
    if prototypes is None or "neutral" not in names:
        raise UserError(
            f"{head.path}: the avatar has no emotion prototypes, so emotion keys cannot move it.",
            "Give it prototypes when it is imported, or feed its networks with `python -m engine deform`.",
        )
    neutral = prototypes[names.index("neutral")]
    vectors = np.repeat(neutral[None], len(x), axis=0)
    for index, name in enumerate(EMOTIONS):
        if name in names:
            vectors = vectors + x[:, index, None] * (prototypes[names.index(name)] - neutral)
    return vectors.astype(np.float32)


def action_units(head: Head, x: np.ndarray, keyed: np.ndarray) -> np.ndarray:
    """au [F,6] in 0..1: those keyed [F,6] and, on top, those that go with emotions x [F,8] (in the order of EMOTIONS) in the avatar's film."""
    keyed = np.asarray(keyed, np.float32)
    return keyed if head.action_units is None else np.clip(keyed + x @ head.action_units, 0, 1).astype(np.float32)
