"""Face landmarks and person masks by mediapipe, in a process of its own: a script that needs mediapipe and numpy alone.

It is started by `landmarks.Tracker`, maybe with another Python than the engine's (mediapipe has no wheels for the newest
ones), and reads pictures from standard input, answers on standard output:

- hello: one JSON line, {"mediapipe": version} or {"error": text};
- request: 4 letters, two uint32 (height, width), height * width * 3 bytes of RGB. FACE: landmarks of up to two faces;
  SELF: the person's mask; RSET (height = width = 0): what is remembered of earlier pictures is dropped, no answer;
- answer to FACE: uint32 n, then n * 478 * 3 float32: x, y, z in shares of the picture's width, height, width, z away from
  the camera; to SELF: height * width bytes, 255 where the person is.

Both models are in mediapipe's wheel (0.10.21; later ones leave them out), so nothing is downloaded. Numbers are little-endian.
"""

from __future__ import annotations

import json
import os
import struct
import sys
from typing import Any, BinaryIO

POINTS = 478  # 468 of the face, 5 of each iris


def main() -> int:
    """Serve until the input ends."""
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever else writes to standard output must not get between the answers
    requests = sys.stdin.buffer
    try:
        import mediapipe
        import numpy

        models = _Models(mediapipe.solutions, numpy)
    except Exception as error:  # a broken install raises all sorts of things
        answers.write(json.dumps({"error": f"{type(error).__name__}: {error}"}).encode() + b"\n")
        answers.flush()
        return 1
    answers.write(json.dumps({"mediapipe": mediapipe.__version__}).encode() + b"\n")
    answers.flush()
    while len(head := requests.read(12)) == 12:
        kind, height, width = struct.unpack("<4sII", head)
        if kind == b"RSET":
            models.forget()
            continue
        content = requests.read(height * width * 3)
        if len(content) < height * width * 3:
            break
        picture = numpy.frombuffer(content, numpy.uint8).reshape(height, width, 3)
        (models.faces if kind == b"FACE" else models.person)(picture, answers)
        answers.flush()
    return 0


class _Models:
    def __init__(self, solutions: Any, numpy: Any) -> None:
        self._solutions, self._numpy = solutions, numpy
        self._mesh: Any = None
        self._segmentation: Any = None
        self.forget()

    def forget(self) -> None:
        if self._mesh is not None:
            self._mesh.close()
        # Following from picture to picture shakes a third less than detecting anew in each (0.39 against 0.53 px on a
        # 256 px portrait); the refined model sees lids, irises and lips better and shakes no more.
        self._mesh = self._solutions.face_mesh.FaceMesh(static_image_mode=False, max_num_faces=2, refine_landmarks=True)

    def faces(self, picture: Any, out: BinaryIO) -> None:
        found = self._mesh.process(picture).multi_face_landmarks or []
        points = [[(p.x, p.y, p.z) for p in face.landmark] for face in found]
        out.write(struct.pack("<I", len(points)))
        out.write(self._numpy.asarray(points, "<f4").reshape(len(points), POINTS, 3).tobytes())

    def person(self, picture: Any, out: BinaryIO) -> None:
        if self._segmentation is None:
            self._segmentation = self._solutions.selfie_segmentation.SelfieSegmentation(model_selection=0)
        mask = self._segmentation.process(picture).segmentation_mask
        out.write((mask.clip(0, 1) * 255 + 0.5).astype(self._numpy.uint8).tobytes())


if __name__ == "__main__":
    sys.exit(main())
