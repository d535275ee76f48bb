"""What the priors learn from: sounds with what is known of the mouth in them, from synthetic voices, recordings and data set folders."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import gaussian_filter1d

from ..audio import read_sound
from ..dataset import FaceData, Frame
from ..views.analysis import MELS, RATE, analyse
from ..views.content import VISEMES, content_inputs
from ..views.tone import tone_inputs
from .corpus import Clip
from .mouths import (
    EXPRESSION, LANDMARK_EXPRESSION, OPENINGS, landmark_expression, mouth_tracks, personal_expression, spoken_expression, voice_name,
)  # fmt: skip
from .visemes import articulate, labels

STRIDE = 4
"""Frames of 10 ms in a row of expression and style."""
TRACKS = 3
STILL = 0.004
"""Deviation (in mouth widths) under which a mouth counts as not moving when its tracks are brought to one scale."""
_CALM, _WIDE = 10, 98  # percentiles of a filmed mouth's gap that count as closed and as open


@dataclass(eq=False)
class Lesson:
    """A sound at 100 Hz (F frames), R = F / 4 rows at 25 Hz. What is not known is NaN, or -1 where it is a number.

    Attributes:
        inputs: [43,F] float32, of the lip expert.
        viseme: [F] int64. articulation: [F,20]. opening: [F] in 0..1.
        mouth: [F,3] gap, width and thickness of the lips, mean 0 and deviation 1 over the lesson: what is compared with the sound.
        expression: [R,C] coefficients named by `names`.
        tone: [R,83], of the style encoder.
        voice: who speaks. manner: rate, pitch, range, volume of a synthetic voice, each about -1..1, or None.
    """

    inputs: np.ndarray
    viseme: np.ndarray
    articulation: np.ndarray
    opening: np.ndarray
    mouth: np.ndarray
    expression: np.ndarray
    names: tuple[str, ...]
    tone: np.ndarray
    voice: str
    manner: np.ndarray | None = None

    @property
    def level(self) -> np.ndarray:
        """[F] in 20 dB units."""
        return self.inputs[MELS]

    @property
    def presence(self) -> np.ndarray:
        """[F] 0..1."""
        return self.inputs[MELS + 1]


def lesson_of_clip(clip: Clip) -> Lesson:
    """Everything is known of a synthetic voice; of a recording the phones, but not the speaker's face."""
    inputs = content_inputs(analyse(clip.sound))
    count = inputs.shape[1]
    weights = articulate(clip.parts, count)
    expression = spoken_expression(weights, gaussian_filter1d(inputs[MELS], 4))
    manner, voice = None, "recording"
    if clip.manner is not None:
        m, voice = clip.manner, voice_name(clip.manner)
        expression = personal_expression(expression, m)
        manner = np.array([(m.rate - 165) / 30, (m.pitch - 48) / 22, (m.range - 50) / 25, (m.volume - 100) / 35], np.float32)
    rows = expression[::STRIDE] if manner is not None else np.full((len(expression[::STRIDE]), len(EXPRESSION)), np.nan, np.float32)
    return Lesson(
        inputs, labels(clip.parts, count), weights, (weights @ OPENINGS).clip(0, 1).astype(np.float32),
        _one_scale(mouth_tracks(expression)), rows, EXPRESSION, tone_inputs(clip.sound), voice, manner,
    )  # fmt: skip


def lesson_of_data(data: FaceData, split: str = "train", lead: float = 0.0) -> Lesson:
    """What a data set folder's pictures of one split say: its labels where it has any, else its landmarks.

    Args:
        lead: seconds by which the mouth is ahead of the sound in the pictures (see `judging.mouth_lead`).
    """
    sound = read_sound(data.sound)
    frames = _of_one_camera(data, split)
    inputs = content_inputs(analyse(sound))
    grid = np.arange(inputs.shape[1]) / RATE
    times = np.array([frame.time for frame in frames]) + lead
    rows = np.array([frame.number for frame in frames])
    seen = landmark_expression(data.landmarks[rows])
    spread = _spread(grid, times, data.fps)
    gap = seen[:, 0]
    shut, wide = np.nanpercentile(gap, [_CALM, _WIDE]) if np.isfinite(gap).any() else (0.0, 1.0)
    viseme = np.full(len(grid), -1, np.int64)
    expression, names = seen, LANDMARK_EXPRESSION
    if data.labels is not None:
        nearest = spread(data.labels.viseme[rows].astype(np.float64)[:, None], True)[:, 0]
        viseme = np.where(np.isfinite(nearest), nearest, -1).astype(np.int64)
        expression, names = data.labels.expression[rows], tuple(str(name) for name in data.labels.expression_names)
    return Lesson(
        inputs, viseme, np.full((len(grid), len(VISEMES)), np.nan, np.float32),
        spread(((gap - shut) / max(wide - shut, 1e-6)).clip(0, 1)[:, None])[:, 0],
        mouth_of_data(data, split, data.landmarks, len(grid), lead),
        spread(expression)[::STRIDE], names, tone_inputs(sound), str(data.info.get("name") or data.folder.name),
    )  # fmt: skip


def mouth_of_data(data: FaceData, split: str, landmarks: np.ndarray, count: int, lead: float = 0.0) -> np.ndarray:
    """`Lesson.mouth` [count,3] of landmarks [F,68,2] px by id, the data's own or others in their place. Split and lead as above."""
    frames = _of_one_camera(data, split)
    times = np.array([frame.time for frame in frames]) + lead
    seen = landmark_expression(landmarks[[frame.number for frame in frames]])
    return _one_scale(_spread(np.arange(count) / RATE, times, data.fps)(seen[:, :TRACKS]))


def lessons_of_clips(clips: Sequence[Clip]) -> list[Lesson]:
    """See `lesson_of_clip`."""
    return [lesson_of_clip(clip) for clip in clips]


def _of_one_camera(data: FaceData, split: str) -> list[Frame]:
    """Frames of the camera that saw most of a split, each moment once, in time."""
    frames = data.splits.get(split, [])
    if data.labels is not None and frames:
        cameras = data.labels.camera[[frame.number for frame in frames]]
        values, counts = np.unique(cameras, return_counts=True)
        frames = [frame for frame, camera in zip(frames, cameras) if camera == values[counts.argmax()]]
    once = {frame.time: frame for frame in frames}
    return [once[time] for time in sorted(once)]


def _spread(grid: np.ndarray, times: np.ndarray, fps: float) -> Callable[..., np.ndarray]:
    """A function that brings rows at `times` to the grid: linear or nearest between neighbouring pictures, NaN elsewhere."""
    after = np.searchsorted(times, grid).clip(1, max(len(times) - 1, 1))
    if len(times) < 2:
        return lambda values, nearest=False: np.full((len(grid), values.shape[1]), np.nan, np.float32)
    before = after - 1
    step = times[after] - times[before]
    share = (grid - times[before]) / np.maximum(step, 1e-9)
    inside = (step < 1.6 / fps) & (share >= 0) & (share <= 1)

    def spread(values: np.ndarray, nearest: bool = False) -> np.ndarray:
        part = np.round(share) if nearest else share
        out = values[before] * (1 - part[:, None]) + values[after] * part[:, None]
        return np.where(inside[:, None], out, np.nan).astype(np.float32)

    return spread


def _one_scale(tracks: np.ndarray) -> np.ndarray:
    """Tracks [F,3] to mean 0 and deviation 1: speakers and cameras differ in both."""
    if not np.isfinite(tracks).any():
        return tracks.astype(np.float32)
    deviation = np.maximum(np.nanstd(tracks, 0), STILL)
    return ((tracks - np.nanmean(tracks, 0)) / deviation).clip(-4, 4).astype(np.float32)
