"""The Gaussians of a cache's frames, turned from Blender's axes (Z up, the face looks along -Y, metres) into a format's own.

What no format of Gaussians can say is lost: `layered` composition (all of the mouth behind all of the face) becomes plain depth
order, and uncertainty and shares stay in the cache.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Iterator

import numpy as np

from ..avatar import Avatar, AvatarMeta, Gaussians
from ..avatar.gaussians import turn_geometry, turn_sh
from ..cache import CacheReader, FrameMissing
from ..errors import UserError
from ..importers.static import SMALLEST

AXES = ("+X", "-X", "+Y", "-Y", "+Z", "-Z")


@dataclass(frozen=True)
class Axes:
    """Where a file's numbers have up, and where the face looks; metres, right-handed."""

    up: str
    front: str

    def from_blender(self) -> np.ndarray:
        """Rotation [3,3] from Blender's axes to these.

        Raises:
            UserError: no axes, or both on one line.
        """
        if self.up not in AXES or self.front not in AXES or self.up[1] == self.front[1]:
            raise UserError(
                f"Up {self.up} and front {self.front} are no axes of a head.", f"Choose two across each other of {' '.join(AXES)}."
            )
        return Avatar(AvatarMeta("", up=self.up, front=self.front), {}).rotation_to_blender().T


BLENDER = Axes("+Z", "-Y")


class Frames:
    """Frames of a cache in other axes. Close it, or use it in a `with`.

    Args:
        cache: the cache folder.
        wanted: first and last frame, both included; None takes all that are baked.
        axes: those of the file.

    Attributes:
        numbers: the frames, rising; fps; name of the avatar; count of its Gaussians; how they are composited.

    Raises:
        UserError: no cache, or frames that are not baked (named before anything is written).
    """

    def __init__(self, cache: Path, wanted: tuple[int, int] | None, axes: Axes) -> None:
        self._rotation = axes.from_blender()
        self._cache = Path(cache)
        self._reader = CacheReader(self._cache)
        try:
            self.numbers = self._reader.asked(wanted)
        except UserError:
            self.close()
            raise
        header = self._reader.header
        self.fps, self.name, self.count, self.composite = header.fps, header.avatar_name, header.count, header.composite
        self.opacities = self._reader.static.opacities
        self.sh = turn_sh(self._reader.static.sh, self._rotation)

    def __enter__(self) -> Frames:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[int, Gaussians]]:
        for number in self.numbers:
            yield number, self.at(number)

    def at(self, number: int) -> Gaussians:
        """One frame's Gaussians, activated.

        Raises:
            UserError: its data is damaged.
        """
        try:
            moved = self._reader.at(number)
        except FrameMissing as error:
            raise UserError(f"{self._cache}: frame {number} is damaged.", "Bake it again.") from error
        scales = np.maximum(moved.scales, SMALLEST)  # formats with logarithms cannot say 0
        return Gaussians(*turn_geometry(moved.means, moved.quats, scales, self._rotation), self.opacities, self.sh)

    def close(self) -> None:
        """Let go of the cache's files."""
        self._reader.close()
