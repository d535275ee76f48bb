"""Landmarks that a detector finds in the pictures themselves, drawn and true: a judge that knows nothing of Gaussians.

`landmarks.Tracker` carries landmarks on Gaussians. A lid that comes down because its Gaussians grow is not seen there; here it is.
"""

from __future__ import annotations

import os
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
from PIL import Image

from ..errors import UserError
from ..prepare.landmarks import LANDMARKS_68, POINTS, PYTHON_VARIABLE, Tracker
from .measures import landmark_distance

SIDES = ("predicted", "still", "true")
LEAST = 384
"""px, shorter edge; smaller pictures are enlarged before the detector sees them."""
EYES = (((159, 145), (158, 153), (160, 144)), ((386, 374), (385, 380), (387, 373)))
"""FaceMesh's points on upper and lower lid, of the right and of the left eye."""
INNER_LIPS = ((13, 14), (82, 87), (312, 317))
BROWS = ((105, 33), (66, 133), (334, 263), (296, 362))
"""A brow's point and the corner of the eye below it."""
WIDTH = (234, 454)
"""From ear to ear: the unit of gaps, so that a head that comes nearer opens nothing."""
SHUT = 0.5
"""Lids nearer to each other than this share of their usual distance are closed."""
FEWEST = 8
"""Pictures in which a face must be found."""


class Detector:
    """Finds landmarks in pictures of the same frames, a process for each side. Use it as a context manager.

    Args:
        python: see `prepare.landmarks.Tracker`.

    Raises:
        UserError: mediapipe does not run there.
    """

    def __init__(self, python: Path | None = None) -> None:
        with ExitStack() as open_ones:
            self._trackers = {side: open_ones.enter_context(Tracker(python)) for side in SIDES}
            self._open = open_ones.pop_all()
        self.version = self._trackers["true"].version
        self._found: dict[str, list[np.ndarray]] = {side: [] for side in SIDES}

    def __enter__(self) -> Detector:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self._open.close()

    def look(self, predicted: np.ndarray, still: np.ndarray, true: np.ndarray, goes_on: bool) -> None:
        """The next frame: pictures [H,W,3] in 0..1. `goes_on`: it is the one after the last, whose faces it may be followed from."""
        for side, picture in zip(SIDES, (predicted, still, true)):
            if not goes_on:
                self._trackers[side].forget()
            height, width = picture.shape[:2]
            larger = max(1.0, LEAST / min(height, width))
            image = Image.fromarray(np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8))
            image = image.resize((round(width * larger), round(height * larger)), Image.Resampling.BICUBIC)
            faces = self._trackers[side].faces(np.asarray(image))
            points = faces[0, :, :2] / larger if len(faces) else np.full((POINTS, 2), np.nan)
            self._found[side].append(points)

    def figures(self) -> dict[str, Any]:
        """See `compare`, of all frames since the last call."""
        sides = {side: np.array(found, np.float64).reshape(-1, POINTS, 2) for side, found in self._found.items()}
        self._found = {side: [] for side in SIDES}
        return compare(*(sides[side] for side in SIDES))


def detector(python: Path | None) -> tuple[Detector | None, str]:
    """A detector where one is named or installed beside the engine, and a line that says what finds landmarks, or why nothing does.

    Raises:
        UserError: the one that is named does not run.
    """
    if python is None and not os.environ.get(PYTHON_VARIABLE) and find_spec("mediapipe") is None:
        return None, "No landmarks were looked for in the pictures themselves: mediapipe is not installed (engine/requirements-train.txt, or --landmark-python)."
    try:
        found = Detector(python)
    except UserError as error:
        if python is not None:
            raise
        return None, f"No landmarks were looked for in the pictures themselves: {error}"
    return found, f"Found in the pictures: by mediapipe {found.version}'s FaceMesh, in drawn ones and in the truth alike."


def compare(predicted: np.ndarray, still: np.ndarray, true: np.ndarray) -> dict[str, Any]:
    """Landmarks of FaceMesh [F,478,2] px, NaN where no face was found -> figures, empty where too few were.

    Returns:
        `detected lmd`, `detected lmd still` px, as LMD but found in the pictures; of `lips`, `lids` and `brows`: `detected <part>
        correlation`, `detected <part> travel` (deviation over the true one); `detected lids shut`: of the frames in which the true
        lids are closed, the share in which these are, and their number; `faces found`: share of the frames.
    """
    known = np.isfinite(np.stack([predicted, still, true])).all((0, 2, 3))
    figures: dict[str, Any] = {"faces found": float(known.mean()) if len(known) else 0.0}
    if known.sum() < FEWEST:
        return figures
    predicted, still, true = predicted[known], still[known], true[known]
    for side, points in (("", predicted), (" still", still)):
        figures[f"detected lmd{side}"] = float(landmark_distance(points[:, LANDMARKS_68], true[:, LANDMARKS_68]).mean())
    for part, pairs in (("lips", INNER_LIPS), ("lids", EYES[0] + EYES[1]), ("brows", BROWS)):
        seen, wanted = gap(predicted, pairs), gap(true, pairs)
        if min(seen.std(), wanted.std()) > 1e-9:
            figures[f"detected {part} correlation"] = float(np.corrcoef(seen, wanted)[0, 1])
        figures[f"detected {part} travel"] = float(seen.std() / max(wanted.std(), 1e-30))
        if part == "lids":
            limit = SHUT * np.median(wanted)
            shut = wanted < limit
            figures |= {"detected lids shut": float((seen[shut] < limit).mean()) if shut.any() else float("nan"), "lids shut": int(shut.sum())}
    return figures


def gap(points: np.ndarray, pairs: tuple[tuple[int, int], ...]) -> np.ndarray:
    """Mean distance [F] of pairs of landmarks [F,478,2], in widths of the face."""
    apart = lambda a, b: np.linalg.norm(points[:, a] - points[:, b], axis=-1)  # noqa: E731
    return np.mean([apart(*pair) for pair in pairs], 0) / apart(*WIDTH)
