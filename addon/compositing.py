"""Splats and Cycles (or EEVEE, Workbench) in one picture: nodes added beside those that the user has.

Blender has one render engine a scene. So a second scene, the *splat scene*, shows the first as its background set (Blender's
own way to have all of a scene in another, what is added later included) and renders it with our engine: splats alone, on a
transparent film, hidden where meshes of the first scene are before them. The compositor's Render Layers node renders that
scene along with the first, at its frame, and Alpha Over puts its picture over. Nothing of the first scene's is changed.

Blender hands frame and size to the second scene, and no more: camera, fractions of frames, time remapping, border and what
else decides the picture are copied over by `sync`, before every render and as they are edited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bpy
from bpy.app.handlers import persistent

from ..engine.errors import UserError
from . import compat
from .draw.viewport import ENGINE

PART = "ua3dtalk_part"
"""Custom property of our nodes: which part they are."""
OF = "ua3dtalk_splats_of"
"""Custom property of a splat scene: the scene that it belongs to."""
_FRAME, _SCENE, _SPLATS, _OVER = "frame", "scene", "splats", "over"

_SYNCED = (
    "resolution_x", "resolution_y", "resolution_percentage", "pixel_aspect_x", "pixel_aspect_y",
    "use_border", "use_crop_to_border", "border_min_x", "border_max_x", "border_min_y", "border_max_y",
    "frame_map_old", "frame_map_new", "fps", "fps_base", "use_multiview",
    "use_motion_blur", "motion_blur_shutter", "motion_blur_position", "use_simplify",
)  # fmt: skip


@dataclass(frozen=True)
class Compositing:
    """What was set up.

    Attributes:
        splats: the splat scene.
        tree: the scene's compositing nodes, ours among them.
        result: output of our last node, the combined picture.
        connected: it goes to the output. notes: what the user is to know, one line each.
    """

    splats: bpy.types.Scene
    tree: bpy.types.NodeTree
    result: bpy.types.NodeSocket
    connected: bool
    notes: list[str] = field(default_factory=list)


def splat_scene(scene: bpy.types.Scene) -> bpy.types.Scene | None:
    """The splat scene of a scene, or None."""
    return next((one for one in bpy.data.scenes if one.get(OF) == scene), None)


def is_splat_scene(scene: bpy.types.Scene) -> bool:
    """True for a scene that was made here."""
    return isinstance(scene.get(OF), bpy.types.Scene)


def add(scene: bpy.types.Scene, connect: bool = False, layer: str = "") -> Compositing:
    """Add the nodes, or bring those that are there up to date.

    Args:
        scene: rendered by Cycles, EEVEE or Workbench.
        connect: let the combined picture be the output also where something of the user's is (its link is replaced).
        layer: view layer whose picture the splats go over; the first that renders by default.

    Raises:
        UserError: nothing to combine, or the scene's data cannot be edited.
    """
    if is_splat_scene(scene):
        raise UserError(f"{scene.name} holds the splats of {scene[OF].name}.", "Do it in that scene.")
    if scene.library is not None:
        raise UserError(f"{scene.name} is linked from {scene.library.filepath}.", "Do it in its own file.")
    if scene.render.engine == ENGINE:
        raise UserError(f"{scene.name} renders splats alone.", "Choose Cycles or EEVEE as its render engine; the splats come to it.")
    if layer and layer not in scene.view_layers:
        raise UserError(f"{scene.name} has no view layer {layer!r}.", "Check the name.")
    splats = splat_scene(scene) or _new_scene(scene)
    sync(scene)
    ours = compat.compositor_tree(scene) is None  # then the output is free, and nothing of the user's comes into use
    tree = compat.compositor_tree(scene, make=True)
    if tree.library is not None:
        raise UserError(f"The compositing nodes of {scene.name} are linked from {tree.library.filepath}.", "Make them local.")
    result = _nodes(tree, scene, splats, layer)
    return _connect(scene, splats, tree, result, connect, ours)


def remove(scene: bpy.types.Scene) -> bool:
    """Take nodes and splat scene away again; all else stays. True where there were any."""
    splats, tree = splat_scene(scene), compat.compositor_tree(scene)
    nodes = [node for node in tree.nodes if PART in node] if tree is not None and tree.library is None else []
    for node in nodes:
        tree.nodes.remove(node)
    if splats is not None:
        bpy.data.scenes.remove(splats)
    return bool(nodes) or splats is not None


def _new_scene(scene: bpy.types.Scene) -> bpy.types.Scene:
    made = bpy.data.scenes.new(f"{scene.name} Splats")
    made[OF] = scene
    made.background_set = scene
    made.render.engine = ENGINE
    made.render.film_transparent = True
    made.view_layers[0].use_pass_z = True
    return made


def _nodes(tree: bpy.types.NodeTree, scene: bpy.types.Scene, splats: bpy.types.Scene, layer: str) -> bpy.types.NodeSocket:
    there = {node[PART]: node for node in tree.nodes if PART in node}
    user = [node for node in tree.nodes if PART not in node]
    left = min((node.location.x for node in user), default=0.0)
    below = min((node.location.y - max(node.height, 200.0) for node in user), default=0.0) - 300.0

    def part(name: str, kind: str, label: str, x: float, y: float) -> bpy.types.Node:
        if name not in there:
            node = there[name] = tree.nodes.new(kind)
            node[PART], node.name, node.label, node.location = name, f"UA-3DTalk {name}", label, (left + x, below + y)
            if name != _FRAME:
                node.parent = there[_FRAME]
        return there[name]

    part(_FRAME, "NodeFrame", "UA-3DTalk: scene and splats", 0.0, 0.0)
    if _SCENE not in there:
        layer = layer or next((one for one in scene.view_layers if one.use), scene.view_layers[0]).name
    picture = part(_SCENE, "CompositorNodeRLayers", "Scene", 30.0, -40.0)
    picture.scene = scene
    if layer:
        picture.layer = layer
    over_it = part(_SPLATS, "CompositorNodeRLayers", "Splats", 30.0, -400.0)
    if over_it.scene != splats:
        over_it.scene = splats
    over = part(_OVER, "CompositorNodeAlphaOver", "Scene and Splats", 400.0, -200.0)
    for source, socket in zip((picture, over_it), compat.color_inputs(over)):
        if not socket.is_linked:  # what the user put between stays
            tree.links.new(source.outputs["Image"], socket)
    return over.outputs[0]


def _connect(
    scene: bpy.types.Scene, splats: bpy.types.Scene, tree: bpy.types.NodeTree, result: bpy.types.NodeSocket, connect: bool, ours: bool
) -> Compositing:
    notes = []
    output = compat.compositor_output(tree, make=connect)
    goes_there = output is not None and _leads_to(result.node, output)
    free = output is not None and not output.is_linked and (ours or compat.compositor_in_use(scene))
    if not goes_there and (connect or free):
        tree.links.new(result, output)
        goes_there = True
    if ours or connect:
        compat.use_compositor(scene)
    if not goes_there:
        notes.append(f"The output keeps what it had; connect the node {result.node.label!r} where you want the picture")
    if not compat.compositor_in_use(scene):
        notes.append("The compositor is switched off: the render shows the picture once it is on")
    return Compositing(splats, tree, result, goes_there, notes)


def _leads_to(node: bpy.types.Node, socket: bpy.types.NodeSocket) -> bool:
    """True where a socket shows what a node makes, whatever is between."""
    seen, waiting = set(), [link.from_node for link in socket.links]
    while waiting:
        one = waiting.pop()
        if one == node:
            return True
        if one.name not in seen:
            seen.add(one.name)
            waiting += [link.from_node for entry in one.inputs for link in entry.links]
    return False


def camera_of(scene: bpy.types.Scene) -> bpy.types.Object | None:
    """The scene's camera at its frame: markers decide; Blender switches `Scene.camera` only after `render_pre`."""
    bound = [marker for marker in scene.timeline_markers if marker.camera is not None and not marker.camera.hide_render]
    if not bound:
        return scene.camera
    remapped = scene.render.frame_map_old != scene.render.frame_map_new
    frame = int(scene.frame_current_final) if remapped else scene.frame_current
    past = [marker for marker in bound if marker.frame <= frame]
    # Before the first one, Blender takes the first.
    return (max(past, key=lambda m: m.frame) if past else min(bound, key=lambda m: m.frame)).camera


def sync(scene: bpy.types.Scene) -> None:
    """Bring what decides the picture from a scene to its splat scene. Writes only what differs; nothing where there is none."""
    splats = splat_scene(scene)
    if splats is None:
        return
    for name in _SYNCED:
        _copy(scene.render, splats.render, name)
    if splats.background_set != scene:
        splats.background_set = scene
    if splats.frame_subframe != scene.frame_subframe:
        splats.frame_subframe = scene.frame_subframe
    if splats.camera != (camera := camera_of(scene)):
        splats.camera = camera


def _copy(source: Any, target: Any, name: str) -> None:
    if getattr(target, name) != (value := getattr(source, name)):
        setattr(target, name, value)


@persistent
def _sync(scene: bpy.types.Scene, *_: Any) -> None:
    sync(scene)


# `render_pre` comes after the frame was set and before the first scene is drawn. Edits are taken over as they happen, on
# Blender's main thread, so that there is next to nothing left to write while a render runs beside it.
_HANDLERS = ("render_init", "render_pre", "depsgraph_update_post", "load_post")


@persistent
def _loaded(*_: Any) -> None:
    for scene in bpy.data.scenes:
        sync(scene)


def register() -> None:
    """Add the handlers."""
    for name in _HANDLERS:
        getattr(bpy.app.handlers, name).append(_loaded if name == "load_post" else _sync)


def unregister() -> None:
    """Take the handlers away; nodes and scenes stay in their file."""
    for name in _HANDLERS:
        held = getattr(bpy.app.handlers, name)
        for function in (_sync, _loaded):
            if function in held:
                held.remove(function)
