"""A stand-in of an avatar for Cycles and EEVEE: never seen, but in the way of light.

Those engines know nothing of splats (before Blender 5.3), so a head would cast no shadow and be in no mirror. The proxy is a
child object whose geometry nodes take the avatar's own points, as they are at each frame, and show the opaque ones as balls
of the splats' size and colour: both engines draw points as balls at little cost (43,000 points take about 1 ms a frame, where a mesh
around the points took 100), and it follows every frame because it has no data of its own. Workbench has no such thing as an unseen object and shows it.
"""

from __future__ import annotations

from typing import Any

import bpy

from ..engine.errors import UserError
from . import compat
from .core.attributes import BASE, SCALE

MARK = "ua3dtalk_proxy"
"""Custom property of what is made here: object, node group, material. Its value is the making's version."""
CATCHES = "ua3dtalk_catches"
"""Custom property of scenes: 1 where proxies are seen, as shadow catchers (the shadow scene of `compositing`)."""
_VERSION = 1
COLOR = "ua3dtalk:color"
"""Point attribute of the proxy: the splat's colour from afar, sRGB."""
_SH_C0 = 0.28209479177387814


def of(obj: bpy.types.Object) -> bpy.types.Object | None:
    """The proxy of an avatar, or None."""
    return next((child for child in obj.children if MARK in child), None)


def add(obj: bpy.types.Object, size: float = 2.0, opacity: float = 0.3, in_viewport: bool = False) -> bpy.types.Object:
    """Give an avatar its proxy, or change the one it has.

    Args:
        size: radius of a ball in standard deviations of its splat (the middle one of the three: hair stays thin), > 0.
        opacity: splats that are less opaque than this, 0..1, are left out.
        in_viewport: have it in 3D views too (EEVEE and Cycles draw it there); else in renders only.

    Raises:
        UserError: the avatar is linked from another file.
    """
    if obj.library is not None:
        raise UserError(f"{obj.name} is linked from {obj.library.filepath}.", "Add the proxy in its own file, or make it local.")
    if not size > 0.0 or not 0.0 <= opacity <= 1.0:
        raise UserError(f"A proxy of size {size:g} and opacity {opacity:g} is out of range.", "Size is above 0, opacity 0 to 1.")
    made = of(obj) or _new_object(obj)
    modifier = made.modifiers[MARK]
    modifier.node_group = _node_group()
    for name, value in {"Avatar": obj, "Size": size, "Least Opacity": opacity, "Material": _material()}.items():
        compat.set_modifier_input(modifier, name, value)
    modifier.show_viewport = in_viewport
    obj.update_tag()
    return made


def remove(obj: bpy.types.Object) -> bool:
    """Take the proxy away, and what it alone used. True where there was one."""
    made = of(obj)
    if made is None:
        return False
    mesh, tree = made.data, made.modifiers[MARK].node_group
    bpy.data.objects.remove(made)
    bpy.data.meshes.remove(mesh)
    if tree is not None and not tree.users:
        bpy.data.node_groups.remove(tree)
    for material in [one for one in bpy.data.materials if MARK in one and not one.users]:
        bpy.data.materials.remove(material)
    return True


def _new_object(obj: bpy.types.Object) -> bpy.types.Object:
    name = f"{obj.name} Proxy"
    made = bpy.data.objects.new(name, bpy.data.meshes.new(name))
    made[MARK] = _VERSION
    for collection in obj.users_collection:
        collection.objects.link(made)
    made.parent = obj
    made.hide_select = True
    made.visible_camera = False
    made.modifiers.new(MARK, "NODES")
    # A head that is not rendered stands in nobody's light.
    _drive(made, "hide_render", type="SINGLE_PROP", id=obj, data_path="hide_render")
    # Drivers may ask which scene is being evaluated: seen in the shadow scene, and in no other.
    for name in ("visible_camera", "is_shadow_catcher"):
        _drive(made, name, type="CONTEXT_PROP", context_property="ACTIVE_SCENE", data_path=f'["{CATCHES}"]', use_fallback_value=True)
    return made


def _drive(obj: bpy.types.Object, name: str, type: str, **settings: Any) -> None:
    driver = obj.driver_add(name).driver
    driver.type = "SUM"
    variable = driver.variables.new()
    variable.type = type
    for setting, value in settings.items():
        setattr(variable.targets[0], setting, value)


def _marked(collection: Any) -> Any:
    return next((one for one in collection if one.get(MARK) == _VERSION and one.library is None), None)


def _material() -> bpy.types.Material:
    """Diffuse, in the splats' colours: what the head throws back of the scene's light."""
    found = _marked(bpy.data.materials)
    if found is not None:
        return found
    made = bpy.data.materials.new("UA-3DTalk Proxy")
    made[MARK] = _VERSION
    tree = compat.material_nodes(made)
    tree.nodes.clear()
    color, linear = tree.nodes.new("ShaderNodeAttribute"), tree.nodes.new("ShaderNodeGamma")
    surface, output = tree.nodes.new("ShaderNodeBsdfDiffuse"), tree.nodes.new("ShaderNodeOutputMaterial")
    color.attribute_name = COLOR
    linear.inputs["Gamma"].default_value = 2.2
    tree.links.new(color.outputs["Color"], linear.inputs["Color"])
    tree.links.new(linear.outputs["Color"], surface.inputs["Color"])
    tree.links.new(surface.outputs["BSDF"], output.inputs["Surface"])
    for column, node in enumerate((color, linear, surface, output)):
        node.location = 200.0 * column, 0.0
    return made


def _node_group() -> bpy.types.NodeTree:
    """Avatar -> points without the faint ones, radius and colour from their splats, material."""
    found = _marked(bpy.data.node_groups)
    if found is not None:
        return found
    tree = bpy.data.node_groups.new("UA-3DTalk Proxy", "GeometryNodeTree")
    tree[MARK] = _VERSION
    tree.is_modifier = True
    sockets = {"Avatar": "NodeSocketObject", "Size": "NodeSocketFloat", "Least Opacity": "NodeSocketFloat", "Material": "NodeSocketMaterial"}
    tree.interface.new_socket("Geometry", in_out="OUTPUT", socket_type="NodeSocketGeometry")
    for name, kind in sockets.items():
        tree.interface.new_socket(name, in_out="INPUT", socket_type=kind)
    given, out = _node(tree, "NodeGroupInput"), _node(tree, "NodeGroupOutput")
    points = _node(tree, "GeometryNodeObjectInfo", transform_space="RELATIVE")
    base = _node(tree, "GeometryNodeInputNamedAttribute", {"Name": BASE}, data_type="FLOAT_COLOR")
    parts = _node(tree, "FunctionNodeSeparateColor")
    faint = _node(tree, "FunctionNodeCompare", operation="LESS_THAN", data_type="FLOAT")
    kept = _node(tree, "GeometryNodeDeleteGeometry", domain="POINT")
    shine = _node(tree, "ShaderNodeVectorMath", {1: (_SH_C0,) * 3, 2: (0.5,) * 3}, operation="MULTIPLY_ADD")
    shown = _node(tree, "ShaderNodeVectorMath", {1: (0.0,) * 3}, operation="MAXIMUM")
    colored = _node(tree, "GeometryNodeStoreNamedAttribute", {"Name": COLOR}, data_type="FLOAT_COLOR", domain="POINT")
    sized, dressed = _node(tree, "GeometryNodeSetPointRadius"), _node(tree, "GeometryNodeSetMaterial")
    radius = _node(tree, "ShaderNodeMath", operation="MULTIPLY")
    links = (
        (given.outputs["Avatar"], points.inputs["Object"]),
        (base.outputs[0], parts.inputs[0]), (parts.outputs["Alpha"], faint.inputs[0]), (given.outputs["Least Opacity"], faint.inputs[1]),
        (points.outputs["Geometry"], kept.inputs["Geometry"]), (faint.outputs[0], kept.inputs["Selection"]),
        (base.outputs[0], shine.inputs[0]), (shine.outputs[0], shown.inputs[0]),
        (kept.outputs[0], colored.inputs["Geometry"]), (shown.outputs[0], _value(colored)),
        (_middle(tree), radius.inputs[0]), (given.outputs["Size"], radius.inputs[1]),
        (colored.outputs[0], sized.inputs[0]), (radius.outputs[0], sized.inputs["Radius"]),
        (sized.outputs[0], dressed.inputs["Geometry"]), (given.outputs["Material"], dressed.inputs["Material"]),
        (dressed.outputs[0], out.inputs[0]),
    )  # fmt: skip
    for source, target in links:
        tree.links.new(source, target)
    return tree


def _node(tree: bpy.types.NodeTree, kind: str, values: dict[str | int, Any] | None = None, **settings: Any) -> bpy.types.Node:
    node = tree.nodes.new(kind)
    node.location = 180.0 * (len(tree.nodes) % 6), -220.0 * (len(tree.nodes) // 6)
    for name, value in settings.items():
        setattr(node, name, value)
    for name, value in (values or {}).items():
        node.inputs[name].default_value = value
    return node


def _value(store: bpy.types.Node) -> bpy.types.NodeSocket:
    """The one of a node's inputs called `Value` that its type of data uses."""
    return next(socket for socket in store.inputs if socket.name == "Value" and socket.enabled)


def _middle(tree: bpy.types.NodeTree) -> bpy.types.NodeSocket:
    """The middle one of a splat's three standard deviations."""
    scale = _node(tree, "GeometryNodeInputNamedAttribute", {"Name": SCALE}, data_type="FLOAT_VECTOR")
    axes = _node(tree, "ShaderNodeSeparateXYZ")
    tree.links.new(scale.outputs[0], axes.inputs[0])

    def of_two(operation: str, a: bpy.types.NodeSocket, b: bpy.types.NodeSocket) -> bpy.types.NodeSocket:
        node = _node(tree, "ShaderNodeMath", operation=operation)
        tree.links.new(a, node.inputs[0])
        tree.links.new(b, node.inputs[1])
        return node.outputs[0]

    x, y, z = axes.outputs
    return of_two("MAXIMUM", of_two("MINIMUM", x, y), of_two("MINIMUM", of_two("MAXIMUM", x, y), z))
