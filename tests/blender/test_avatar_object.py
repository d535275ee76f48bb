"""Avatar objects: import, attributes, reload, several of them, undo, refusals."""

from __future__ import annotations

import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import bpy
import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).parent))
from addon_cases import api, avatars, engine, positions  # noqa: E402, F401

Shipped = Callable[[str], ModuleType]


def values(obj: bpy.types.Object, name: str, shipped: Shipped) -> np.ndarray:
    return shipped("addon.compat").read_attribute(obj.data, name)


def test_import_makes_a_point_cloud_with_the_splat_attributes(api: ModuleType, avatars: Path, shipped: Shipped) -> None:
    assert bpy.ops.ua3dtalk.import_avatar(filepath=str(avatars / "static.safetensors")) == {"FINISHED"}
    obj = bpy.context.object
    loaded = shipped("engine.avatar").load_avatar(avatars / "static.safetensors")
    rest, branch = loaded.rest()
    assert obj.type == "POINTCLOUD" and obj.name == "Test head" and len(obj.data.points) == len(rest) == 80
    assert obj.select_get() and tuple(obj.location) == (0, 0, 0)
    for name, expected in (("position", rest.means), ("scale", rest.scales), ("rotation", rest.quats)):
        assert np.array_equal(values(obj, name, shipped), expected), name
    base = values(obj, "radiance:base", shipped)
    assert np.array_equal(base[:, :3], rest.sh[:, 0]) and np.array_equal(base[:, 3], rest.opacities)
    for i in range(15):
        assert np.array_equal(values(obj, f"radiance:sh_{i}", shipped), rest.sh[:, i + 1])
    assert "radiance:sh_15" not in obj.data.attributes
    types = {a.name: a.data_type for a in obj.data.attributes}
    assert types["rotation"] == "QUATERNION" and types["scale"] == "FLOAT_VECTOR"
    known = {item.identifier for item in bpy.types.Attribute.bl_rna.properties["data_type"].enum_items}
    assert types["radiance:base"] == ("FLOAT4" if "FLOAT4" in known else "FLOAT_COLOR")
    assert obj.ua3dtalk.avatar_hash == loaded.hash and Path(obj.ua3dtalk.avatar_path) == avatars / "static.safetensors"


def test_nothing_is_left_behind(api: ModuleType, avatars: Path) -> None:
    before = {name: len(getattr(bpy.data, name)) for name in ("objects", "meshes", "pointclouds", "node_groups", "materials")}
    api.import_avatar(avatars / "head.safetensors")
    after = {name: len(getattr(bpy.data, name)) for name in before}
    assert after == before | {"objects": before["objects"] + 1, "pointclouds": before["pointclouds"] + 1}


@pytest.mark.parametrize("wrong", ["missing.safetensors", "cut.safetensors", "foreign.safetensors", "newer.safetensors", "text.ply"])
def test_what_is_no_avatar_is_refused_and_changes_nothing(
    api: ModuleType, engine: ModuleType, avatars: Path, tmp_path: Path, wrong: str
) -> None:
    whole = (avatars / "head.safetensors").read_bytes()
    path = tmp_path / wrong
    if wrong.startswith("cut"):
        path.write_bytes(whole[: len(whole) // 2])
    elif wrong.startswith("foreign"):
        path.write_bytes(whole.replace(b'"ua3dtalk"', b'"ua3dtalx"'))
    elif wrong.startswith("newer"):
        path.write_bytes(whole.replace(b'format_version\\": 1', b'format_version\\": 9'))
    elif wrong.startswith("text"):
        path.write_text("hello")
    before = (len(bpy.data.objects), len(bpy.data.pointclouds), len(bpy.data.meshes))
    with pytest.raises(RuntimeError) as caught:
        bpy.ops.ua3dtalk.import_avatar(filepath=str(path))
    assert wrong.partition(".")[0] in str(caught.value)
    assert (len(bpy.data.objects), len(bpy.data.pointclouds), len(bpy.data.meshes)) == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ([] if wrong.startswith("missing") else [wrong])


def test_a_ply_becomes_an_avatar_beside_it(api: ModuleType, engine: ModuleType, tmp_path: Path) -> None:
    names = ["x", "y", "z", "f_dc_0", "f_dc_1", "f_dc_2", "opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    numbers = np.random.default_rng(0).normal(size=(30, len(names))).astype("<f4")
    header = "ply\nformat binary_little_endian 1.0\nelement vertex 30\n" + "".join(f"property float {n}\n" for n in names) + "end_header\n"
    (tmp_path / "cloud.ply").write_bytes(header.encode() + numbers.tobytes())
    (tmp_path / "cloud.safetensors").write_bytes(b"somebody's own")
    bpy.ops.ua3dtalk.import_avatar(filepath=str(tmp_path / "cloud.ply"), up="+Z", front="-Y")
    obj = bpy.context.object
    assert len(obj.data.points) == 30 and Path(obj.ua3dtalk.avatar_path).name == "cloud-2.safetensors"
    assert (tmp_path / "cloud.safetensors").read_bytes() == b"somebody's own"
    # +Z up and -Y front are Blender's own axes: nothing is turned.
    assert np.allclose(positions(obj), numbers[:, :3], atol=1e-6)


def test_several_files_at_once_as_they_are_dropped(api: ModuleType, avatars: Path) -> None:
    files = [{"name": "head.safetensors"}, {"name": "other.safetensors"}]
    bpy.ops.ua3dtalk.import_avatar(directory=str(avatars), files=files)
    assert sorted(len(obj.data.points) for obj in bpy.data.objects) == [150, 260]
    names = {obj.ua3dtalk.cache_name for obj in bpy.data.objects}
    assert len(names) == 2
    handler = bpy.types.UA3DTALK_FH_avatar
    assert handler.bl_import_operator == "ua3dtalk.import_avatar" and ".safetensors" in handler.bl_file_extensions


def test_it_can_be_moved_parented_and_animated(api: ModuleType, avatars: Path, scene: bpy.types.Scene) -> None:
    obj = api.import_avatar(avatars / "head.safetensors", name="Anna", location=(1, 2, 3))
    parent = bpy.data.objects.new("Rig", None)
    scene.collection.objects.link(parent)
    obj.parent = parent
    parent.location.x = 10
    obj.rotation_euler.z = 0
    obj.keyframe_insert("rotation_euler", index=2, frame=1)
    obj.rotation_euler.z = 1
    obj.keyframe_insert("rotation_euler", index=2, frame=11)
    scene.frame_set(11)
    assert obj.name == "Anna" and tuple(obj.matrix_world.translation) == (11, 2, 3)
    assert obj.matrix_world.to_euler().z == pytest.approx(1)


def test_reload_takes_a_changed_file(api: ModuleType, avatars: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.safetensors"
    shutil.copy(avatars / "head.safetensors", path)
    obj = api.import_avatar(path)
    first, name = obj.ua3dtalk.avatar_hash, obj.data.name
    obj.location.x = 5
    path.unlink()
    shutil.copy(avatars / "other.safetensors", path)
    assert bpy.ops.ua3dtalk.reload_avatar() == {"FINISHED"}
    assert len(obj.data.points) == 150 and obj.ua3dtalk.avatar_hash != first and obj.location.x == 5
    assert obj.data.name == name and len(bpy.data.pointclouds) == 1
    path.unlink()
    with pytest.raises(RuntimeError, match="head.safetensors"):
        bpy.ops.ua3dtalk.reload_avatar()
    assert len(obj.data.points) == 150


def test_import_can_be_undone_and_redone(api: ModuleType, avatars: Path) -> None:
    bpy.ops.ed.undo_push(message="before")
    bpy.ops.ua3dtalk.import_avatar(filepath=str(avatars / "head.safetensors"))
    bpy.ops.ed.undo_push(message="after")
    assert len(bpy.data.objects) == 1
    bpy.ops.ed.undo()
    assert len(bpy.data.objects) == 0
    bpy.ops.ed.redo()
    (obj,) = bpy.data.objects
    assert obj.ua3dtalk.is_avatar and len(obj.data.points) == 260 and "radiance:base" in obj.data.attributes


def test_operators_say_why_they_cannot_run(api: ModuleType, avatars: Path, engine: ModuleType) -> None:
    engine.stop()
    for name in ("bake", "attach_audio", "key_emotion", "check", "clear_cache", "reload_avatar"):
        with pytest.raises(RuntimeError, match="has no avatar"):
            getattr(bpy.ops.ua3dtalk, name)()
    with pytest.raises(RuntimeError, match="Nothing is being baked"):
        bpy.ops.ua3dtalk.cancel_bake()
    with pytest.raises(RuntimeError, match="not running"):
        bpy.ops.ua3dtalk.stop_engine()
    with pytest.raises(RuntimeError, match="go online"):
        bpy.ops.ua3dtalk.set_up_environment()
    api.import_avatar(avatars / "head.safetensors", name="A")
    with pytest.raises(RuntimeError, match="no sound strip"):
        bpy.ops.ua3dtalk.attach_strip()
    with pytest.raises(RuntimeError, match="'B'"):
        bpy.ops.ua3dtalk.bake(object="B")
    api.import_avatar(avatars / "other.safetensors", name="C")
    bpy.context.view_layer.objects.active = None
    with pytest.raises(RuntimeError, match="2 avatars"):
        bpy.ops.ua3dtalk.key_emotion(emotion="HAPPY")
    assert bpy.ops.ua3dtalk.key_emotion(object="C", emotion="SAD", frame=5) == {"FINISHED"}


def test_without_an_environment_the_bake_says_so(
    api: ModuleType, avatars: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shipped: Shipped
) -> None:
    monkeypatch.delenv("UA3DTALK_PYTHON", raising=False)
    api.import_avatar(avatars / "head.safetensors")
    with pytest.raises(RuntimeError, match="no Python environment"):
        bpy.ops.ua3dtalk.bake()
    preferences = shipped("addon.session").preferences()
    preferences.environment, preferences.python_path = "EXISTING", str(tmp_path / "nowhere")
    try:
        with pytest.raises(RuntimeError, match="nowhere"):
            bpy.ops.ua3dtalk.bake()
        with pytest.raises(RuntimeError, match="nowhere"):
            bpy.ops.ua3dtalk.check_environment()
    finally:
        preferences.environment, preferences.python_path = "MANAGED", ""


def test_setting_up_the_environment_by_the_button(
    api: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, shipped: Shipped
) -> None:
    """The whole way of the button, with nothing to install: a real environment that then lacks the packages, and says so."""
    session = shipped("addon.session")
    monkeypatch.delenv("UA3DTALK_PYTHON", raising=False)
    (tmp_path / "requirements.txt").write_text("# nothing\n")
    monkeypatch.setattr(session, "REQUIREMENTS", tmp_path / "requirements.txt")
    preferences = session.preferences()
    preferences.environment_folder = str(tmp_path / "environment")
    system = bpy.context.preferences.system
    system.use_online_access = True
    try:
        with pytest.raises(api.UserError, match="no Python environment"):
            session.engine_python()
        assert bpy.ops.ua3dtalk.set_up_environment() == {"FINISHED"}
        assert session.setup().state == "done" and session.engine_python().is_relative_to(tmp_path / "environment")
        with pytest.raises(RuntimeError, match="lacks .*torch"):
            bpy.ops.ua3dtalk.check_environment()
        with pytest.raises(RuntimeError, match="No environment is being set up"):
            bpy.ops.ua3dtalk.cancel_set_up()
    finally:
        system.use_online_access = False
        preferences.environment_folder = ""
