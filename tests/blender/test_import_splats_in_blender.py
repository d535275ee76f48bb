"""Sets of Gaussians of other programs, imported by the operator; and what the engine exported, as an avatar again."""

from __future__ import annotations

import sys
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest
from support import STAGE

sys.path[:0] = [str(STAGE), str(Path(__file__).parent)]

from addon_cases import api, engine, positions  # noqa: E402, F401
from support.caches import random_cache, shown  # noqa: E402
from test_export_read_back import export  # noqa: E402


@pytest.mark.parametrize(("kind", "axes"), [("spz", {}), ("ply", {"up": "-Y", "front": "-Z"})])
def test_what_was_exported_stands_where_it_stood(api: ModuleType, engine: ModuleType, tmp_path: Path, kind: str, axes: dict[str, str]) -> None:
    cache = random_cache(tmp_path / "cache", degree=1, count=30)
    export(cache, tmp_path, "--format", kind)
    bpy.ops.ua3dtalk.import_avatar(filepath=str(tmp_path / f"0001.{kind}"), **axes)
    obj = bpy.context.object
    assert Path(obj.ua3dtalk.avatar_path).name == "0001.safetensors"
    np.testing.assert_allclose(positions(obj), shown(cache, 1).means, atol=2e-6)


def test_a_splat_file(api: ModuleType, engine: ModuleType, tmp_path: Path) -> None:
    record = np.zeros(7, [("means", "<f4", 3), ("scales", "<f4", 3), ("rgba", "u1", 4), ("quats", "u1", 4)])
    record["means"], record["scales"] = np.arange(21).reshape(7, 3) / 100, 0.01
    record["rgba"], record["quats"] = 200, (255, 128, 128, 128)
    (tmp_path / "cloud.splat").write_bytes(record.tobytes())
    obj = api.import_avatar(tmp_path / "cloud.splat", up="+Z", front="-Y")
    np.testing.assert_allclose(positions(obj), record["means"], atol=1e-6)
    (tmp_path / "cut.splat").write_bytes(record.tobytes()[:-5])
    with pytest.raises(RuntimeError, match="cut.splat"):
        bpy.ops.ua3dtalk.import_avatar(filepath=str(tmp_path / "cut.splat"))
    assert not (tmp_path / "cut.safetensors").exists()
