"""The first pass over a video: landmarks and quality of every picture, in pieces that a later run takes up again; what they say about the video."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from scipy.ndimage import laplace

from ..errors import UserError
from ..files import atomic_path
from .landmarks import POINTS, Tracker
from .video import FPS, VideoInfo, pictures

PIECE = 250  # pictures; each begins without memory of the one before, so that a resumed run finds the same
THUMB = 32
DARK, BRIGHT = 8, 247  # of 255: nothing can be told apart any more

# A cut: the whole picture changes, much more than it usually does; or the face jumps or changes size as no head moves.
CUT_CHANGE, CUT_TIMES = 0.10, 6.0
CUT_JUMP, CUT_GROWTH = 0.35, 0.20
SAME = 0.5  # of a face's size: what lies nearer is the same face

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, eq=False)
class Track:
    """What was found in each of F pictures at 25 a second.

    Attributes:
        landmarks: [F,478,3] float32 px of the face that is followed (the largest at first), z away from the camera; NaN without a face.
        faces: [F] int32, how many faces (two at most are looked for).
        second: [F] float32, area of another face over that of this one, 0 without.
        change: [F] float32 in 0..1, mean difference to the picture before.
        sharpness: [F] float32, standard deviation of the face's second derivative over its contrast: falls with blur.
        light: [F] float32 in 0..1, the face's mean brightness. clipped: [F] float32, share of it that is black or white.
    """

    landmarks: np.ndarray
    faces: np.ndarray
    second: np.ndarray
    change: np.ndarray
    sharpness: np.ndarray
    light: np.ndarray
    clipped: np.ndarray

    def __len__(self) -> int:
        return len(self.faces)

    def part(self, first: int, last: int) -> Track:
        """Pictures first .. last - 1."""
        return Track(*(getattr(self, item.name)[first:last] for item in fields(self)))

    @property
    def seen(self) -> np.ndarray:
        """[F] bool: there is a face."""
        return self.faces > 0


def track(video: Path, info: VideoInfo, tracker: Tracker, work: Path, first: int, count: int, progress: Progress) -> Track:
    """Look at `count` pictures from number `first` on. Finished pieces lie in `work` and are not looked at again.

    Raises:
        UserError: the video cannot be decoded, or the landmark process died.
    """
    pieces: list[Track] = []
    for start in range(first, first + count, PIECE):
        found = read_piece(work / f"track_{start:06d}.npz", min(PIECE, first + count - start))
        if found is None:
            break
        pieces.append(found)
    done = sum(len(piece) for piece in pieces)
    rows: list[tuple] = []
    last_thumb: np.ndarray | None = None
    before = pieces[-1].landmarks[-1] if pieces else None
    # One picture earlier than needed, for the change to it.
    begin = first + done - (1 if done else 0)
    for number, picture in pictures(video, info, begin, first + count - begin) if done < count else ():
        thumb = _thumb(picture)
        if number >= first + done:
            if (number - first) % PIECE == 0:
                tracker.forget()
                tracker.faces(picture)  # a face that is followed is placed better than one just detected
            change = 0.0 if last_thumb is None else float(np.abs(thumb - last_thumb).mean())
            rows.append(_look(picture, tracker.faces(picture), change, before))
            before = rows[-1][0]
            if len(rows) == PIECE or number == first + count - 1:
                piece = Track(*(np.asarray(column) for column in zip(*rows)))
                write_piece(work / f"track_{number - len(rows) + 1:06d}.npz", piece)
                pieces.append(piece)
                rows = []
            progress(number - first + 1, count, "pictures tracked")
        last_thumb = thumb
    if rows:  # the video ended before its time
        pieces.append(Track(*(np.asarray(column) for column in zip(*rows))))
    return Track(*(np.concatenate([getattr(piece, item.name) for piece in pieces]) for item in fields(Track)))


def shots(found: Track) -> list[tuple[int, int]]:
    """Ranges [first, last) between cuts."""
    usual = float(np.median(found.change[1:])) if len(found) > 1 else 0.0
    cut = found.change > max(CUT_CHANGE, CUT_TIMES * usual)
    face = found.landmarks[..., :2]
    low, high = face.min(1), face.max(1)  # NaN without a face: compares as False
    middle, size = (low + high) / 2, (high - low).max(-1)
    with np.errstate(invalid="ignore"):
        cut[1:] |= np.linalg.norm(np.diff(middle, axis=0), axis=-1) > CUT_JUMP * size[:-1]
        cut[1:] |= np.abs(np.diff(np.log(size))) > CUT_GROWTH
    edges = [0, *(int(i) for i in np.flatnonzero(cut) if i), len(found)]
    return [(a, b) for a, b in zip(edges, edges[1:]) if b > a]


def _look(picture: np.ndarray, faces: np.ndarray, change: float, before: np.ndarray | None) -> tuple:
    """One row of a Track. `before`: the face followed in the picture before, [478,3], NaN without one."""
    if not len(faces):
        return np.full((POINTS, 3), np.nan, np.float32), np.int32(0), *np.float32([0, change, np.nan, np.nan, np.nan])
    sizes, middles = np.ptp(faces[..., :2], axis=1).prod(-1), faces[..., :2].mean(1)
    # The face that was followed goes on, so that two of the same size do not take turns; else it is the largest.
    chosen = int(np.argmax(sizes))
    if before is not None:
        away = np.linalg.norm(middles - before[:, :2].mean(0), axis=-1)
        if np.nanmin(away, initial=np.inf) < SAME * np.sqrt(sizes[chosen]):
            chosen = int(np.nanargmin(away))
    face, apart = faces[chosen], np.linalg.norm(middles - middles[chosen], axis=-1) > SAME * np.sqrt(sizes[chosen])
    faces = faces[apart | (np.arange(len(faces)) == chosen)]  # the same face may be found twice
    second = float(sizes[apart].max(initial=0) / sizes[chosen])
    left, top = np.clip(face[:, :2].min(0), 0, None).astype(int)
    right, bottom = np.ceil(face[:, :2].max(0)).astype(int)
    box = picture[top:bottom, left:right]
    if box.size == 0:
        return face, np.int32(len(faces)), *np.float32([second, change, np.nan, np.nan, np.nan])
    grey = box.astype(np.float32) @ np.float32([0.299, 0.587, 0.114])
    step = max(1, round(max(grey.shape) / 128))  # the same scale for every size of face
    small = grey[: grey.shape[0] // step * step, : grey.shape[1] // step * step]
    small = small.reshape(small.shape[0] // step, step, small.shape[1] // step, step).mean((1, 3))
    sharpness = float(laplace(small).std() / max(small.std(), 1.0))
    clipped = float(np.mean((grey < DARK) | (grey > BRIGHT)))
    return face, np.int32(len(faces)), *np.float32([second, change, sharpness, grey.mean() / 255, clipped])


def _thumb(picture: np.ndarray) -> np.ndarray:
    """[32,32,3] float32 in 0..1: block means."""
    high, wide = (max(1, size // THUMB) for size in picture.shape[:2])
    cut = picture[: picture.shape[0] // high * high, : picture.shape[1] // wide * wide]
    rows = np.add.reduceat(cut, np.arange(0, cut.shape[0], high), axis=0, dtype=np.float32)
    blocks = np.add.reduceat(rows, np.arange(0, cut.shape[1], wide), axis=1)
    return blocks / (high * wide * 255)


def write_piece(path: Path, piece: Track) -> None:
    """Keep a finished piece, whole or not at all."""
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        np.savez(file, **{item.name: getattr(piece, item.name) for item in fields(piece)})


def read_piece(path: Path, count: int) -> Track | None:
    """A finished piece of `count` pictures; None where it is not there or damaged."""
    try:
        with np.load(path, allow_pickle=False) as stored:
            found = Track(*(stored[item.name] for item in fields(Track)))
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile):
        return None
    return found if len(found) == count and found.landmarks.shape == (count, POINTS, 3) else None


@dataclass(frozen=True)
class Shot:
    """The part of a video that becomes a data set.

    Attributes:
        first, last: picture numbers, [first, last).
        cuts: seconds at which the video is cut. notes: what the user should know, one line each.
    """

    first: int
    last: int
    cuts: tuple[float, ...]
    notes: tuple[str, ...]


SHORTEST = 3.0  # s
LOST = 0.2  # share of pictures without a face that is too much
CROWD, CROWD_SHARE = 0.3, 0.05  # a second face this big, in so many of the pictures


def choose_shot(video: Path, found: Track, offset: int, largest_face: bool) -> Shot:
    """Decide what part of the video is used: the longest one without a cut, from its first face to its last.

    Args:
        offset: number of the track's first picture. largest_face: a second face of about the same size is no reason to stop.

    Raises:
        UserError: no face, a second one, too short between its cuts, or the face is away too often.
    """
    if not found.seen.any():
        raise UserError(f"{video}: no face is found in it.", "It should show one face from the front, at least 100 pixels wide, well lit.")
    parts = shots(found)
    seen_in = [int(found.seen[a:b].sum()) for a, b in parts]
    first, last = parts[int(np.argmax(seen_in))]
    cuts = tuple((offset + a) / FPS for a, _ in parts[1:])
    places = ", ".join(f"{t:.2f}" for t in cuts[:8]) + (" ..." if len(cuts) > 8 else "")
    where = np.flatnonzero(found.seen[first:last])
    first, last = first + int(where[0]), first + int(where[-1]) + 1
    length = (last - first) / FPS
    if length < SHORTEST:
        if cuts:
            raise UserError(
                f"{video}: is cut at {places} s; the longest part with a face between the cuts has {length:.1f} s.",
                f"At least {SHORTEST:g} s without a cut are needed, a minute or more is good.",
            )
        raise UserError(f"{video}: a face is seen for {length:.1f} s only.", f"At least {SHORTEST:g} s are needed, a minute or more is good.")
    part = found.part(first, last)
    crowd = float(np.mean(part.second > CROWD))
    if crowd > CROWD_SHARE and not largest_face:
        raise UserError(
            f"{video}: shows two faces of about the same size in {crowd:.0%} of its pictures.",
            "Crop the video to one person, or take the one that is larger at first with --face largest.",
        )
    lost = 1 - float(part.seen.mean())
    if lost > LOST:
        raise UserError(
            f"{video}: the face is not found in {lost:.0%} of the pictures between its first and its last.",
            "Choose a part where it is visible with --start and --end.",
        )
    notes = []
    if cuts:
        notes.append(f"The video is cut at {places} s: the longest part is used, {(offset + first) / FPS:.2f} to {(offset + last) / FPS:.2f} s.")
    if lost:
        notes.append(f"No face in {int((~part.seen).sum())} of {len(part)} pictures: they are left out.")
    if (part.faces > 1).any():
        notes.append(f"A second face in {int((part.faces > 1).sum())} of {len(part)} pictures: the one that was the larger at first is followed.")
    return Shot(offset + first, offset + last, cuts, tuple(notes))
