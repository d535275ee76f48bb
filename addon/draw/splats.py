"""What is drawn: the splats of one avatar at one frame, and their layout in data textures. numpy alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

import numpy as np
from numpy.typing import NDArray

Composite = Literal["layered", "sorted"]

SH_SIZES = (1, 4, 9, 16)
"""Number of SH coefficients a colour channel has for degree 0, 1, 2, 3."""

MOTION_TEXELS = 3
"""Texels a splat takes in the motion texture: mean, quat, scale, aleatoric, epistemic."""


@dataclass(frozen=True, eq=False)
class Splats:
    """Gaussians of one avatar at one frame, in Blender's axes, as the cache delivers them; nothing is turned here.

    The arrays are treated as immutable: hand over the *same array objects* for unchanged data and nothing is uploaded or
    sorted again. `opacities`, `sh`, `branch` are static data, the others are motion.

    means: [N,3] object space, metres.
    quats: [N,4] w x y z, any length but 0.
    scales: [N,3] standard deviations, metres, linear (activated).
    opacities: [N] 0..1 (activated).
    sh: [N,K,3], K in 1, 4, 9, 16, order of 3DGS; colour = max(0, 0.5 + sum(sh * basis)), display-referred sRGB.
    branch: [N] uint8, 0 face, 1 mouth.
    uncertainty: [N,2] aleatoric and epistemic (linear), or None: no uncertainty, drawn as 0.
    shares: [N,4] how much each view (engine.cache.SHARES) has in a splat's motion, 0 where nothing moves; None: drawn as 0.
    matrix_world: [4,4] object to world; any affine matrix, also mirrored or flattened.
    composite: `layered` (all mouth splats behind all face splats) or `sorted` (by depth alone).
    pixel_size: metres that a pixel covered at the head in the pictures that these were trained on (see `shader`); 0: not known.
    note: why this is not what was asked for (an avatar at rest where a frame is not baked), else "". The viewport draws it
    and shows the note; a render refuses it.
    """

    means: NDArray[np.float32]
    quats: NDArray[np.float32]
    scales: NDArray[np.float32]
    opacities: NDArray[np.float32]
    sh: NDArray[np.float32]
    branch: NDArray[np.uint8]
    uncertainty: NDArray[np.float32] | None = None
    shares: NDArray[np.float32] | None = None
    matrix_world: NDArray[np.float64] = field(default_factory=lambda: np.eye(4))
    composite: Composite = "sorted"
    pixel_size: float = 0.0
    note: str = ""

    def __post_init__(self) -> None:
        """Raises ValueError where a shape or the composite does not fit."""
        n = len(self.means)
        expected = {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "branch": (n,)}
        if self.uncertainty is not None:
            expected["uncertainty"] = (n, 2)
        if self.shares is not None:
            expected["shares"] = (n, 4)
        for name, shape in expected.items():
            if np.shape(getattr(self, name)) != shape:
                raise ValueError(f"splats: {name} is {np.shape(getattr(self, name))}, expected {shape}")
        if self.sh.ndim != 3 or self.sh.shape[0] != n or self.sh.shape[1] not in SH_SIZES or self.sh.shape[2] != 3:
            raise ValueError(f"splats: sh is {self.sh.shape}, expected ({n}, K, 3) with K in {SH_SIZES}")
        if np.shape(self.matrix_world) != (4, 4):
            raise ValueError(f"splats: matrix_world is {np.shape(self.matrix_world)}, expected (4, 4)")
        if self.composite not in ("layered", "sorted"):
            raise ValueError(f"splats: composite is {self.composite!r}, expected 'layered' or 'sorted'")

    def __len__(self) -> int:
        return len(self.means)

    def at(self, matrix_world: NDArray[np.float64]) -> Splats:
        """The same splats under another object matrix; the arrays are shared, not copied."""
        return replace(self, matrix_world=np.asarray(matrix_world, dtype=np.float64))

    def static_arrays(self) -> tuple[NDArray, ...]:
        return self.opacities, self.sh, self.branch

    def motion_arrays(self) -> tuple[NDArray | None, ...]:
        return self.means, self.quats, self.scales, self.uncertainty


def pack_shares(splats: Sequence[Splats]) -> NDArray[np.float32]:
    """Shares of all avatars as RGBA texels [N,4]."""
    return np.concatenate([np.zeros((len(one), 4), np.float32) if one.shares is None else one.shares for one in splats])


def static_texels(splats: Splats) -> int:
    """Texels a splat takes in the static texture: one for opacity and branch, then the SH coefficients, packed."""
    return 1 + -(-3 * splats.sh.shape[1] // 4)


def pack_static(splats: Sequence[Splats]) -> tuple[NDArray[np.float32], list[int]]:
    """Static data of all avatars as RGBA texels [T,4], and the first texel of each avatar.

    A splat is (opacity, branch, 0, 0), then its SH coefficients as one run of floats (r0 g0 b0 r1 g1 b1 ...).
    """
    parts: list[NDArray[np.float32]] = []
    first: list[int] = []
    total = 0
    for one in splats:
        texels = static_texels(one)
        rows = np.zeros((len(one), texels * 4), dtype=np.float32)
        rows[:, 0] = one.opacities
        rows[:, 1] = one.branch
        rows[:, 4:4 + 3 * one.sh.shape[1]] = one.sh.reshape(len(one), -1)
        parts.append(rows.reshape(-1, 4))
        first.append(total)
        total += len(one) * texels
    return np.concatenate(parts), first


def pack_motion(splats: Sequence[Splats]) -> NDArray[np.float32]:
    """Motion of all avatars as RGBA texels [3N,4]: means, quats, scales, aleatoric, epistemic of a splat in one run."""
    packed = np.empty((sum(map(len, splats)), 4 * MOTION_TEXELS), dtype=np.float32)
    start = 0
    for one in splats:
        rows = packed[start:start + len(one)]
        start += len(one)
        rows[:, 0:3] = one.means
        rows[:, 3:7] = one.quats
        rows[:, 7:10] = one.scales
        rows[:, 10:12] = 0.0 if one.uncertainty is None else one.uncertainty
    return packed.reshape(-1, 4)
