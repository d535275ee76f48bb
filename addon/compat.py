"""Every difference between Blender versions, told by what is there rather than by the version's number."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import bpy
import numpy as np

# ------------------------------------------------------------------------------------------------------ point clouds

_ATTRIBUTE_TYPES = {item.identifier for item in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items}
# kind -> (attribute type, name of the value in `data`)
_KINDS = {
    "vector": ("FLOAT_VECTOR", "vector"),
    "quaternion": ("QUATERNION", "value"),
    "float": ("FLOAT", "value"),
    "integer": ("INT", "value"),
    # FLOAT4 came with 5.1; before, the same four numbers travel as a colour (scene linear, so nothing converts them).
    "float4": ("FLOAT4", "vector") if "FLOAT4" in _ATTRIBUTE_TYPES else ("FLOAT_COLOR", "color"),
}


def new_pointcloud(name: str, positions: np.ndarray) -> bpy.types.PointCloud:
    """A point cloud data-block of points at `positions` [N,3].

    Raises:
        RuntimeError: Blender refuses (before 5.1 the points come from a converted mesh, which needs Object Mode).
    """
    flat = np.ascontiguousarray(positions, np.float32).ravel()
    if "resize" in bpy.types.PointCloud.bl_rna.functions:
        cloud = bpy.data.pointclouds.new(name)
        cloud.resize(len(positions))
        cloud.attributes["position"].data.foreach_set("vector", flat)
        return cloud
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(positions))
    # Before it is converted: Blender keeps the bounds that the cloud has then ("View Selected" frames them).
    mesh.vertices.foreach_set("co", flat)
    made = bpy.data.objects.new(name, mesh)
    collection = bpy.context.scene.collection
    collection.objects.link(made)
    try:
        with bpy.context.temp_override(object=made, active_object=made, selected_objects=[made], selected_editable_objects=[made]):
            bpy.ops.object.convert(target="POINTCLOUD")
        cloud = made.data
        if not isinstance(cloud, bpy.types.PointCloud):
            raise RuntimeError("Blender made no point cloud")
    finally:
        bpy.data.objects.remove(made)
        if not mesh.users:
            bpy.data.meshes.remove(mesh)
    cloud.name = name
    return cloud


def mark_as_splats(cloud: bpy.types.PointCloud) -> bool:
    """Tell Blender that the points are Gaussian splats, where it can draw such (5.3). True where it took it."""
    kind = cloud.bl_rna.properties.get("type")
    if kind is None or "GAUSSIAN_SPLAT" not in {item.identifier for item in kind.enum_items}:
        return False
    cloud.type = "GAUSSIAN_SPLAT"
    return True


def draws_splats(cloud: bpy.types.PointCloud) -> bool:
    """True where Blender's own engines draw the point cloud as Gaussian splats."""
    return getattr(cloud, "type", "") == "GAUSSIAN_SPLAT"


def write_attribute(cloud: bpy.types.PointCloud, name: str, kind: str, values: np.ndarray) -> None:
    """Set a point attribute, made if missing. kind: `vector`, `quaternion`, `float4`, `float` or `integer`.

    Raises:
        ValueError: the number of values is not that of the points.
    """
    data_type, value = _KINDS[kind]
    attribute = cloud.attributes.get(name)
    if attribute is not None and (attribute.data_type != data_type or attribute.domain != "POINT"):
        cloud.attributes.remove(attribute)
        attribute = None
    if attribute is None:
        attribute = cloud.attributes.new(name, data_type, "POINT")
    if len(attribute.data) != len(values):
        raise ValueError(f"{len(values)} values for {len(attribute.data)} points")
    number = np.int32 if kind == "integer" else np.float32
    attribute.data.foreach_set(value, np.ascontiguousarray(values, number).ravel())


def read_attribute(cloud: bpy.types.PointCloud, name: str) -> np.ndarray:
    """A point attribute's values [N,...]. Raises KeyError where there is none."""
    attribute = cloud.attributes[name]
    value, width = {
        "FLOAT_VECTOR": ("vector", 3), "QUATERNION": ("value", 4), "FLOAT": ("value", 1), "INT": ("value", 1),
        "FLOAT_COLOR": ("color", 4), "FLOAT4": ("vector", 4),
    }[attribute.data_type]  # fmt: skip
    flat = np.empty(len(attribute.data) * width, np.int32 if attribute.data_type == "INT" else np.float32)
    attribute.data.foreach_get(value, flat)
    return flat if width == 1 else flat.reshape(-1, width)


# ------------------------------------------------------------------------------------------------------------ strips


def strips(scene: bpy.types.Scene, make: bool = False) -> Any:
    """The top strips of a scene's sequencer, or None where it has none and `make` is False."""
    editor = scene.sequence_editor or (scene.sequence_editor_create() if make else None)
    if editor is None:
        return None
    return editor.strips if hasattr(editor, "strips") else editor.sequences


def sound_strips(scene: bpy.types.Scene) -> list[Any]:
    """All sound strips of a scene, also those inside of meta strips."""
    editor = scene.sequence_editor
    if editor is None:
        return []
    every = editor.strips_all if hasattr(editor, "strips_all") else editor.sequences_all
    return [strip for strip in every if strip.type == "SOUND"]


def strip_times(strip: Any) -> tuple[float, float, float, float]:
    """(frame of the content's begin, frames of it cut away before that, first frame, first frame after) of a strip."""
    if hasattr(strip, "content_start"):  # 5.2's names; the old ones warn
        return strip.content_start, strip.content_trim_start, strip.left_handle, strip.right_handle
    return strip.frame_start, strip.animation_offset_start, strip.frame_final_start, strip.frame_final_end


def is_retimed(strip: Any) -> bool:
    """True where the strip's speed was changed: Blender does not tell which second of the sound a frame has then."""
    return len(getattr(strip, "retiming_keys", ())) > 0


# ---------------------------------------------------------------------------------------------------------- f-curves


def fcurves(owner: bpy.types.ID) -> Any:
    """The F-curves that the owner's action holds for it, or an empty list."""
    data = owner.animation_data
    if data is None or data.action is None:
        return []
    if hasattr(data, "action_slot"):
        if data.action_slot is None:
            return []
        from bpy_extras import anim_utils

        bag = anim_utils.action_get_channelbag_for_slot(data.action, data.action_slot)
        return [] if bag is None else bag.fcurves
    return data.action.fcurves


def fcurve(owner: bpy.types.ID, path: str) -> Any:
    """The F-curve of a property of `owner`, or None."""
    return next((curve for curve in fcurves(owner) if curve.data_path == path), None)


# ------------------------------------------------------------------------------------------------------------- sound


def sound_seconds(path: Path) -> float | None:
    """Length of a sound file as Blender plays it, or None where it cannot read it."""
    import aud

    try:
        sound = aud.Sound(str(path))
        rate, samples = sound.specs[0], sound.length
    except aud.error:
        return None
    return samples / rate if rate > 0 and samples > 0 else None


def add_command(name: str, run: Callable[[list[str]], int]) -> object:
    """Let `blender --command NAME ...` call `run` with its arguments for an exit code. Returns what `remove_command` wants."""
    register = getattr(bpy.utils, "register_cli_command", None)
    return None if register is None else register(name, run)


def remove_command(handle: object) -> None:
    """Undo `add_command`."""
    if handle is not None:
        bpy.utils.unregister_cli_command(handle)


def render_is_running() -> bool:
    """True while a render job runs beside the user interface."""
    return bpy.app.is_job_running("RENDER")


# ----------------------------------------------------------------------------------------------------------- drawing


def world_nodes(world: bpy.types.World) -> bpy.types.NodeTree | None:
    """The world's nodes where they count. Worlds always use them from 5.0 on, where asking gives a warning."""
    switch = bpy.types.World.bl_rna.properties.get("use_nodes")
    switchable = switch is not None and not getattr(switch, "is_deprecated", False)
    return world.node_tree if not switchable or world.use_nodes else None


def material_nodes(material: bpy.types.Material) -> bpy.types.NodeTree:
    """A material's nodes, in use. Materials always use them from 5.0 on, where saying so gives a warning."""
    if material.node_tree is None:
        material.use_nodes = True
    return material.node_tree


def set_modifier_input(modifier: bpy.types.NodesModifier, name: str, value: Any) -> None:
    """Set an input of a geometry-nodes modifier by its name in the node group. Raises KeyError where there is none."""
    items = modifier.node_group.interface.items_tree
    identifier = next((one.identifier for one in items if one.item_type == "SOCKET" and one.in_out == "INPUT" and one.name == name), None)
    if identifier is None:
        raise KeyError(name)
    if hasattr(modifier, "properties"):  # 5.2; before, inputs are custom properties
        getattr(modifier.properties.inputs, identifier).value = value
    else:
        modifier[identifier] = value


# -------------------------------------------------------------------------------------------------------- compositor

_NODE_GROUPS = "compositing_node_group" in bpy.types.Scene.bl_rna.properties
"""From 5.0 on a scene's compositing nodes are a node group that it names; before, it owns them."""


def compositor_tree(scene: bpy.types.Scene, make: bool = False) -> bpy.types.NodeTree | None:
    """The scene's compositing nodes (also where they are switched off), or None where it has none and `make` is False.

    A tree that is made is empty but for the node of its output, and is in use.
    """
    if _NODE_GROUPS:
        if scene.compositing_node_group is None and make:
            tree = bpy.data.node_groups.new(f"{scene.name} Compositing", "CompositorNodeTree")
            scene.compositing_node_group = tree
            compositor_output(tree, make=True)
        return scene.compositing_node_group
    is_there = scene.node_tree is not None and (scene.use_nodes or len(scene.node_tree.nodes) > 0)
    if not is_there and make:
        scene.use_nodes = is_there = True
        scene.node_tree.nodes.clear()  # Blender's example, which nobody has seen
        compositor_output(scene.node_tree, make=True)
    return scene.node_tree if is_there else None


def drop_compositor_tree(scene: bpy.types.Scene) -> None:
    """Leave a scene without compositing nodes, as if it never had any: an empty tree that is in use renders nothing."""
    if _NODE_GROUPS:
        tree = scene.compositing_node_group
        scene.compositing_node_group = None
        if not tree.users:
            bpy.data.node_groups.remove(tree)
    else:
        scene.node_tree.nodes.clear()
        scene.use_nodes = False


def compositor_in_use(scene: bpy.types.Scene) -> bool:
    """True where the scene's renders go through its compositing nodes."""
    if not scene.render.use_compositing:
        return False
    return scene.compositing_node_group is not None if _NODE_GROUPS else scene.use_nodes


def use_compositor(scene: bpy.types.Scene) -> None:
    """Let the scene's renders go through its compositing nodes."""
    scene.render.use_compositing = True
    if not _NODE_GROUPS:
        scene.use_nodes = True


def compositor_output(tree: bpy.types.NodeTree, make: bool = False) -> bpy.types.NodeSocket | None:
    """The socket that the finished picture goes into, or None where the tree has none and `make` is False."""
    kind = "NodeGroupOutput" if _NODE_GROUPS else "CompositorNodeComposite"
    found = [node for node in tree.nodes if node.bl_idname == kind]
    # Of several, a group knows which counts; of Composite nodes, one with a link is taken for it.
    found.sort(key=lambda node: not (node.is_active_output if _NODE_GROUPS else node.inputs[0].is_linked))
    if _NODE_GROUPS and make and not any(item.in_out == "OUTPUT" for item in tree.interface.items_tree if item.item_type == "SOCKET"):
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
    if not found and make:
        found = [tree.nodes.new(kind)]
    return next((socket for socket in found[0].inputs if socket.type == "RGBA"), None) if found else None


def color_inputs(node: bpy.types.Node) -> list[bpy.types.NodeSocket]:
    """A compositing node's colour inputs in order, named and numbered differently by each version: below, then above."""
    return [socket for socket in node.inputs if socket.type == "RGBA"]


MIX_NODE = "ShaderNodeMix" if _NODE_GROUPS else "CompositorNodeMixRGB"
"""The compositor's node that mixes two colours."""


def mix_colors(node: bpy.types.Node, blend: str) -> tuple[bpy.types.NodeSocket, bpy.types.NodeSocket, bpy.types.NodeSocket]:
    """Set a `MIX_NODE` to mix colours fully by a blend type; (first, second, result)."""
    node.blend_type = blend
    if _NODE_GROUPS:
        node.data_type = "RGBA"
        factor = next(socket for socket in node.inputs if socket.identifier == "Factor_Float")
        result = next(socket for socket in node.outputs if socket.identifier == "Result_Color")
        colors = [next(socket for socket in node.inputs if socket.identifier == name) for name in ("A_Color", "B_Color")]
    else:
        factor, result, colors = node.inputs[0], node.outputs[0], color_inputs(node)
    factor.default_value = 1.0
    return colors[0], colors[1], result
