"""Which avatars a dependency graph shows, instances included, and the scene's colours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import bpy
import numpy as np
from mathutils import Color
from numpy.typing import NDArray

from .. import compat
from .source import splats_at
from .splats import Splats


@dataclass(frozen=True)
class Owner:
    """The object that splats are of: its name and its Pass Index."""

    name: str
    pass_index: int


@dataclass(frozen=True)
class Found:
    """Avatars to draw, the object of each, and one line for each object that has not what was asked for."""

    splats: list[Splats] = field(default_factory=list)
    owners: list[Owner] = field(default_factory=list)
    problems: list[str] = field(default_factory=list)


def avatars_in(depsgraph: bpy.types.Depsgraph, frame: float, is_shown: Callable[[bpy.types.Object], bool] | None = None,
               instead: float | None = None) -> Found:
    """All avatars that the dependency graph shows, at a frame (float, subframes).

    is_shown: asked for the original object, or for the instancer of an instance; None shows all that the graph shows.
    instead: the frame of the splats of an avatar that has not `frame`; where the object is, is always the graph's.
    Never raises for what is wrong with an avatar; that becomes a line of `problems`, the other avatars are still found.
    """
    found = Found()
    known: dict[bpy.types.Object, Splats | None] = {}
    for instance in depsgraph.object_instances:
        if not instance.show_self:
            continue
        original = instance.object.original
        if is_shown and not is_shown((instance.parent if instance.is_instance else instance.object).original):
            continue
        if original not in known:
            try:
                known[original] = _splats_of(original, frame, instead)
            except Exception as error:  # noqa: BLE001 - whatever it is, it is shown to the user and must not stop the others
                known[original] = None
                found.problems.append(f"{original.name}: {error}")
            else:
                if known[original] is not None and known[original].note:
                    found.problems.append(f"{original.name}: {known[original].note}")
        if (splats := known[original]) is not None:
            found.splats.append(splats.at(np.array(instance.matrix_world, dtype=np.float64)))
            found.owners.append(Owner(original.name, original.pass_index))
    return found


def _splats_of(obj: bpy.types.Object, frame: float, instead: float | None) -> Splats | None:
    if instead is None or instead == frame:
        return splats_at(obj, frame)
    try:
        splats = splats_at(obj, frame)
    except Exception:  # noqa: BLE001 - whatever it is, the other frame is asked, and says what is wrong with that
        splats = None
    else:
        if splats is None or not splats.note:
            return splats
    return splats_at(obj, instead)


def from_rec709() -> NDArray[np.float64]:
    """[3,3] from linear Rec.709 (what sRGB values are, once their curve is undone) to the file's working space."""
    return np.array([Color(axis).from_rec709_linear_to_scene_linear() for axis in np.eye(3)], dtype=np.float64).T


def world_color(scene: bpy.types.Scene) -> tuple[float, float, float]:
    """The world's even colour, scene linear: its Background node's where no texture feeds it, else `World.color`."""
    world = scene.world
    if world is None:
        return 0.0, 0.0, 0.0
    tree = compat.world_nodes(world)
    output = tree.get_output_node("ALL") if tree else None
    surface = output.inputs["Surface"] if output else None
    node = surface.links[0].from_node if surface and surface.is_linked else None
    if node is not None and node.bl_idname == "ShaderNodeBackground":
        color, strength = node.inputs["Color"], node.inputs["Strength"]
        if not color.is_linked and not strength.is_linked:
            return tuple(c * strength.default_value for c in color.default_value[:3])
    return tuple(world.color)
