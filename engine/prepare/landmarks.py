"""Landmarks of faces: the process that finds them, and which of its points are which part of a face."""

from __future__ import annotations

import json
import os
import struct
import subprocess
import sys
import tempfile
from pathlib import Path
from types import TracebackType

import numpy as np

from ..errors import UserError

PYTHON_VARIABLE = "UA3DTALK_LANDMARK_PYTHON"
INSTALL = (
    "Install it beside the engine: python -m pip install --no-deps mediapipe==0.10.21, then python -m pip install -r engine/requirements-train.txt; "
    f"or, where this Python is too new for it, into another one (3.9 to 3.12), and name that by --landmark-python or {PYTHON_VARIABLE}."
)
POINTS = 478
FACE_POINTS = 468
"""Of the face itself; the other ten are the irises."""

# Numbers of FaceMesh's points. "Right" is the person's right, the picture's left.
LANDMARKS_68 = np.array([
    234, 93, 132, 58, 172, 136, 150, 176, 152, 400, 379, 365, 397, 288, 361, 323, 454,  # jaw, from the right ear to the left
    70, 63, 105, 66, 107, 336, 296, 334, 293, 300,  # brows
    168, 197, 5, 4, 98, 97, 2, 326, 327,  # nose: bridge, then nostrils
    33, 160, 158, 133, 153, 144, 362, 385, 387, 263, 373, 380,  # eyes
    61, 39, 37, 0, 267, 269, 291, 405, 314, 17, 84, 181,  # lips, outer
    78, 82, 13, 312, 308, 317, 14, 87,  # lips, inner
])  # fmt: skip
"""[68] points in the usual order of 68 landmarks (iBUG)."""

OVAL = np.array([
    10, 338, 297, 332, 284, 251, 389, 356, 454, 323, 361, 288, 397, 365, 379, 378, 400, 377,
    152, 148, 176, 149, 150, 136, 172, 58, 132, 93, 234, 127, 162, 21, 54, 103, 67, 109,
])  # fmt: skip
"""[36] the face's outline, from the middle of the forehead by the left side."""

LIPS_INNER = np.array([78, 191, 80, 81, 82, 13, 312, 311, 310, 415, 308, 324, 318, 402, 317, 14, 87, 178, 88, 95])
LIPS_OUTER = np.array([61, 185, 40, 39, 37, 0, 267, 269, 270, 409, 291, 375, 321, 405, 314, 17, 84, 181, 91, 146])
EYE_RIGHT = np.array([33, 246, 161, 160, 159, 158, 157, 173, 133, 155, 154, 153, 145, 144, 163, 7])
EYE_LEFT = np.array([263, 466, 388, 387, 386, 385, 384, 398, 362, 382, 381, 380, 374, 373, 390, 249])
BROW_RIGHT = np.array([70, 63, 105, 66, 107, 55, 65, 52, 53, 46])
BROW_LEFT = np.array([300, 293, 334, 296, 336, 285, 295, 282, 283, 276])
EYE_CORNERS = np.array([33, 133, 362, 263])
MOUTH_CORNERS = np.array([61, 291])


class Tracker:
    """The landmark process. Use it as a context manager.

    Args:
        python: a Python that has mediapipe 0.10.21; without it, the one that UA3DTALK_LANDMARK_PYTHON names, else the running one.

    Raises:
        UserError: it cannot be started, has no mediapipe, or died on the way.
    """

    def __init__(self, python: Path | None = None) -> None:
        named = os.environ.get(PYTHON_VARIABLE)
        self.python = Path(python or named or sys.executable)
        self._errors = tempfile.TemporaryFile()
        script = Path(__file__).with_name("landmark_process.py")
        try:
            self._process = subprocess.Popen(
                [str(self.python), "-u", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors
            )
        except OSError as error:
            self._errors.close()
            raise UserError(f"{self.python}: cannot be started ({error.strerror or error}).", INSTALL) from error
        assert self._process.stdin is not None and self._process.stdout is not None
        self._requests, self._answers = self._process.stdin, self._process.stdout
        try:
            hello = json.loads(self._answers.readline() or b'{"error": "it ended at once"}')
        except ValueError:
            hello = {"error": "it answers something else"}
        if "error" in hello:
            self.close()
            raise UserError(f"Landmarks need mediapipe's FaceMesh, which {self.python} does not run ({hello['error']}).", INSTALL)
        self.version = str(hello["mediapipe"])

    def faces(self, picture: np.ndarray) -> np.ndarray:
        """Landmarks of up to two faces in [H,W,3] uint8: [n,478,3] float32, px, z away from the camera in the scale of x."""
        height, width = picture.shape[:2]
        self._ask(b"FACE", picture)
        (count,) = struct.unpack("<I", self._read(4))
        points = np.frombuffer(self._read(count * POINTS * 12), "<f4").reshape(count, POINTS, 3)
        return points * np.array([width, height, width], np.float32)

    def person(self, picture: np.ndarray) -> np.ndarray:
        """How much each pixel of [H,W,3] uint8 belongs to a person: [H,W] float32 in 0..1."""
        self._ask(b"SELF", picture)
        mask = np.frombuffer(self._read(picture.shape[0] * picture.shape[1]), np.uint8)
        return mask.reshape(picture.shape[:2]).astype(np.float32) / 255

    def forget(self) -> None:
        """The next picture has nothing to do with the last one."""
        self._ask(b"RSET", np.empty((0, 0, 3), np.uint8))

    def close(self) -> None:
        """End the process."""
        for pipe in (self._requests, self._answers):
            try:
                pipe.close()
            except OSError:  # it is gone already
                pass
        self._process.wait()
        self._errors.close()

    def __enter__(self) -> Tracker:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.close()

    def _ask(self, kind: bytes, picture: np.ndarray) -> None:
        try:
            self._requests.write(struct.pack("<4sII", kind, *picture.shape[:2]))
            self._requests.write(np.ascontiguousarray(picture, np.uint8).tobytes())
            self._requests.flush()
        except OSError as error:
            raise self._died() from error

    def _read(self, count: int) -> bytes:
        content = self._answers.read(count)
        if len(content) < count:
            raise self._died()
        return content

    def _died(self) -> UserError:
        self._errors.seek(0)
        lines = self._errors.read().decode(errors="replace").strip().splitlines()
        return UserError(
            f"The landmark process ended ({lines[-1] if lines else 'it said nothing'}).", "Run the command again: it goes on where it stopped."
        )
