"""Writing a data set folder: picture by picture, resumable; the JSON files that make it a data set come last."""

from __future__ import annotations

import io
import json
import shutil
from dataclasses import asdict
from pathlib import Path
from typing import Any, Mapping

import numpy as np
from PIL import Image

from ..errors import UserError
from ..files import atomic_write, write_error
from .layout import AU_COLUMNS, DEPTH_FILE, INFO_FILE, LABELS_FILE, PARSING, PICTURE_FILES, TRANSFORMS, Labels

QUALITY = 95
"""Of JPEG files, without colour subsampling: pictures are trained on."""


class DataWriter:
    """Fills a data set folder. What an earlier run wrote stays; a picture counts as there when its last file is.

    Args:
        folder: made if missing.
        width, height, focal, cx, cy: px. fps: pictures a second of sound.
    """

    def __init__(self, folder: Path, width: int, height: int, focal: float, cx: float, cy: float, fps: float = 25.0) -> None:
        self.folder = Path(folder)
        self._lens: dict[str, Any] = {"focal_len": focal, "cx": cx, "cy": cy, "w": width, "h": height, "fps": fps}
        self._cameras: dict[int, tuple[int, list[list[float]]]] = {}

    def has(self, number: int) -> bool:
        """True where picture `number` is whole on disk; its camera is still to be told by `place`."""
        return self._file("gt_imgs", number).is_file()

    def place(self, number: int, sound_frame: int, camera_to_world: np.ndarray) -> None:
        """Where the camera of a picture is ([4,4], OpenGL's axes: y up, looks along -z) and the frame of the sound it belongs to."""
        self._cameras[number] = sound_frame, np.asarray(camera_to_world, np.float64).reshape(4, 4).tolist()

    def add(
        self, number: int, sound_frame: int, camera_to_world: np.ndarray, picture: np.ndarray, parsing: np.ndarray, torso: np.ndarray,
        landmarks: np.ndarray, teeth: np.ndarray | None = None, depth: np.ndarray | None = None, original: np.ndarray | None = None,
    ) -> None:  # fmt: skip
        """Write one picture.

        Args:
            number: its id. sound_frame, camera_to_world: as in `place`.
            picture: [H,W,3] uint8, the person over the background; original: before that was put there, if it is another one.
            parsing: [H,W] names or indices of PARSING's entries, or [H,W,3] uint8 in its colours.
            torso: [H,W,4] uint8, neck and torso without the head.
            landmarks: [68,2] px. teeth: [H,W] bool; none: nowhere. depth: [H,W] metres.

        Raises:
            UserError: it cannot be written.
        """
        self.place(number, sound_frame, camera_to_world)
        if parsing.ndim == 2:
            parsing = np.array(list(PARSING.values()), np.uint8)[parsing]
        teeth = np.zeros(picture.shape[:2], bool) if teeth is None else teeth
        lines = "\n".join(f"{x:.3f} {y:.3f}" for x, y in landmarks)
        self._write(PICTURE_FILES["ori_imgs"].format(number), _jpeg(picture if original is None else original))
        self._write(PICTURE_FILES["landmarks"].format(number), lines.encode())
        self._write(PICTURE_FILES["torso_imgs"].format(number), _png(torso))
        self._write(PICTURE_FILES["parsing"].format(number), _png(parsing))
        self._write(PICTURE_FILES["teeth_mask"].format(number), _npy(teeth.astype(bool)))
        if depth is not None:
            self._write(DEPTH_FILE.format(number), _npy(depth.astype(np.float16)))
        self._write(PICTURE_FILES["gt_imgs"].format(number), _jpeg(picture))  # last: see `has`

    def finish(
        self, splits: Mapping[str, list[int]], au_table: Mapping[str, np.ndarray], background: np.ndarray, sound: Path,
        labels: Labels | None = None, info: Mapping[str, Any] | None = None,
    ) -> None:  # fmt: skip
        """Make the folder a data set.

        Args:
            splits: `train`, `val` and more -> ids, each of them added or placed.
            au_table: `AU01` ... -> [F] in OpenFace's 0..5, row = id; those that are not there are left out.
            background: [H,W,3] uint8. sound: a WAV file, copied. labels, info: see layout.py.

        Raises:
            UserError: a picture that is not there, or it cannot be written.
        """
        for split, numbers in splits.items():
            lacking = [number for number in numbers if number not in self._cameras or not self.has(number)]
            if lacking:
                raise UserError(f"{self.folder}: picture {lacking[0]} of `{split}` was not written.", "Run it again: it goes on where it stopped.")
        self._write("bc.jpg", _jpeg(background))
        if Path(sound).resolve() != (self.folder / "aud.wav").resolve():
            try:
                shutil.copyfile(sound, self.folder / "aud.wav.part")
                (self.folder / "aud.wav.part").replace(self.folder / "aud.wav")
            except OSError as error:
                raise write_error(self.folder, error) from error
        names = [f"AU{number:02d}" for number in AU_COLUMNS if f"AU{number:02d}" in au_table]
        rows = np.column_stack([au_table[name] for name in names])
        table = ["frame, timestamp, " + ", ".join(f"{name}_r" for name in names)]
        table += [f"{i + 1}, {i / self._lens['fps']:.3f}, " + ", ".join(f"{value:.3f}" for value in row) for i, row in enumerate(rows)]
        self._write("au.csv", "\n".join(table).encode())
        if labels is not None:
            memory = io.BytesIO()
            np.savez_compressed(memory, **asdict(labels))
            self._write(LABELS_FILE, memory.getvalue())
        self._write(INFO_FILE, json.dumps(dict(info or {}), indent=1).encode())
        for split, numbers in splits.items():
            frames = [
                {"img_id": number, "aud_id": self._cameras[number][0], "transform_matrix": self._cameras[number][1]} for number in numbers
            ]
            self._write(TRANSFORMS.format(split), json.dumps(self._lens | {"frames": frames}).encode())

    def _file(self, kind: str, number: int) -> Path:
        return self.folder / PICTURE_FILES[kind].format(number)

    def _write(self, name: str, content: bytes) -> None:
        with atomic_write(self.folder / name, durable=False) as file:
            file.write(content)


def _jpeg(picture: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture, np.uint8)).save(memory, "JPEG", quality=QUALITY, subsampling=0)
    return memory.getvalue()


def _png(picture: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture, np.uint8)).save(memory, "PNG")
    return memory.getvalue()


def _npy(values: np.ndarray) -> bytes:
    memory = io.BytesIO()
    np.save(memory, values, allow_pickle=False)
    return memory.getvalue()
