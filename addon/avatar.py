"""Avatar objects: a point cloud that carries the Gaussians, and the properties beside it."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import bpy
import numpy as np

from ..engine.avatar import Avatar, Gaussians, load_avatar
from ..engine.errors import UserError
from ..engine.files import file_hash
from . import compat
from .core.attributes import BASE, BRANCH, POSITION, ROTATION, SCALE, moving_attributes, read_gaussians, static_attributes
from .core.paths import new_cache_name

_Stamp = tuple[int, int]
_FILES_KEPT = 4
"""Avatar files that stay open: as many as a scene may well have."""
_loaded: dict[Path, tuple[_Stamp, Avatar]] = {}
_hashes: dict[Path, tuple[_Stamp, str]] = {}
_hashing: dict[Path, Future[str]] = {}
_threads = ThreadPoolExecutor(1, "ua3dtalk hashes")


def is_avatar(obj: bpy.types.Object | None) -> bool:
    """True for an object that shows an avatar."""
    return obj is not None and obj.type == "POINTCLOUD" and obj.ua3dtalk.is_avatar


def avatars(objects: Iterable[bpy.types.Object]) -> list[bpy.types.Object]:
    """The avatars among objects."""
    return [obj for obj in objects if is_avatar(obj)]


def absolute(path: str, owner: bpy.types.ID | None = None) -> Path:
    """A path of a property as the file system knows it; `//` is the folder of the .blend that holds `owner`."""
    return Path(bpy.path.abspath(path, library=owner.library if owner is not None else None))


def stored(path: Path) -> str:
    """A path as a property keeps it: relative to the .blend where there is one and the user's preferences say so."""
    if bpy.data.filepath and bpy.context.preferences.filepaths.use_relative_paths:
        try:
            return bpy.path.relpath(str(path))
        except ValueError:  # another drive
            pass
    return str(path)


def _stamp(path: Path) -> _Stamp:
    try:
        status = path.stat()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Put the file back, or choose where it is now.") from error
    return status.st_mtime_ns, status.st_size


def load(path: Path) -> Avatar:
    """An avatar file, from memory while it stays the same. Raises UserError where it is missing or no avatar."""
    stamp = _stamp(path)
    found = _loaded.get(path)
    if found is None or found[0] != stamp:
        _loaded.pop(path, None)
        while len(_loaded) >= _FILES_KEPT:
            del _loaded[next(iter(_loaded))]
        found = _loaded[path] = (stamp, load_avatar(path))
    return found[1]


def hash_of(path: Path) -> str:
    """SHA-256 of a file, from memory while it stays the same. Raises UserError where it cannot be read."""
    stamp = _stamp(path)
    found = _hashes.get(path)
    if found is None or found[0] != stamp:
        found = _hashes[path] = (stamp, file_hash(path))
    return found[1]


def hash_soon(path: Path) -> str | None:
    """As `hash_of`, without waiting for the disk: None while a thread reads the file. Raises UserError as `hash_of`."""
    at_work = _hashing.get(path)
    if at_work is not None and at_work.done():
        del _hashing[path]
        at_work.result()
    known = _hashes.get(path)
    if known is not None and known[0] == _stamp(path):
        return known[1]
    if path not in _hashing:
        _hashing[path] = _threads.submit(hash_of, path)
    return None


def file_of(obj: bpy.types.Object) -> Path:
    """The avatar file of an object (whether it is there or not)."""
    return absolute(obj.ua3dtalk.avatar_path, obj)


def about(obj: bpy.types.Object) -> str:
    """All that the avatar's file says of itself, in paragraphs. Raises UserError where it cannot be read."""
    meta = load(file_of(obj)).meta
    parts = {"Created": meta.created, "From": meta.provenance, "Consent": meta.consent, "Licence": meta.licence}
    return "\n\n".join([meta.name, *(f"{title}: {text}" for title, text in parts.items() if text)])


def create(path: Path, name: str = "", collection: bpy.types.Collection | None = None) -> bpy.types.Object:
    """A new object that shows an avatar at rest; its origin is the avatar's.

    Args:
        name: of the object; the avatar's own by default.
        collection: where it is linked; the active one by default.

    Raises:
        UserError: not a valid avatar; nothing is changed.
    """
    avatar = load(path)
    rest, branch = avatar.rest()
    obj = bpy.data.objects.new(name or avatar.meta.name, _cloud(name or avatar.meta.name, rest, branch))
    # The splats are drawn by us; what Blender draws of the points themselves would speckle them. The box can be clicked.
    obj.display_type = "BOUNDS"
    properties = obj.ua3dtalk
    properties.is_avatar = True
    properties.avatar_path = stored(path)
    properties.avatar_hash = avatar.hash
    properties.cache_name = new_cache_name(obj.name)
    (collection or bpy.context.collection or bpy.context.scene.collection).objects.link(obj)
    return obj


def reload(obj: bpy.types.Object) -> None:
    """Show what the object's avatar file holds now (after it was changed, or another was chosen). Raises UserError."""
    avatar = load(file_of(obj))
    rest, branch = avatar.rest()
    old, name = obj.data, obj.data.name
    obj.data = _cloud(name, rest, branch)
    for material in old.materials:
        obj.data.materials.append(material)
    if not old.users:
        bpy.data.pointclouds.remove(old)
        obj.data.name = name
    obj.ua3dtalk.avatar_hash = avatar.hash


def _cloud(name: str, gaussians: Gaussians, branch: np.ndarray) -> bpy.types.PointCloud:
    try:
        cloud = compat.new_pointcloud(name, gaussians.means)
    except RuntimeError as error:
        raise UserError(f"Blender made no point cloud ({error}).", "Go to Object Mode and try again.") from error
    write_static(cloud, gaussians, branch)
    write_frame(cloud, gaussians.means, gaussians.quats, gaussians.scales)
    compat.mark_as_splats(cloud)
    return cloud


def write_static(cloud: bpy.types.PointCloud, gaussians: Gaussians, branch: np.ndarray) -> None:
    """Set what does not move."""
    for attribute, (kind, values) in static_attributes(gaussians, branch).items():
        compat.write_attribute(cloud, attribute, kind, values)


def write_frame(cloud: bpy.types.PointCloud, means: np.ndarray, quats: np.ndarray, scales: np.ndarray) -> None:
    """Set what moves: means [N,3], quats [N,4], scales [N,3]. Raises ValueError for another number of points."""
    for attribute, (kind, values) in moving_attributes(means, quats, scales).items():
        compat.write_attribute(cloud, attribute, kind, values)
    cloud.update_tag()


def read_cloud(cloud: bpy.types.PointCloud) -> tuple[Gaussians, np.ndarray]:
    """The Gaussians that a point cloud holds, and their branch. Raises UserError where attributes were removed."""
    names = [POSITION, SCALE, ROTATION, BASE, *(n for n in cloud.attributes.keys() if n.startswith("radiance:sh_"))]
    try:
        gaussians = read_gaussians({name: compat.read_attribute(cloud, name) for name in names})
        branch = compat.read_attribute(cloud, BRANCH) if BRANCH in cloud.attributes else np.zeros(len(gaussians))
    except KeyError as error:
        raise UserError(f"{cloud.name}: the point cloud has lost its attribute {error}.", "Reload the avatar.") from error
    return gaussians, branch.astype(np.uint8)
