"""What every reader of still Gaussians ends in: an avatar without networks. Numbers that cannot be drawn are refused here."""

from __future__ import annotations

import datetime
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from ..avatar import Avatar, AvatarMeta
from ..avatar.gaussians import softplus_inverse
from ..errors import UserError

OPAQUE = 10.0
"""Largest raw opacity that is made of an alpha: 0.99995 after the sigmoid, 255 of 255."""

SH_DC = 0.28209479177387814
"""Constant of degree 0: colour = 0.5 + SH_DC * coefficient."""

SMALLEST = 1e-9
"""Standard deviation, in units of the file, that one of 0 becomes: packed files round small ones down to it."""


@dataclass(frozen=True)
class Placing:
    """What a file of Gaussians does not say of itself.

    Attributes:
        name: the avatar's name; the file's own if empty.
        metres_per_unit: length of one unit of the positions.
        up, front: axes of the positions (+X -X +Y -Y +Z -Z); the face looks along `front`.
    """

    name: str = ""
    metres_per_unit: float = 1.0
    up: str = "+Y"
    front: str = "+Z"


def refuse(path: Path, why: str, remedy: str = "Choose another file, or copy it again.") -> UserError:
    """The one clear line for a file that cannot be imported."""
    return UserError(f"{path}: {why}.", remedy)


def unreadable(path: Path, error: OSError) -> UserError:
    """The one clear line for a file that cannot be read."""
    return UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.")


def raw_opacity(alpha: np.ndarray) -> np.ndarray:
    """alpha in 0..1 -> raw value of the sigmoid, within +-OPAQUE; float32."""
    alpha = np.asarray(alpha, np.float64)
    with np.errstate(divide="ignore"):
        return np.clip(np.log(alpha) - np.log1p(-alpha), -OPAQUE, OPAQUE).astype(np.float32)


def static_avatar(
    path: Path,
    placing: Placing,
    what: str,
    means: np.ndarray,
    quats: np.ndarray,
    scales: np.ndarray,
    opacities: np.ndarray,
    sh: np.ndarray,
) -> Avatar:
    """An avatar of one set of Gaussians that nothing moves.

    Args:
        path: the file, for names and messages; `what` it is, for the provenance.
        means [N,3]; quats [N,4], w first, of any length; scales [N,3] linear, >= 0; opacities [N] raw; sh [N,K,3] in 3DGS order.

    Raises:
        UserError: no Gaussians, or numbers that are NaN, infinite or of no use.
    """
    if not len(means):
        raise refuse(path, "it holds no Gaussians")
    with np.errstate(over="ignore"):
        means, quats, opacities, sh = (np.ascontiguousarray(array, np.float32) for array in (means, quats, opacities, sh))
    for label, array in {"positions": means, "rotations": quats, "opacities": opacities, "colours": sh}.items():
        if not np.isfinite(array).all():
            raise refuse(path, f"its {label} hold NaN or infinite numbers")
    if np.isnan(scales).any() or (scales < 0).any():
        raise refuse(path, "its scales hold NaN or negative numbers")
    with np.errstate(over="ignore", divide="ignore", invalid="ignore"):
        raw_scales = softplus_inverse(np.where(scales > 0, scales, SMALLEST))
    if not np.isfinite(raw_scales).all():
        raise refuse(path, "its scales are beyond all size (they should be logarithms)")
    tensors = {"means": means, "quats": quats, "scales": raw_scales, "opacities": opacities, "sh": sh}
    meta = AvatarMeta(
        name=placing.name or path.stem,
        metres_per_unit=placing.metres_per_unit,
        up=placing.up,
        front=placing.front,
        composite="sorted",
        emotions=[],
        provenance=f"Imported from the {what} {path.name}; it has no networks and does not talk.",
        created=datetime.date.today().isoformat(),
    )
    return Avatar(meta, {f"face.{name}": array for name, array in tensors.items()})
