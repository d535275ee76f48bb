"""Does the face feel what it is told to, by as much as it is told to, and does it still speak?"""

from __future__ import annotations

from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Callable

import numpy as np

from ..audio import read_sound
from ..avatar import EMOTIONS
from ..bake.baker import action_units, emotion_vectors
from ..dataset import FaceData
from ..views.content import MBP
from . import landmarks as lm
from .measures import closed_below, rank_correlation
from .pictures import held_out
from .subject import Subject

Progress = Callable[[int, int, str], None]
INTENSITIES = (0.2, 0.4, 0.6, 0.8, 1.0)
CLOSED_PHONES = frozenset("P B M".split())
GAUSSIANS = 256
"""Of the face's moving Gaussians, whose places together are its expression."""
_COMPONENTS = 24
_SHRINK = 0.05
_CLOSURE_STEPS = 5
_CLOSURE_MARGIN = 0.02  # s


@dataclass
class Sentence:
    """Speech that was not trained on: `times` [F] seconds in its sound, and when (start, end) its lips are to be closed."""

    sound: Path
    times: np.ndarray
    closures: list[tuple[float, float]]


def sentences_of_sounds(paths: list[Path], frames: int, transcripts: dict[str, str] | None = None) -> list[Sentence]:
    """Each sound as one sentence, `frames` times in each. Closures are p b m as pocketsphinx hears them (English), where it is installed.

    Args:
        transcripts: name of the file without its suffix -> what is said, where it is known.
    """
    found = []
    for path in paths:
        sound = read_sound(path)
        closures: list[tuple[float, float]] = []
        if find_spec("pocketsphinx"):
            from ..priors.recogniser import align

            try:
                phones = align(sound, (transcripts or {}).get(path.stem))
            except RuntimeError:  # it finds no way through the words
                phones = []
            closures = [(start, end) for start, end, phone in phones if phone in CLOSED_PHONES]
        found.append(Sentence(path, np.linspace(0.15, max(sound.duration - 0.15, 0.2), frames), closures))
    return found


def sentences_of_data(data: FaceData, split: str, frames: int) -> list[Sentence]:
    """The uninterrupted pieces of a split, `frames` times in each; closures by the data's labels."""
    rows, found = held_out(data, split), []
    seen: set[int] = set()
    parts = lm.pieces(data, rows)
    for part in np.unique(parts):
        own = [rows[i] for i in np.flatnonzero(parts == part) if round(rows[i].time * data.fps) not in seen]
        seen |= {round(frame.time * data.fps) for frame in own}
        if not own:
            continue  # the same sound before another camera
        times = np.array([frame.time for frame in own])
        closures: list[tuple[float, float]] = []
        if data.labels is not None:
            closed = data.labels.viseme[[frame.number for frame in own]] == MBP
            edges = np.flatnonzero(np.diff(np.concatenate([[False], closed, [False]]).astype(int)))
            closures = [(times[a], times[b - 1]) for a, b in zip(edges[::2], edges[1::2])]
        some = np.unique(np.linspace(0, len(times) - 1, min(frames, len(times))).astype(int))
        found.append(Sentence(data.sound, times[some], closures))
    return found


class Nearest:
    """Which of some expressions is nearest, in units of how far speech alone carries the face (Mahalanobis, pooled within the classes).

    Args:
        classes: [n,D] examples of each.
    """

    def __init__(self, classes: list[np.ndarray]) -> None:
        means = np.stack([rows.mean(0) for rows in classes])
        within = np.concatenate([rows - mean for rows, mean in zip(classes, means)])
        together = np.concatenate([within, np.repeat(means - means.mean(0), max(len(within) // len(means), 1), 0)])
        _, _, axes = np.linalg.svd(together, full_matrices=False)
        self._axes = axes[:_COMPONENTS].T
        spread = np.atleast_2d(np.cov(within @ self._axes, rowvar=False))
        spread = spread + _SHRINK * max(np.trace(spread) / len(spread), 1e-30) * np.eye(len(spread))
        values, vectors = np.linalg.eigh(spread)
        self._turn = self._axes @ (vectors / np.sqrt(values))
        self._centres = means @ self._turn

    def __call__(self, rows: np.ndarray) -> np.ndarray:
        """[n,D] -> [n] number of the nearest class."""
        return np.linalg.norm((rows @ self._turn)[:, None] - self._centres, axis=2).argmin(1)


def judge_emotion(
    subject: Subject, sentences: list[Sentence], data: FaceData | None = None, progress: Progress = lambda done, total, text: None
) -> dict[str, Any]:
    """Each emotion at five intensities on held-out sentences.

    Args:
        data: that tells its emotions: lips are followed by its landmarks, and expressions are also held against the person's own; else lips
            by the avatar's named splats.

    Returns:
        `nearest`: share of frames at full intensity in which the avatar's own expression of the right emotion, as the other sentences show
        it, is the nearest of eight; `spearman` of the response (along the way to the full expression) against the intensity, mean over
        frames, `least spearman` of an emotion; `closure recall` neutral and under each emotion at full intensity and the most it falls,
        points; `per emotion` the same one by one; with data `nearest to the person's`: the same against true expressions of the training
        frames, for the emotions that those hold.
    """
    random = np.random.default_rng(0)
    moving = subject.avatar.moving("face")
    rows = np.sort(random.choice(moving, min(GAUSSIANS, len(moving)), replace=False))
    deformer = subject.crop(rows)
    levels = np.array([0.0, *INTENSITIES])
    names = EMOTIONS[1:]
    # One frame of neutral, then every emotion at every intensity: what the sound says is worked out once for all of them.
    keyed = np.zeros((1 + len(names) * len(INTENSITIES), len(EMOTIONS)), np.float32)
    for number in range(len(names)):
        keyed[1 + number * len(INTENSITIES) : 1 + (number + 1) * len(INTENSITIES), number + 1] = INTENSITIES
    shown, closed, speech = [], [], []
    tracker = lm.Tracker(subject, data) if data is not None and data.emotion is not None else None
    opening = _splats_opening(subject) if tracker is None else lambda views: lm.aperture(tracker.performed(views))
    places = []
    full = np.concatenate([[0], len(INTENSITIES) * (1 + np.arange(len(names)))])  # rows of `keyed`: neutral, each at full
    for number, sentence in enumerate(sentences):
        views = _under(subject, sentence.sound, sentence.times, keyed)
        motion = deformer.motion(views).face
        shown.append(motion.d_means.reshape(len(sentence.times), len(keyed), -1).astype(np.float64))
        if tracker is not None:
            places.append(tracker.performed(_under(subject, sentence.sound, sentence.times, keyed[full])))
        if tracker is None:
            speech.append(opening(_under(subject, sentence.sound, sentence.times, keyed[:1])))
        if sentence.closures:
            spans = np.array(sentence.closures)
            times = np.linspace(spans[:, 0] - _CLOSURE_MARGIN, spans[:, 1] + _CLOSURE_MARGIN, _CLOSURE_STEPS, axis=1).clip(0)
            found = opening(_under(subject, sentence.sound, times.reshape(-1), keyed[full]))
            closed.append(found.reshape(len(spans), _CLOSURE_STEPS, len(full)).min(1))
        progress(number + 1, len(sentences), f"emotions, sentence {number + 1}")
    right = _nearest(shown, full)
    responses = np.concatenate([_responses(one, full) for one in shown])  # [F,E,levels]
    ranks = rank_correlation(responses, levels)  # [F,E]
    by_name: dict[str, dict[str, float]] = {}
    for number, name in enumerate(names):
        by_name[name] = {
            "nearest": float(right[:, number + 1].mean()), "spearman": float(ranks[:, number].mean()),
            "response at half": float(np.interp(0.5, levels, responses[:, number].mean(0))),
        }  # fmt: skip
    result: dict[str, Any] = {
        "sentences": len(sentences), "frames": len(right), "nearest": float(right[:, 1:].mean()), "nearest, neutral": float(right[:, 0].mean()),
        "spearman": float(ranks.mean()), "least spearman": min(one["spearman"] for one in by_name.values()),
    }  # fmt: skip
    if closed:
        limit = closed_below(np.concatenate(speech)) if tracker is None or data is None else tracker.closed_below()
        recall = (np.concatenate(closed) < limit).mean(0)
        result |= {"closures": sum(len(one) for one in closed), "closure recall, neutral": float(recall[0])}
        result["closure recall falls by (points)"] = float(100 * (recall[0] - recall[1:]).max())
        for name, value in zip(names, recall[1:]):
            by_name[name]["closure recall"] = float(value)
    if tracker is not None and data is not None:
        result |= _against_person(data, tracker, np.concatenate([p.reshape(-1, len(full), 68, 2) for p in places]))
    return result | {"per emotion": by_name}


def _under(subject: Subject, sound: Path, times: np.ndarray, keyed: np.ndarray) -> dict[str, np.ndarray]:
    """Views of each time under each of the emotions [E,8], [F * E, ..], one time's after the other."""
    views = subject.views(sound, times, np.zeros(8))
    views = {name: np.repeat(value, len(keyed), 0) for name, value in views.items()}
    views["emotion"] = np.tile(emotion_vectors(subject.head, keyed), (len(times), 1))[:, None]
    views["au"] = np.tile(action_units(subject.head, keyed, np.zeros((len(keyed), 6))), (len(times), 1))
    return views


def _splats_opening(subject: Subject) -> Callable[[dict[str, np.ndarray]], np.ndarray]:
    """Views -> opening [F] from rest of the avatar's own named splats on the lips."""
    upper, lower = subject.lips()
    deformer = subject.crop(np.concatenate([upper, lower]))

    def opening(views: dict[str, np.ndarray]) -> np.ndarray:
        height = deformer.motion(views).face.d_means[..., 1]
        return height[:, : len(upper)].mean(1) - height[:, len(upper) :].mean(1)

    return opening


def _nearest(shown: list[np.ndarray], full: np.ndarray) -> np.ndarray:
    """[F,8] bool: at full intensity, is the right one nearest? Each sentence is judged by the others; a single one by its other half."""
    if len(shown) == 1:
        shown = np.array_split(shown[0], 2)
    right = []
    for number, own in enumerate(shown):
        others = np.concatenate([x for i, x in enumerate(shown) if i != number])
        nearest = Nearest([others[:, row] for row in full])
        right.append(np.stack([nearest(own[:, row]) == place for place, row in enumerate(full)], 1))
    return np.concatenate(right)


def _responses(one: np.ndarray, full: np.ndarray) -> np.ndarray:
    """[F,E,levels]: how far along the way from neutral to the mean full expression, the way's length being 1; 0 at intensity 0."""
    found = []
    for number, row in enumerate(full[1:]):
        way = (one[:, row] - one[:, 0]).mean(0)
        steps = one[:, 1 + number * len(INTENSITIES) : 1 + (number + 1) * len(INTENSITIES)] - one[:, :1]
        along = steps @ way / max(way @ way, 1e-30)
        found.append(np.concatenate([np.zeros((len(one), 1)), along], 1))
    return np.stack(found, 1)


def _against_person(data: FaceData, tracker: lm.Tracker, places: np.ndarray) -> dict[str, Any]:
    """Landmarks [F,8,68,2] (neutral, then each emotion at full intensity) against the true expressions of training frames."""
    train = data.splits["train"]
    numbers = np.array([frame.number for frame in train])
    emotion = data.emotion[numbers]  # type: ignore[index]
    read, _ = lm.expression(data, tracker, train)
    true = read(tracker.frontal(data.landmarks[numbers], train))
    held, classes = [], []
    for number in range(len(EMOTIONS)):
        other = emotion[:, 1:].max(1)
        strong = other <= 0.05 if number == 0 else (emotion[:, number] >= 0.9 * max(emotion[:, number].max(), 0.5)) & (emotion.argmax(1) == number)
        if strong.sum() >= 8:
            held.append(number)
            classes.append(true[strong])
    if len(held) < 2:
        return {}
    nearest = Nearest(classes)
    right = {EMOTIONS[number]: float((nearest(read(places[:, number])) == place).mean()) for place, number in enumerate(held)}
    truth = float(np.mean([(nearest(rows) == place).mean() for place, rows in enumerate(classes)]))
    return {
        "nearest to the person's": float(np.mean([share for name, share in right.items() if name != "neutral"])),
        "nearest to the person's, true training frames": truth, "nearest to the person's, each": right,
    }  # fmt: skip
