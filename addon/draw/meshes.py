"""The depth of a scene's meshes, which hides the splats behind them.

Whatever Blender makes a mesh of for a render counts: meshes, curves, surfaces, texts and metaballs with all their modifiers, and
instances of them. Materials do not: what is transparent hides like the rest. Point clouds, volumes, hair and Grease Pencil hide nothing,
nor do objects that a camera is not to see (Object Properties > Visibility > Camera, or a collection that is Indirect Only).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import bpy
import gpu
import numpy as np
from mathutils import Matrix
from numpy.typing import NDArray

from . import shader
from .batch import View
from .offscreen import state


@dataclass(eq=False)
class _Mesh:
    """vertices [V,3] in object space; triangles [T,3]; matrices [4,4] object to world, one for each instance."""

    vertices: NDArray[np.float32]
    triangles: NDArray[np.uint32]
    matrices: list[NDArray[np.float64]] = field(default_factory=list)
    batch: gpu.types.GPUBatch | None = None


class Meshes:
    """Triangles of the meshes that a dependency graph shows. False where there are none."""

    def __init__(self, depsgraph: bpy.types.Depsgraph, is_shown: Callable[[bpy.types.Object], bool] | None = None) -> None:
        """Read the meshes; needs no GPU context.

        is_shown: asked for the original object, or for the instancer of an instance; None takes all that the graph shows.
        """
        found: dict[int, _Mesh] = {}
        for instance in depsgraph.object_instances:
            obj = instance.object
            if not instance.show_self or obj.type != "MESH" or not obj.visible_camera:
                continue
            owner = (instance.parent if instance.is_instance else obj).original
            if (is_shown and not is_shown(owner)) or owner.indirect_only_get(view_layer=depsgraph.view_layer):
                continue
            key = obj.data.as_pointer()
            if key not in found:
                found[key] = _Mesh(*_triangles(obj.data))
            found[key].matrices.append(np.array(instance.matrix_world, dtype=np.float64))
        self._meshes = [mesh for mesh in found.values() if len(mesh.triangles)]

    def __bool__(self) -> bool:
        return bool(self._meshes)

    def depth(self, view: View, shift: tuple[float, float] = (0.0, 0.0)) -> gpu.types.GPUTexture:
        """Depth texture of the drawn part of a view, 1 where no mesh is. Needs a GPU context.

        shift: what the meshes are moved by on the picture, px: a part of a pixel, to sample their edges.
        """
        x, y, width, height = view.drawn
        to_part = np.eye(4)
        to_part[0, 0], to_part[0, 3] = view.width / width, (view.width - 2 * (x - shift[0])) / width - 1
        to_part[1, 1], to_part[1, 3] = view.height / height, (view.height - 2 * (y - shift[1])) / height - 1
        to_clip = to_part @ view.projection_matrix @ view.view_matrix
        depths = gpu.types.GPUTexture((width, height), format="DEPTH_COMPONENT32F")
        buffer = gpu.types.GPUFrameBuffer(depth_slot=depths)
        program = shader.mesh_shader()
        with buffer.bind(), state("NONE", "LESS_EQUAL", depth_mask=True):
            buffer.clear(depth=1.0)
            shader.bind(program)
            for mesh in self._meshes:
                mesh.batch = mesh.batch or _batch(mesh)
                for matrix in mesh.matrices:
                    # Multiplied in float64: far from the world's origin meshes would shake otherwise.
                    program.uniform_float("to_clip", Matrix((to_clip @ matrix).tolist()))
                    mesh.batch.draw(program)
        return depths


def _triangles(mesh: bpy.types.Mesh) -> tuple[NDArray[np.float32], NDArray[np.uint32]]:
    vertices = np.empty((len(mesh.vertices), 3), dtype=np.float32)
    if len(vertices):
        mesh.attributes["position"].data.foreach_get("vector", vertices.ravel())
    triangles = np.empty((len(mesh.loop_triangles), 3), dtype=np.int32)
    mesh.loop_triangles.foreach_get("vertices", triangles.ravel())
    return vertices, triangles.astype(np.uint32)


def _batch(mesh: _Mesh) -> gpu.types.GPUBatch:
    layout = gpu.types.GPUVertFormat()
    layout.attr_add(id="pos", comp_type="F32", len=3, fetch_mode="FLOAT")
    vertices = gpu.types.GPUVertBuf(layout, len(mesh.vertices))
    vertices.attr_fill("pos", mesh.vertices)
    return gpu.types.GPUBatch(type="TRIS", buf=vertices, elem=gpu.types.GPUIndexBuf(type="TRIS", seq=mesh.triangles))
