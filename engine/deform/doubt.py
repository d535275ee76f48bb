"""How far a frame's views can be trusted (ours; beside the paper's sec 2.3).

The log-variances of eq. 8 see a view through hidden units that serve the motion and average noise away, so they cannot tell how noisy it is.
The film that an avatar was trained on can: its views keep to few directions (`Known`). What a view has beside these was never seen, be it noise or a
stranger's voice. With z the view in the film's own spread, l_k its variance along direction k of K, r the variance in each of the D - K others:

    n     = max(0, mean square of z beside the K directions - r)          the noise that this frame's view must have
    view <- its mean given n: z shrunk by l_k / (l_k + n) along direction k, by r / (r + n) beside them
    left  = (sum_k l_k n / (l_k + n) + (D - K) r n / (r + n)) / (sum_k l_k + (D - K) r)          of 0..1, what stays unknown of it
    D_v  <- (1 + GAIN left) D_v          in the view's covariance U_v^T U_v + D_v; what is added counts as epistemic

A view as in the film goes through unchanged. Action units that nobody measured (NaN) are what they most probably are beside the emotion and those that
are known, by what goes with what in the film (`KnownUnits`); what stays unknown of them counts against the view that they are part of:

    au     ~ N(mean + slope e, C)          e the emotion's coordinates along its directions, C the covariance of what that leaves
    left   = trace(C given the known ones) / trace(C)
    D_face,audio <- (1 + GAIN left_audio + GAIN PART left) D_face,audio          PART of that view is theirs, the rest the sound's

`reference.deform` says the same in its own words.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ..errors import UserError

GAIN = 2.0
"""How much more variance a view has of which nothing is known."""
PART = 0.5
"""Of the face's audio view that are the action units."""
MOST = 64
"""Directions at most, and half of all."""
LEAST = 1e-4
"""Of a view's mean variance: a direction in which the film has less is none."""
FLOOR = 1e-6
"""The least variance beside the directions: what float32 leaves."""
PARTS = 4
"""Parts of the film; what lies beside the directions is measured on each with the directions of the others."""
SAMPLES = 3000
"""Frames that are looked at, at most, evenly spaced."""
RIDGE = 1e-3
"""Of the emotion's coordinates' mean variance, beside which the action units' slopes are found."""
UNIT_TENSORS = ("mean", "slope", "covariance")
"""Tensors of the action units, `doubt.au.<name>`."""
TENSORS = ("mean", "scale", "basis", "values", "rest")
"""Tensors of a view, `doubt.<view>.<name>`."""


@dataclass(frozen=True, eq=False)
class Known:
    """What one view is in the film. One frame of it, [W, ...], counts as W samples of D numbers (audio: 8 of 464; the others: one).

    Attributes:
        mean, scale: [D]; z is (x - mean) / scale.
        basis: [K,D] orthonormal directions of z; values: [K] variances along them.
        rest: [1] variance in each of the other directions.
    """

    mean: np.ndarray
    scale: np.ndarray
    basis: np.ndarray
    values: np.ndarray
    rest: np.ndarray

    @classmethod
    def of_film(cls, frames: np.ndarray) -> Known | None:
        """From a view's training frames [F, W, ...] in the order of the film; None where it never changes or there are too few."""
        if len(frames) < PARTS:
            return None
        frames = np.asarray(frames)[:: -(-len(frames) // SAMPLES)].astype(np.float64)
        samples = frames.reshape(*frames.shape[:2], -1)
        mean, deviation = samples.mean((0, 1)), samples.std((0, 1))
        if not deviation.mean() > 0:
            return None
        scale = np.maximum(deviation, 0.1 * deviation.mean())
        z = (samples - mean) / scale
        parts = np.array_split(np.arange(len(z)), PARTS)
        beside = [_beside(z[part], _directions(np.delete(z, part, 0))[0]).sum() for part in parts]
        basis, values = _directions(z)
        rest = sum(beside) / (z.shape[0] * z.shape[1] * max(z.shape[2] - len(basis), 1))
        return cls(*(np.asarray(x, np.float32) for x in (mean, scale, basis, values, [max(rest, FLOOR)])))

    def along(self, samples: np.ndarray) -> np.ndarray:
        """Coordinates [F,K] of samples [F,D] along the directions."""
        return (samples - self.mean) / self.scale @ self.basis.T

    def tensors(self, view: str) -> dict[str, np.ndarray]:
        """Under their names in the avatar file."""
        return {f"doubt.{view}.{name}": getattr(self, name) for name in TENSORS}


@dataclass(frozen=True, eq=False)
class KnownUnits:
    """What the action units are in the film, beside its emotion.

    Attributes:
        mean: [A]; slope: [A,K] beside K coordinates of the emotion view (`Known.along`), 0 of them where nothing is known of it.
        covariance: [A,A] of what that leaves.
    """

    mean: np.ndarray
    slope: np.ndarray
    covariance: np.ndarray

    @classmethod
    def of_film(cls, units: np.ndarray, emotion: Known | None, frames: np.ndarray) -> KnownUnits:
        """From action units [F,A] and the emotion view [F,1,D] of the training frames."""
        units = np.asarray(units, np.float64)
        along = np.zeros((len(units), 0)) if emotion is None else emotion.along(np.asarray(frames, np.float64)[:, 0])
        known = along - along.mean(0)
        ridge = RIDGE * len(units) * np.mean(known**2) * np.eye(known.shape[1]) if known.size else np.zeros((0, 0))
        slope = np.linalg.solve(known.T @ known + ridge, known.T @ (units - units.mean(0))).T if known.size else np.zeros((units.shape[1], 0))
        rest = units - units.mean(0) - known @ slope.T
        covariance = rest.T @ rest / len(rest) + FLOOR * np.eye(units.shape[1])
        return cls(*(np.asarray(x, np.float32) for x in (units.mean(0) - slope @ along.mean(0), slope, covariance)))

    def tensors(self) -> dict[str, np.ndarray]:
        """Under their names in the avatar file."""
        return {f"doubt.au.{name}": getattr(self, name) for name in UNIT_TENSORS}


def _directions(z: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Directions [K,D] of samples [F,W,D] and the variances [K] along them, the largest first."""
    flat = z.reshape(-1, z.shape[-1])
    values, vectors = np.linalg.eigh(flat.T @ flat / len(flat))
    values, vectors = values[::-1], vectors[:, ::-1]
    count = min(MOST, len(values) // 2, int((values > LEAST * values.mean()).sum()))
    return vectors[:, :count].T, values[:count]


def _beside(z: np.ndarray, basis: np.ndarray) -> np.ndarray:
    """Squared length [F,W] of what samples have beside some directions."""
    return np.square(z - z @ basis.T @ basis).sum(-1)


def known_views(tensors: Mapping[str, np.ndarray], frame_shapes: Mapping[str, tuple[int, ...]], source: str = "the avatar") -> dict[str, Known]:
    """What an avatar's `doubt.*` tensors know of its views; {} where it has none.

    Args:
        frame_shapes: view -> shape of one frame, see `NetworkSizes.frame_shapes`.
        source: what to name in an error.

    Raises:
        UserError: a tensor is missing or misshapen, or a scale or variance is not above zero.
    """
    found = {}
    for view, (_, *shape) in frame_shapes.items():
        lead = f"doubt.{view}."
        if view == "au" or not any(name.startswith(lead) for name in tensors):
            continue
        parts = {name: np.asarray(tensors.get(lead + name, np.zeros(0)), np.float32) for name in TENSORS}
        size, count = int(np.prod(shape)), len(parts["values"]) if parts["values"].ndim == 1 else -1
        wanted = {"mean": (size,), "scale": (size,), "basis": (count, size), "values": (count,), "rest": (1,)}
        for name, want in wanted.items():
            if parts[name].shape != want or not shape:
                raise UserError(f"{source}: tensor `{lead}{name}` has shape {parts[name].shape}, expected {want}.", "Get the file again.")
            if not np.isfinite(parts[name]).all() or name in ("scale", "values", "rest") and not (parts[name] > 0).all():
                raise UserError(f"{source}: tensor `{lead}{name}` holds something else than numbers above zero.", "Get the file again.")
        if count >= size:
            raise UserError(f"{source}: tensor `{lead}basis` leaves no direction beside its {count}.", "Get the file again.")
        found[view] = Known(**parts)
    return found


def known_units(tensors: Mapping[str, np.ndarray], count: int, emotion: Known | None, source: str = "the avatar") -> KnownUnits | None:
    """What an avatar's `doubt.au.*` tensors know of its `count` action units; None where it has none.

    Raises:
        UserError: a tensor is missing, misshapen or not finite, or the covariance is none.
    """
    if not any(name.startswith("doubt.au.") for name in tensors):
        return None
    parts = {name: np.asarray(tensors.get(f"doubt.au.{name}", np.zeros(0)), np.float32) for name in UNIT_TENSORS}
    wanted = {"mean": (count,), "slope": (count, 0 if emotion is None else len(emotion.basis)), "covariance": (count, count)}
    for name, want in wanted.items():
        if parts[name].shape != want or not np.isfinite(parts[name]).all():
            raise UserError(f"{source}: tensor `doubt.au.{name}` has shape {parts[name].shape}, expected {want} finite numbers.", "Get the file again.")
    if not (np.linalg.eigvalsh(parts["covariance"].astype(np.float64)) > 0).all():
        raise UserError(f"{source}: tensor `doubt.au.covariance` is no covariance.", "Get the file again.")
    return KnownUnits(**parts)


class Doubt:
    """`Known` views on a device, applied to frames.

    Args:
        units: what is known of the action units; None: those that are NaN become 0.
    """

    def __init__(self, known: Mapping[str, Known], device: torch.device, units: KnownUnits | None = None) -> None:
        tensor = lambda x: torch.from_numpy(np.array(x, np.float32)).to(device)  # noqa: E731
        self._known = {view: {name: tensor(getattr(one, name)) for name in TENSORS} for view, one in known.items()}
        self._units = None if units is None else {name: tensor(getattr(units, name)) for name in UNIT_TENSORS}

    def __call__(self, frames: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Views [F, ...] as they most probably were without their noise, and by how much their variance grows, view -> [F], 1 or more; `au` is the
        action units' part in the face's audio view, to be added to it."""
        views, grows = dict(frames), {}
        for view, known in self._known.items():
            frame = frames[view].flatten(2)  # [F,W,D]
            z = (frame - known["mean"]) / known["scale"]
            along = z @ known["basis"].T
            beside = z - along @ known["basis"]
            others = z.shape[-1] - along.shape[-1]
            noise = (beside.square().sum(-1).mean(1) / others - known["rest"]).clamp(min=0)[:, None, None]
            values, rest = known["values"], known["rest"]
            probable = (along * (values / (values + noise))) @ known["basis"] + beside * (rest / (rest + noise))
            views[view] = torch.where(noise > 0, probable * known["scale"] + known["mean"], frame).view_as(frames[view])
            left = (values * noise / (values + noise)).sum(-1) + others * (rest * noise / (rest + noise))[..., 0]
            grows[view] = 1 + GAIN * left[:, 0] / (values.sum() + others * rest)
        if "au" in views:
            views["au"], grows["au"] = self._measured(views["au"], views.get("emotion"))
        return views, grows

    def _measured(self, units: Tensor, emotion: Tensor | None) -> tuple[Tensor, Tensor]:
        """Action units [F,A] without gaps, and by how much the variance of what they are part of grows [F]."""
        known = units.isfinite()
        if self._units is None or bool(known.all()):
            return torch.where(known, units, 0.0), units.new_ones(len(units))
        usual, film = self._units["mean"].expand_as(units), self._units["covariance"]
        if self._units["slope"].shape[1] and emotion is not None:
            of = self._known["emotion"]
            usual = usual + ((emotion.flatten(1) - of["mean"]) / of["scale"]) @ of["basis"].T @ self._units["slope"].T
        apart = torch.where(known, units - usual, 0.0)
        among = known[:, :, None] & known[:, None]
        seen = torch.where(among, film, torch.eye(len(film), device=film.device))  # of the known ones; 1 for the others
        gain = torch.linalg.solve(seen, film * known[:, :, None]).mT  # [F,A,A], 0 beside unknown ones
        probable = usual + (gain @ apart[..., None])[..., 0]
        left = 1 - (gain * film.mT).sum((1, 2)) / film.trace()
        left = torch.where(known.all(1), 0.0, left.clamp(0, 1))  # exactly as without gaps
        return torch.where(known, units, probable.clamp(0, 1)), 1 + GAIN * PART * left
