"""Rendering a cache into files: cameras, formats, refusals."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import OpenEXR
import pytest
from PIL import Image

from support.avatars import static_avatar
from ua3dtalk.engine.cache import CacheHeader, CacheReader, CacheWriter
from ua3dtalk.engine.cli import main
from ua3dtalk.engine.errors import Cancelled, UserError
from ua3dtalk.engine.raster.reference import rasterization as plain
from ua3dtalk.engine.render import RenderSettings, load_camera, portrait, render_frames
from ua3dtalk.engine.render.images import EMPTY_DEPTH


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three frames of a head that rises by 5 mm a frame, its uncertainty with it."""
    folder = tmp_path_factory.mktemp("cache") / "bake"
    rest, branch = static_avatar(80, 20).rest()
    moving = np.arange(0, len(rest), 2)
    header = CacheHeader("Head", "a" * 64, "", "sorted", 25.0, "", 0, 0, "0", "none")
    with CacheWriter(folder, header, rest, branch, moving) as writer:
        for frame in range(3):
            means = rest.means[moving] + np.array([0, 0, 0.005 * frame], np.float32)
            level = np.full(len(moving), 0.1 * (frame + 1))
            shares = np.tile([0.5, 0.3, 0.2, 0.0] if frame else [0.25] * 4, (len(moving), 1))
            writer.put(frame, bytes([frame]) * 16, means, rest.quats[moving], rest.scales[moving], level, level / 2, shares)
        writer.finish()
    return folder


CAMERA = {"width": 48, "height": 40, "position": [0.1, -0.6, 0.1], "target": [0, 0, 0], "focal_mm": 60}


def camera_file(folder: Path, values: object) -> Path:
    path = folder / "camera.json"
    path.write_text(json.dumps(values))
    return path


def expected(cache: Path, camera: Path, frame: int) -> dict[str, np.ndarray]:
    """The frame by the plain rasteriser."""
    reader, one = CacheReader(cache), load_camera(camera).at(frame)
    moved, rest = reader.at(frame), reader.static
    import torch

    t = lambda x: torch.from_numpy(np.asarray(x, np.float64))  # noqa: E731
    drawn = plain(
        t(moved.means), t(moved.quats), t(moved.scales), t(rest.opacities), t(one.viewmat)[None], t(one.K)[None], one.width, one.height,
        sh=t(rest.sh), features=t(np.column_stack([moved.aleatoric, moved.epistemic, moved.shares])),
    )  # fmt: skip
    return {name: getattr(drawn, name)[0].numpy() for name in ("colors", "alphas", "depth", "features")}


def test_png_holds_what_the_plain_rasteriser_draws(cache: Path, tmp_path: Path) -> None:
    camera = camera_file(tmp_path, CAMERA)
    result = render_frames(cache, load_camera(camera), tmp_path / "out", (0, 2))
    assert result["files"] == 9 and len(list((tmp_path / "out").iterdir())) == 9
    for frame in range(3):
        want = expected(cache, camera, frame)
        found = np.asarray(Image.open(tmp_path / "out" / f"{frame:04d}.png"), np.float64) / 255
        assert found.shape == (40, 48, 4)
        assert np.abs(found[..., 3] - want["alphas"]).max() < 0.51 / 255
        assert want["alphas"].max() > 0.5
        assert np.abs(found[..., :3] * found[..., 3:] - np.clip(want["colors"], 0, want["alphas"][..., None])).max() < 1.1 / 255
        depth = np.asarray(Image.open(tmp_path / "out" / f"{frame:04d}_depth.png"), np.float64) * 1e-4
        assert np.abs(depth - want["depth"]).max() < 1e-4
        picture = Image.open(tmp_path / "out" / f"{frame:04d}_uncertainty.png")
        assert "variance" in picture.text["unit"]
        total = want["features"][..., :2].sum(2) / np.maximum(want["alphas"], 1e-6)
        levels = np.clip(total / result["uncertainty_white"], 0, 1)
        assert np.abs(np.asarray(picture, np.float64) / 65535 - levels).max() < 1e-3
    first = np.asarray(Image.open(tmp_path / "out" / "0000.png"), np.int64)
    assert np.abs(first - np.asarray(Image.open(tmp_path / "out" / "0002.png"), np.int64)).max() > 20  # it moves


def test_exr_is_scene_linear_with_all_layers(cache: Path, tmp_path: Path) -> None:
    camera = camera_file(tmp_path, CAMERA)
    render_frames(cache, load_camera(camera), tmp_path / "out", (1, 1), RenderSettings(format="exr"))
    want = expected(cache, camera, 1)
    with OpenEXR.File(str(tmp_path / "out" / "0001.exr"), separate_channels=True) as file:
        found = {name: channel.pixels for name, channel in file.channels().items()}
    alpha = want["alphas"]
    shares = ("ShareAudio", "ShareExp", "ShareStyle", "ShareEmotion")
    assert set(found) == {"R", "G", "B", "A", "Z", "Uncertainty", "Aleatoric", "Epistemic", *shares}
    for number, name in enumerate(shares):
        assert np.abs(found[name][seen := alpha > 0.01] - want["features"][seen][:, 2 + number] / alpha[seen]).max() < 1e-4
    assert found["ShareAudio"].max() > 0.1 and not found["ShareEmotion"].any()
    assert np.abs(found["A"] - alpha).max() < 1e-5
    seen = alpha > 0.01
    straight = want["colors"][seen] / alpha[seen][:, None]
    linear = np.where(straight <= 0.04045, straight / 12.92, ((straight + 0.055) / 1.055) ** 2.4) * alpha[seen][:, None]
    assert np.abs(np.stack([found[c][seen] for c in "RGB"], 1) - linear).max() < 1e-4
    assert np.abs(found["Z"][seen] - want["depth"][seen]).max() < 1e-4
    assert (found["Z"][alpha == 0] == np.float32(EMPTY_DEPTH)).all() and (alpha == 0).any()
    aleatoric = want["features"][seen][:, 0] / alpha[seen]
    assert np.abs(found["Aleatoric"][seen] - aleatoric).max() < 1e-4
    assert np.allclose(found["Uncertainty"], found["Aleatoric"] + found["Epistemic"])


def test_every_way_to_give_a_camera_is_the_same_camera(tmp_path: Path) -> None:
    one = load_camera(camera_file(tmp_path, CAMERA)).at(0)
    world = np.linalg.inv(one.viewmat) @ np.diag([1.0, -1, -1, 1])
    for pose in ({"viewmat": one.viewmat.tolist()}, {"matrix_world": (world * [[2, 2, 2, 1]] * 1).tolist()}):
        for lens in ({"focal_mm": 60}, {"K": one.K.tolist()}, {"focal_mm": 40, "sensor_mm": 24}):
            other = load_camera(camera_file(tmp_path, {"width": 48, "height": 40, **pose, **lens})).at(0)
            assert np.allclose(other.viewmat, one.viewmat) and np.allclose(other.K, one.K)
    # The target lands in the middle of the picture, what is above it higher up.
    ahead = one.viewmat @ [0, 0, 0, 1]
    above = one.viewmat @ [0, 0, 0.1, 1]
    assert np.allclose((one.K @ ahead[:3] / ahead[2])[:2], (24, 20)) and (one.K @ above[:3] / above[2])[1] < 20


def test_a_camera_that_moves_keeps_what_an_entry_does_not_name(tmp_path: Path) -> None:
    steps = [{"frame": 10, "position": [0, -1, 0]}, {"frame": 5, "focal_mm": 30}]
    path = load_camera(camera_file(tmp_path, CAMERA | {"frames": steps}))
    first, later, last = path.at(0), path.at(9), path.at(200)
    assert path.at(5) is first is later and first.K[0, 0] == pytest.approx(30 / 36 * 48)
    assert last.K[0, 0] == first.K[0, 0] and not np.allclose(last.viewmat, first.viewmat)


def test_the_portrait_holds_the_head() -> None:
    means = np.random.default_rng(0).uniform(-0.1, 0.1, (500, 3)) + [1, 2, 3]
    for size in ((64, 64), (100, 40), (40, 100)):
        camera = portrait(means, *size).at(0)
        seen = means @ camera.viewmat[:3, :3].T + camera.viewmat[:3, 3]
        pixels = (seen @ camera.K.T)[:, :2] / seen[:, 2:]
        assert (pixels > 0).all() and (pixels < size).all()
        assert (np.ptp(pixels, axis=0) / size).max() > 0.7


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ([], "object"),
        ({}, "width"),
        (CAMERA | {"width": 10.5}, "width"),
        (CAMERA | {"target": [0.1, -0.6, 0.1]}, "same place"),
        (CAMERA | {"target": [0, 0]}, "target"),
        (CAMERA | {"viewmat": np.eye(4).tolist()}, "pose"),
        (CAMERA | {"focal_mm": -1}, "focal_mm"),
        (CAMERA | {"focal_mm": "60"}, "focal_mm"),
        (CAMERA | {"K": [[1, 2], [3]]}, "lens"),
        ({"width": 8, "height": 8, "focal_mm": 50, "viewmat": np.diag([1.0, 1, -1, 1]).tolist()}, "rotation"),
        ({"width": 8, "height": 8, "focal_mm": 50, "viewmat": [["x"] * 4] * 4}, "viewmat"),
        (CAMERA | {"frames": [{"position": [0, 0, 1]}]}, "frames"),
    ],
)  # fmt: skip
def test_a_camera_file_that_makes_no_camera_is_refused(tmp_path: Path, values: object, said: str) -> None:
    path = camera_file(tmp_path, values)
    with pytest.raises(UserError, match=said) as caught:
        load_camera(path)
    assert str(path) in caught.value.message


def test_missing_frames_are_named_before_anything_is_drawn(cache: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="2 of 4 frames are not baked .3, 4"):
        render_frames(cache, portrait(np.zeros((0, 3)), 8, 8), tmp_path / "out", (1, 4))
    with pytest.raises(UserError, match=r"of 1000000000000000000000 frames are not baked \(.*\.\.\.\)"):
        render_frames(cache, portrait(np.zeros((0, 3)), 8, 8), tmp_path / "out", (0, 10**21 - 1))
    assert not (tmp_path / "out").exists()


def test_cancel_keeps_whole_files(cache: Path, tmp_path: Path) -> None:
    drawn: list[int] = []
    with pytest.raises(Cancelled):
        render_frames(
            cache, portrait(np.zeros((0, 3)), 8, 8), tmp_path / "out", None, RenderSettings(background="#ff0000"),
            progress=lambda done, total, text: drawn.append(done), stopped=lambda: len(drawn) == 2,
        )  # fmt: skip
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert "0000.png" in names and not any(name.endswith(".part") for name in names)
    picture = np.asarray(Image.open(tmp_path / "out" / "0000.png"))
    assert (picture[..., 3] == 255).all()


def test_command_line(cache: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["render", "--cache", str(cache), "--frames", "0:1", "--size", "32x24", "--out", str(tmp_path / "a"), "--json"]) == 0
    result = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert result["frames"] == 2 and Image.open(tmp_path / "a" / "0001.png").size == (32, 24)
    camera = camera_file(tmp_path, CAMERA)
    arguments = ["render", "--cache", str(cache), "--camera", str(camera), "--format", "exr", "--out", str(tmp_path / "b")]
    assert main(arguments) == 0 and (tmp_path / "b" / "0002.exr").exists()
    assert main([*arguments, "--background", "#808080"]) == 1
    assert "alpha" in capsys.readouterr().err
