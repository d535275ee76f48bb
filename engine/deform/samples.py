"""The two plane fields read at the Gaussians that move: all that inference needs of them (paper sec 2.2).

Planes are taken one at a time out of the file's map, and Gaussians some thousand at a time, so that the memory in use
stays near that of the samples themselves.
"""

from __future__ import annotations

from typing import Mapping

import numpy as np
import torch

from ..errors import UserError
from .networks import plane_sample
from .parameters import PLANES, SAMPLES

ROWS = 4096
"""Gaussians at a time."""

FIELDS = {"face": ("field", "emotion.field"), "mouth": ("field",)}
"""The plane fields of each branch."""


def sample_fields(
    branch: str, tensors: Mapping[str, np.ndarray], means: np.ndarray, source: str = "the avatar"
) -> dict[str, np.ndarray]:
    """The fields of a branch's networks at its moving Gaussians.

    Args:
        branch: `face` or `mouth`.
        tensors: the branch's network tensors, names without `<branch>.net.`, with planes or frozen; `check_network` passed.
        means: [M,3] float32 Gaussians at rest that move.
        source: what to name in an error, usually the file.

    Returns:
        `field.samples` [M,64] and for the face `emotion.field.samples` [M,192], float32, in memory of their own; the same
        bytes whether the tensors hold planes or were frozen.

    Raises:
        UserError: the networks were frozen for another number of Gaussians.
    """
    found = {}
    for name in FIELDS[branch]:
        stored = tensors.get(f"{name}.{SAMPLES}")
        found[f"{name}.{SAMPLES}"] = _read(name, tensors, means) if stored is None else np.array(stored, np.float32)
        if stored is not None and len(stored) != len(means):
            raise UserError(
                f"{source}: its {branch} networks were frozen for {len(stored)} moving Gaussians, but {len(means)} move.",
                "Freeze the avatar again from the one with planes.",
            )
    return found


@torch.inference_mode()
def _read(name: str, tensors: Mapping[str, np.ndarray], means: np.ndarray) -> np.ndarray:
    low, high = torch.from_numpy(np.array(tensors[f"{name}.aabb"], np.float32))
    place = 2 * (torch.from_numpy(means) - low) / (high - low) - 1
    levels = 0
    while f"{name}.{levels}.xy" in tensors:
        levels += 1
    found = torch.ones(len(means), levels * len(tensors[f"{name}.0.xy"]))
    for level, columns in enumerate(found.chunk(levels, 1)):
        for plane, axes in PLANES.items():
            values = torch.from_numpy(np.array(tensors[f"{name}.{level}.{plane}"], np.float32))
            for some, at in zip(columns.split(ROWS), place.split(ROWS)):
                some *= plane_sample(values, at[:, axes])
    return found.numpy()
