"""Splats and Cycles (or EEVEE, Workbench) in one picture: nodes added beside those that the user has.

Blender has one render engine a scene. So a second scene, the *splat scene*, shows the first as its background set (Blender's
own way to have all of a scene in another, what is added later included) and renders it with our engine: splats alone, on a
transparent film, hidden where meshes of the first scene are before them. The compositor's Render Layers node renders that
scene along with the first, at its frame, and Alpha Over puts its picture over. Nothing of the first scene's is changed.

A third scene, the *shadow scene*, is there where shadows are to fall on the splats: Cycles renders the proxies (`proxy`) as
shadow catchers in it, and its Shadow Catcher pass, 1 where there is no shadow, darkens the splats.

Blender hands frame and size to these scenes, and no more: camera, fractions of frames, time remapping, border and what else
decides the picture are copied over by `sync`, before every render and as they are edited.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import bpy
from bpy.app.handlers import persistent

from ..engine.errors import UserError
from . import avatar, compat, proxy
from .draw.viewport import ENGINE

PART = "ua3dtalk_part"
"""Custom property of our nodes: which part they are."""
MADE_TREE = "ua3dtalk_made"
"""Custom property of a tree that was made for our nodes."""
OF, ROLE = "ua3dtalk_helps", "ua3dtalk_role"
"""Custom properties of the scenes that are made here: which scene they belong to, and what for."""
SPLATS, SHADOWS = "splats", "shadows"
_FRAME, _SCENE, _LIT, _DARKENED, _OVER = "frame", "scene", "lit", "darkened", "over"

_SYNCED = (
    "resolution_x", "resolution_y", "resolution_percentage", "pixel_aspect_x", "pixel_aspect_y",
    "use_border", "use_crop_to_border", "border_min_x", "border_max_x", "border_min_y", "border_max_y",
    "frame_map_old", "frame_map_new", "fps", "fps_base", "use_multiview",
    "use_motion_blur", "motion_blur_shutter", "motion_blur_position", "use_simplify",
)  # fmt: skip
_TAKEN_ONCE = ("device", "samples", "use_denoising", "use_adaptive_sampling", "adaptive_threshold")
"""Of Cycles' settings; afterwards the shadow scene has its own."""


@dataclass(frozen=True)
class Compositing:
    """What was set up.

    Attributes:
        splats: the splat scene. shadows: the shadow scene, or None.
        tree: the scene's compositing nodes, ours among them.
        result: output of our last node, the combined picture.
        connected: it goes to the output. notes: what the user is to know, one line each.
    """

    splats: bpy.types.Scene
    shadows: bpy.types.Scene | None
    tree: bpy.types.NodeTree
    result: bpy.types.NodeSocket
    connected: bool
    notes: list[str] = field(default_factory=list)


def helper(scene: bpy.types.Scene, role: str = SPLATS) -> bpy.types.Scene | None:
    """The splat scene (or the shadow scene) of a scene, or None."""
    return next((one for one in bpy.data.scenes if one.get(OF) == scene and one.get(ROLE) == role), None)


def is_helper(scene: bpy.types.Scene) -> bool:
    """True for a scene that was made here."""
    return isinstance(scene.get(OF), bpy.types.Scene)


def add(scene: bpy.types.Scene, connect: bool = False, layer: str = "", shadows: bool | None = None) -> Compositing:
    """Add the nodes, or bring those that are there up to date.

    Args:
        scene: rendered by Cycles, EEVEE or Workbench.
        connect: let the combined picture be the output also where something of the user's is (its link is replaced).
        layer: view layer whose picture the splats go over; the first that renders by default.
        shadows: let shadows of the scene fall on the splats (Cycles renders them, for avatars that have a proxy); None: as it is.

    Raises:
        UserError: nothing to combine, the scene's data cannot be edited, or shadows are asked for without a proxy.
    """
    _check(scene, layer, bool(shadows))
    had_none = compat.compositor_tree(scene) is None  # then the output is free, and nothing of the user's comes into use
    tree = compat.compositor_tree(scene, make=True)
    if had_none:
        tree[MADE_TREE] = True
    splats = helper(scene) or _new_scene(scene, SPLATS)
    if shadows is False:
        _remove_parts(scene, tree, SHADOWS, _LIT, _DARKENED)
    elif shadows and helper(scene, SHADOWS) is None:
        _new_scene(scene, SHADOWS)
    sync(scene)
    result = _nodes(tree, scene, layer)
    return _connect(scene, splats, tree, result, connect, had_none)


def _check(scene: bpy.types.Scene, layer: str, shadows: bool) -> None:
    tree = compat.compositor_tree(scene)
    if is_helper(scene):
        raise UserError(f"{scene.name} is a part of the compositing of {scene[OF].name}.", "Do it in that scene.")
    if scene.library is not None:
        raise UserError(f"{scene.name} is linked from {scene.library.filepath}.", "Do it in its own file.")
    if tree is not None and tree.library is not None:
        raise UserError(f"The compositing nodes of {scene.name} are linked from {tree.library.filepath}.", "Make them local.")
    if scene.render.engine == ENGINE:
        raise UserError(f"{scene.name} renders splats alone.", "Choose Cycles or EEVEE as its render engine; the splats come to it.")
    if layer and layer not in scene.view_layers:
        raise UserError(f"{scene.name} has no view layer {layer!r}.", "Check the name.")
    if shadows and not any(proxy.of(obj) for obj in avatar.avatars(scene.objects)):
        raise UserError(f"No avatar of {scene.name} has a proxy for shadows to fall on.", "Add one with Add Shadow Proxy.")
    if shadows and not hasattr(scene, "cycles"):
        raise UserError("Cycles is switched off, and it renders the shadows.", "Switch it on in Blender's preferences.")


def remove(scene: bpy.types.Scene) -> bool:
    """Take nodes and scenes away again; all else stays. True where there were any."""
    tree = compat.compositor_tree(scene)
    found = _remove_parts(scene, tree, SPLATS, SHADOWS, _FRAME, _SCENE, _LIT, _DARKENED, _OVER)
    if found and tree is not None and tree.pop(MADE_TREE, False) and len(tree.nodes) < 2:
        compat.drop_compositor_tree(scene)  # all that it held was ours and the node of its output
    return found


def _remove_parts(scene: bpy.types.Scene, tree: bpy.types.NodeTree | None, *parts: str) -> bool:
    nodes = [node for node in tree.nodes if node.get(PART) in parts] if tree is not None and tree.library is None else []
    scenes = [one for role in (SPLATS, SHADOWS) if role in parts and (one := helper(scene, role)) is not None]
    for node in nodes:
        tree.nodes.remove(node)
    for one in scenes:
        bpy.data.scenes.remove(one)
    return bool(nodes or scenes)


def _new_scene(scene: bpy.types.Scene, role: str) -> bpy.types.Scene:
    made = bpy.data.scenes.new(f"{scene.name} {role.capitalize()}")
    made[OF], made[ROLE] = scene, role
    made.background_set = scene
    made.render.film_transparent = True
    if role == SPLATS:
        made.render.engine = ENGINE
        made.view_layers[0].use_pass_z = True
        return made
    made[proxy.CATCHES] = 1.0
    made.render.engine = "CYCLES"
    made.view_layers[0].cycles.use_pass_shadow_catcher = True
    for name in _TAKEN_ONCE:
        setattr(made.cycles, name, getattr(scene.cycles, name))
    return made


def _nodes(tree: bpy.types.NodeTree, scene: bpy.types.Scene, layer: str) -> bpy.types.NodeSocket:
    there = {node[PART]: node for node in tree.nodes if PART in node}
    user = [node for node in tree.nodes if PART not in node]
    left = min((node.location.x for node in user), default=0.0)
    below = min((node.location.y - max(node.height, 200.0) for node in user), default=0.0) - 300.0

    def part(name: str, kind: str, label: str, x: float, y: float) -> bpy.types.Node:
        if name not in there:
            node = there[name] = tree.nodes.new(kind)
            node[PART], node.name, node.label, node.location = name, f"UA-3DTalk {name}", label, (left + x, below + y)
            if name != _FRAME:
                node.parent = there.get(_FRAME)
        return there[name]

    def picture(name: str, of: bpy.types.Scene, y: float) -> bpy.types.Node:
        node = part(name, "CompositorNodeRLayers", name.capitalize(), 30.0, y)
        if node.scene != of:
            node.scene = of
        return node

    def join(source: bpy.types.NodeSocket, socket: bpy.types.NodeSocket) -> None:
        # What the user put between stays.
        if not socket.is_linked or PART in socket.links[0].from_node:
            tree.links.new(source, socket)

    part(_FRAME, "NodeFrame", "UA-3DTalk: scene and splats", 0.0, 0.0)
    is_new = _SCENE not in there
    plain, splats = picture(_SCENE, scene, -40.0), picture(SPLATS, helper(scene), -400.0)
    if layer or is_new:
        plain.layer = layer or next((one for one in scene.view_layers if one.use), scene.view_layers[0]).name
    over = part(_OVER, "CompositorNodeAlphaOver", "Scene and Splats", 900.0, -200.0)
    background, foreground = compat.color_inputs(over)
    join(plain.outputs["Image"], background)
    shadows = helper(scene, SHADOWS)
    if shadows is None:
        join(splats.outputs["Image"], foreground)
        return over.outputs[0]
    caught = picture(SHADOWS, shadows, -760.0)
    # The pass is above 1 where the scene throws light on the head; the splats have their light, and only lose some.
    lit = part(_LIT, compat.MIX_NODE, "Shadow, at most 1", 330.0, -600.0)
    darkened = part(_DARKENED, compat.MIX_NODE, "Splats in Shadow", 600.0, -400.0)
    low, one, out = compat.mix_colors(lit, "DARKEN")
    one.default_value = 1.0, 1.0, 1.0, 1.0
    join(caught.outputs["Shadow Catcher"], low)
    color, factor, dark = compat.mix_colors(darkened, "MULTIPLY")
    join(splats.outputs["Image"], color)
    join(out, factor)
    join(dark, foreground)
    return over.outputs[0]


def _connect(
    scene: bpy.types.Scene, splats: bpy.types.Scene, tree: bpy.types.NodeTree, result: bpy.types.NodeSocket, connect: bool, had_none: bool
) -> Compositing:
    notes = []
    output = compat.compositor_output(tree, make=connect)
    goes_there = output is not None and _leads_to(result.node, output)
    free = output is not None and not output.is_linked and (had_none or compat.compositor_in_use(scene))
    if not goes_there and (connect or free):
        tree.links.new(result, output)
        goes_there = True
    if had_none or connect:
        compat.use_compositor(scene)
    if not goes_there:
        notes.append(f"The output keeps what it had; connect the node {result.node.label!r} where you want the picture")
    if not compat.compositor_in_use(scene):
        notes.append("The compositor is switched off: the render shows the picture once it is on")
    for obj in avatar.avatars(scene.objects):
        if compat.draws_splats(obj.data) and obj.visible_camera:
            notes.append(f"This Blender draws splats itself: {obj.name} comes twice until its Visibility > Ray Visibility > Camera is off")
    return Compositing(splats, helper(scene, SHADOWS), tree, result, goes_there, notes)


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
    """Bring what decides the picture from a scene to those that help it. Writes only what differs; nothing where there are none."""
    for made in bpy.data.scenes:
        if made.get(OF) != scene:
            continue
        for name in _SYNCED:
            _copy(scene.render, made.render, name)
        _copy(scene, made, "frame_subframe")
        if made.background_set != scene:
            made.background_set = scene
        if made.camera != (camera := camera_of(scene)):
            made.camera = camera
        if made[ROLE] == SHADOWS:
            _copy(scene, made, "world")


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
