"""Weights that users bring: files of known networks, read without running code in them, checked before they are used."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..avatar.tensors import load_tensors
from ..errors import UserError


def read_weights(path: Path, shapes: Mapping[str, tuple[int, ...]], wanted: str) -> dict[str, Tensor]:
    """Some tensors of a file, float32 on the CPU; others in it are ignored.

    Args:
        path: `.safetensors`, or a state_dict as torch.save writes it.
        shapes: name -> shape of what is needed.
        wanted: which file that is, for the error.

    Raises:
        UserError: a file that cannot be read safely; what it lacks, what has another shape or is not finite (all of it is told).
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"There is no file {path}.", wanted)
    try:
        if path.suffix == ".safetensors":
            stored = {name: torch.from_numpy(value.copy()) for name, value in load_tensors(path)[0].items()}
        else:
            stored = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch names no common kind
        raise UserError(f"{path} is no file of weights that can be read safely.", f"{wanted} Save its state_dict with torch.save.") from error
    found = {name: stored[name] for name in shapes if isinstance(stored.get(name), Tensor)} if isinstance(stored, Mapping) else {}
    lacking = [name for name in shapes if name not in found]
    wrong = [f"{name} {tuple(value.shape)} for {shapes[name]}" for name, value in found.items() if tuple(value.shape) != tuple(shapes[name])]
    broken = [name for name, value in found.items() if not value.is_floating_point() or not value.isfinite().all()]
    if not found:
        raise UserError(f"{path} holds none of the {len(lacking)} tensors that are needed ({lacking[0]} to {lacking[-1]}).", wanted)
    faults = {"lacks": lacking, "has other shapes:": wrong, "holds something else than finite numbers in": broken}
    told = "; ".join(f"{fault} {', '.join(names)}" for fault, names in faults.items() if names)
    if told:
        raise UserError(f"{path} {told}.", wanted)
    return {name: value.float() for name, value in found.items()}
