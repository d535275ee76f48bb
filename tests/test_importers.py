"""The authors' checkpoint and 3D Gaussian .ply files; files that only look like them get one line."""

from __future__ import annotations

import os
import struct
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from plyfile import PlyData, PlyElement
from support import shared_data

from ua3dtalk.engine.avatar import Avatar, load_avatar, save_avatar
from ua3dtalk.engine.deform import reference
from ua3dtalk.engine.deform.fast import Deformer
from ua3dtalk.engine.deform.parameters import VIEWS, branch_tensors
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.importers import import_file

RNG = np.random.default_rng(7)


def refused(path: Path) -> str:
    with pytest.raises(UserError) as caught:
        import_file(path)
    text = str(caught.value)
    assert str(path) in text and "\n" not in text and caught.value.remedy
    return text


# The authors' checkpoint


def authors_state(branch: str, members: int = 3, channels: int = 4, levels: int = 2, latent: int = 8) -> OrderedDict[str, torch.Tensor]:
    """A network state with random weights in the authors' layout."""
    state: OrderedDict[str, torch.Tensor] = OrderedDict()
    wide = channels * levels

    def add(name: str, *shape: int, bias: int | None = None) -> None:
        state[f"{name}.weight"] = torch.from_numpy(RNG.normal(0, 0.2, shape).astype(np.float32))
        if bias is not None:
            state[f"{name}.bias"] = torch.from_numpy(RNG.normal(0, 0.2, bias).astype(np.float32))

    def planes(name: str, count: int, cells: int, width: int) -> None:
        state[f"{name}.aabb"] = torch.tensor([[0.15] * 3, [-0.15] * 3])
        for level in range(count):
            for plane in range(3):
                size = cells * 2**level
                state[f"{name}.grids.{level}.{plane}"] = torch.rand(1, width, size, size) * 0.4 + 0.1

    for number, (a, b) in enumerate(((29, 32), (32, 32), (32, 64), (64, 64))):
        add(f"audio_net.encoder_conv.{2 * number}", b, a, 3, bias=b)
    add("audio_net.encoder_fc1.0", 64, 64, bias=64)
    add("audio_net.encoder_fc1.2", 32, 64, bias=32)
    for number, (a, b) in enumerate(((32, 16), (16, 8), (8, 4), (4, 2), (2, 1))):
        add(f"audio_att_net.attentionConvNet.{2 * number}", b, a, 3, bias=b)
    add("audio_att_net.attentionNet.0", 8, 8, bias=8)
    planes("xyz_encoder", levels, 3, channels)
    views = {"audio": 32 + wide, "content": 64 + wide, "style": 64 + wide}
    heads = {"xyz": 3}
    if branch == "face":
        views |= {"audio": 38 + wide, "emotion": 5}
        heads |= {"rotation": 4, "scale": 3}
        add("exp_encode_net.net.0", 16, 5)
        add("exp_encode_net.net.1", 5, 16)
        add("eye_att_net.net.0", 16, wide)
        add("eye_att_net.net.1", 6, 16)
        add("emotion_encoder.emotion_fc1", 5, 128, bias=5)
        planes("emotion_encoder.xyz_encoder", 1, 4, 5)
        state["emotion_encoder.codebook.0"] = torch.rand(9, 5)
    add("aud_ch_att_net.net.0", 32, wide)
    add("aud_ch_att_net.net.1", 32, 32)
    for view, inputs in views.items():
        for member in range(members):
            add(f"fuse_net.{view}_net.{member}.fc1", 64, inputs, bias=64)
            add(f"fuse_net.{view}_net.{member}.fc_mu", latent, 64, bias=latent)
            add(f"fuse_net.{view}_net.{member}.fc_var", latent, 64, bias=latent)
    add("fuse_net.fc", 64, latent + wide, bias=64)
    for head, width in heads.items():
        add(f"{head}_decoder.1", 64, 64, bias=64)
        add(f"{head}_decoder.3", width, 64, bias=width)
    return state


def authors_gaussians(n: int, degree: int = 2) -> list[Any]:
    normal = lambda *shape: torch.nn.Parameter(torch.from_numpy(RNG.normal(size=shape).astype(np.float32)))  # noqa: E731
    rest = (degree + 1) ** 2 - 1
    extra = [torch.zeros(n), torch.zeros(n, 1), torch.zeros(n, 1), {"state": {}, "param_groups": []}, np.float64(0.35)]
    return [degree, normal(n, 3), normal(n, 1, 3), normal(n, rest, 3), normal(n, 1), normal(n, 3), normal(n, 4), normal(n, 1), *extra]


def authors_checkpoint() -> list[Any]:
    return [tuple(authors_gaussians(50)), authors_state("face"), tuple(authors_gaussians(20)), authors_state("mouth")]


def write(path: Path, content: Any, **options: Any) -> Path:
    torch.save(tuple(content) if isinstance(content, list) else content, path, **options)
    return path


@pytest.mark.parametrize("zipped", [True, False])
def test_checkpoint_of_other_sizes(tmp_path: Path, zipped: bool) -> None:
    content = authors_checkpoint()
    avatar = import_file(write(tmp_path / "chkpnt_fuse_latest.pth", content, _use_new_zipfile_serialization=zipped))
    assert avatar.meta.composite == "layered" and not avatar.is_static
    assert avatar.meta.emotions == [] and "emotion.prototypes" not in avatar.tensors
    assert {name: view.dim for name, view in avatar.meta.views.items()} == {
        "audio": [8, 29, 16], "exp": [1, 64], "style": [1, 64], "emotion": [1, 128], "au": [6]
    }  # fmt: skip
    assert all(view.provider.startswith("authors/") for view in avatar.meta.views.values())
    for branch, fields in zip(VIEWS, content[::2]):
        assert np.array_equal(avatar.tensors[f"{branch}.means"], fields[1].detach())
        assert np.array_equal(avatar.tensors[f"{branch}.opacities"], fields[7].detach()[:, 0])
        assert np.array_equal(avatar.tensors[f"{branch}.sh"], torch.cat([fields[2], fields[3]], 1).detach())
    state = content[1]
    assert np.array_equal(avatar.tensors["face.net.fuse.exp.logvar.weight"][2], state["fuse_net.content_net.2.fc_var.weight"])
    assert np.array_equal(avatar.tensors["face.net.field.1.xz"], state["xyz_encoder.grids.1.1"][0])

    save_avatar(avatar, tmp_path / "imported.ua3dtalk")
    again = load_avatar(tmp_path / "imported.ua3dtalk")
    views = {name: RNG.normal(size=(2, *view.dim)).astype(np.float32) for name, view in avatar.meta.views.items()}
    motion = Deformer(again, "cpu").motion(views)
    for branch in VIEWS:
        one = {name: view[1] for name, view in views.items()}
        want = reference.deform(branch, again.tensors[f"{branch}.means"], branch_tensors(again.tensors, branch), one)
        assert np.abs(getattr(motion, branch).d_means[1] - want.d_means).max() < 1e-5 * np.abs(want.d_means).max()


def test_the_authors_layout_as_their_code_writes_it() -> None:
    avatar = import_file(shared_data("reference_case", "chkpnt_fuse_latest.pth"), name="somebody", up="-Y", front="-Z")
    assert (avatar.count("face"), avatar.count("mouth")) == (600, 200)
    assert (avatar.meta.name, avatar.meta.up, avatar.meta.front) == ("somebody", "-Y", "-Z")
    assert avatar.tensors["face.net.fuse.audio.fc1.weight"].shape == (10, 64, 102)


def test_bands_that_were_not_trained_are_left_out(tmp_path: Path) -> None:
    content = authors_checkpoint()
    content[0] = (1, *content[0][1:])
    assert import_file(write(tmp_path / "a.pth", content)).tensors["face.sh"].shape == (50, 4, 3)


class _Code:
    """Unpickling this would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str, ...]]:
        return os.mkdir, (str(self.mark),)


@pytest.mark.parametrize("zipped", [True, False])
def test_code_in_a_checkpoint_never_runs(tmp_path: Path, zipped: bool) -> None:
    content, mark = authors_checkpoint(), tmp_path / "ran"
    content[0] = (*content[0][:11], _Code(mark), 0.35)
    text = refused(write(tmp_path / "a.pth", content, _use_new_zipfile_serialization=zipped))
    assert "run code" in text and not mark.exists()
    refused(write(tmp_path / "b.pth", torch.nn.Linear(2, 2)))


@pytest.mark.parametrize("name", ["branch", "talking", "3dgs", "weights", "number", "short"])
def test_other_checkpoints_are_named(tmp_path: Path, name: str) -> None:
    face, state, mouth, mouth_state = authors_checkpoint()
    content, why = {
        "branch": ([face, state, {"state": {}}], "one branch alone"),
        "talking": ([face, state, {"state": {}}, 50000], "one branch alone"),
        "3dgs": ([face[:12], 30000], "plain 3DGS"),
        "weights": (state, "dictionary of weights"),
        "number": (3, "not laid out"),
        "short": ([face[:12], state, mouth, mouth_state], "12 entries"),
    }[name]
    assert why in refused(write(tmp_path / "chkpnt.pth", content))


def test_damaged_weights_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.pth"
    for key, why in (
        ("fuse_net.fc.bias", "face.net.fuse.fc.bias"),
        ("fuse_net.style_net.1.fc_mu.weight", "gap"),
        ("emotion_encoder.codebook.0", "emotion.codebook.0"),
        ("xyz_encoder.grids.0.2", "field.0.yz"),
    ):
        content = authors_checkpoint()
        del content[1][key]
        assert why in refused(write(path, content))
    content = authors_checkpoint()
    content[3]["fuse_net.fc.weight"][3, 3] = float("nan")
    assert "mouth.net.fuse.fc.weight" in refused(write(path, content))
    content[3]["fuse_net.fc.weight"] = torch.zeros(64, 3)
    assert "(64, 3)" in refused(write(path, content))
    content = authors_checkpoint()
    content[2][5].data[3, 1] = float("inf")
    assert "scales of its mouth" in refused(write(path, content))
    content = authors_checkpoint()
    content[0] = (2, content[0][1], torch.zeros(49, 1, 3), *content[0][3:])
    assert "SH dc of its face" in refused(write(path, content))


def test_truncated_checkpoints_are_refused(tmp_path: Path) -> None:
    path = write(tmp_path / "a.pth", authors_checkpoint())
    whole = path.read_bytes()
    for cut in (0, 1, 2, 30, 1000, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)


# .ply


def ply_columns(n: int, degree: int) -> dict[str, np.ndarray]:
    names = ["x", "y", "z", "nx", "ny", "nz", *(f"f_dc_{i}" for i in range(3))]
    names += [f"f_rest_{i}" for i in range(3 * ((degree + 1) ** 2 - 1))]
    names += ["opacity", *(f"scale_{i}" for i in range(3)), *(f"rot_{i}" for i in range(4))]
    return {name: RNG.normal(-3 if name.startswith("scale") else 0, 1, n).astype(np.float32) for name in names}


def write_ply(path: Path, columns: dict[str, np.ndarray], text: bool = False, order: str = "<", extra: bool = False) -> Path:
    rows = np.rec.fromarrays(list(columns.values()), names=list(columns))
    elements = [PlyElement.describe(np.asarray(rows), "vertex")]
    if extra:
        camera = np.array([(1.0,)], dtype=[("view_px", "f4")])
        elements.insert(0, PlyElement.describe(camera, "camera"))
    PlyData(elements, text=text, byte_order="=" if text else order).write(str(path))
    return path


@pytest.mark.parametrize(("text", "order"), [(False, "<"), (False, ">"), (True, "=")])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply(tmp_path: Path, text: bool, order: str, degree: int) -> None:
    columns = ply_columns(40, degree)
    avatar = import_file(write_ply(tmp_path / "head.ply", columns, text, order, extra=degree == 1), up="-Y", front="-Z")
    assert avatar.is_static and avatar.meta.name == "head" and (avatar.meta.up, avatar.meta.front) == ("-Y", "-Z")
    save_avatar(avatar, tmp_path / "head.ua3dtalk")
    gaussians = load_avatar(tmp_path / "head.ua3dtalk").gaussians("face")
    stack = lambda *names: np.stack([columns[n] for n in names], 1)  # noqa: E731
    assert np.allclose(gaussians.means, stack("x", "y", "z"))
    assert np.allclose(gaussians.scales, np.exp(stack("scale_0", "scale_1", "scale_2")), rtol=1e-5)
    assert np.allclose(gaussians.opacities, 1 / (1 + np.exp(-columns["opacity"])), atol=1e-6)
    quats = stack("rot_0", "rot_1", "rot_2", "rot_3")
    assert np.allclose(gaussians.quats, quats / np.linalg.norm(quats, axis=1, keepdims=True), atol=1e-6)
    bands = (degree + 1) ** 2
    assert gaussians.sh.shape == (40, bands, 3) and np.allclose(gaussians.sh[:, 0, 2], columns["f_dc_2"])
    for band in range(1, bands):
        for channel in range(3):
            assert np.allclose(gaussians.sh[:, band, channel], columns[f"f_rest_{channel * (bands - 1) + band - 1}"])


def test_tiny_and_huge_scales_survive(tmp_path: Path) -> None:
    columns = ply_columns(3, 0)
    for name in ("scale_0", "scale_1", "scale_2"):
        columns[name] = np.array([-30, -12, 5], np.float32)
    scales = import_file(write_ply(tmp_path / "a.ply", columns)).gaussians("face").scales
    assert np.allclose(scales[:, 0], np.exp([-30, -12, 5]), rtol=1e-5, atol=0)


def test_optional_properties_are_filled(tmp_path: Path) -> None:
    columns = {k: v for k, v in ply_columns(10, 0).items() if k[:2] not in ("nx", "ny", "nz", "ro", "op")}
    columns["red"] = np.zeros(10, np.uint8)
    gaussians = import_file(write_ply(tmp_path / "a.ply", columns)).gaussians("face")
    assert (gaussians.quats == [1, 0, 0, 0]).all() and (gaussians.opacities > 0.9999).all()


@pytest.mark.parametrize("name", ["x", "f_dc_1", "scale_2"])
def test_necessary_properties_are_named(tmp_path: Path, name: str) -> None:
    columns = ply_columns(4, 1)
    del columns[name]
    assert f"property {name} missing" in refused(write_ply(tmp_path / "a.ply", columns))


def test_odd_ply_files_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.ply"
    columns = ply_columns(4, 1)
    assert "f_rest" in refused(write_ply(path, {k: v for k, v in columns.items() if k != "f_rest_4"}))
    assert "rot_2" in refused(write_ply(path, {k: v for k, v in columns.items() if k not in ("rot_0", "rot_1")}))
    for value in (np.nan, np.inf):
        assert "opacity" in refused(write_ply(path, columns | {"opacity": np.array([0, value, 0, 0], np.float32)}))
    assert "beyond all size" in refused(write_ply(path, columns | {"scale_1": np.full(4, 1e4, np.float32)}))
    assert "no Gaussians" in refused(write_ply(path, {k: v[:0] for k, v in columns.items()}))
    path.write_bytes(b"ply\nformat ascii 1.0\nelement face 1\nproperty list uchar int i\nend_header\n3 0 1 2\n")
    assert "lists" in refused(path)
    path.write_bytes(b"ply\nformat ascii 1.0\nelement face 1\nproperty int i\nend_header\n3\n")
    assert "vertex" in refused(path)
    path.write_bytes(b"ply\nformat ascii 1.0\nelement vertex 1\nproperty list uchar float x\nend_header\n1 0\n")
    refused(path)


@pytest.mark.parametrize(("text", "order"), [(False, "<"), (False, ">"), (True, "=")])
def test_truncated_ply_files_are_refused(tmp_path: Path, text: bool, order: str) -> None:
    path = write_ply(tmp_path / "a.ply", ply_columns(20, 1), text, order)
    whole = path.read_bytes()
    header = whole.index(b"end_header") + len(b"end_header\n")
    # In text, a cut inside the very last number cannot be told from a shorter number; one before it can.
    last = whole.rstrip().rindex(b" ") if text else len(whole) - 1
    for cut in (0, 2, 3, 4, 40, header - 12, header - 1, header, header + 3, len(whole) // 2, last):
        path.write_bytes(whole[:cut])
        refused(path)


def test_a_header_that_promises_too_much_is_refused(tmp_path: Path) -> None:
    path = write_ply(tmp_path / "a.ply", ply_columns(20, 0))
    path.write_bytes(path.read_bytes().replace(b"element vertex 20", b"element vertex 2000000000000"))
    refused(path)


@pytest.mark.parametrize("content", [b"", b"\x00" * 64, b"solid stl", struct.pack("<Q", 4) + b"{}  ", b"plywood is no format\n"])
def test_foreign_files_are_refused(tmp_path: Path, content: bytes) -> None:
    for name in ("a.ply", "a.pth", "a.bin"):
        path = tmp_path / name
        path.write_bytes(content)
        refused(path)


def test_missing_files_and_folders_are_refused(tmp_path: Path) -> None:
    refused(tmp_path / "absent.pth")
    refused(tmp_path)


def test_an_import_that_fails_writes_nothing(tmp_path: Path) -> None:
    avatar = import_file(write_ply(tmp_path / "a.ply", ply_columns(5, 0)))
    assert isinstance(avatar, Avatar)
    avatar.meta.up = "sideways"
    with pytest.raises(UserError):
        save_avatar(avatar, tmp_path / "out.ua3dtalk")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.ply"]
