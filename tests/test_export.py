"""Frames of a cache in the formats of other programs, read again by those programs' readers."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
from pathlib import Path

import gsply
import numpy as np
import pygltflib
import pytest
from plyfile import PlyData
from pxr import Usd, UsdGeom, UsdValidation, UsdVol
from support import STAGE
from support.caches import FRAMES, random_cache, shown

from ua3dtalk.engine.avatar import Gaussians
from ua3dtalk.engine.avatar.gaussians import quat_multiply, sh_basis
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.errors import Cancelled, UserError
from ua3dtalk.engine.exporters.frames import Axes
from ua3dtalk.engine.exporters.run import ExportSettings, export_cache
from ua3dtalk.engine.importers import import_file

# What a head's Blender axes are in a file's: x stays; z is up, -y is where the face looks.
DOWN = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])  # up -Y, front -Z
UP = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])  # up +Y, front +Z


@pytest.fixture(scope="module", params=[0, 1, 3])
def cache(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cache(tmp_path_factory.mktemp(f"cache{request.param}"), request.param)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return random_cache(tmp_path_factory.mktemp("small"), 1, 30)


def covariances(quats: np.ndarray, scales: np.ndarray) -> np.ndarray:
    """[N,3,3]: what rotation and scale are for; q and -q, and axes in another order, are the same."""
    quats = np.asarray(quats, np.float64)
    zero = np.zeros(len(quats))
    axes = []
    for axis in np.eye(3):
        vector = np.stack([zero, *(np.full(len(quats), a) for a in axis)], 1)
        axes.append(quat_multiply(quat_multiply(quats, vector), quats * (1, -1, -1, -1))[:, 1:])
    matrix = np.stack(axes, 2) * np.asarray(scales, np.float64)[:, None]
    return matrix @ matrix.transpose(0, 2, 1)


def colours(sh: np.ndarray, directions: np.ndarray) -> np.ndarray:
    """[N,D,3] seen along directions [D,3]."""
    return 0.5 + np.einsum("nkc,dk->ndc", sh, sh_basis(directions, round(sh.shape[1] ** 0.5) - 1))


def check(read: Gaussians, cache: Path, frame: int, turned: np.ndarray, atol: dict[str, float]) -> None:
    """A file's Gaussians are those of the cache in other axes, within what the format keeps."""
    want = shown(cache, frame)
    np.testing.assert_allclose(read.means, want.means @ turned.T, atol=atol["means"])
    np.testing.assert_allclose(np.sort(read.scales, 1), np.sort(want.scales, 1), rtol=atol["scales"])
    np.testing.assert_allclose(read.opacities, want.opacities, atol=atol["opacities"])
    size = (want.scales.max(1) ** 2)[:, None, None]
    got, expected = (covariances(g.quats, g.scales) for g in (read, want))
    np.testing.assert_allclose(got / size, turned @ expected @ turned.T / size, atol=atol["shape"])
    directions = np.random.default_rng(0).normal(size=(20, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    got, expected = colours(read.sh, directions @ turned.T), colours(want.sh, directions)
    np.testing.assert_allclose(got, expected, atol=atol["colours"])


EXACT = {"means": 1e-7, "scales": 1e-5, "opacities": 1e-6, "shape": 1e-5, "colours": 1e-5}


def from_gsply(data: gsply.GSData) -> Gaussians:
    assert data.is_scales_ply and data.is_opacities_ply and data.is_sh0_sh
    higher = data.shN if data.shN is not None and data.shN.size else np.empty((len(data.means), 0, 3), np.float32)
    sh = np.concatenate([data.sh0.reshape(-1, 1, 3), higher.reshape(len(data.means), -1, 3)], 1)
    return Gaussians(data.means, data.quats, np.exp(data.scales), 1 / (1 + np.exp(-data.opacities.reshape(-1))), sh)


def test_ply_sequence(cache: Path, tmp_path: Path) -> None:
    told: list[tuple[int, int, str]] = []
    result = export_cache(cache, tmp_path, ExportSettings("ply"), progress=lambda *args: told.append(args))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["-0001.ply", "0000.ply", "0001.ply", "0002.ply"]
    assert result["files"] == result["frames"] == 4 and (result["up"], result["front"]) == ("-Y", "-Z")
    assert told[-1] == (4, 4, "frame 2") and len(told) == 4
    for frame, name in ((-1, "-0001.ply"), (2, "0002.ply")):
        check(from_gsply(gsply.plyread(tmp_path / name)), cache, frame, DOWN, EXACT)
    data = PlyData.read(tmp_path / "0001.ply")
    names = [p.name for p in data["vertex"].properties]
    rest = 3 * (shown(cache, 0).sh.shape[1] - 1)
    assert names[:9] == ["x", "y", "z", "nx", "ny", "nz", "f_dc_0", "f_dc_1", "f_dc_2"] and f"f_rest_{rest}" not in names
    assert names[9 + rest :] == ["opacity", "scale_0", "scale_1", "scale_2", "rot_0", "rot_1", "rot_2", "rot_3"]
    assert data.byte_order == "<" and {p.val_dtype for p in data["vertex"].properties} == {"f4"}
    assert any("up -Y" in comment for comment in data.comments)


def test_ply_in_blenders_axes(small: Path, tmp_path: Path) -> None:
    export_cache(small, tmp_path, ExportSettings("ply", Axes("+Z", "-Y")), (0, 0))
    check(from_gsply(gsply.plyread(tmp_path / "0000.ply")), small, 0, np.eye(3), EXACT)
    assert len(list(tmp_path.iterdir())) == 1


def test_spz_sequence(cache: Path, tmp_path: Path) -> None:
    result = export_cache(cache, tmp_path, ExportSettings("spz"), (0, 1))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["0000.spz", "0001.spz"] and result["up"] == "+Y"
    read = from_gsply(gsply.read_spz(tmp_path / "0001.spz"))
    want = shown(cache, 1)
    clipped = np.concatenate([want.sh[:, :1], np.clip(want.sh[:, 1:], -1, 127 / 128)], 1)
    assert np.abs(want.sh[:, 1:] - clipped[:, 1:]).max(initial=0) < 0.4  # some are beyond what the format holds
    terms = 0.5 / 255 / 0.15 * 0.2821 + (0.05 + np.abs(want.sh[:, 1:]).max(initial=0) if read.sh.shape[1] > 1 else 0)
    loose = {"means": 2**-21 + 1e-7, "scales": 0.032, "opacities": 0.5 / 255 + 1e-6, "shape": 0.08, "colours": terms}
    check(read, cache, 1, UP, loose)
    # To a step of the format, coefficient by coefficient, against the same frame as an uncompressed file.
    export_cache(cache, tmp_path / "ply", ExportSettings("ply", Axes("+Y", "+Z")), (1, 1))
    exact = from_gsply(gsply.plyread(tmp_path / "ply" / "0001.ply"))
    np.testing.assert_allclose(read.sh[:, 0], exact.sh[:, 0], atol=0.5 / 255 / 0.15 + 1e-6)
    np.testing.assert_allclose(read.sh[:, 1:], np.clip(exact.sh[:, 1:], -1, 127 / 128), atol=1 / 256 + 1e-6)
    turns = np.abs(np.einsum("nc,nc->n", read.quats, exact.quats) / np.linalg.norm(exact.quats, axis=1) / np.linalg.norm(read.quats, axis=1))
    assert np.degrees(2 * np.arccos(np.minimum(turns, 1))).max() < 0.25


def test_an_spz_says_what_it_cannot_hold(tmp_path: Path) -> None:
    from ua3dtalk.engine.exporters.spz import write_spz

    one = shown(random_cache(tmp_path / "cache", 0, 9), 0)
    one.means[0, 0] = 1e8
    with pytest.raises(UserError, match="do not fit"):
        write_spz(one, tmp_path / "a.spz")
    assert not (tmp_path / "a.spz").exists()
    one.means[0, 0] = 3000  # coarser, but whole
    write_spz(one, tmp_path / "a.spz")
    assert abs(from_gsply(gsply.read_spz(tmp_path / "a.spz")).means[0, 0] - 3000) < 1e-3


@pytest.mark.parametrize("suffix", [".usdc", ".usda", ".usd"])
def test_usd_has_time_samples(cache: Path, tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"head{suffix}"
    result = export_cache(cache, path, ExportSettings("usd"))
    assert result["schema_known"] is True and [p.name for p in tmp_path.iterdir()] == [path.name]
    stage = Usd.Stage.Open(str(path))
    assert UsdGeom.GetStageUpAxis(stage) == "Z" and UsdGeom.GetStageMetersPerUnit(stage) == 1
    assert (stage.GetTimeCodesPerSecond(), stage.GetStartTimeCode(), stage.GetEndTimeCode()) == (24, -1, 2)
    prim = stage.GetDefaultPrim()
    splats = UsdVol.ParticleField3DGaussianSplat(prim)
    assert splats and prim.GetPath() == "/Ada_L__2" and prim.IsA(UsdVol.ParticleField)
    assert splats.GetPositionsAttr().GetTimeSamples() == list(FRAMES)
    assert not any(attribute.IsCustom() for attribute in prim.GetAuthoredAttributes())
    degree = splats.GetRadianceSphericalHarmonicsDegreeAttr().Get()
    count = len(shown(cache, 0))
    for frame in FRAMES:
        quats = splats.GetOrientationsAttr().Get(frame)
        read = Gaussians(
            np.array(splats.GetPositionsAttr().Get(frame)),
            np.array([(q.GetReal(), *q.GetImaginary()) for q in quats]),
            np.array(splats.GetScalesAttr().Get(frame)),
            np.array(splats.GetOpacitiesAttr().Get(frame)),
            np.array(splats.GetRadianceSphericalHarmonicsCoefficientsAttr().Get(frame)).reshape(count, (degree + 1) ** 2, 3),
        )
        check(read, cache, frame, np.eye(3), EXACT)
        low, high = UsdGeom.Boundable(prim).GetExtentAttr().Get(frame)
        assert (read.means >= low).all() and (read.means <= high).all()
    validators = UsdValidation.ValidationRegistry().GetOrLoadAllValidators()
    assert len(validators) > 10 and not UsdValidation.ValidationContext(validators).Validate(stage)


def test_usd_turns_the_short_way_between_samples(small: Path, tmp_path: Path) -> None:
    export_cache(small, tmp_path / "a.usdc", ExportSettings("usd"))
    stage = Usd.Stage.Open(str(tmp_path / "a.usdc"))
    attribute = UsdVol.ParticleField3DGaussianSplat(stage.GetDefaultPrim()).GetOrientationsAttr()
    samples = [np.array([(q.GetReal(), *q.GetImaginary()) for q in attribute.Get(f)]) for f in FRAMES]
    assert all((np.einsum("nc,nc->n", a, b) >= 0).all() for a, b in zip(samples, samples[1:]))


def accessor(gltf: pygltflib.GLTF2, number: int) -> np.ndarray:
    entry = gltf.accessors[number]
    view = gltf.bufferViews[entry.bufferView]
    width = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}[entry.type]
    assert entry.componentType == pygltflib.FLOAT and view.byteLength == 4 * width * entry.count
    return np.frombuffer(gltf.binary_blob(), "<f4", width * entry.count, view.byteOffset).reshape(entry.count, width)


def test_gltf_still(cache: Path, tmp_path: Path) -> None:
    path = tmp_path / "head.glb"
    export_cache(cache, path, ExportSettings("gltf"), (1, 1))
    gltf = pygltflib.GLTF2().load(str(path))
    assert gltf.asset.version == "2.0" and gltf.extensionsUsed == ["KHR_gaussian_splatting"] and not gltf.extensionsRequired
    primitive = gltf.meshes[gltf.nodes[gltf.scenes[gltf.scene].nodes[0]].mesh].primitives[0]
    assert primitive.mode == pygltflib.POINTS
    assert primitive.extensions["KHR_gaussian_splatting"] == {"kernel": "ellipse", "colorSpace": "srgb_rec709_display"}
    values = {name: accessor(gltf, number) for name, number in vars(primitive.attributes).items() if number is not None}
    own = {name.removeprefix("KHR_gaussian_splatting:"): value for name, value in values.items() if ":" in name}
    degree = round(shown(cache, 1).sh.shape[1] ** 0.5) - 1
    sh = [own.pop(f"SH_DEGREE_{band}_COEF_{n}") for band in range(degree + 1) for n in range(2 * band + 1)]
    assert set(own) == {"ROTATION", "SCALE", "OPACITY"} and set(values) >= {"POSITION", "COLOR_0"}
    quats = own["ROTATION"][:, [3, 0, 1, 2]]
    np.testing.assert_allclose(np.linalg.norm(quats, axis=1), 1, atol=1e-6)
    read = Gaussians(values["POSITION"], quats, own["SCALE"], own["OPACITY"][:, 0], np.stack(sh, 1))
    check(read, cache, 1, UP, EXACT)
    position = gltf.accessors[primitive.attributes.POSITION]
    np.testing.assert_allclose((position.min, position.max), (read.means.min(0), read.means.max(0)), atol=1e-7)
    srgb = np.clip(0.5 + 0.28209479 * read.sh[:, 0], 0, 1)
    middle = np.abs(srgb - 0.5) < 0.4
    np.testing.assert_allclose(values["COLOR_0"][:, :3][middle], srgb[middle] ** 2.2, atol=0.02)
    # The container, by hand: two chunks that fill the file and begin at multiples of four.
    data = path.read_bytes()
    magic, version, length, json_length, kind = struct.unpack_from("<4sIIII", data)
    assert (magic, version, length, kind) == (b"glTF", 2, len(data), 0x4E4F534A) and json_length % 4 == 0
    json.loads(data[20 : 20 + json_length])
    assert struct.unpack_from("<II", data, 20 + json_length) == (len(data) - 28 - json_length, 0x004E4942)


@pytest.mark.parametrize(("kind", "name", "how"), [("ply", "0001.ply", {"up": "-Y", "front": "-Z"}), ("spz", "0001.spz", {})])
def test_what_was_exported_can_be_imported(small: Path, tmp_path: Path, kind: str, name: str, how: dict[str, str]) -> None:
    export_cache(small, tmp_path, ExportSettings(kind), (1, 1))
    got, _ = import_file(tmp_path / name, **how).rest()
    tolerance = EXACT | {"opacities": 5e-5} if kind == "ply" else {"means": 1e-6, "scales": 0.032, "opacities": 0.003, "shape": 0.08, "colours": 1}
    check(got, small, 1, np.eye(3), tolerance)


def test_a_cancelled_export_leaves_nothing_half(small: Path, tmp_path: Path) -> None:
    for kind, out, left in (("ply", tmp_path / "ply", ["-0001.ply", "0000.ply"]), ("usd", tmp_path / "usd" / "a.usdc", [])):
        done: list[int] = []
        with pytest.raises(Cancelled):
            export_cache(small, out, ExportSettings(kind), progress=lambda n, *_: done.append(n), stopped=lambda: len(done) >= 2)
        folder = out if kind == "ply" else out.parent
        assert sorted(p.name for p in folder.iterdir()) == left


def test_what_no_format_can_say_is_told(small: Path, tmp_path: Path) -> None:
    layered = random_cache(tmp_path / "cache", 0, 9, composite="layered")
    assert "mouth" in export_cache(layered, tmp_path / "a", ExportSettings("spz"))["note"]
    assert "note" not in export_cache(small, tmp_path / "b", ExportSettings("spz"))


def test_wishes_that_cannot_be_met_are_refused(small: Path, tmp_path: Path) -> None:
    def refused(out: str, kind: str, frames: tuple[int, int] | None = None, axes: Axes | None = None, cache: Path = small) -> str:
        with pytest.raises(UserError) as caught:
            export_cache(cache, tmp_path / out, ExportSettings(kind, axes), frames)
        assert "\n" not in str(caught.value) and caught.value.remedy and not (tmp_path / out).exists()
        return str(caught.value)

    assert "no format" in refused("a", "abc")
    assert "still" in refused("a.glb", "gltf") and "--frames" in refused("a.glb", "gltf", (0, 1))
    assert ".usdc" in refused("a.txt", "usd") and ".glb" in refused("a.gltf", "gltf", (0, 0))
    assert "7 of 10" in refused("a", "ply", (0, 9)) and "not baked" in refused("a", "spz", (5, 4))
    assert "10000000000 of 10000000003 frames are not baked (3, 4, 5, 6, 7 ...)" in refused("a", "spz", (0, 10_000_000_002))
    assert "part of the format" in refused("a", "spz", axes=Axes("+Z", "-Y"))
    assert "no axes" in refused("a", "ply", axes=Axes("+Z", "-Z")) and "no axes" in refused("a", "ply", axes=Axes("up", "-Z"))
    assert "no bake" in refused("a", "ply", cache=tmp_path)
    blocked = tmp_path / "file"
    blocked.write_text("x")
    for out, kind in ((blocked, "ply"), (blocked / "a.usdc", "usd"), (blocked / "a.glb", "gltf")):
        with pytest.raises(UserError, match="Cannot write"):
            export_cache(small, out, ExportSettings(kind), (0, 0))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file"]


FULL = """
import resource, sys
from pathlib import Path
sys.path.insert(0, sys.argv[1])
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.exporters.run import ExportSettings, export_cache
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
try:
    export_cache(Path(sys.argv[2]), Path(sys.argv[3]), ExportSettings(sys.argv[4]), (0, 0))
except UserError as error:
    print(error)
"""


@pytest.mark.parametrize(("kind", "name"), [("ply", "."), ("spz", "."), ("usd", "a.usdc"), ("usd", "a.usda"), ("gltf", "a.glb")])
def test_a_full_disk_leaves_what_was_there(tmp_path: Path, tmp_path_factory: pytest.TempPathFactory, kind: str, name: str) -> None:
    """A limit on the size of files says what a full disk says, in the middle of writing."""
    pytest.importorskip("resource", reason="only Unix limits the size of files")
    cache = random_cache(tmp_path_factory.mktemp("large"), 3, 1000)
    there = tmp_path / (f"0000.{kind}" if name == "." else name)
    there.write_text("before")
    done = subprocess.run(
        [sys.executable, "-c", FULL, str(STAGE), str(cache), str(tmp_path / name), kind], capture_output=True, text=True
    )
    assert "Cannot write" in done.stdout and done.stdout.count("\n") == 1, done.stderr
    assert [p.name for p in tmp_path.iterdir()] == [there.name] and there.read_text() == "before"


def test_usd_core_that_is_missing_is_named(small: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pxr", None)
    with pytest.raises(UserError, match="usd-core.*requirements-interchange"):
        export_cache(small, tmp_path / "a.usdc", ExportSettings("usd"))
    assert not list(tmp_path.iterdir())


def test_command_line(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["export", "--cache", str(small), "--json"]
    assert main([*command, "--format", "ply", "--out", str(tmp_path / "s"), "--frames", "0:1", "--up", "+Z", "--front", "-Y"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert lines[-1]["files"] == 2 and lines[-1]["up"] == "+Z"
    assert any(line.get("progress") == 2 for line in lines)
    assert main([*command, "--format", "gltf", "--out", str(tmp_path / "a.glb"), "--frames", "0:0"]) == 0
    assert main([*command, "--format", "gltf", "--out", str(tmp_path / "b.glb")]) == 1
    assert main([*command, "--format", "abc", "--out", str(tmp_path / "b.abc")]) == 1
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.glb", "s"]
