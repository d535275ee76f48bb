"""Runs in Blender's Python (bpy and numpy only): builds the scene of one folder and renders the views it still lacks.

    python look_render.py <folder> [--threads N]

<folder>/scene.npz holds the geometry in Blender's axes and units (1 unit = 10 cm), <folder>/views.json the views. Pictures appear
whole or not at all, so an interrupted run goes on where it stopped.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

import bpy
import numpy as np
from mathutils import Matrix, Vector

LIGHTS = (
    # name, watts, size, place; all look at (0, -.3, .3)
    ("key", 330.0, 2.4, (-3.6, -6.2, 4.0)),
    ("fill", 110.0, 4.0, (5.5, -6.0, 1.0)),
    ("rim", 190.0, 1.8, (3.6, 4.5, 4.0)),
    ("rim_left", 130.0, 1.6, (-4.2, 4.2, 2.5)),
)
WORLD = (0.75 * 0.28, 0.82 * 0.28, 0.95 * 0.28)


class Nodes:
    """Short words for a material's node tree."""

    def __init__(self, name: str) -> None:
        self.material = bpy.data.materials.new(name)
        self.material.use_nodes = True
        self.tree = self.material.node_tree
        self.tree.nodes.clear()
        self.output = self.tree.nodes.new("ShaderNodeOutputMaterial")

    def new(self, kind: str, **settings):
        node = self.tree.nodes.new(kind)
        for key, value in settings.items():
            if hasattr(node, key):
                setattr(node, key, value)
            else:
                self.put(node.inputs[key], value)
        return node

    def put(self, socket, value) -> None:
        if isinstance(value, bpy.types.NodeSocket):
            self.tree.links.new(value, socket)
        else:
            if socket.type == "RGBA" and len(value) == 3:
                value = (*value, 1.0)
            socket.default_value = value

    def attribute(self, name: str, colour: bool = False):
        node = self.new("ShaderNodeAttribute", attribute_name=name)
        return node.outputs["Vector" if colour else "Fac"]

    def math(self, operation: str, *values, clamp: bool = False):
        node = self.new("ShaderNodeMath", operation=operation)
        node.use_clamp = clamp
        for socket, value in zip(node.inputs, values):
            self.put(socket, value)
        return node.outputs[0]

    def ramp(self, value, low: float, high: float, to_low: float = 0.0, to_high: float = 1.0):
        node = self.new("ShaderNodeMapRange")
        node.interpolation_type = "SMOOTHSTEP"
        for name, v in (("Value", value), ("From Min", low), ("From Max", high), ("To Min", to_low), ("To Max", to_high)):
            self.put(node.inputs[name], v)
        return node.outputs["Result"]

    def mix(self, factor, a, b, blend: str = "MIX"):
        node = self.new("ShaderNodeMix", data_type="RGBA", blend_type=blend)
        self.put(node.inputs[0], factor)
        self.put(node.inputs[6], a)
        self.put(node.inputs[7], b)
        return node.outputs[2]

    def noise(self, position, scale: float, detail: float = 2.0):
        node = self.new("ShaderNodeTexNoise", Scale=scale, Detail=detail)
        self.put(node.inputs["Vector"], position)
        return node.outputs["Fac"] if "Fac" in node.outputs else node.outputs[0]

    def principled(self, **inputs):
        node = self.new("ShaderNodeBsdfPrincipled")
        for name, value in inputs.items():
            self.put(node.inputs[name.replace("_", " ")], value)
        self.tree.links.new(node.outputs[0], self.output.inputs[0])
        return node


def skin_material(look: dict) -> bpy.types.Material:
    n = Nodes("skin")
    rest = n.attribute("rest", colour=True)
    lips, blush, scalp, brows = (n.attribute(name) for name in ("lips", "blush", "scalp", "brows"))
    base = tuple(look["skin"])
    mottled = n.mix(n.ramp(n.noise(rest, 0.55), 0.3, 0.7), tuple(c * 0.94 for c in base), tuple(c * 1.06 for c in base))
    redder = n.mix(n.math("MULTIPLY", n.ramp(n.noise(rest, 2.6, 3.0), 0.45, 0.75), 0.22), mottled, tuple(look["blush"]))
    colour = n.mix(n.math("MULTIPLY", blush, 0.42), redder, tuple(look["blush"]))
    spots = n.new("ShaderNodeTexVoronoi", Scale=2.4)
    n.put(spots.inputs["Vector"], rest)
    freckle = n.ramp(spots.outputs["Distance"], 0.09, 0.16, 1.0, 0.0)
    chance = n.ramp(n.noise(rest, 1.7), 0.48, 0.60)
    freckle = n.math("MULTIPLY", n.math("MULTIPLY", freckle, chance), n.ramp(blush, 0.12, 0.5, 0.0, look["freckles"]))
    colour = n.mix(freckle, colour, tuple(c * 0.55 for c in base))
    lip_tone = n.mix(n.ramp(n.noise(rest, 3.0), 0.35, 0.7), tuple(look["lips"]), tuple(c * 0.86 for c in look["lips"]))
    colour = n.mix(n.math("MULTIPLY", lips, 0.85), colour, lip_tone)
    colour = n.mix(n.math("MULTIPLY", scalp, 0.92), colour, tuple(look["hair"]))
    colour = n.mix(n.math("MULTIPLY", brows, 0.28), colour, tuple(look["brows"]))
    bump = n.new("ShaderNodeBump", Strength=0.16, Distance=0.004)
    n.put(bump.inputs["Height"], n.noise(rest, 9.0, 3.0))
    n.principled(
        Base_Color=colour, Roughness=n.ramp(lips, 0.0, 1.0, 0.47, 0.33), Specular_IOR_Level=0.42, Subsurface_Weight=0.12,
        Subsurface_Radius=(1.0, 0.32, 0.16), Subsurface_Scale=0.05, Normal=bump.outputs[0],
    )
    return n.material


def iris_material(look: dict, back: list[float], front: list[float]) -> bpy.types.Material:
    """White, iris, limbal ring and pupil by distance from the optical axis, painted on the inner eyeball."""
    n = Nodes("iris")
    rest = n.attribute("rest", colour=True)
    axis = Vector(front) - Vector(back)
    axis.normalize()
    relative = n.new("ShaderNodeVectorMath", operation="SUBTRACT")
    n.put(relative.inputs[0], rest)
    relative.inputs[1].default_value = back
    cross = n.new("ShaderNodeVectorMath", operation="CROSS_PRODUCT")
    n.put(cross.inputs[0], relative.outputs[0])
    cross.inputs[1].default_value = axis
    length = n.new("ShaderNodeVectorMath", operation="LENGTH")
    n.put(length.inputs[0], cross.outputs[0])
    r = length.outputs["Value"]
    # Fibres: noise stretched along the radius.
    angle = n.new("ShaderNodeVectorMath", operation="NORMALIZE")
    n.put(angle.inputs[0], cross.outputs[0])
    fibres = n.ramp(n.noise(angle.outputs[0], 9.0, 4.0), 0.35, 0.68)
    inner, outer = tuple(look["iris_inner"]), tuple(look["iris"])
    iris = n.mix(n.ramp(r, 0.22, 0.44), inner, outer)
    iris = n.mix(n.math("MULTIPLY", fibres, 0.45), iris, tuple(min(1.0, c * 1.9) for c in outer))
    ring = n.math("MULTIPLY", n.ramp(r, 0.47, 0.57), 0.8)
    iris = n.mix(ring, iris, tuple(c * 0.16 for c in outer))
    iris = n.mix(n.ramp(r, 0.185, 0.225, 1.0, 0.0), iris, (0.006, 0.005, 0.005))
    white = n.mix(n.math("MULTIPLY", n.ramp(r, 0.85, 1.35), 0.35), (0.80, 0.77, 0.74), (0.70, 0.42, 0.38))
    colour = n.mix(n.ramp(r, 0.575, 0.635), iris, white)
    n.principled(Base_Color=colour, Roughness=0.35, Specular_IOR_Level=0.25)
    return n.material


def sclera_material() -> bpy.types.Material:
    """The clear outer shell with the cornea: transparent with a glossy reflection, casts no shadow."""
    n = Nodes("sclera")
    fresnel = n.new("ShaderNodeFresnel", IOR=1.38)
    glossy = n.new("ShaderNodeBsdfGlossy", Roughness=0.06)
    clear = n.new("ShaderNodeBsdfTransparent")
    mixed = n.new("ShaderNodeMixShader")
    path = n.new("ShaderNodeLightPath")
    reflect = n.math("MULTIPLY", fresnel.outputs[0], n.math("SUBTRACT", 1.0, path.outputs["Is Shadow Ray"]))
    n.put(mixed.inputs[0], reflect)
    n.put(mixed.inputs[1], clear.outputs[0])
    n.put(mixed.inputs[2], glossy.outputs[0])
    n.tree.links.new(mixed.outputs[0], n.output.inputs[0])
    return n.material


def plain_material(name: str, colour, roughness: float, glow: float = 0.0, noise: float = 0.0) -> bpy.types.Material:
    n = Nodes(name)
    tone = colour
    if noise:
        rest = n.attribute("rest", colour=True)
        tone = n.mix(n.ramp(n.noise(rest, noise), 0.35, 0.7), colour, tuple(c * 0.75 for c in colour))
    n.principled(Base_Color=tone, Roughness=roughness, Emission_Color=tone, Emission_Strength=glow)
    return n.material


def hair_material(name: str, colour) -> bpy.types.Material:
    n = Nodes(name)
    info = n.new("ShaderNodeHairInfo")
    random = info.outputs["Random"]
    along = info.outputs["Intercept"]
    tone = n.mix(random, tuple(c * 0.72 for c in colour), tuple(min(1.0, c * 1.45) for c in colour))
    tone = n.mix(n.math("MULTIPLY", along, 0.30), tone, tuple(min(1.0, c * 2.2) for c in colour))
    n.principled(Base_Color=tone, Roughness=0.42, Specular_IOR_Level=0.55)
    return n.material


def sweater_material(colour) -> bpy.types.Material:
    n = Nodes("sweater")
    uv = n.attribute("knit", colour=True)
    rest = n.attribute("rest", colour=True)
    wave = n.new("ShaderNodeTexWave", Scale=1.0, Distortion=0.3)
    wave.bands_direction = "X"
    n.put(wave.inputs["Vector"], uv)
    mottled = n.mix(n.ramp(n.noise(rest, 1.1, 4.0), 0.35, 0.7), tuple(c * 0.82 for c in colour), tuple(c * 1.18 for c in colour))
    ribs = n.mix(n.math("MULTIPLY", n.ramp(wave.outputs["Fac"], 0.0, 0.5, 1.0, 0.0), 0.45), mottled, tuple(c * 0.45 for c in colour))
    bump = n.new("ShaderNodeBump", Strength=0.55, Distance=0.02)
    n.put(bump.inputs["Height"], wave.outputs["Fac"])
    n.principled(
        Base_Color=ribs, Roughness=0.85, Specular_IOR_Level=0.2, Sheen_Weight=0.25, Sheen_Roughness=0.5, Normal=bump.outputs[0]
    )
    return n.material


def add_mesh(name: str, points, faces, attributes: dict, materials: list, material_index=None) -> bpy.types.Object:
    mesh = bpy.data.meshes.new(name)
    mesh.vertices.add(len(points))
    mesh.vertices.foreach_set("co", np.ascontiguousarray(points, np.float32).ravel())
    corners = faces.shape[1]
    mesh.loops.add(faces.size)
    mesh.loops.foreach_set("vertex_index", np.ascontiguousarray(faces, np.int32).ravel())
    mesh.polygons.add(len(faces))
    mesh.polygons.foreach_set("loop_start", np.arange(0, faces.size, corners, dtype=np.int32))
    mesh.update(calc_edges=True)
    for key, values in attributes.items():
        kind, field = ("FLOAT", "value") if values.ndim == 1 else ("FLOAT_VECTOR", "vector")
        mesh.attributes.new(key, kind, "POINT").data.foreach_set(field, np.ascontiguousarray(values, np.float32).ravel())
    for material in materials:
        mesh.materials.append(material)
    if material_index is not None:
        mesh.polygons.foreach_set("material_index", np.ascontiguousarray(material_index, np.int32))
    mesh.polygons.foreach_set("use_smooth", np.ones(len(faces), bool))
    mesh.update()
    item = bpy.data.objects.new(name, mesh)
    bpy.context.scene.collection.objects.link(item)
    return item


def add_strands(name: str, points, radius, material) -> bpy.types.Object:
    curves = bpy.data.hair_curves.new(name)
    curves.add_curves([points.shape[1]] * len(points))
    curves.attributes.new("radius", "FLOAT", "POINT") if "radius" not in curves.attributes else None
    curves.attributes["radius"].data.foreach_set("value", np.ascontiguousarray(radius, np.float32).ravel())
    curves.materials.append(material)
    item = bpy.data.objects.new(name, curves)
    bpy.context.scene.collection.objects.link(item)
    move(item, points)
    return item


def move(item: bpy.types.Object, points) -> None:
    item.data.attributes["position"].data.foreach_set("vector", np.ascontiguousarray(points, np.float32).ravel())
    if hasattr(item.data, "update"):
        item.data.update()
    item.data.update_tag()


def build(scene_data, look: dict) -> dict[str, bpy.types.Object]:
    for item in list(bpy.data.objects):
        bpy.data.objects.remove(item)
    head = add_mesh(
        "head", scene_data["rest_points"], scene_data["head_triangles"],
        {key: scene_data[key] for key in ("rest", "lips", "blush", "scalp", "brows")},
        [
            skin_material(look), plain_material("bag", (0.42, 0.10, 0.09), 0.6, 0.03), plain_material("socket", (0.55, 0.22, 0.18), 0.5),
            plain_material("gums", (0.58, 0.16, 0.15), 0.38, 0.06, 1.5), plain_material("teeth", (0.82, 0.76, 0.66), 0.28, 0.05),
            iris_material(look, *scene_data["eye_axis_L"].tolist()), iris_material(look, *scene_data["eye_axis_R"].tolist()),
            sclera_material(), sclera_material(),
        ],
        scene_data["head_labels"],
    )
    add_mesh(
        "sweater", scene_data["sweater_points"], scene_data["sweater_faces"],
        {"knit": scene_data["sweater_knit"], "rest": scene_data["sweater_rest"]}, [sweater_material(tuple(look["sweater"]))],
    )
    add_strands("hair", scene_data["hair_points"], scene_data["hair_radius"], hair_material("hair", tuple(look["hair"])))
    dark = hair_material("brows", tuple(look["brows"]))
    brows = add_strands("brows", scene_data["brows_points"], scene_data["brows_radius"], dark)
    lash = plain_material("lashes", tuple(c * 0.35 for c in look["brows"]), 0.5)
    lashes = add_strands("lashes", scene_data["lashes_points"], scene_data["lashes_radius"], lash)
    return {"head": head, "brows": brows, "lashes": lashes}


def light_and_world() -> None:
    scene = bpy.context.scene
    for name, power, size, place in LIGHTS:
        lamp = bpy.data.lights.new(name, "AREA")
        lamp.energy, lamp.size = power, size
        item = bpy.data.objects.new(name, lamp)
        item.location = place
        item.rotation_euler = (Vector((0, -0.3, 0.3)) - Vector(place)).to_track_quat("-Z", "Y").to_euler()
        scene.collection.objects.link(item)
    world = bpy.data.worlds.new("world")
    world.use_nodes = True
    background = world.node_tree.nodes.get("Background") or world.node_tree.nodes.new("ShaderNodeBackground")
    background.inputs[0].default_value = (*WORLD, 1.0)
    scene.world = world


def settings(threads: int, samples: int) -> None:
    scene = bpy.context.scene
    scene.render.engine = "CYCLES"
    scene.render.threads_mode, scene.render.threads = "FIXED", threads
    scene.render.film_transparent = True
    scene.render.use_persistent_data = True
    cycles = scene.cycles
    cycles.device, cycles.samples, cycles.seed = "CPU", samples, 0
    cycles.use_adaptive_sampling = False
    cycles.max_bounces, cycles.transparent_max_bounces = 3, 8
    cycles.diffuse_bounces = cycles.glossy_bounces = 2
    cycles.use_light_tree = False
    cycles.sample_clamp_direct, cycles.sample_clamp_indirect = 4.0, 2.0
    cycles.use_denoising, cycles.denoiser = True, "OPENIMAGEDENOISE"
    cycles.denoising_prefilter = "FAST"
    cycles.denoising_use_gpu = False
    scene.cycles_curves.shape = "RIBBONS"
    view = scene.view_settings
    scene.display_settings.display_device = "sRGB"
    view.view_transform = "AgX"
    view.look = "AgX - Medium High Contrast"
    view.exposure = 0.35
    image = scene.render.image_settings
    image.file_format, image.color_mode, image.color_depth = "PNG", "RGBA", "8"


def place_camera(view: dict) -> None:
    """view: matrix (camera to world, OpenGL axes, Blender units), focal and size in pixels, square pixels, centred."""
    scene = bpy.context.scene
    if scene.camera is None:
        scene.camera = bpy.data.objects.new("camera", bpy.data.cameras.new("camera"))
        scene.collection.objects.link(scene.camera)
    camera = scene.camera
    camera.matrix_world = Matrix(view["matrix"])
    camera.data.sensor_fit = "HORIZONTAL"
    camera.data.sensor_width = 36.0
    camera.data.lens = view["focal"] * 36.0 / view["width"]
    camera.data.clip_end = 200.0
    scene.render.resolution_x, scene.render.resolution_y = view["width"], view["height"]
    scene.render.resolution_percentage = 100


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    arguments = parser.parse_args()
    folder = arguments.folder
    job = json.loads((folder / "views.json").read_text())
    todo = [view for view in job["views"] if not (folder / f"{view['name']}.png").exists()]
    if not todo:
        return
    with np.load(folder / "scene.npz", allow_pickle=False) as packed:
        data = {name: packed[name] for name in packed.files}
    objects = build(data, job["look"])
    light_and_world()
    settings(arguments.threads, job["samples"])
    poses = job["poses"]
    for done, view in enumerate(todo):
        row = poses.index(view["pose"])
        for name, item in objects.items():
            move(item, data[f"posed_{name}"][row])
        place_camera(view)
        # Blender appends .png itself: the half-made file must end in it too.
        part = folder / f".{view['name']}.part.png"
        bpy.context.scene.render.filepath = str(part)
        bpy.ops.render.render(write_still=True)
        os.replace(part, folder / f"{view['name']}.png")
        print(f"view {done + 1}/{len(todo)} {view['name']}", flush=True)


if __name__ == "__main__":
    sys.argv = [sys.argv[0], *sys.argv[sys.argv.index("--") + 1 :]] if "--" in sys.argv else sys.argv
    main()
