"""Avatars for delivery: the plane fields give way to what they say at the Gaussians that move (paper sec 2.2).

The means at rest never move, so inference reads the planes (200 MB in the authors' sizes) at the same places for ever.
A frozen avatar holds those samples, 1 KB for each moving Gaussian of the face and a quarter for the mouth's, and moves
the same to the last bit. It can be loaded and baked like any other, but not trained. It is another file with another hash:
frames baked with the one are not taken over by a cache of the other.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..avatar import Avatar, load_avatar, save_avatar
from ..avatar.file import BRANCHES
from ..errors import UserError
from .fast import Deformer
from .parameters import branch_tensors, check_network
from .samples import FIELDS, sample_fields

FRAMES = 8
"""Random frames in which the motion of a frozen avatar is compared with the original's."""

_HALVED = ("quats", "scales", "opacities", "sh")
"""What `half` rounds of the Gaussians. The means stay: half precision's steps are 0.06 mm at 0.1 m from the origin."""


def freeze(avatar: Avatar, half: bool = False) -> Avatar:
    """The avatar without its planes; all else is kept.

    Args:
        avatar: with networks; one that is frozen already may be halved.
        half: samples, networks, quaternions, scales, opacities and SH become float16. A tensor whose numbers go beyond
            float16's range stays as it is. `freeze_file` measures what the rounding does.

    Returns:
        an avatar with a hash of its own; without `half`, motion and Gaussians are equal to the original's byte for byte.

    Raises:
        UserError: a static avatar, or damaged networks.
    """
    name = str(avatar.path or avatar.meta.name)
    if avatar.is_static:
        raise UserError(f"{name} has no networks: there are no planes to freeze.", "Choose a trained avatar.")
    tensors = dict(avatar.tensors)
    for branch in avatar.branches:
        network = branch_tensors(tensors, branch)
        if not network:
            continue
        frozen = check_network(branch, network, name).samples is not None
        means = np.asarray(tensors[f"{branch}.means"], np.float32)[avatar.moving(branch)]
        samples = sample_fields(branch, network, means, name)
        if not frozen:
            for key in network:
                if key.startswith(tuple(f"{field}." for field in FIELDS[branch])):
                    del tensors[f"{branch}.net.{key}"]
            tensors |= {f"{branch}.net.{key}": value for key, value in samples.items()}
    if half:
        halved = {f"{branch}.{key}" for branch in BRANCHES for key in _HALVED}
        tensors = {key: _half(value) if ".net." in key or key in halved else value for key, value in tensors.items()}
    return Avatar(avatar.meta, tensors)


def freeze_file(
    path: Path, out: Path, half: bool = False, progress: Callable[[int, int], None] | None = None
) -> dict[str, int | float | str]:
    """Freeze an avatar file and measure what became of it.

    Args:
        path: avatar file.
        out: another file, which is written in one step.
        half: see `freeze`.
        progress: called with steps done and steps in all; may raise `Cancelled`, then nothing is written.

    Returns:
        `bytes_before`, `bytes_after`; `frames`, the random frames compared; `largest_error_m` and `mean_error_m`, how far
        in metres a moving Gaussian's mean ends up from where the original has it (0 without `half`); `note` where the file grew.

    Raises:
        UserError: the file is not a valid avatar with networks, `out` is `path`, or cannot be written.
    """
    path, out = Path(path), Path(out)
    if out.exists() and path.exists() and out.samefile(path):
        raise UserError(f"{path} would be frozen into itself; its planes cannot be brought back.", "Name another file.")
    tell = progress or (lambda done, steps: None)
    avatar = load_avatar(path)
    before = path.stat().st_size
    frozen = freeze(avatar, half)
    tell(1, FRAMES + 2)
    largest, total, count = 0.0, 0.0, 0
    pair = [Deformer(each, "cpu") for each in (avatar, frozen)]
    rng = np.random.default_rng(0)
    for frame in range(FRAMES):
        views = {view: rng.normal(size=shape).astype(np.float32) for view, shape in pair[0].frame_shapes.items()}
        want, have = (deformer.moved(deformer.motion(views)) for deformer in pair)
        for branch in want:
            apart = np.linalg.norm((have[branch][0] - want[branch][0]).astype(np.float64), axis=-1)
            largest, total, count = max(largest, float(apart.max(initial=0))), total + float(apart.sum()), count + apart.size
        tell(frame + 2, FRAMES + 2)
    save_avatar(frozen, out)
    tell(FRAMES + 2, FRAMES + 2)
    metres, after = avatar.meta.metres_per_unit, out.stat().st_size
    note = "Its planes were smaller than what its many Gaussians need of them: deliver it as it is."
    return ({"note": note} if after > before else {}) | {
        "bytes_before": before,
        "bytes_after": after,
        "frames": FRAMES,
        "largest_error_m": largest * metres,
        "mean_error_m": total / max(count, 1) * metres,
    }


def _half(tensor: np.ndarray) -> np.ndarray:
    if tensor.dtype.kind != "f" or np.abs(tensor).max(initial=0) > np.finfo(np.float16).max:
        return tensor
    return tensor.astype(np.float16)
