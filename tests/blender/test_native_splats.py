"""What Blender 5.3's own splats need of an avatar. Where this Blender has them, they are tried; where it has not, it is shown that
the point cloud has the attributes that 5.3 documents, and that the mark is set exactly where there is one to set. A stand-in
for the data-block tells nothing of what 5.3 would draw."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import bpy
import pytest

sys.path.insert(0, str(Path(__file__).parent))

from addon_cases import api, avatars  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]


def stand_in(*kinds: str) -> SimpleNamespace:
    """Has what compat asks a point cloud for: the items of its `type`, where it has one."""
    items = [SimpleNamespace(identifier=kind) for kind in kinds]
    properties = {"type": SimpleNamespace(enum_items=items)} if kinds else {}
    return SimpleNamespace(bl_rna=SimpleNamespace(properties=properties), **({"type": kinds[0]} if kinds else {}))


def test_the_mark_is_set_where_there_is_one(shipped: Shipped) -> None:
    compat = shipped("addon.compat")
    known, other, none = stand_in("POINTS", "GAUSSIAN_SPLAT"), stand_in("POINTS", "SOMETHING"), stand_in()
    assert compat.mark_as_splats(known) and known.type == "GAUSSIAN_SPLAT" and compat.draws_splats(known)
    assert not compat.mark_as_splats(other) and other.type == "POINTS" and not compat.draws_splats(other)
    assert not compat.mark_as_splats(none) and not hasattr(none, "type") and not compat.draws_splats(none)


def test_the_attributes_that_5_3_documents(api: ModuleType, avatars: Path) -> None:
    cloud = api.import_avatar(avatars / "static.safetensors").data
    kinds = {one.name: (one.data_type, one.domain) for one in cloud.attributes}
    assert kinds["position"] == kinds["scale"] == ("FLOAT_VECTOR", "POINT") and kinds["rotation"] == ("QUATERNION", "POINT")
    has_float4 = "FLOAT4" in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items.keys()
    assert kinds["radiance:base"] == ("FLOAT4" if has_float4 else "FLOAT_COLOR", "POINT")
    assert [kinds.get(f"radiance:sh_{i}") for i in range(16)] == [("FLOAT_VECTOR", "POINT")] * 15 + [None], "degree 3"


def test_an_avatar_is_marked(api: ModuleType, avatars: Path, shipped: Shipped) -> None:
    obj = api.import_avatar(avatars / "static.safetensors")
    kind = bpy.types.PointCloud.bl_rna.properties.get("type")
    if kind is None or "GAUSSIAN_SPLAT" not in kind.enum_items.keys():
        assert not shipped("addon.compat").draws_splats(obj.data)
        pytest.skip("this Blender draws no splats itself")
    assert obj.data.type == "GAUSSIAN_SPLAT"
    bpy.ops.ua3dtalk.reload_avatar()
    assert obj.data.type == "GAUSSIAN_SPLAT"
