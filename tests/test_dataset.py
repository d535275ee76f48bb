"""The data set folder: written, read again, and what is wrong with one said in one line."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ua3dtalk.engine.avatar import EMOTIONS
from ua3dtalk.engine.dataset import AU_COLUMNS, PARSING, DataWriter, FaceData, Labels, read_data
from ua3dtalk.engine.errors import UserError

WIDTH, HEIGHT, COUNT = 24, 16, 6


def camera(turn: float) -> np.ndarray:
    """Camera to world: round the head at distance 1, OpenGL's axes."""
    out = np.eye(4)
    out[:3, :3] = [[np.cos(turn), 0, np.sin(turn)], [0, 1, 0], [-np.sin(turn), 0, np.cos(turn)]]
    out[:3, 3] = out[:3, 2]
    return out


def make(folder: Path, pictures: int = COUNT) -> DataWriter:
    random = np.random.default_rng(0)
    writer = DataWriter(folder, WIDTH, HEIGHT, 40.0, 12.0, 8.0)
    rows = np.arange(HEIGHT)[:, None] * np.ones(WIDTH, int)
    for number in range(COUNT):
        parsing = (rows * len(PARSING) // HEIGHT).astype(np.uint8)
        torso = np.zeros((HEIGHT, WIDTH, 4), np.uint8)
        torso[10:] = (200, 30, 30, 255)
        teeth = np.zeros((HEIGHT, WIDTH), bool)
        teeth[1, 3] = True
        picture = np.full((HEIGHT, WIDTH, 3), 40 * number, np.uint8)
        landmarks = random.uniform(0, 16, (68, 2))
        if number < pictures:
            writer.add(number, number, camera(0.1 * number), picture, parsing, torso, landmarks, teeth, depth=np.full((HEIGHT, WIDTH), 0.5))
        else:
            writer.place(number, number, camera(0.1 * number))
    return writer


def finish(writer: DataWriter) -> FaceData:
    sound = writer.folder.parent / "said.wav"
    soundfile.write(sound, np.zeros(16000), 16000)
    table = {f"AU{number:02d}": np.full(COUNT, 1.0 + i / 10) for i, number in enumerate(AU_COLUMNS)}
    table["AU45"] = np.linspace(0, 5, COUNT)
    labels = Labels(
        np.eye(8, dtype=np.float32)[:COUNT], np.zeros(COUNT, np.int32), np.array(["p"] * COUNT), np.arange(COUNT, dtype=np.int32),
        np.zeros((COUNT, 2), np.float32), np.array(["jawOpen", "mouthClose"]), np.zeros(COUNT, np.int32),
    )  # fmt: skip
    writer.finish({"train": [0, 1, 2, 3], "val": [4], "val_camera": [5]}, table, np.full((HEIGHT, WIDTH, 3), 90), sound, labels, {"name": "N"})
    return read_data(writer.folder)


def test_what_was_written_is_read(tmp_path: Path) -> None:
    data = finish(make(tmp_path / "set"))
    assert (data.width, data.height, data.fps, data.info["name"]) == (WIDTH, HEIGHT, 25.0, "N")
    assert {name: [frame.number for frame in frames] for name, frames in data.splits.items()} == {
        "train": [0, 1, 2, 3], "val": [4], "val_camera": [5]
    }  # fmt: skip
    np.testing.assert_allclose(data.K, [[40, 0, 12], [0, 40, 8], [0, 0, 1]])
    frame = data.splits["train"][3]
    assert frame.time == pytest.approx(3 / 25)
    assert np.abs(data.picture(frame).astype(int) - 120).max() <= 2, "a JPEG"
    behind = data.behind(frame)
    assert (behind[12] == (200, 30, 30)).all() and np.abs(behind[2].astype(int) - 90).max() <= 2
    masks = data.masks(frame)
    assert masks.mouth[1, 3] and not masks.face[1, 3] and masks.face[1, 4], "teeth belong to the mouth"
    assert masks.torso[12, 0] and not masks.head[12, 0]
    assert data.landmarks.shape == (COUNT, 68, 2) and np.isfinite(data.landmarks).all()
    assert data.depth(frame)[0, 0] == pytest.approx(0.5)
    assert data.labels.emotion.shape[1] == len(EMOTIONS) and data.labels.phoneme[0] == "p"


def test_cameras_look_at_the_head(tmp_path: Path) -> None:
    """The origin lies in front of each camera, in the middle; up in the world is up in the picture."""
    data = finish(make(tmp_path / "set"))
    for frame in (frame for frames in data.splits.values() for frame in frames):
        origin, above = (data.K @ (frame.viewmat[:3, :3] @ point + frame.viewmat[:3, 3]) for point in (np.zeros(3), np.array([0, 0.1, 0])))
        assert origin[2] == pytest.approx(1, abs=1e-6)
        np.testing.assert_allclose(origin[:2] / origin[2], (12, 8), atol=1e-4)
        assert above[1] / above[2] < 8


def test_action_units_in_the_views_range(tmp_path: Path) -> None:
    data = finish(make(tmp_path / "set"))
    np.testing.assert_allclose(data.aus[:, 0], 0.2, atol=1e-6)
    np.testing.assert_allclose(data.aus[:, 5], [0, 0.5, 1, 1, 1, 1], atol=1e-3)


def test_a_second_run_goes_on(tmp_path: Path) -> None:
    writer = make(tmp_path / "set", pictures=4)
    with pytest.raises(UserError, match="picture 4 of `val` was not written"):
        finish(writer)
    with pytest.raises(UserError, match="transforms_train.json"):
        read_data(tmp_path / "set")
    again = make(tmp_path / "set")
    assert again.has(5) and finish(again).splits["val_camera"]


def test_all_that_is_missing_is_named_at_once(tmp_path: Path) -> None:
    folder = finish(make(tmp_path / "set")).folder
    (folder / "bc.jpg").unlink()
    (folder / "ori_imgs" / "2.lms").unlink()
    for number in range(COUNT):
        (folder / "teeth_mask" / f"{number}.npy").unlink()
    with pytest.raises(UserError) as found:
        read_data(folder)
    for word in ("bc.jpg", "ori_imgs/2.lms", "teeth_mask/0.npy", "and 3 more"):
        assert word in found.value.message


def change(folder: Path, **values: object) -> None:
    path = folder / "transforms_val.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.mark.parametrize(
    ("harm", "word"),
    [
        (lambda folder: (folder / "transforms_train.json").write_text("{"), "JSON"),
        (lambda folder: change(folder, frames=[{"img_id": 1}]), "transform_matrix"),
        (lambda folder: change(folder, frames=json.loads((folder / "transforms_train.json").read_text())["frames"]), "splits twice"),
        (lambda folder: (folder / "au.csv").write_text("frame, AU01_r\n1, 2\n"), "AU04_r"),
        (lambda folder: (folder / "au.csv").write_text("\n".join((folder / "au.csv").read_text().splitlines()[:4])), "a row for each of 6"),
    ],
)
def test_damaged_tables(tmp_path: Path, harm: object, word: str) -> None:
    folder = finish(make(tmp_path / "set")).folder
    harm(folder)
    with pytest.raises(UserError, match=word):
        read_data(folder)


def test_damaged_pictures(tmp_path: Path) -> None:
    data = finish(make(tmp_path / "set"))
    frame = data.splits["val"][0]
    for name in ("gt_imgs/4.jpg", "parsing/4.png", "teeth_mask/4.npy", "ori_imgs/4.lms", "depth/4.npy", "labels.npz"):
        (data.folder / name).write_bytes(b"no picture")
    fresh = read_data(data.folder)
    for read in (
        lambda: fresh.picture(frame), lambda: fresh.masks(frame), lambda: fresh.landmarks, lambda: fresh.depth(frame), lambda: fresh.labels
    ):  # fmt: skip
        with pytest.raises(UserError, match="does not hold"):
            read()


def test_an_emotion_file_tells_what_is_shown(tmp_path: Path) -> None:
    writer = make(tmp_path / "set")
    data = finish(writer)
    assert np.array_equal(data.emotion, data.labels.emotion), "labels, where there is no file"
    (writer.folder / "emotions.csv").write_text("time,happy,sad\n0,0,0\n0.16,0.8,0\n")
    data = read_data(writer.folder)  # 25 pictures a second: 0, .04, .08 ... s
    assert np.allclose(data.emotion[:, EMOTIONS.index("happy")], [0, 0.2, 0.4, 0.6, 0.8, 0.8], atol=1e-6) and not data.emotion[:, 2].any()
    keys = [{"frame": 0, "emotion": "neutral"}, {"frame": 2, "emotion": "angry", "intensity": 0.5, "blend": 0}]
    (writer.folder / "emotions.json").write_text(json.dumps({"fps": 25, "keys": keys}))
    data = read_data(writer.folder)
    assert np.allclose(data.emotion[:, EMOTIONS.index("angry")], [0, 0, 0.5, 0.5, 0.5, 0.5]) and data.labels is not None
    (writer.folder / "emotions.json").write_text('{"keys": [{"frame": 0, "emotion": "cheery"}]}')
    with pytest.raises(UserError, match="emotions.json: key 1: unknown emotion 'cheery'"):
        _ = read_data(writer.folder).emotion
    for name in ("emotions.json", "emotions.csv", "labels.npz"):
        (writer.folder / name).unlink()
    assert read_data(writer.folder).emotion is None
