"""A data set made ready for training: what the sound says to each view at every picture, pictures and masks as tensors."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from scipy.ndimage import binary_dilation
from torch import Tensor

from ..audio import read_sound
from ..avatar import AU_NAMES, EMOTIONS
from ..dataset import FaceData, Frame, Masks
from ..errors import UserError
from ..files import file_hash
from ..views import TrackStore
from .sources import Sources

RING = 0.05
"""Width of the ring round the visible mouth, of the picture's height."""
HIDDEN = 2
"""Rings round it in which what lies behind the lips is nobody's business."""
LEAST_BODY = 0.01
"""Share of the pixels that must show neck or torso for a picture to teach them."""
LEAST_MOUTH = 5e-4
"""Share of the pixels that must show the inside of the mouth for a picture to teach it."""
CLOSED = 0.3
"""AU45 from which on lids count as closed."""
EYES, LIPS = (slice(36, 42), slice(42, 48)), slice(48, 68)
INNER_LIPS, EYE_CORNERS = ((61, 67), (62, 66), (63, 65)), (36, 45)
"""Of the 68 landmarks: upper and lower ones of the inner lips, and the outer corners of the eyes."""
SHUT, OPEN, MEETING = 0.25, 0.5, 0.13
"""Lips are shut below, and open above, these shares of the way from the 5th to the 95th percentile of their opening; they meet where they are shut
and were or will be open within so many seconds."""


@dataclass(frozen=True, eq=False)
class Shown:
    """A picture: truth, behind [H,W,3] in 0..1; face, hair, mouth, ring (round the mouth), hidden (the rings behind which nobody
    looks), lips, eyes (their boxes), body (neck and torso) [H,W] 0 or 1; all float32."""

    truth: Tensor
    behind: Tensor
    face: Tensor
    hair: Tensor
    mouth: Tensor
    ring: Tensor
    hidden: Tensor
    lips: Tensor
    eyes: Tensor
    body: Tensor

    @property
    def head(self) -> Tensor:
        """Face, hair and mouth."""
        return (self.face + self.hair + self.mouth).clamp(max=1)


class Material:
    """Everything a trainer asks about a data set.

    Args:
        without: views that are zero everywhere.
        memory: bytes for decoded pictures.

    Raises:
        UserError: the sound cannot be read, or what the data says does not fit together.
    """

    def __init__(
        self, data: FaceData, sources: Sources, device: torch.device, without: tuple[str, ...] = (), memory: int = 1 << 30
    ) -> None:
        self.data, self.sources, self.device = data, sources, device
        self.size = (data.width, data.height)
        self.K = torch.from_numpy(np.asarray(data.K, np.float32))[None].to(device)
        self.train, self.val = data.splits["train"], data.splits.get("val", [])
        self._frames = {frame.number: frame for frames in data.splits.values() for frame in frames}
        self._row = {number: row for row, number in enumerate(self._frames)}
        self._views = self._heard(without)
        self._kept: OrderedDict[int, Shown] = OrderedDict()
        self._room = max(8, memory // (4 * 13 * data.width * data.height))

    def _heard(self, without: tuple[str, ...]) -> dict[str, Tensor]:
        times = np.array([frame.time for frame in self._frames.values()])
        read_sound(self.data.sound)  # says what is wrong with it
        tracks = TrackStore().tracks(self.sources.providers, self.data.sound, file_hash(self.data.sound))
        found = {view: track.at(times) for view, track in tracks.items() if view in ("audio", "exp", "style")}
        numbers = list(self._frames)
        found["au"] = self.data.aus[numbers]
        shown = self.data.emotion
        weights = np.zeros((len(numbers), 8), np.float32) if shown is None else shown[numbers]
        found["emotion"] = self.sources.emotion(weights)[:, None]
        wrong = [view for view in without if view not in found]
        if wrong:
            raise UserError(f"There is no view {', '.join(wrong)} to leave out.", f"Views are {', '.join(found)}.")
        for view in without:
            found[view] = np.zeros_like(found[view])
        return {view: torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device) for view, values in found.items()}

    def views(self, frame: Frame) -> Mapping[str, Tensor]:
        """What the networks get for one picture, each [1, ...]."""
        row = self._row[frame.number]
        return {view: values[row : row + 1] for view, values in self._views.items()}

    def film(self, view: str) -> np.ndarray:
        """A view of all training pictures in the order of time, [F, ...]."""
        rows = [self._row[frame.number] for frame in sorted(self.train, key=lambda frame: frame.time)]
        return self._views[view][rows].cpu().numpy()

    def camera(self, frame: Frame) -> Tensor:
        """[1,4,4] world to camera."""
        return torch.from_numpy(np.asarray(frame.viewmat, np.float32))[None].to(self.device)

    def shown(self, frame: Frame) -> Shown:
        """The picture and its masks, kept in memory while there is room."""
        if frame.number not in self._kept:
            while len(self._kept) >= self._room:
                self._kept.popitem(last=False)
            self._kept[frame.number] = self._read(frame)
        self._kept.move_to_end(frame.number)
        return self._kept[frame.number]

    def _read(self, frame: Frame) -> Shown:
        masks = self.data.masks(frame)
        points = self.data.landmarks[frame.number]
        lips, eyes = _boxes(masks.face.shape, [points[LIPS]]), _boxes(masks.face.shape, [points[eye] for eye in EYES])
        tensor = lambda value, scale=1.0: torch.from_numpy(np.asarray(value, np.float32) / scale).to(self.device)  # noqa: E731
        return Shown(
            tensor(self.data.picture(frame), 255), tensor(self.data.behind(frame), 255),
            *(tensor(mask) for mask in (masks.face, masks.hair, masks.mouth, ring(masks), ring(masks, HIDDEN), lips, eyes, masks.neck | masks.torso)),
        )  # fmt: skip

    def with_mouth(self, frames: list[Frame]) -> list[Frame]:
        """Those whose picture shows the inside of the mouth."""
        return [frame for frame in frames if self.data.masks(frame).mouth.mean() >= LEAST_MOUTH]

    def with_body(self, frames: list[Frame]) -> list[Frame]:
        """Those that show neck and torso."""
        return [frame for frame in frames if (masks := self.data.masks(frame)) and (masks.neck | masks.torso).mean() >= LEAST_BODY]

    def with_closed_eyes(self, frames: list[Frame]) -> list[Frame]:
        """Those in which the lids are (half) closed."""
        return [frame for frame in frames if self.data.aus[frame.number, AU_NAMES.index("AU45")] > CLOSED]

    def with_meeting_lips(self, frames: list[Frame]) -> list[Frame]:
        """Those in which the lips meet between two openings, see `lips_meet`."""
        met = lips_meet(self.data.landmarks[[frame.number for frame in frames]], np.array([frame.time for frame in frames]))
        return [frames[i] for i in np.flatnonzero(met)]

    def emotions(self) -> dict[str, float]:
        """Emotions that the training pictures show, with their highest intensity; {} where nothing is known."""
        shown = self.data.emotion
        if shown is None:
            return {}
        highest = shown[[frame.number for frame in self.train]].max(0)
        return {name: round(float(top), 2) for name, top in zip(EMOTIONS, highest) if top > 0.05}


def ring(masks: Masks, widths: int = 1) -> np.ndarray:
    """[H,W] bool: the face round the visible mouth, so many RINGs wide."""
    reach = max(2, round(widths * RING * masks.mouth.shape[0]))
    return binary_dilation(masks.mouth, iterations=reach) & ~masks.mouth & (masks.face | masks.hair)


def lips_meet(landmarks: np.ndarray, times: np.ndarray) -> np.ndarray:
    """[F] bool: do the lips of landmarks [F,68,2] px at times [F] s meet between two openings, as on p, b, m? Not where nothing is known."""
    apart = lambda pair: np.linalg.norm(landmarks[:, pair[0]] - landmarks[:, pair[1]], axis=1)  # noqa: E731
    opening = np.mean([apart(pair) for pair in INNER_LIPS], 0) / apart(EYE_CORNERS)
    known = np.isfinite(opening)
    if not known.any():
        return known
    low, high = np.percentile(opening[known], (5, 95))
    shut, opened = opening < low + SHUT * (high - low), opening > low + OPEN * (high - low)
    shut[shut] = (np.abs(times[shut, None] - times[opened]) <= MEETING).any(1)
    return shut


def _boxes(shape: tuple[int, int], parts: list[np.ndarray]) -> np.ndarray:
    """[H,W] bool: the boxes of some landmarks [L,2] px each; none where they are not known."""
    found = np.zeros(shape, bool)
    for points in parts:
        if np.isfinite(points).all():
            low, high = np.floor(points.min(0)).astype(int), np.ceil(points.max(0)).astype(int)
            found[max(low[1], 0) : max(high[1] + 1, 0), max(low[0], 0) : max(high[0] + 1, 0)] = True
    return found


def spaced(frames: list[Frame], count: int) -> list[Frame]:
    """At most `count` of the frames, evenly spaced."""
    if len(frames) <= count:
        return list(frames)
    return [frames[i] for i in np.linspace(0, len(frames) - 1, count).round().astype(int)]
