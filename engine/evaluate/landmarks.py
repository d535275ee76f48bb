"""68 landmarks of a moving avatar, and what they say of action units and expression.

No detector is asked: on training frames each landmark of the data set is bound to the Gaussians whose way through the pictures is most like
its own, and carried by them on held-out frames. What a landmark says is learned on training frames too, from the true landmarks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from ..avatar import EMOTIONS
from ..dataset import FaceData, Frame
from ..train.material import INNER_LIPS
from .measures import LOWER_AUS, UPPER_AUS, closed_below
from .subject import Subject, project

SOURCE = "Gaussians bound to the data's landmarks on training frames"
BOUND = 6
"""Gaussians that carry a landmark."""
_FRAMES = 24
"""Training frames it is bound on."""
_NEAR = 0.12
"""How far from a landmark its Gaussians may lie at rest, in widths of the face."""
_OPAQUE = 0.1
_BEHIND = 0.25
"""How far behind the foremost Gaussian near a landmark they may lie, in widths of the face."""
_OFFSET_SHARE = 0.3
"""What a constant distance counts against a way that differs: the distance is taken off afterwards."""
_LEAST = 1e-3
"""What keeps an offset small where the cameras do not determine it, as a share."""
_KNOWN = 0.01
"""How well a landmark is known, in widths of the face: what is read off landmarks must not hang on less."""
_STRENGTHS = 10.0 ** np.arange(-4, 2)


def view_of(data: FaceData, frames: list[Frame]) -> dict[str, Any]:
    """What a data set's frames are, for `Subject.views`: times [F], emotion [F,8] (neutral where nothing is known, as in training), measured au [F,6]."""
    numbers = np.array([frame.number for frame in frames])
    return {
        "times": np.array([frame.time for frame in frames]),
        "emotion": np.zeros((len(frames), len(EMOTIONS))) if data.emotion is None else data.emotion[numbers],
        "au": data.aus[numbers],
        "measured": True,
    }  # fmt: skip


def pieces(data: FaceData, frames: list[Frame]) -> np.ndarray:
    """Number [F] of the uninterrupted piece that each frame belongs to: one take, one camera, one frame of sound after the other."""
    numbers = np.array([frame.number for frame in frames])
    steps = np.rint(np.diff([frame.time for frame in frames]) * data.fps) != 1
    if data.labels is not None:
        steps |= (np.diff(data.labels.take[numbers]) != 0) | (np.diff(data.labels.camera[numbers]) != 0)
    return np.concatenate([[0], np.cumsum(steps)])


@dataclass
class Binding:
    """Of each landmark: rows [68,B] of the Gaussians that carry it, its offset [68,3] from their middle, its depth [68] in the head at rest (z)."""

    rows: np.ndarray
    offset: np.ndarray
    depth: np.ndarray

    def places(self, carriers: np.ndarray) -> np.ndarray:
        """Landmarks [F,68,3] from the centres [F,68,B,3] of their Gaussians."""
        return carriers.mean(2) + self.offset


def bind(points: np.ndarray, rest: np.ndarray, rows: np.ndarray, truth: np.ndarray, viewmats: np.ndarray, K: np.ndarray) -> Binding:
    """Choose the Gaussians that carry each landmark.

    Args:
        points: [F,R,3] candidates in some frames; rest: [R,3] the same at rest; rows: [R] their numbers.
        truth: [F,68,2] px, NaN where unknown; viewmats: [F,4,4].
    """
    ways, depths = zip(*(project(p, view, K) for p, view in zip(points, viewmats)))
    ways, depth = np.stack(ways), np.mean(depths, 0)
    wide = np.nanmean(np.ptp(truth[:, :17, 0], axis=1))
    metres = wide / K[0, 0] * depth.mean()
    chosen = []
    for number in range(truth.shape[1]):
        apart = ways - truth[:, number, None]
        offset = np.nanmean(apart, 0)
        differs = np.sqrt(np.nanmean(((apart - offset) ** 2).sum(-1), 0))
        far = np.linalg.norm(offset, axis=1)
        near = far <= max(_NEAR * wide, np.sort(far)[min(4 * BOUND, len(far)) - 1])
        seen = near & (depth < depth[near].min() + _BEHIND * metres)
        cost = np.where(seen, np.hypot(differs, _OFFSET_SHARE * far), np.inf)
        chosen.append(np.argsort(cost, kind="stable")[:BOUND])
    chosen = np.array(chosen)
    offset = np.stack([_offset(points[:, rows].mean(1), truth[:, i], viewmats, K) for i, rows in enumerate(chosen)])
    return Binding(rows[chosen], offset, rest[chosen, 2].mean(1) + offset[:, 2])


def _offset(points: np.ndarray, truth: np.ndarray, viewmats: np.ndarray, K: np.ndarray) -> np.ndarray:
    """What [3] is to be added to points [F,3] so that they are seen at truth [F,2] px; where cameras do not tell how deep, as little as may be."""
    known = np.isfinite(truth).all(1)
    points, truth, viewmats = points[known].astype(np.float64), truth[known], viewmats[known].astype(np.float64)
    turn, found = viewmats[:, :3, :3], np.zeros(3)
    for _ in range(3):  # Gauss-Newton
        seen = np.einsum("fij,fj->fi", turn, points + found) + viewmats[:, :3, 3]
        apart = truth - (seen[:, :2] / seen[:, 2:] * K[[0, 1], [0, 1]] + K[:2, 2])
        slope = (turn[:, :2] - (seen[:, :2] / seen[:, 2:])[..., None] * turn[:, 2:]) * (K[[0, 1], [0, 1]][:, None] / seen[:, 2, None, None])
        normal = np.einsum("fki,fkj->ij", slope, slope)
        step = np.einsum("fki,fk->i", slope, apart) - _LEAST * np.trace(normal) * found
        found = found + np.linalg.solve(normal + _LEAST * np.trace(normal) * np.eye(3), step)
    return found


class Tracker:
    """Landmarks of an avatar that was trained on a data set.

    Args:
        subject: the avatar.
        data: its data set; landmarks are bound on split `train`.
    """

    def __init__(self, subject: Subject, data: FaceData) -> None:
        train = data.splits["train"]
        frames = [train[i] for i in np.unique(np.linspace(0, len(train) - 1, _FRAMES).astype(int))]
        truth, viewmats = data.landmarks[[f.number for f in frames]], np.stack([f.viewmat for f in frames])
        means = subject.means
        opaque = np.flatnonzero(subject.avatar.gaussians("face").opacities > _OPAQUE)
        places = np.nanmean([project(means[opaque], view, data.K)[0][None] - t[:, None] for view, t in zip(viewmats, truth)], 0)  # [68,R,2]
        far = np.linalg.norm(places, axis=-1)
        wide = np.nanmean(np.ptp(truth[:, :17, 0], axis=1))
        near = (far < 2 * _NEAR * wide).any(0)
        near[np.unique(np.argsort(far, axis=1)[:, : 4 * BOUND])] = True
        candidates = opaque[near]
        self.subject, self.data = subject, data
        self.binding = bind(
            subject.points(candidates, subject.views(data.sound, **view_of(data, frames))), means[candidates], candidates, truth, viewmats, data.K
        )
        self._rows, self._place = np.unique(self.binding.rows, return_inverse=True)
        self._place = self._place.reshape(self.binding.rows.shape)

    def landmarks(self, frames: list[Frame], still: bool = False) -> np.ndarray:
        """[F,68,2] px of the avatar in these frames; `still`: at rest, under their cameras."""
        viewmats = np.stack([frame.viewmat for frame in frames])
        if still:
            return self._seen(np.broadcast_to(self.subject.means[self._rows], (len(frames), len(self._rows), 3)), viewmats)
        return self._seen(self.subject.points(self._rows, self.subject.views(self.data.sound, **view_of(self.data, frames))), viewmats)

    def performed(self, views: dict[str, np.ndarray]) -> np.ndarray:
        """Landmarks in the head [F,68,2] of any performance, as the first training frame's camera has them."""
        viewmats = np.repeat(self.data.splits["train"][0].viewmat[None], len(views["audio"]), 0)
        return frontal(self._seen(self.subject.points(self._rows, views), viewmats), viewmats, self.data.K, self.binding.depth)

    def closed_below(self) -> float:
        """The opening of the lips under which they count as closed, by the true mouths of the training frames."""
        train = self.data.splits["train"]
        opening = aperture(self.frontal(self.data.landmarks[[frame.number for frame in train]], train))
        return closed_below(opening[np.isfinite(opening)])

    def _seen(self, points: np.ndarray, viewmats: np.ndarray) -> np.ndarray:
        places = self.binding.places(points[:, self._place])
        return np.stack([project(p, view, self.data.K)[0] for p, view in zip(places, viewmats)])

    def frontal(self, landmarks: np.ndarray, frames: list[Frame]) -> np.ndarray:
        """[F,68,2]: landmarks in px as places (x, y) in the head, each at its own depth, whatever the camera does."""
        return frontal(landmarks, np.stack([frame.viewmat for frame in frames]), self.data.K, self.binding.depth)


def frontal(landmarks: np.ndarray, viewmats: np.ndarray, K: np.ndarray, depth: np.ndarray) -> np.ndarray:
    """Where the rays of landmarks [F,L,2] px meet the planes z = depth [L] of the head: (x, y) [F,L,2]."""
    rays = np.concatenate([landmarks, np.ones((*landmarks.shape[:2], 1))], -1) @ np.linalg.inv(K).T
    turn, centre = viewmats[:, :3, :3], -np.einsum("fji,fj->fi", viewmats[:, :3, :3], viewmats[:, :3, 3])
    rays = np.einsum("fji,flj->fli", turn, rays)
    length = (depth - centre[:, None, 2]) / rays[..., 2]
    return (centre[:, None] + length[..., None] * rays)[..., :2]


def aperture(frontal_landmarks: np.ndarray) -> np.ndarray:
    """Opening [F] of the inner lips, in the head's units."""
    return np.mean([frontal_landmarks[:, a, 1] - frontal_landmarks[:, b, 1] for a, b in INNER_LIPS], 0)


class Reader:
    """What landmarks say: ridge regression on the true landmarks of training frames. Its strength is chosen on the last fifth of them,
    but is never less than what landmarks that are a hundredth of the face's width off would ask for.

    Args:
        x: [n,68,2] landmarks in the head; y: [n,C].
    """

    def __init__(self, x: np.ndarray, y: np.ndarray) -> None:
        good = np.isfinite(x).all((1, 2)) & np.isfinite(y).all(1)
        off = _KNOWN * np.ptp(x[good][:, :17, 0], axis=1).mean()
        x, y = x[good].reshape(good.sum(), -1), y[good]
        strengths = _STRENGTHS + off**2 / np.mean((x - x.mean(0)) ** 2)
        held = len(x) - len(x) // 5
        errors = [np.square(_ridge(x[:held], y[:held], s)(x[held:]) - y[held:]).sum() for s in strengths] if held < len(x) else [0.0]
        self._read = _ridge(x, y, strengths[int(np.argmin(errors))])

    def __call__(self, x: np.ndarray) -> np.ndarray:
        """[F,68,2] -> [F,C]."""
        return self._read(x.reshape(len(x), -1))


def _ridge(x: np.ndarray, y: np.ndarray, strength: float) -> Callable[[np.ndarray], np.ndarray]:
    mean, target = x.mean(0), y.mean(0)
    scale = np.sqrt(np.mean((x - mean) ** 2))
    features = (x - mean) / scale
    weights = np.linalg.solve(features.T @ features + strength * len(x) * np.eye(x.shape[1]), features.T @ (y - target))
    return lambda other: (other - mean) / scale @ weights + target


def action_units(data: FaceData, tracker: Tracker, frames: list[Frame]) -> Callable[[np.ndarray], dict[str, np.ndarray]]:
    """Landmarks in the head [F,68,2] -> OpenFace's intensities 0..5 by name, learned on `frames`; those that never stir there are left out."""
    numbers = np.array([frame.number for frame in frames])
    wanted = [f"AU{number:02d}" for number in sorted(UPPER_AUS + LOWER_AUS)]
    names = [name for name in wanted if name in data.au_table and np.ptp(data.au_table[name][numbers]) > 0]
    reader = Reader(
        tracker.frontal(data.landmarks[numbers], frames), np.column_stack([data.au_table[name][numbers] for name in names])
    )
    return lambda landmarks: dict(zip(names, reader(landmarks).clip(0, 5).T))


def expression(data: FaceData, tracker: Tracker, frames: list[Frame]) -> tuple[Callable[[np.ndarray], np.ndarray], str]:
    """Landmarks in the head -> expression coefficients [F,C], and what they are: those of the data's labels, learned on `frames`, else
    the landmarks' principal components there (unit variance)."""
    numbers = np.array([frame.number for frame in frames])
    places = tracker.frontal(data.landmarks[numbers], frames)
    if data.labels is not None:
        stirs = np.ptp(data.labels.expression[numbers], axis=0) > 1e-6
        return Reader(places, data.labels.expression[numbers][:, stirs]), "the data's expression coefficients, read off the landmarks"
    places = places[np.isfinite(places).all((1, 2))].reshape(-1, 136)
    mean = places.mean(0)
    _, sizes, axes = np.linalg.svd(places - mean, full_matrices=False)
    axes = axes[:12] * (np.sqrt(len(places)) / np.maximum(sizes[:12, None], 1e-9))
    return lambda found: (found.reshape(len(found), -1) - mean) @ axes.T, "principal components of the landmarks"
