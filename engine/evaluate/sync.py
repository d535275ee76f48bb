"""Do the lips move with the sound? By SyncNet on pictures, where its weights are given, and by the shipped sync discriminator on landmarks."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import lru_cache
from typing import Any

import numpy as np

from ..audio import read_sound
from ..dataset import FaceData, Frame
from ..errors import UserError
from ..priors.judging import mouth_lead
from ..priors.lessons import lesson_of_data, mouth_of_data
from ..priors.speech_file import SpeechPriors, load_speech
from .landmarks import Tracker, pieces
from .syncnet import FPS, RATE, REACH, Syncnet, SyncScore, face_boxes, face_crop, score

Progress = Callable[[int, int, str], None]
Pictures = Callable[[list[Frame]], Iterator[np.ndarray]]
"""Frames in a row -> their pictures [H,W,3] uint8."""
LEAST = 2 * REACH
"""Frames of the shortest film that SyncNet judges here: the shifts must find something to be held against."""
SMALL = 100
"""px; SyncNet's own evaluation leaves smaller faces out."""


def films(data: FaceData, frames: list[Frame]) -> list[list[Frame]]:
    """The uninterrupted pieces of frames in a row that SyncNet can judge.

    Raises:
        UserError: it cannot judge these at all.
    """
    if abs(data.fps - FPS) > 0.01:
        raise UserError(f"{data.folder} has {data.fps:g} pictures a second, SyncNet needs {FPS}.", "Prepare the video at 25, or leave --syncnet out.")
    numbers = pieces(data, frames)
    parts = [[frames[i] for i in np.flatnonzero(numbers == number)] for number in np.unique(numbers)]
    found = [part for part in parts if len(part) >= LEAST and np.isfinite(data.landmarks[[f.number for f in part]]).all((1, 2)).any()]
    if not found:
        longest = max(map(len, parts))
        raise UserError(
            f"SyncNet needs {LEAST} frames in a row with landmarks; the longest piece of these has {longest}.",
            "Hold longer pieces out (--split names another split), or leave --syncnet out.",
        )
    return found


def judge_syncnet(
    network: Syncnet, data: FaceData, frames: list[Frame], tracker: Tracker, predicted: Pictures, still: Pictures,
    progress: Progress = lambda done, total, text: None,
) -> tuple[dict[str, Any], list[str]]:  # fmt: skip
    """Sync-C and Sync-D of prediction, truth and head at rest: each uninterrupted piece is a film of its own, as in the published evaluation,
    their scores are averaged.

    Args:
        frames: of one split, in the order of the sound.
        tracker: finds the avatar's landmarks, which place the crop as the data's do in the true pictures.

    Returns:
        `sync-c`, `sync-d`, `sync offset (ms)` (by how much the mouth is late; median of the films), each also with ` still` and
        ` of the true pictures`; and notes.

    Raises:
        UserError: see `films`.
    """
    parts, samples = films(data, frames), read_sound(data.sound).samples
    sides: dict[str, tuple[Pictures, Callable[[list[Frame]], np.ndarray]]] = {
        "": (predicted, tracker.landmarks),
        " still": (still, lambda part: tracker.landmarks(part, still=True)),
        " of the true pictures": (lambda part: map(data.picture, part), lambda part: data.landmarks[[f.number for f in part]]),
    }
    scores: dict[str, list[SyncScore]] = {side: [] for side in sides}
    widths, done, total = [], 0, len(sides) * sum(map(len, parts))

    def crops(pictures: Iterator[np.ndarray], boxes: np.ndarray) -> Iterator[np.ndarray]:
        nonlocal done
        for picture, box in zip(pictures, boxes):
            yield face_crop(picture, box)
            done += 1
            progress(done, total, "SyncNet")

    for part in parts:
        start = round(part[0].time * RATE)
        own = np.zeros(len(part) * RATE // FPS, np.float32)
        piece = samples[start : start + len(own)]
        own[: len(piece)] = piece
        heard = network.sound(own)
        for side, (pictures, landmarks) in sides.items():
            boxes = face_boxes(landmarks(part))
            scores[side].append(score(network.mouth(crops(pictures(part), boxes)), heard))
            widths.append(2 * np.median(boxes[:, 2]))
    figures: dict[str, Any] = {}
    for side, found in scores.items():
        figures[f"sync-c{side}"] = float(np.mean([one.confidence for one in found]))
        figures[f"sync-d{side}"] = float(np.mean([one.distance for one in found]))
        figures[f"sync offset (ms){side}"] = float(1000 * np.median([one.late for one in found]))
    note = (
        f"Sync-C, Sync-D: SyncNet on {len(parts)} uninterrupted pieces ({sum(map(len, parts))} frames, {LEAST} or more in each), on raw pictures, its crop"
        " placed by landmarks where the published evaluation asks a detector."
    )
    if min(widths) < SMALL:
        note += f" Faces of {min(widths):.0f} px: its own evaluation takes none under {SMALL}, so compare columns, not papers."
    return figures, [note]


def judge_lead(data: FaceData, split: str, landmarks: dict[str, np.ndarray]) -> dict[str, Any]:
    """What the shipped sync discriminator says of mouths (`priors.judging.mouth_lead`).

    Args:
        landmarks: what to append to the names -> [F,68,2] px by id, NaN where unknown.

    Returns:
        for each `sync lag (ms)`, by how much the mouth is late, and `sync clearness`, how many deviations of the other shifts the best one
        stands above them; both NaN where nothing can be said.
    """
    priors = _shipped()
    lesson, figures = lesson_of_data(data, split), {}
    for side, points in landmarks.items():
        seen = replace(lesson, mouth=mouth_of_data(data, split, points, lesson.inputs.shape[1]))
        lead, clear = mouth_lead(priors.providers()[0].net, priors.mouth(), seen)
        figures[f"sync lag (ms){side}"] = -1000 * lead if clear else float("nan")
        figures[f"sync clearness{side}"] = clear or float("nan")
    return figures


@lru_cache(1)
def _shipped() -> SpeechPriors:
    return load_speech()
