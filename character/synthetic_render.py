"""Runs in Blender's Python (`python -m character.synthetic_render FOLDER`): the frames of a synthetic data set that are still wanted.

FOLDER/scene.npz holds the person at rest and what each frame does, FOLDER/job.json the cameras and the frames to be rendered. A frame is
three files: `<id>.torso.png` (RGBA, sweater and neck without the head), `<id>.exr` (material index and depth, exact) and, last,
`<id>.png` (RGBA, display-referred). After each a line `frame <id>` goes out.
"""

from __future__ import annotations

import argparse
import json
import os
from pathlib import Path

import bpy
import numpy as np

from . import look_render
from .face_model import FaceModel, load, to_blender, to_model
from .person_binding import place_points
from .synthetic_passes import CLASSES, MATERIAL_CLASSES, NECK, SCALP

TORSO_SAMPLES = 4


def build_torso(data: dict[str, np.ndarray], look: dict) -> None:
    """The person at rest, of whom the camera sees sweater and neck alone; the head still throws its shadow."""
    neck = data["head_region"] == NECK
    head = dict(data, head_triangles=data["head_triangles"][~neck], head_labels=data["head_labels"][~neck])
    objects = look_render.build(head, look)
    for item in bpy.data.objects:
        item.visible_camera = item.name == "sweater"
    bpy.data.objects.remove(bpy.data.objects["hair"])
    look_render.add_mesh(
        "neck", data["rest_points"], data["head_triangles"][neck], {key: data[key] for key in ("rest", "lips", "blush", "scalp", "brows")},
        [objects["head"].data.materials[0]],
    )


def build_person(data: dict[str, np.ndarray], look: dict) -> dict[str, bpy.types.Object]:
    """The person with a material index for every class; neck and scalp are skin of their own."""
    objects = look_render.build(data, look)
    mesh = objects["head"].data
    labels = data["head_labels"].astype(np.int32).copy()
    for region, name in ((NECK, "neck"), (SCALP, "scalp")):
        skin = mesh.materials[0].copy()
        skin.name = name
        labels[data["head_region"] == region] = len(mesh.materials)
        mesh.materials.append(skin)
    mesh.polygons.foreach_set("material_index", labels)
    mesh.update()
    for material in bpy.data.materials:
        material.pass_index = CLASSES.index(MATERIAL_CLASSES.get(material.name.split(".")[0], "face"))
    return objects


class Poser:
    """Moves head, brows and lashes to a frame's coefficients."""

    def __init__(self, model: FaceModel, data: dict[str, np.ndarray], objects: dict[str, bpy.types.Object]) -> None:
        self._model, self._data, self._objects = model, data, objects
        self._names = [str(name) for name in data["coefficient_names"]]

    def __call__(self, row: int) -> None:
        values = self._data["coefficients"][row]
        vertices = self._model.pose({name: float(value) for name, value in zip(self._names, values) if value})
        look_render.move(self._objects["head"], to_blender(to_model(vertices)))
        for name in ("brows", "lashes"):
            triangles = self._data[f"{name}_triangles"]
            bary = np.full((len(triangles), 3), 1 / 3)
            points = place_points(self._data[f"{name}_offsets"], vertices, triangles, bary)
            look_render.move(self._objects[name], to_blender(to_model(points)))


def clear() -> None:
    """No objects, meshes, materials, lamps."""
    bpy.ops.wm.read_factory_settings(use_empty=True)


def save(path: Path, exact: bool) -> None:
    """The last render, whole or not at all."""
    image = bpy.context.scene.render.image_settings
    if exact:
        if hasattr(image, "media_type"):
            image.media_type = "MULTI_LAYER_IMAGE"
        image.file_format, image.color_depth, image.exr_codec = "OPEN_EXR_MULTILAYER", "32", "NONE"
        if hasattr(image, "use_exr_interleave"):  # 5.0 would write one part a pass
            image.use_exr_interleave = True
    else:
        if hasattr(image, "media_type"):
            image.media_type = "IMAGE"
        image.file_format, image.color_mode, image.color_depth, image.compression = "PNG", "RGBA", "8", 15
    part = path.with_name(f".{path.stem}.part{path.suffix}")
    bpy.data.images["Render Result"].save_render(str(part))
    os.replace(part, path)


def set_up(threads: int, samples: int, passes: bool) -> None:
    """Light, Cycles and what it gives."""
    look_render.light_and_world()
    look_render.settings(threads, samples)
    cycles = bpy.context.scene.cycles
    cycles.max_bounces = cycles.diffuse_bounces = cycles.glossy_bounces = 2
    cycles.denoising_quality = "FAST"
    layer = bpy.context.view_layer
    layer.use_pass_material_index = layer.use_pass_z = passes


def main() -> None:
    """See the module."""
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args()
    folder = given.folder
    job = json.loads((folder / "job.json").read_text("utf-8"))
    with np.load(folder / "scene.npz", allow_pickle=False) as packed:
        data = {name: packed[name] for name in packed.files}
    wanted = job["frames"]

    def view(number: int) -> dict:
        return {"matrix": job["matrices"][number], "focal": job["focal"], "width": job["size"], "height": job["size"]}

    todo = [n for n in wanted if not (folder / f"{n}.torso.png").exists()]
    if todo:
        clear()
        build_torso(data, job["look"])
        set_up(given.threads, TORSO_SAMPLES, False)
        for number in todo:
            look_render.place_camera(view(number))
            bpy.ops.render.render()
            save(folder / f"{number}.torso.png", False)
            print(f"torso {number}", flush=True)
    todo = [n for n in wanted if not all((folder / f"{n}{end}").exists() for end in (".png", ".exr"))]
    if not todo:
        return
    clear()
    pose = Poser(load(job["face_model"], job["identity"]), data, build_person(data, job["look"]))
    set_up(given.threads, job["samples"], True)
    for number in todo:
        pose(job["rows"][number])
        look_render.place_camera(view(number))
        bpy.ops.render.render()
        save(folder / f"{number}.exr", True)
        save(folder / f"{number}.png", False)
        print(f"frame {number}", flush=True)


if __name__ == "__main__":
    main()
