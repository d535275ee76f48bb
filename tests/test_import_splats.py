"""Sets of Gaussians that other programs wrote: compressed .ply, .spz, .splat; damaged ones get one line and no memory."""

from __future__ import annotations

import gzip
import io
import os
import struct
import tempfile
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import gsply
import numpy as np
import pytest
import torch
import zstandard
from gsply.writer import write_compressed
from hypothesis import given, settings
from hypothesis import strategies as st
from test_importers import authors_checkpoint, ply_columns, refused, write, write_ply

from ua3dtalk.engine.avatar import Avatar, load_avatar, save_avatar
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.importers import import_file

LITTLE = 24 << 20
"""Bytes that reading a small file may take, the libraries' own tables included."""


def somebody(count: int = 600, degree: int = 2) -> gsply.GSData:
    random = np.random.default_rng(degree)
    quats = random.normal(size=(count, 4)).astype(np.float32)
    bands = (degree + 1) ** 2 - 1
    return gsply.GSData.from_arrays(
        means=random.normal(0, 0.2, (count, 3)).astype(np.float32),
        scales=random.uniform(-8, -2, (count, 3)).astype(np.float32),
        quats=quats / np.linalg.norm(quats, axis=1, keepdims=True),
        opacities=random.normal(0, 2, count).astype(np.float32),
        sh0=random.normal(0, 0.5, (count, 3)).astype(np.float32),
        shN=random.normal(0, 0.2, (count, bands, 3)).astype(np.float32) if bands else None,
        format="ply",
    )


def same(avatar: Avatar, want: gsply.GSData, means: float = 1e-6, scales: float = 1e-5, opacity: float = 1e-5, quat: float = 1e-5, sh: float = 1e-5) -> None:
    """The avatar shows what gsply has."""
    assert avatar.is_static and avatar.meta.composite == "sorted"
    got = avatar.gaussians("face")
    np.testing.assert_allclose(got.means, want.means, atol=means)
    np.testing.assert_allclose(np.log(got.scales), want.scales, atol=scales)
    np.testing.assert_allclose(got.opacities, 1 / (1 + np.exp(-want.opacities.reshape(-1))), atol=opacity)
    quats = want.quats / np.linalg.norm(want.quats, axis=1, keepdims=True)
    assert np.minimum(np.abs(got.quats - quats).max(1), np.abs(got.quats + quats).max(1)).max() < quat
    np.testing.assert_allclose(got.sh[:, 0], want.sh0, atol=sh)
    higher = np.empty((len(quats), 0, 3)) if want.shN is None else want.shN.reshape(len(quats), -1, 3)
    np.testing.assert_allclose(got.sh[:, 1:], higher, atol=sh)


@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_ply_of_another_writer(tmp_path: Path, degree: int) -> None:
    """Without normals, in gsply's order."""
    gsply.plywrite(tmp_path / "a.ply", somebody(degree=degree))
    same(import_file(tmp_path / "a.ply"), somebody(degree=degree))


def test_columns_in_any_order(tmp_path: Path) -> None:
    columns = ply_columns(30, 3)
    want = import_file(write_ply(tmp_path / "a.ply", columns)).tensors
    shuffled = list(columns.items())
    np.random.default_rng(3).shuffle(shuffled)
    doubles = {name: values.astype(np.float64) for name, values in shuffled}
    got = import_file(write_ply(tmp_path / "b.ply", doubles)).tensors
    assert set(got) == set(want) and all(np.array_equal(got[name], want[name]) for name in want)


def compressed(path: Path, data: gsply.GSData) -> Path:
    write_compressed(path, data.means, data.scales, data.quats, data.opacities, data.sh0, data.shN)
    return path


@pytest.mark.parametrize("degree", [0, 1, 3])
def test_compressed_ply(tmp_path: Path, degree: int) -> None:
    data = somebody(degree=degree)
    path = compressed(tmp_path / "a.ply", data)
    assert b"packed_position" in path.read_bytes()
    avatar = import_file(path, name="packed")
    same(avatar, gsply.plyread(path), scales=1e-4, opacity=5e-5, sh=2e-3)  # as the other reader has it
    # as it was before; the order within a chunk of the writer is kept
    got = avatar.gaussians("face")
    assert np.abs(got.means - data.means).max() < np.ptp(data.means) / 1023
    np.testing.assert_allclose(got.sh[:, 1:], np.empty((600, 0, 3)) if data.shN is None else data.shN, atol=0.5 * 8 / 255)
    save_avatar(avatar, tmp_path / "a.safetensors")
    assert load_avatar(tmp_path / "a.safetensors").meta.name == "packed"


def test_odd_compressed_ply_files_are_refused(tmp_path: Path) -> None:
    path = compressed(tmp_path / "a.ply", somebody())
    whole = path.read_bytes()
    for before, after, why in (
        (b"property uint packed_scale", b"property uint packed_other", "packed_scale"),
        (b"property uint packed_color", b"property float packed_color", "packed_color"),
        (b"property float max_y", b"property float more_y", "max_y"),
        (b"element chunk", b"element lumps", "0 chunks for 600"),
        (b"property uchar f_rest_3", b"property char f_rest_3", "sh"),
    ):
        assert before in whole
        path.write_bytes(whole.replace(before, after))
        assert why in refused(path)
    for cut in (len(whole) // 3, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)
    path = write_ply(path, {k: np.zeros(4, np.uint32) for k in ("packed_position", "packed_rotation", "packed_scale", "packed_color")})
    assert "0 chunks" in refused(path)


@pytest.mark.parametrize("version", [3, 4])
@pytest.mark.parametrize("degree", [0, 1, 2, 3])
def test_spz(tmp_path: Path, version: int, degree: int) -> None:
    path = tmp_path / "a.spz"
    gsply.write_spz(path, somebody(degree=degree), version=version)
    same(import_file(path), gsply.read_spz(path), opacity=5e-5)


def spz(version: int, count: int, degree: int, body: bytes, magic: int = 0x5053474E, flags: int = 0, fraction: int = 12) -> bytes:
    return gzip.compress(struct.pack("<IIIBBBB", magic, version, count, degree, fraction, flags, 0) + body, 1)


def test_spz_of_version_2(tmp_path: Path) -> None:
    """Rotations by three bytes; positions of both signs."""
    path, count = tmp_path / "a.spz", 50
    random = np.random.default_rng(5)
    body = bytearray(random.integers(0, 256, 50 * (9 + 1 + 3 + 3 + 3 + 9), np.uint8).tobytes())
    three = random.normal(size=(count, 3))
    three *= random.uniform(0, 0.98, (count, 1)) / np.linalg.norm(three, axis=1, keepdims=True)
    body[16 * count : 19 * count] = np.rint(three * 127.5 + 127.5).astype(np.uint8).tobytes()
    path.write_bytes(spz(2, count, 1, bytes(body)))
    same(import_file(path), gsply.read_spz(path), means=1e-3, opacity=5e-5, quat=1e-3)


def test_degree_4_is_cut_and_extensions_are_passed_over(tmp_path: Path) -> None:
    path, count = tmp_path / "a.spz", 3
    body = b"\x80" * count * (9 + 1 + 3 + 3 + 4 + 72)
    path.write_bytes(spz(3, count, 4, body))
    assert import_file(path).tensors["face.sh"].shape == (3, 16, 3)
    path.write_bytes(spz(3, count, 4, body + b"more", flags=2))
    assert import_file(path).count("face") == 3
    path.write_bytes(spz(3, count, 4, body + b"more"))
    assert "goes on" in refused(path)


def test_odd_spz_files_are_refused(tmp_path: Path) -> None:
    path, body = tmp_path / "a.spz", b"\x80" * 3 * 20
    for data, why in (
        (spz(1, 3, 0, body), "version 1"),
        (spz(7, 3, 0, body), "version 7"),
        (spz(4, 3, 0, body), "damaged"),  # is not packed that way
        (spz(3, 0, 0, body), "0 Gaussians"),
        (spz(3, 4_000_000_000, 0, body), "4,000,000,000 Gaussians"),
        (spz(3, 9_000_000, 3, body), "not in"),
        (spz(3, 3, 5, body), "SH degree 5"),
        (spz(3, 3, 0, body, fraction=60), "60 fractional bits"),
        (spz(3, 3, 0, body, magic=5), "no .spz"),
        (spz(3, 3, 0, body[:-1]), "cut short"),
        (spz(3, 3, 0, body)[:-9], "cut short"),
        (b"\x1f\x8b" + bytes(60), "damaged"),
        (gzip.compress(b"hello"), "no .spz"),
        (b"NGSP", "no .spz"),
    ):
        path.write_bytes(data)
        assert why in refused(path), why
    gsply.write_spz(path, somebody(20), version=4)
    whole = path.read_bytes()
    for cut in (10, 31, 40, 100, len(whole) - 1):
        path.write_bytes(whole[:cut])
        refused(path)


def test_zstandard_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    gsply.write_spz(tmp_path / "a.spz", somebody(20), version=4)
    monkeypatch.setitem(__import__("sys").modules, "zstandard", None)
    text = refused(tmp_path / "a.spz")
    assert "zstandard" in text and "version 3" in text and "requirements-interchange" in text


def splat(data: gsply.GSData) -> bytes:
    """As antimatter15's converter packs it."""
    rgb = np.clip(0.5 + 0.28209479177387814 * data.sh0, 0, 1) * 255
    alpha = 255 / (1 + np.exp(-data.opacities.reshape(-1, 1)))
    records = np.zeros(len(rgb), [("m", "<f4", 3), ("s", "<f4", 3), ("c", "u1", 4), ("q", "u1", 4)])
    records["m"], records["s"] = data.means, np.exp(data.scales)
    records["c"], records["q"] = np.concatenate([rgb, alpha], 1), np.clip(data.quats * 128 + 128, 0, 255)
    return records.tobytes()


def test_the_trained_pixel_is_told(tmp_path: Path) -> None:
    path = tmp_path / "a.splat"
    path.write_bytes(splat(somebody(degree=0)))
    assert import_file(path).meta.pixel_size == 0
    meta = import_file(path, metres_per_unit=0.1, pixel_metres=5e-4).meta
    assert meta.pixel_size == pytest.approx(5e-3) and meta.pixel_metres == pytest.approx(5e-4)
    for wrong in (-1e-4, 3.0, float("nan")):
        with pytest.raises(UserError, match="A pixel of"):
            import_file(path, pixel_metres=wrong)


def test_splat(tmp_path: Path) -> None:
    data = somebody(degree=0)
    path = tmp_path / "a.splat"
    path.write_bytes(splat(data))
    data.sh0 = np.clip(data.sh0, -0.5 / 0.2821, 0.5 / 0.2821)
    same(import_file(path, up="-Y", front="-Z"), data, opacity=1 / 255, quat=0.02, sh=1.01 / 255 / 0.282)


def test_odd_splat_files_are_refused(tmp_path: Path) -> None:
    path, whole = tmp_path / "a.splat", splat(somebody(5))
    for data, why in ((b"", "0 bytes"), (whole[:-1], "159 bytes"), (struct.pack("<f", np.nan) + whole[4:], "positions"),
                      (whole[:12] + struct.pack("<f", np.inf) + whole[16:], "scales"),
                      (whole[:12] + struct.pack("<f", -1) + whole[16:], "scales")):  # fmt: skip
        path.write_bytes(data)
        assert why in refused(path)
    path.write_bytes(whole[:12] + bytes(4) + whole[16:])  # rounded down to nothing by who wrote it
    assert (import_file(path).gaussians("face").scales > 0).all()


# TalkingGaussian


def test_talking_gaussian_comes_in_without_its_networks(tmp_path: Path) -> None:
    content = authors_checkpoint()
    content[1] = {"encoder_xy.embeddings": torch.zeros(5, 2), "sigma_net.net.0.weight": torch.zeros(4, 4)}
    content[3] = {"encoder_xy.embeddings": torch.zeros(5, 2)}
    avatar = import_file(write(tmp_path / "chkpnt_fuse_latest.pth", content))
    assert avatar.is_static and avatar.meta.composite == "layered" and avatar.meta.views == {}
    assert "does not talk" in avatar.meta.provenance and "fuse_net" in avatar.meta.provenance
    save_avatar(avatar, tmp_path / "a.safetensors")
    again = load_avatar(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(again.tensors["mouth.means"], content[2][1].detach())
    scales = torch.nn.functional.softplus(content[0][5].detach())
    np.testing.assert_allclose(again.gaussians("face").scales, scales, rtol=1e-5)


# No memory for what is not there


@contextmanager
def modest() -> Iterator[None]:
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < LITTLE
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("kind", ["ascii", "binary_little_endian", "binary_big_endian"])
def test_a_ply_that_promises_too_much_takes_no_memory(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.ply"
    names = "".join(f"property float {name}\n" for name in ply_columns(1, 0))
    for text in (
        f"element vertex 900000000\n{names}",
        f"element vertex 10\n{names}element chunk 4000000000\nproperty float min_x\n",
        f"element camera 4000000000\nelement vertex 1\n{names}",
        f"element vertex -5\n{names}",
        f"element vertex {'9' * 5000}\n{names}",
        "element vertex 4000000\nproperty list uint float x\n",
        f"comment x\rend_header\relement vertex 900000000\n{names}",
        f"comment end_header\nelement vertex 900000000\n{names}",
        f"comment {'x' * 70000}\nelement vertex 1\n{names}",
    ):
        path.write_bytes(f"ply\nformat {kind} 1.0\n{text}end_header\n".encode() + bytes(500))
        with modest():
            refused(path)


def test_archives_that_unpack_to_much_more_take_no_memory(tmp_path: Path) -> None:
    path, zeros = tmp_path / "a.spz", bytes(256 << 20)
    path.write_bytes(spz(3, 3, 0, bytes(60) + zeros))
    with modest():
        assert "goes on" in refused(path)
    gsply.write_spz(path, somebody(20, 0), version=4)
    whole = path.read_bytes()
    (start,) = struct.unpack_from("<I", whole, 16)
    bomb = zstandard.ZstdCompressor().compress(zeros)
    entries = list(struct.iter_unpack("<QQ", whole[start : start + 5 * 16]))
    at = start + 5 * 16
    for entry in (entries[0][1], len(zeros)):
        table = struct.pack("<QQ", len(bomb), entry) + whole[start + 16 : at]
        path.write_bytes(whole[:start] + table + bomb + whole[at + entries[0][0] :])
        with modest():
            try:
                import_file(path)  # the first 180 of its bytes are what was announced
            except UserError:
                pass
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a/data.pkl", zeros)
    path = tmp_path / "a.pth"
    path.write_bytes(packed.getvalue())
    with modest():
        assert "unpacks" in refused(path)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")
def test_tensors_that_are_larger_than_their_file_take_no_memory(tmp_path: Path) -> None:
    many = 1 << 31
    for tensor in (torch.zeros(1, 1).expand(many, 3), torch.sparse_coo_tensor(torch.zeros(2, 1).long(), torch.ones(1), (many, 3))):
        content = authors_checkpoint()
        content[0] = (*content[0][:1], tensor, *content[0][2:])
        path = write(tmp_path / "a.pth", content)
        with modest():
            text = refused(path)
        assert "larger" in text or "sparse" in text


# Damage

_FOLDER = tempfile.TemporaryDirectory(prefix="ua3dtalk-test-damage-")


def _damaged(data: bytes, hits: list[tuple[float, int]], cut: float, doubled: float) -> bytes:
    changed = bytearray(data)
    for where, value in hits:
        changed[int(where * (len(changed) - 1))] = value
    if doubled < 0.2:  # a piece comes twice
        at = int(doubled * 5 * len(changed))
        changed[at:at] = changed[at : at + 37]
    return bytes(changed[: int(len(changed) * cut) + 1] if cut < 0.9 else changed)


def _packed_spz(data: bytes) -> bytes:
    return gzip.compress(data, 1)


def _samples() -> dict[str, tuple[str, bytes, Callable[[bytes], bytes]]]:
    """Name -> (suffix, bytes that are damaged, what is done with them before they are a file)."""
    folder = Path(_FOLDER.name)
    data = somebody(40, 1)
    same_bytes: Callable[[bytes], bytes] = bytes
    found = {}
    for name, text, order in (("ply", False, "<"), ("ply-big", False, ">"), ("ply-text", True, "=")):
        found[name] = (".ply", write_ply(folder / "s.ply", ply_columns(12, 1), text, order).read_bytes(), same_bytes)
    found["ply-packed"] = (".ply", compressed(folder / "s.ply", data).read_bytes(), same_bytes)
    for version in (3, 4):
        gsply.write_spz(folder / "s.spz", data, version=version)
        found[f"spz-{version}"] = (".spz", (folder / "s.spz").read_bytes(), same_bytes)
    found["spz-inside"] = (".spz", gzip.decompress(found["spz-3"][1]), _packed_spz)
    found["splat"] = (".splat", splat(data), same_bytes)
    content = authors_checkpoint()
    for index in (1, 3):  # the networks' sizes make files large and say nothing about reading
        content[index] = {"encoder_xy.embeddings": torch.zeros(5, 2)}
    found["pth"] = (".pth", write(folder / "s.pth", content).read_bytes(), same_bytes)
    found["pth-old"] = (".pth", write(folder / "s.pth", content, _use_new_zipfile_serialization=False).read_bytes(), same_bytes)
    return found


SAMPLES = _samples()
# Headers are a small part of a file and the part that matters most.
_WHERE = st.one_of(st.floats(0, 1), st.floats(0, 0.05))
_HITS = st.lists(st.tuples(_WHERE, st.one_of(st.integers(0, 255), st.sampled_from([0, 48, 57, 127, 128, 255]))), max_size=5)


@pytest.mark.filterwarnings("ignore:Detected pickle protocol")
@pytest.mark.parametrize("name", list(SAMPLES))
def test_damaged_files_never_raise_anything_else(name: str) -> None:
    suffix, whole, packing = SAMPLES[name]
    path = Path(_FOLDER.name) / f"{os.getpid()}-{name}{suffix}"
    path.write_bytes(packing(whole))
    assert import_file(path).count("face")
    outcomes = {"read": 0, "refused": 0}

    @settings(max_examples=400, deadline=None, database=None)
    @given(_HITS, st.floats(0, 3), st.floats(0, 2))
    def run(hits: list[tuple[float, int]], cut: float, doubled: float) -> None:
        path.write_bytes(packing(_damaged(whole, hits, cut, doubled)))
        try:
            avatar = import_file(path)
        except UserError as error:
            outcomes["refused"] += 1
            assert str(path) in str(error) and "\n" not in str(error) and error.remedy
        else:
            outcomes["read"] += 1
            assert all(np.isfinite(tensor).all() for tensor in avatar.tensors.values() if tensor.dtype.kind == "f")

    run()
    assert min(outcomes.values()) > 5  # both happen
