"""Sync-C and Sync-D: the published networks, their inputs and scores; and the shipped sync discriminator on an avatar's mouth."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch
from support.face_data import make_face_data

from ua3dtalk.engine.avatar.tensors import save_tensors
from ua3dtalk.engine.dataset import FaceData, Frame, read_data
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.evaluate import report, sync
from ua3dtalk.engine.evaluate.landmarks import Tracker
from ua3dtalk.engine.evaluate.sync import films, judge_lead, judge_syncnet
from ua3dtalk.engine.evaluate.syncnet import REACH, Syncnet, cepstra, face_boxes, face_crop, score


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def published(seed: int = 0) -> dict[str, torch.Tensor]:
    """Random weights under the names and in the shapes of `syncnet_v2.model`, written down from its network's description."""
    generator, found = torch.Generator().manual_seed(seed), {}

    def layer(name: str, norm: str | None, *shape: int) -> None:
        found[f"{name}.weight"] = torch.randn(*shape, generator=generator) * float(2 / np.prod(shape[1:])) ** 0.5
        found[f"{name}.bias"] = torch.zeros(shape[0])
        if norm is not None:
            for part, value in (("weight", 1.0), ("bias", 0.0), ("running_mean", 0.0), ("running_var", 1.0)):
                found[f"{norm}.{part}"] = torch.full((shape[0],), value)

    for number, outputs, inputs, *kernel in (
        (0, 64, 1, 3, 3), (4, 192, 64, 3, 3), (8, 384, 192, 3, 3), (11, 256, 384, 3, 3), (14, 256, 256, 3, 3), (18, 512, 256, 5, 4),
    ):  # fmt: skip
        layer(f"netcnnaud.{number}", f"netcnnaud.{number + 1}", outputs, inputs, *kernel)
    for number, outputs, inputs, *kernel in (
        (0, 96, 3, 5, 7, 7), (4, 256, 96, 1, 5, 5), (8, 256, 256, 1, 3, 3), (11, 256, 256, 1, 3, 3), (14, 256, 256, 1, 3, 3), (18, 512, 256, 1, 6, 6),
    ):  # fmt: skip
        layer(f"netcnnlip.{number}", f"netcnnlip.{number + 1}", outputs, inputs, *kernel)
    for name in ("netfcaud", "netfclip"):
        layer(f"{name}.0", f"{name}.1", 512, 512)
        layer(f"{name}.3", None, 1024, 512)
    return found


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("syncnet") / "syncnet_v2.model"
    torch.save(published(), path)
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> FaceData:
    return read_data(make_face_data(tmp_path_factory.mktemp("sync") / "data", frames=40, size=48))


# --- the networks -------------------------------------------------------------------------------------------------------------


def test_the_published_file_fits_and_others_are_told_apart(weights: Path, tmp_path: Path) -> None:
    net = Syncnet.load(weights)
    stored = torch.load(weights, weights_only=True)
    own = {name: value for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
    assert own.keys() == stored.keys() and all(torch.equal(own[name], stored[name]) for name in own)
    save_tensors(tmp_path / "s.safetensors", {name: value.numpy() for name, value in stored.items()}, {})
    again = Syncnet.load(tmp_path / "s.safetensors").state_dict()
    assert all(torch.equal(again[name], stored[name]) for name in stored)
    changed = dict(stored)
    del changed["netcnnaud.11.bias"], changed["netfclip.3.weight"]
    changed["netcnnlip.0.weight"] = torch.zeros(96, 3, 5, 3, 3)
    changed["netfcaud.0.bias"] = torch.full((512,), float("nan"))
    cases = {
        "expert.pth": ({"face_encoder.0.0.conv_block.0.weight": torch.zeros(16, 15, 7, 7)}, ("holds none of the 88 tensors", "Wav2Lip")),
        "part.pth": (changed, ("netcnnaud.11.bias", "netfclip.3.weight", "netcnnlip.0.weight (96, 3, 5, 3, 3) for (96, 3, 5, 7, 7)", "in netfcaud.0.bias")),
        "list.pth": ([1, 2], ("holds none",)),
    }
    for name, (state, told) in cases.items():
        torch.save(state, tmp_path / name)
        with pytest.raises(UserError) as refused:
            Syncnet.load(tmp_path / name)
        assert all(text in str(refused.value) for text in told) and name in str(refused.value)
    (tmp_path / "text.model").write_text("no weights")
    with pytest.raises(UserError, match="cannot|can be read safely"):
        Syncnet.load(tmp_path / "text.model")
    with pytest.raises(UserError, match="no file"):
        Syncnet.load(tmp_path / "none.model")


def test_a_film_gives_what_its_windows_give(weights: Path, random: np.random.Generator) -> None:
    """And colours go in as blue, green, red of 0..255, coefficients as 13 x 20 a window of 0.2 s."""
    net, stored = Syncnet.load(weights), published()
    pictures = random.integers(0, 256, (8, 224, 224, 3), np.uint8)
    found = net.mouth(iter(pictures))
    assert found.shape == (4, 1024)
    layer, norm = torch.nn.functional.conv3d, torch.nn.functional.batch_norm

    def by_hand(film: torch.Tensor) -> torch.Tensor:
        x = film
        pools = {0: ((1, 3, 3), (1, 2, 2), 0), 4: ((1, 3, 3), (1, 2, 2), (0, 1, 1)), 14: ((1, 3, 3), (1, 2, 2), 0)}
        for n, stride, padding in ((0, (1, 2, 2), 0), (4, (1, 2, 2), (0, 1, 1)), (8, 1, (0, 1, 1)), (11, 1, (0, 1, 1)), (14, 1, (0, 1, 1)), (18, 1, 0)):
            x = layer(x, stored[f"netcnnlip.{n}.weight"], None, stride, padding)
            x = norm(x, torch.zeros(x.shape[1]), torch.ones(x.shape[1])).relu()
            x = torch.nn.functional.max_pool3d(x, *pools[n]) if n in pools else x
        assert x.shape == (1, 512, 1, 1, 1)
        hidden = norm(x.flatten(1) @ stored["netfclip.0.weight"].T, torch.zeros(512), torch.ones(512)).relu()
        return hidden @ stored["netfclip.3.weight"].T

    one = torch.from_numpy(pictures[2:7, :, :, [2, 1, 0]].copy()).float().permute(3, 0, 1, 2)[None]
    assert torch.allclose(found[2], by_hand(one)[0], rtol=1e-3, atol=1e-3 * float(found.abs().max()))
    samples = random.normal(0, 0.1, 640 * 8)
    heard = net.sound(samples)
    assert heard.shape == (3, 1024)  # 31 columns of 10 ms
    window = torch.from_numpy(cepstra(np.rint(samples * 32768))[4:24].T.astype(np.float32))
    with torch.no_grad():
        assert torch.allclose(heard[1], net.netfcaud(net.netcnnaud(window[None, None]).flatten(1))[0], rtol=1e-3, atol=1e-3 * float(heard.abs().max()))


def test_cepstra_are_those_of_python_speech_features() -> None:
    """Values of `mfcc(samples, 16000)` of its version 0.6."""
    n = np.arange(3200)
    found = cepstra(np.rint(8000 * np.sin(2 * np.pi * n * (200 + n / 20) / 16000) * (n > 400)))
    assert found.shape == (19, 13)
    assert np.allclose(found[0], [-36.04365, *[0] * 12], atol=1e-4)
    wanted = [18.54605, 26.97203, 14.62182, 2.08416, -10.86984, -22.03763, -27.63686, -27.98618, -22.51096, -14.00396, -3.99539, 3.99118, 8.71239]
    assert np.allclose(found[7], wanted, atol=1e-4)
    wanted = [19.10872, 20.6795, 1.7505, -15.70591, -27.24481, -28.60883, -18.25207, -2.83216, 11.58052, 18.0798, 16.02453, 6.78509, -3.72562]
    assert np.allclose(found[-1], wanted, atol=1e-4)
    assert cepstra(np.zeros(640)).shape == (3, 13)


# --- the scores ---------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("late", [0, 4, -7])
def test_a_known_offset_is_found(late: int) -> None:
    generator = torch.Generator().manual_seed(0)
    whole = torch.randn(140, 32, generator=generator)
    heard, seen = whole[20:120], whole[20 - late : 120 - late] + 0.1 * torch.randn(100, 32, generator=generator)
    found = score(seen, heard)
    assert found.late == pytest.approx(late / 25)
    assert found.distance < 0.4 * (64**0.5)  # unrelated ones lie about 8 apart
    strange = score(torch.randn(100, 32, generator=generator), heard)
    assert found.confidence > 4 > 2 > strange.confidence and strange.distance > 2 * found.distance


def test_confidence_is_the_median_less_the_least() -> None:
    seen, heard = torch.zeros(1, 2), torch.tensor([[3.0, 4.0]])
    found = score(seen, heard)  # all shifts but one meet nothing: 0
    assert (found.confidence, found.distance) == (0, 0)
    seen, heard = torch.tensor([[3.0, 4.0]]), torch.tensor([[3.0, 3.0]])
    found = score(seen, heard)  # 1 in sync, 5 elsewhere
    assert (found.confidence, found.distance, found.late) == (pytest.approx(4), pytest.approx(1), 0)
    assert score(torch.ones(40, 3), torch.ones(90, 3)).distance == pytest.approx(0)  # as long as the shorter


# --- the crop -----------------------------------------------------------------------------------------------------------------


def test_the_crop_holds_the_face_with_its_margin() -> None:
    """A face from 40 to 60 across, brows at 32, chin at 56: the forehead makes it 30 high."""
    points = np.zeros((20, 68, 2), np.float32)
    points[..., 0], points[..., 1] = np.linspace(40, 60, 68), np.linspace(32, 56, 68)
    points[4] = np.nan
    points[9] += 30  # one frame's mistake
    boxes = face_boxes(points)
    assert np.allclose(boxes, [50, 41, 15])
    picture = np.zeros((100, 100, 3), np.uint8)
    picture[26:68, 29:71] = [200, 100, 50]  # from 26; 1.8 halves down; 1.4 halves to the sides
    found = face_crop(picture, boxes[0])
    assert found.shape == (224, 224, 3) and (found == [200, 100, 50]).all()
    assert not (face_crop(picture, boxes[0] + [0, 1, 0]) == [200, 100, 50]).all()
    edge = face_crop(picture, np.array([5.0, 95, 15]))
    assert (edge[:, :10] == 110).all() and (edge[-10:] == 110).all() and (edge[20, -20] == 0).all()


# --- an avatar ----------------------------------------------------------------------------------------------------------------


class Held(Tracker):
    """Landmarks of the data for the avatar's, which stand still at rest."""

    def __init__(self, data: FaceData) -> None:
        self.data = data

    def landmarks(self, frames: list[Frame], still: bool = False) -> np.ndarray:
        numbers = [frames[0].number if still else frame.number for frame in frames]
        return self.data.landmarks[numbers]


def test_sync_of_prediction_truth_and_still(weights: Path, data: FaceData, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sync, "LEAST", 16)
    frames = data.splits["train"]
    assert [len(part) for part in films(data, frames)] == [16, 16]
    some = frames[:16]
    predicted = lambda part: map(data.picture, part)  # noqa: E731
    still = lambda part: (data.picture(part[0]) for _ in part)  # noqa: E731
    figures, notes = judge_syncnet(Syncnet.load(weights), data, some, Held(data), predicted, still)
    for name in ("sync-c", "sync-d", "sync offset (ms)"):
        assert figures[name] == figures[f"{name} of the true pictures"]  # the truth was predicted
    assert np.isfinite(list(figures.values())).all() and figures["sync-c"] > 0 and figures["sync-d"] != figures["sync-d still"]
    assert "1 uninterrupted pieces (16 frames" in notes[0] and "none under 100" in notes[0]
    result = {"avatar": "A", "file": "a", "gaussians": 1, "notes": notes, "pictures": {"a": {"frames drawn": 16, "frames followed": 16} | figures}}
    rows = [f"{figures[f'sync-c{side}']:.3f}" for side in ("", " still", " of the true pictures")]
    assert f"| Sync-C (LSE-C) ↑ | {' | '.join(rows)} |" in report.markdown(result) and "| | a | still | truth |" in report.markdown(result)
    net, samples = Syncnet.load(weights), soundfile.read(data.sound, dtype="float32")[0]
    boxes = face_boxes(data.landmarks[[f.number for f in some]])
    seen = net.mouth(face_crop(data.picture(f), box) for f, box in zip(some, boxes))
    wanted = score(seen, net.sound(samples[: 16 * 640]))
    assert figures["sync-c"] == pytest.approx(wanted.confidence, rel=1e-4) and figures["sync-d"] == pytest.approx(wanted.distance, rel=1e-4)


def test_what_syncnet_cannot_judge_is_said(data: FaceData) -> None:
    with pytest.raises(UserError, match=f"{2 * REACH} frames in a row.*has 16"):
        films(data, data.splits["train"])
    with pytest.raises(UserError, match="30 pictures a second"):
        films(replace(data, fps=30.0), data.splits["train"])


def test_the_shipped_discriminator_hears_how_late_a_mouth_is(tmp_path: Path) -> None:
    """Lips that follow the loudness of speech, and the same lips shown 0.12 s later; a mouth at rest says nothing."""
    folder = make_face_data(tmp_path / "data", frames=200, size=32)
    data = read_data(folder)
    data.splits = {"val": sorted(data.splits["train"] + data.splits["val"], key=lambda frame: frame.time)}
    late = np.full_like(data.landmarks, np.nan)
    late[3:] = data.landmarks[:-3]
    found = judge_lead(data, "val", {"": data.landmarks, " later": late, " still": np.repeat(data.landmarks[:1], len(late), 0)})
    assert found["sync lag (ms) later"] - found["sync lag (ms)"] == pytest.approx(120, abs=15) and found["sync clearness"] > 1
    assert np.isnan(found["sync lag (ms) still"]) and np.isnan(found["sync clearness still"])
    json.loads(report.as_json(found))
