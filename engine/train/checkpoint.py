"""Checkpoints: written in one step, read without running anything in them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

from ..errors import UserError
from ..files import atomic_path

NAME = "checkpoint.pt"


def save(folder: Path, state: dict[str, Any]) -> None:
    """Write the checkpoint; the one before stays until this one is whole. Raises UserError where it cannot be written."""
    with atomic_path(folder / NAME) as part:
        torch.save(state, part)


def load(folder: Path, identity: str) -> dict[str, Any] | None:
    """The checkpoint, or None where there is none.

    Args:
        identity: what settings and data it must belong to (`state["identity"]`).

    Raises:
        UserError: damaged, or begun with other settings or data.
    """
    path = folder / NAME
    if not path.exists():
        return None
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        known = state["identity"]
    except Exception as error:  # torch names no common kind
        raise UserError(f"{path} is damaged.", "Delete it to begin anew.") from error
    if known != identity:
        raise UserError(
            f"{path} was begun with other settings or another data set.", "Use the same ones to go on, or --restart to begin anew."
        )
    return state
