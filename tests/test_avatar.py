"""The avatar file: what is written comes back; what is broken is refused in one line and runs nothing."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy
from support.avatars import static_avatar

from ua3dtalk.engine.avatar import Avatar, load_avatar, save_avatar
from ua3dtalk.engine.avatar.gaussians import matrix_to_quat, quat_multiply, sh_basis, sigmoid, softplus, softplus_inverse, turn
from ua3dtalk.engine.avatar.tensors import load_tensors, save_tensors
from ua3dtalk.engine.errors import UserError


@pytest.fixture
def avatar_file(tmp_path: Path) -> Path:
    path = tmp_path / "head.safetensors"
    save_avatar(static_avatar(), path)
    return path


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        load_avatar(path)
    assert "\n" not in str(caught.value) and str(path) in caught.value.message
    return caught.value.message


def test_round_trip(avatar_file: Path) -> None:
    before, after = static_avatar(), load_avatar(avatar_file)
    assert after.meta == before.meta
    for name, tensor in before.tensors.items():
        np.testing.assert_array_equal(after.tensors[name], tensor)
    assert after.is_static and after.count("face") == 60 and after.count("mouth") == 20
    assert len(after.moving_rows()) == 0


def test_other_readers_and_writers_agree(avatar_file: Path, tmp_path: Path) -> None:
    theirs = safetensors.numpy.load_file(avatar_file)
    ours, _ = load_tensors(avatar_file)
    assert theirs.keys() == ours.keys()
    for name in ours:
        np.testing.assert_array_equal(theirs[name], ours[name])
    arrays = {"a": np.arange(5, dtype=np.uint8), "b": np.float16([1.5, -2]), "c": np.zeros((0, 3), np.int64), "d": np.array(3, np.float32)}
    safetensors.numpy.save_file(arrays, tmp_path / "x", {"k": "v"})
    ours, metadata = load_tensors(tmp_path / "x")
    assert metadata == {"k": "v"}
    for name, array in arrays.items():
        np.testing.assert_array_equal(ours[name], array)


def test_truncated_at_every_boundary(avatar_file: Path) -> None:
    data = avatar_file.read_bytes()
    header = 8 + struct.unpack("<Q", data[:8])[0]
    ends = {0, 1, 7, 8, 9, header - 1, header, len(data) - 1}
    for entry in json.loads(data[8:header]).values():
        if "data_offsets" in entry:
            ends |= {header + offset + change for offset in entry["data_offsets"] for change in (-1, 0)}
    cut = avatar_file.with_name("cut.safetensors")
    for end in sorted(end for end in ends if 0 <= end < len(data)):
        cut.write_bytes(data[:end])
        refused(cut)


@pytest.mark.parametrize("content", [b"", b"ply\nformat", b"PK\x03\x04" + bytes(100), bytes(8), b"\xff" * 64, b"\x02" + bytes(7) + b"[]"])
def test_foreign_files(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "foreign.safetensors"
    path.write_bytes(content)
    refused(path)


def test_missing_and_folder(tmp_path: Path) -> None:
    refused(tmp_path / "nothing.safetensors")
    refused(tmp_path)


def broken(path: Path, change) -> str:
    avatar = static_avatar()
    tensors = dict(avatar.tensors)
    metadata: dict = {"format_version": 1, "name": "x"}
    change(tensors, metadata)
    save_tensors(path, tensors, {"ua3dtalk": json.dumps(metadata)})
    return refused(path)


def test_what_is_wrong_is_named(tmp_path: Path) -> None:
    path = tmp_path / "bad.safetensors"
    nan = np.full((60, 3), np.nan, np.float32)
    assert "format 2" in broken(path, lambda t, m: m.update(format_version=2))
    assert "`face.scales` holds NaN" in broken(path, lambda t, m: t.update({"face.scales": nan}))
    assert "`face.quats` is missing" in broken(path, lambda t, m: t.pop("face.quats"))
    assert "shape (59, 3)" in broken(path, lambda t, m: t.update({"face.scales": np.zeros((59, 3), np.float32)}))
    assert "no face Gaussians" in broken(path, lambda t, m: t.pop("face.means"))
    assert "5 coefficients" in broken(path, lambda t, m: t.update({"face.sh": np.zeros((60, 5, 3), np.float32)}))
    assert "do not exist" in broken(path, lambda t, m: t.update({"face.moving": np.int32([60])}))
    assert "axes" in broken(path, lambda t, m: m.update(up="Q"))
    assert "one line" in broken(path, lambda t, m: m.update(up="+Z", front="-Z"))
    assert "composite" in broken(path, lambda t, m: m.update(composite="upside down"))
    assert "metres" in broken(path, lambda t, m: m.update(metres_per_unit=-1))
    assert "pixel_size" in broken(path, lambda t, m: m.update(pixel_size=-0.001))
    assert "pixel_size" in broken(path, lambda t, m: m.update(pixel_size="small"))
    assert "cannot be read" in broken(path, lambda t, m: m.update(format_version="1"))
    assert "incomplete" in broken(path, lambda t, m: m.update(views={"audio": {}}))
    save_tensors(path, {}, {})
    assert "no UA-3DTalk avatar" in refused(path)


def test_an_invalid_avatar_does_not_replace_a_file(avatar_file: Path) -> None:
    before = avatar_file.read_bytes()
    avatar = static_avatar()
    avatar.tensors["face.means"] = np.full((60, 3), np.inf, np.float32)
    with pytest.raises(UserError):
        save_avatar(avatar, avatar_file)
    assert avatar_file.read_bytes() == before
    assert list(avatar_file.parent.iterdir()) == [avatar_file]


def test_hash_is_the_files(avatar_file: Path) -> None:
    import hashlib

    assert load_avatar(avatar_file).hash == hashlib.sha256(avatar_file.read_bytes()).hexdigest()


def test_activations() -> None:
    scales = np.array([1e-6, 1e-3, 0.5, 40.0])
    np.testing.assert_allclose(softplus(softplus_inverse(scales)), scales, rtol=2e-6)
    np.testing.assert_allclose(sigmoid(np.array([-1e4, 0, 1e4])), [0, 0.5, 1])


@pytest.mark.parametrize(("up", "front"), [("+Y", "+Z"), ("-Y", "-Z"), ("+Z", "-Y"), ("+X", "+Y")])
def test_turning_to_blender_keeps_shape_and_colour(up: str, front: str) -> None:
    avatar = static_avatar(degree=3)
    avatar.meta.up, avatar.meta.front, avatar.meta.metres_per_unit = up, front, 2.0
    rotation = avatar.rotation_to_blender()
    assert np.linalg.det(rotation) == pytest.approx(1)
    axis = {"X": np.eye(3)[0], "Y": np.eye(3)[1], "Z": np.eye(3)[2]}
    np.testing.assert_allclose(rotation @ axis[up[1]] * (1 if up[0] == "+" else -1), [0, 0, 1], atol=1e-12)
    np.testing.assert_allclose(rotation @ axis[front[1]] * (1 if front[0] == "+" else -1), [0, -1, 0], atol=1e-12)

    before = avatar.gaussians("face")
    after = avatar.to_blender(before)
    np.testing.assert_allclose(covariances(after), 4 * rotation @ covariances(before) @ rotation.T, atol=1e-7)
    direction = np.array([[0.6, -0.48, 0.64]])
    seen_before = np.einsum("mk,nkc->nmc", sh_basis(direction, 3), before.sh)
    seen_after = np.einsum("mk,nkc->nmc", sh_basis(direction @ rotation.T, 3), after.sh)
    np.testing.assert_allclose(seen_after, seen_before, atol=1e-5)


def test_a_turn_and_its_inverse(avatar_file: Path) -> None:
    gaussians = load_avatar(avatar_file).gaussians("face")
    matrix = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    matrix *= np.linalg.det(matrix)
    back = turn(turn(gaussians, matrix, 3.0), matrix.T, 1 / 3)
    for name in ("means", "scales", "sh"):
        np.testing.assert_allclose(getattr(back, name), getattr(gaussians, name), atol=2e-6)
    quat = matrix_to_quat(matrix)
    np.testing.assert_allclose(np.abs(quat_multiply(quat, matrix_to_quat(matrix.T))), [1, 0, 0, 0], atol=1e-9)


def covariances(gaussians) -> np.ndarray:
    w, x, y, z = gaussians.quats.astype(np.float64).T
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
            [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
            [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
        ]
    ).transpose(2, 0, 1)
    scaled = rotation * gaussians.scales[:, None, :]
    return scaled @ scaled.transpose(0, 2, 1)


def test_unknown_metadata_of_the_same_version_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "later.safetensors"
    save_tensors(path, static_avatar().tensors, {"ua3dtalk": json.dumps({"format_version": 1, "name": "x", "mood": "good"})})
    assert isinstance(load_avatar(path), Avatar)
