"""What the engine exports, read by Blender's own importers."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import bpy
import numpy as np
import pytest
from support import STAGE, engine_python

sys.path.insert(0, str(STAGE))

from support.caches import random_cache, shown  # noqa: E402

SPLATTING = "KHR_gaussian_splatting:"


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cache(tmp_path_factory.mktemp("cache"), degree=2, count=60)


@pytest.fixture
def empty() -> None:
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)


def export(cache: Path, out: Path, *options: str) -> None:
    command = [str(engine_python()), "-m", "engine", "export", "--cache", str(cache), "--out", str(out), "--frames", "1:1", *options]
    done = subprocess.run(command, cwd=STAGE / "ua3dtalk", capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def column(mesh: bpy.types.Mesh, name: str, field: str = "value", width: int = 1) -> np.ndarray:
    values = np.empty(len(mesh.vertices) * width, np.float32)
    mesh.attributes[name].data.foreach_get(field, values)
    return values.reshape(-1, width)


def columns(mesh: bpy.types.Mesh, *names: str) -> np.ndarray:
    return np.concatenate([column(mesh, name) for name in names], 1)


@pytest.mark.usefixtures("empty")
def test_blender_reads_the_ply(cache: Path, tmp_path: Path) -> None:
    export(cache, tmp_path, "--format", "ply", "--up", "+Z", "--front", "-Y")
    bpy.ops.wm.ply_import(filepath=str(tmp_path / "0001.ply"))  # its default axes are Blender's own
    mesh, want = bpy.context.object.data, shown(cache, 1)
    assert np.allclose(bpy.context.object.matrix_world, np.eye(4))
    np.testing.assert_allclose(column(mesh, "position", "vector", 3), want.means, atol=1e-7)
    np.testing.assert_allclose(np.exp(columns(mesh, "scale_0", "scale_1", "scale_2")), want.scales, rtol=1e-5)
    np.testing.assert_allclose(1 / (1 + np.exp(-column(mesh, "opacity")[:, 0])), want.opacities, atol=1e-6)
    np.testing.assert_allclose(columns(mesh, "rot_0", "rot_1", "rot_2", "rot_3"), want.quats, atol=1e-6)
    for channel in range(3):
        rest = columns(mesh, *(f"f_rest_{channel * 8 + k}" for k in range(8)))
        np.testing.assert_allclose(np.concatenate([column(mesh, f"f_dc_{channel}"), rest], 1), want.sh[:, :, channel], atol=1e-6)


@pytest.mark.usefixtures("empty")
def test_blender_reads_the_gltf(cache: Path, tmp_path: Path) -> None:
    export(cache, tmp_path / "head.glb", "--format", "gltf")
    if not hasattr(bpy.types, "IMPORT_SCENE_OT_gltf"):
        import addon_utils

        addon_utils.enable("io_scene_gltf2")
    bpy.ops.import_scene.gltf(filepath=str(tmp_path / "head.glb"))
    mesh, want = bpy.context.object.data, shown(cache, 1)
    np.testing.assert_allclose(column(mesh, "position", "vector", 3), want.means, atol=1e-6)  # turned back by Blender
    if f"{SPLATTING}SCALE" not in mesh.attributes:
        return  # older importers take positions and colours alone
    np.testing.assert_allclose(column(mesh, f"{SPLATTING}SCALE", "vector", 3), want.scales, rtol=1e-6)
    np.testing.assert_allclose(column(mesh, f"{SPLATTING}OPACITY")[:, 0], want.opacities, atol=1e-6)
    np.testing.assert_allclose(column(mesh, f"{SPLATTING}SH_DEGREE_0_COEF_0", "vector", 3), want.sh[:, 0], atol=1e-6)
    assert f"{SPLATTING}SH_DEGREE_2_COEF_4" in mesh.attributes and f"{SPLATTING}SH_DEGREE_3_COEF_0" not in mesh.attributes
