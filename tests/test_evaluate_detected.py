"""Landmarks found in the pictures themselves: the figures, the way of the pictures to the detector, and a real face."""

from __future__ import annotations

import importlib.util
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from support import shared_data
from support.evaluation import data, folder, subject  # noqa: F401 - fixtures

from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.evaluate.detected import EYES, INNER_LIPS, WIDTH, Detector, compare, detector
from ua3dtalk.engine.evaluate.pictures import judge_pictures
from ua3dtalk.engine.evaluate.report import ROWS, table
from ua3dtalk.engine.evaluate.subject import Subject
from ua3dtalk.engine.prepare.landmarks import PYTHON_VARIABLE

F = 60
FACES = '''
import numpy
from types import SimpleNamespace as Of
class FaceMesh:
    """Two dots, red over blue: every point lies on the blue one, but the upper lids' and lips' on the red one and the ears at the edges."""
    def __init__(self, **settings): self.last = None
    def close(self): pass
    def process(self, picture):
        dots = [numpy.argwhere((picture[..., c] > 128) & (picture[..., 1] < 100)).mean(0) / picture.shape[:2] for c in (0, 2)]
        if not numpy.isfinite(dots).all(): return Of(multi_face_landmarks=None)
        points = [Of(x=dots[1][1], y=dots[1][0], z=0.0) for _ in range(478)]
        for upper in UPPER: points[upper] = Of(x=dots[0][1], y=dots[0][0], z=0.0)
        points[234], points[454] = Of(x=0.0, y=0.5, z=0.0), Of(x=1.0, y=0.5, z=0.0)
        return Of(multi_face_landmarks=[Of(landmark=points)])
solutions = Of(face_mesh=Of(FaceMesh=FaceMesh), selfie_segmentation=None)
__version__ = "of the test"
'''


def faces(lips: np.ndarray, lids: np.ndarray) -> np.ndarray:
    """[F,478,2] px of a face 100 px wide, whose lips and lids are that far apart."""
    points = np.zeros((len(lips), 478, 2))
    points[:, WIDTH[1], 0] = 100
    for upper, lower in INNER_LIPS:
        points[:, lower, 1] = points[:, upper, 1] + lips
    for upper, lower in EYES[0] + EYES[1]:
        points[:, lower, 1] = points[:, upper, 1] + lids
    return points


def test_what_two_faces_do() -> None:
    time = np.arange(F)
    lips, lids = 10 + 8 * np.sin(0.3 * time), np.where(time % 10 < 2, 1.0, 12.0)
    still = faces(np.full(F, 10.0), np.full(F, 12.0))
    sleepy = faces(10 + 4 * np.sin(0.3 * time), np.where(time % 20 < 2, 1.0, 12.0))
    found = compare(sleepy, still, faces(lips, lids))
    assert found["detected lips correlation"] == pytest.approx(1) and found["detected lips travel"] == pytest.approx(0.5)
    assert found["lids shut"] == 12 and found["detected lids shut"] == 0.5 and found["faces found"] == 1
    assert 0 < found["detected lmd"] < found["detected lmd still"]
    nearer = compare(2 * faces(lips, lids), still, faces(lips, lids))
    assert nearer["detected lips travel"] == pytest.approx(1), "gaps are in widths of the face"
    flat = compare(still, still, faces(lips, lids))
    assert flat["detected lips travel"] < 1e-9 and flat["detected lids shut"] == 0 and "detected lips correlation" not in flat


def test_frames_without_a_face_are_left_out() -> None:
    one = faces(np.linspace(0, 9, F), np.full(F, 3.0))
    blind = one.copy()
    blind[:30] = np.nan
    found = compare(blind, one, one)
    assert found["faces found"] == 0.5 and found["detected lmd"] == 0
    blind[:] = np.nan
    assert compare(blind, one, one) == {"faces found": 0}


def test_without_a_detector_it_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(PYTHON_VARIABLE, raising=False)
    with pytest.raises(UserError, match="cannot be started"):
        detector(tmp_path / "python")
    monkeypatch.setenv(PYTHON_VARIABLE, str(tmp_path / "python"))
    found, note = detector(None)
    assert found is None and "cannot be started" in note, "not asked for, so no reason to stop"


def test_pictures_reach_the_detector_and_points_come_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    uppers = [upper for upper, _ in INNER_LIPS + EYES[0] + EYES[1]]
    (tmp_path / "mediapipe").mkdir()
    (tmp_path / "mediapipe" / "__init__.py").write_text(FACES.replace("UPPER", str(uppers)))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))

    def picture(apart: int) -> np.ndarray:
        out = np.zeros((48, 64, 3), np.float32)
        out[4:8, 30:34, 0] = 1
        out[4 + apart : 8 + apart, 30:34, 2] = 1
        return out

    with Detector(Path(sys.executable)) as eyes:
        for i, apart in enumerate([8, 16, 24, 32, 24, 16, 8, 32, 8]):
            eyes.look(picture(8 + apart // 2), picture(16), picture(apart), i > 0)
        found = eyes.figures()
        assert eyes.version == "of the test" and eyes.figures() == {"faces found": 0.0}
    assert found["faces found"] == 1 and found["detected lips correlation"] > 0.999 and found["detected lips travel"] == pytest.approx(0.5, abs=0.02)
    assert table(ROWS, {"head": found})[2].startswith("| found in the pictures: faces")


@pytest.mark.skipif(
    importlib.util.find_spec("mediapipe") is None and not os.environ.get(PYTHON_VARIABLE),
    reason=f"mediapipe is not installed (engine/requirements-train.txt), and {PYTHON_VARIABLE} names no Python that has it",
)
def test_a_real_face_beside_itself(subject: Subject, data) -> None:  # noqa: F811
    from ua3dtalk.engine.prepare.video import inspect, pictures

    talk = shared_data("portrait", "talk_20s_450.mp4")
    film = [picture / np.float32(255) for _, picture in pictures(talk, inspect(talk), 0, 40)]
    with Detector() as eyes:
        for i, picture in enumerate(film):
            eyes.look(film[i // 2], film[0], picture, i > 0)
        late = eyes.figures()
        for i, picture in enumerate(film):
            eyes.look(picture, film[0], picture, i > 0)
        same = eyes.figures()
        assert same["detected lmd"] == 0 and same["detected lips correlation"] == pytest.approx(1) and same["faces found"] == 1
        assert late["detected lips correlation"] < 0.9 and late["detected lmd"] > 0.3
        drawn = judge_pictures(subject, data, "val", detector=eyes).figures
    without = judge_pictures(subject, data, "val").figures
    assert "faces found" in drawn and "faces found" not in without
    assert {name: drawn[name] for name in without} == pytest.approx(without, nan_ok=True)
