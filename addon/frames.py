"""Which Gaussians an avatar shows at a scene frame, for the draw code, and in the object's own point cloud.

An avatar that moves shows itself at rest where nothing is baked, and the panel says so; a render refuses such a frame.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bpy
import numpy as np

from ..engine.avatar import Gaussians
from ..engine.cache import CachedFrame, CacheReader, FrameSummary
from ..engine.errors import UserError
from . import avatar, compat
from .core.paths import is_cache
from .core.playback import CachePool, FrameMissing
from .draw.splats import Splats
from .places import folder_of

pool = CachePool()
"""All caches that are open."""

_paused = 0
_rendering = False
_lock = threading.RLock()  # viewport and render thread ask at the same time
_KEPT = 8


@dataclass(frozen=True, eq=False)
class Shown:
    """The Gaussians of an avatar at one frame, in Blender's axes; equal frames give the same array objects.

    Attributes:
        means, quats, scales, opacities, sh: as in engine.avatar.Gaussians. branch: [N] uint8, 0 face, 1 mouth.
        uncertainty: [N,2] aleatoric, epistemic; shares: [N,4] of the views in the motion; None at rest.
        composite: `layered` or `sorted`. pixel_size: m, as `Splats` has it.
        baked: False where it is the avatar at rest; why: the reason for that in words, else "".
        static: nothing of this avatar ever moves.
    """

    means: np.ndarray
    quats: np.ndarray
    scales: np.ndarray
    opacities: np.ndarray
    sh: np.ndarray
    branch: np.ndarray
    uncertainty: np.ndarray | None
    shares: np.ndarray | None
    composite: str
    pixel_size: float
    baked: bool
    static: bool
    why: str = ""


_rest: OrderedDict[object, tuple[Gaussians, np.ndarray]] = OrderedDict()
_written: dict[int, tuple[np.ndarray, np.ndarray]] = {}
"""Point cloud -> the arrays that were written into it last."""


def shown(obj: bpy.types.Object, frame: float) -> Shown:
    """What an avatar shows at a scene frame, fractions included.

    Raises:
        UserError: there is neither a bake nor an avatar file, and the point cloud has lost its attributes.
    """
    with _lock:
        return _find(obj, frame)


def summary(folder: Path, frame: int) -> FrameSummary:
    """What a baked frame says of each region. Raises FrameMissing, and UserError where there is no bake."""
    with _lock:
        return pool.reader(folder).summary(frame)


def _find(obj: bpy.types.Object, frame: float) -> Shown:
    folder = folder_of(obj)
    try:
        reader, cached = pool.frame(folder, frame)
    except FrameMissing:
        reader = pool.reader(folder)
        static = not reader.header.moving
        return _as_shown(reader.static, reader.branch, None, *_drawn(reader), static, f"Frame {frame:g} is not baked")
    except UserError as error:
        return _unbaked(obj, error.message if is_cache(folder) else "Not baked yet")
    moved = Gaussians(cached.means, cached.quats, cached.scales, reader.static.opacities, reader.static.sh)
    return _as_shown(moved, reader.branch, cached, *_drawn(reader), not reader.header.moving)


def _unbaked(obj: bpy.types.Object, why: str) -> Shown:
    try:
        loaded = avatar.load(avatar.file_of(obj))
        key, how, static = loaded.hash, (loaded.meta.composite, loaded.meta.pixel_metres), loaded.is_static
        found = _rest.get(key) or _remember(_rest, key, loaded.rest())
    except UserError as error:
        key, how, static, why = obj.data.session_uid, ("sorted", 0.0), False, f"{why}; {error.message}"
        found = _rest.get(key) or _remember(_rest, key, avatar.read_cloud(obj.data))
    return _as_shown(*found, None, *how, static, why)


def _drawn(reader: CacheReader) -> tuple[str, float]:
    return reader.header.composite, reader.header.pixel_size


def _as_shown(
    g: Gaussians, branch: np.ndarray, cached: CachedFrame | None, composite: str, pixel_size: float, static: bool, why: str = ""
) -> Shown:
    uncertainty, shares = (None, None) if cached is None else (cached.uncertainty, cached.shares)
    return Shown(g.means, g.quats, g.scales, g.opacities, g.sh, branch, uncertainty, shares, composite, pixel_size, not why, static, why)


def _remember(memory: OrderedDict, key: object, value: Any) -> Any:
    memory[key] = value
    while len(memory) > _KEPT:
        memory.popitem(last=False)
    return value


def frame_source(obj: bpy.types.Object, frame: float) -> Splats | None:
    """What draw.source asks: the splats of an object at a frame, None where it is no avatar.

    Raises:
        UserError: nothing to show at all; or, to a render, a frame of a moving avatar that is not baked.
    """
    if not avatar.is_avatar(obj):
        return None
    now = shown(obj, frame)
    if not now.baked and not now.static and _is_for_render():
        raise UserError(f"{now.why}.", "Bake it.")
    return Splats(
        now.means, now.quats, now.scales, now.opacities, now.sh, now.branch, now.uncertainty, now.shares, composite=now.composite,
        pixel_size=now.pixel_size,
    )  # fmt: skip


def set_rendering(is_on: bool) -> None:
    """Told by the handlers as a render begins and ends."""
    global _rendering
    _rendering = is_on


def is_rendering() -> bool:
    """True from a render's begin to its end."""
    return _rendering


def _is_for_render() -> bool:
    """A render beside the user interface has its own thread; a blocking one has Blender for itself."""
    beside = compat.render_is_running()
    return _rendering and not (beside and threading.current_thread() is threading.main_thread())


def may_write(scene: bpy.types.Scene) -> bool:
    """False while a render that does not lock the interface reads what a frame change would write."""
    return not _rendering or bpy.app.background or scene.render.use_lock_interface


# -------------------------------------------------------------------------------------------------- the point clouds


@contextmanager
def paused() -> Iterator[None]:
    """Within it, frame changes write nothing into point clouds (the scene is only stepped through)."""
    global _paused
    _paused += 1
    try:
        yield
    finally:
        _paused -= 1


def show(obj: bpy.types.Object, scene: bpy.types.Scene, again: bool = False) -> None:
    """Bring an avatar's point cloud to the scene's current frame.

    Args:
        again: also where it was written already (Blender's undo may have put older numbers back).
    """
    if _paused or not avatar.is_avatar(obj):
        return
    try:
        now = shown(obj, scene.frame_current_final)
    except UserError:
        return  # the panel says why
    cloud = obj.data
    mark = (now.means, now.quats)  # other frames are other arrays
    before = _written.get(cloud.session_uid)
    if not again and before is not None and before[0] is mark[0] and before[1] is mark[1]:
        return
    # What follows is drawn from the cache all the same: linked data, which Blender lets nobody write, and a bake of another
    # avatar (the panel says to reload the object).
    if cloud.library is not None or len(cloud.points) != len(now.means):
        return
    avatar.write_frame(cloud, now.means, now.quats, now.scales)
    _written[cloud.session_uid] = mark


def show_all(scene: bpy.types.Scene, again: bool = False) -> None:
    """Bring all avatars of a scene to its current frame."""
    for obj in avatar.avatars(scene.objects):
        show(obj, scene, again)


def forget(objects: Iterable[bpy.types.Object]) -> None:
    """Close the caches that none of the objects uses, and forget what was written into clouds that are gone."""
    objects = avatar.avatars(objects)
    pool.keep_only({folder_of(obj) for obj in objects})
    alive = {obj.data.session_uid for obj in objects}
    for uid in set(_written) - alive:
        del _written[uid]


def forget_all() -> None:
    """Close everything, as before another file is loaded."""
    pool.keep_only(set())
    for memory in (_rest, _written):
        memory.clear()
