"""Reading a data set folder: all that is missing is said at once, pictures are read when they are asked for."""

from __future__ import annotations

import csv
import json
import zipfile
from collections import Counter
from dataclasses import dataclass, field, fields
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..avatar import EMOTIONS
from ..errors import UserError
from ..shot import load_emotion
from .layout import (
    AU_COLUMNS, AU_FULL, BLINK_FULL, DEPTH_FILE, EMOTION_FILES, FPS, INFO_FILE, LABELS_FILE, LANDMARKS, PARSING, PICTURE_FILES, REQUIRED_FILES, TRANSFORMS,
    VIEW_AUS, Frame, Labels, Masks,
)  # fmt: skip

NAMED = 3
"""Missing files of one kind that are named; the others are counted."""


@dataclass(eq=False)
class FaceData:
    """A data set.

    Attributes:
        folder: where it lies.
        width, height: px, of all pictures.
        K: [3,3] float32, px; the centre of the first pixel is (0.5, 0.5).
        fps: pictures a second of sound.
        splits: `train`, `val` and what else there is; frames in the files' order.
        au_table: `AU01` ... -> [F] float32, OpenFace's 0..5, by id.
        info: what `data.json` says: name, metres_per_unit, provenance, consent, licence.
        extras: features of other tools in the folder (`*.pth`).
    """

    folder: Path
    width: int
    height: int
    K: np.ndarray
    fps: float
    splits: dict[str, list[Frame]]
    au_table: dict[str, np.ndarray]
    info: dict[str, Any] = field(default_factory=dict)
    extras: list[Path] = field(default_factory=list)

    @property
    def sound(self) -> Path:
        """The sound file."""
        return self.folder / "aud.wav"

    @cached_property
    def aus(self) -> np.ndarray:
        """[F,6] float32 in 0..1 by id: AU1, 4, 5, 6, 7 and 45 as the networks see them."""
        columns = [self.au_table[f"AU{number:02d}"] for number in VIEW_AUS]
        full = [BLINK_FULL if number == 45 else AU_FULL for number in VIEW_AUS]
        return np.column_stack([(column / top).clip(0, 1) for column, top in zip(columns, full)]).astype(np.float32)

    @cached_property
    def landmarks(self) -> np.ndarray:
        """[F,68,2] float32 px by id; NaN where the folder has none.

        Raises:
            UserError: a file that does not hold 68 points.
        """
        numbers = [frame.number for frames in self.splits.values() for frame in frames]
        found = np.full((max(numbers) + 1, LANDMARKS, 2), np.nan, np.float32)
        for number in set(numbers):
            path = self._file("landmarks", number)
            try:
                found[number] = np.loadtxt(path, dtype=np.float32)
            except (OSError, ValueError) as error:
                raise _damaged(path, "68 lines of two numbers") from error
        return found

    @cached_property
    def background(self) -> np.ndarray:
        """[H,W,3] uint8."""
        return self._image(self.folder / "bc.jpg", "RGB")

    @cached_property
    def labels(self) -> Labels | None:
        """What is known beyond the pictures, where the folder has `labels.npz`. Raises UserError where it is damaged."""
        path = self.folder / LABELS_FILE
        if not path.exists():
            return None
        try:
            with np.load(path, allow_pickle=False) as stored:
                return Labels(**{item.name: stored[item.name] for item in fields(Labels)})
        except (OSError, ValueError, KeyError, zipfile.BadZipFile) as error:
            raise _damaged(path, "the arrays " + ", ".join(item.name for item in fields(Labels))) from error

    @cached_property
    def emotion(self) -> np.ndarray | None:
        """What the person shows, [F,8] float32 by id, weights times intensity in the order of `avatar.EMOTIONS`; None where nothing is known of it.

        Raises:
            UserError: an emotion file or `labels.npz` that cannot be read.
        """
        path = next((self.folder / name for name in EMOTION_FILES if (self.folder / name).exists()), None)
        if path is None:
            return None if self.labels is None else np.asarray(self.labels.emotion, np.float32)
        frames = {frame.number: frame.time for split in self.splits.values() for frame in split}
        shown = load_emotion(path, self.fps).at(np.array(list(frames.values())))
        found = np.zeros((max(frames) + 1, len(EMOTIONS)), np.float32)
        found[list(frames)] = shown["keyed"] * shown["intensity"][:, None]
        return found

    def picture(self, frame: Frame) -> np.ndarray:
        """The person over the background, [H,W,3] uint8."""
        return self._image(self._file("gt_imgs", frame.number), "RGB")

    def behind(self, frame: Frame) -> np.ndarray:
        """What lies behind the head, [H,W,3] uint8: torso and neck over the background."""
        torso = self._image(self._file("torso_imgs", frame.number), "RGBA").astype(np.float32)
        alpha = torso[..., 3:] / 255
        return (torso[..., :3] * alpha + self.background * (1 - alpha) + 0.5).astype(np.uint8)

    def masks(self, frame: Frame) -> Masks:
        """What each pixel shows."""
        parsing = self._image(self._file("parsing", frame.number), "RGB")
        is_part = {name: (parsing == colour).all(-1) for name, colour in PARSING.items() if name != "background"}
        path = self._file("teeth_mask", frame.number)
        try:
            teeth = np.load(path, allow_pickle=False).astype(bool)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, "a mask as numpy writes it") from error
        if teeth.shape != (self.height, self.width):
            raise _damaged(path, f"{self.height} x {self.width} values")
        is_part["face"] &= ~teeth
        is_part["mouth"] |= teeth
        return Masks(**is_part)

    def depth(self, frame: Frame) -> np.ndarray | None:
        """Distance along the view direction, [H,W] float32, metres; None where the folder has none."""
        path = self.folder / DEPTH_FILE.format(frame.number)
        if not path.exists():
            return None
        try:
            return np.load(path, allow_pickle=False).astype(np.float32)
        except (OSError, ValueError, EOFError) as error:
            raise _damaged(path, "depths as numpy writes them") from error

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / PICTURE_FILES[kind].format(number)

    def _image(self, path: Path, mode: str) -> np.ndarray:
        try:
            with Image.open(path) as image:
                found = np.asarray(image.convert(mode))
        except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
            raise _damaged(path, "a picture") from error
        if found.shape[:2] != (self.height, self.width):
            raise _damaged(path, f"{self.width} x {self.height} pixels as the others")
        return found


def read_data(folder: Path) -> FaceData:
    """Open a data set folder.

    Raises:
        UserError: what is missing, all of it in one line; a file that is damaged or contradicts the others.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"{folder} is no folder.", "Make one from a video: python -m engine prepare VIDEO OUT")
    missing = [name for name in REQUIRED_FILES if not (folder / name).is_file()]
    found = {path.stem.removeprefix("transforms_"): path for path in sorted(folder.glob(TRANSFORMS.format("*")))}
    contents = {split: _json(path) for split, path in found.items()}
    try:
        splits = {split: [_frame(entry, _fps(content)) for entry in content["frames"]] for split, content in contents.items()}
    except (KeyError, TypeError, ValueError, np.linalg.LinAlgError) as error:
        raise _damaged(folder / "transforms_*.json", "img_id, aud_id and a transform_matrix [4,4] for each frame") from error
    numbers = sorted({frame.number for frames in splits.values() for frame in frames})
    for kind, name in PICTURE_FILES.items():
        lacking = [number for number in numbers if not (folder / name.format(number)).is_file()]
        if lacking:
            more = f" and {len(lacking) - NAMED} more" if len(lacking) > NAMED else ""
            missing.append(f"{kind} ({', '.join(name.format(number) for number in lacking[:NAMED])}{more})")
    if missing:
        raise UserError(f"{folder} lacks {'; '.join(missing)}.", "Prepare the video again, or copy the missing files there.")
    if not splits["train"]:
        raise UserError(f"{folder}: transforms_train.json names no picture.", "Prepare the video again.")
    doubled = [number for number, count in Counter(frame.number for frame in splits["train"] + splits["val"]).items() if count > 1]
    if doubled:
        raise UserError(f"{folder}: picture {doubled[0]} is in the splits twice.", "Held-out pictures must not be trained on: mend transforms_*.json.")
    table = _action_units(folder / "au.csv", numbers[-1] + 1)
    first = _size(folder / PICTURE_FILES["gt_imgs"].format(splits["train"][0].number))
    return FaceData(
        folder, *first, _intrinsics(found["train"], contents["train"], first), _fps(contents["train"]), splits, table,
        _json(folder / INFO_FILE) if (folder / INFO_FILE).is_file() else {}, sorted(folder.glob("*.pth")),
    )  # fmt: skip


def _frame(entry: dict[str, Any], fps: float) -> Frame:
    camera_to_world = np.array(entry["transform_matrix"], np.float64).reshape(4, 4)
    if not np.isfinite(camera_to_world).all():
        raise ValueError("a camera that is nowhere")
    viewmat = np.linalg.inv(camera_to_world @ np.diag([1.0, -1.0, -1.0, 1.0]))  # OpenGL's camera looks along -z, y up
    return Frame(int(entry["img_id"]), int(entry.get("aud_id", entry["img_id"])) / fps, viewmat.astype(np.float32))


def _fps(content: dict[str, Any]) -> float:
    return float(content.get("fps", FPS))


def _intrinsics(path: Path, content: dict[str, Any], size: tuple[int, int]) -> np.ndarray:
    try:
        focal, x, y = float(content["focal_len"]), float(content.get("cx", size[0] / 2)), float(content.get("cy", size[1] / 2))
    except (KeyError, TypeError, ValueError) as error:
        raise _damaged(path, "focal_len, and cx and cy where the centre is not the picture's") from error
    return np.array([[focal, 0, x], [0, focal, y], [0, 0, 1]], np.float32)


def _size(path: Path) -> tuple[int, int]:
    try:
        with Image.open(path) as image:
            return image.size
    except (OSError, ValueError, SyntaxError) as error:
        raise _damaged(path, "a picture") from error


def _action_units(path: Path, count: int) -> dict[str, np.ndarray]:
    with path.open(newline="", encoding="utf-8-sig") as file:
        rows = csv.reader(file)
        names = [name.strip() for name in next(rows, [])]
        try:
            values = np.array([row for row in rows if row], np.float64).reshape(-1, len(names))
        except ValueError as error:
            raise _damaged(path, "a header and rows of numbers, as OpenFace writes them") from error
    lacking = [f"AU{number:02d}_r" for number in VIEW_AUS if f"AU{number:02d}_r" not in names]
    if lacking:
        raise _damaged(path, f"the columns {', '.join(lacking)}")
    if len(values) < count:
        raise _damaged(path, f"a row for each of {count} pictures (it has {len(values)})")
    columns = {f"AU{number:02d}": f"AU{number:02d}_r" for number in AU_COLUMNS}
    return {name: values[:, names.index(column)].astype(np.float32) for name, column in columns.items() if column in names}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise _damaged(path, "JSON") from error
    if not isinstance(found, dict):
        raise _damaged(path, "a JSON object")
    return found


def _damaged(path: Path, wanted: str) -> UserError:
    return UserError(f"{path} does not hold {wanted}.", "Prepare the video again, or mend the file.")
