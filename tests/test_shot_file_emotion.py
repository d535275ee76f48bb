"""Emotion from other programs: tables, and the key frames of Audio2Face in the layouts that its clients write."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ua3dtalk.engine.avatar import EMOTIONS
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import EmotionCurves, compose_shot, load_emotion
from ua3dtalk.engine.shot.emotion_tables import AUDIO2FACE


def load(folder: Path, data: object, name: str = "e.json", fps: float = 25.0) -> EmotionCurves:
    path = folder / name
    path.write_bytes(data if isinstance(data, bytes) else (data if isinstance(data, str) else json.dumps(data)).encode())
    return load_emotion(path, fps)


def keyed(curves: EmotionCurves, emotion: str, times: Any) -> list[float]:
    return curves.at(np.array(times, float))["keyed"][:, EMOTIONS.index(emotion)].round(6).tolist()


@pytest.mark.parametrize("text", [
    "time,happy,intensity\n0,0,1\n2,1,0.5\n",
    "\ufefftime;happy;intensity\r\n2;1;0.5\r\n\r\n0;0;1\r\n",
    ",time\thappy\tintensity\n".replace(",", "\t") + "0\t0\t0\t1\n1\t2\t1\t0.5\n",
])  # fmt: skip
def test_tables(tmp_path: Path, text: str) -> None:
    curves = load(tmp_path, text, "e.CSV")
    assert keyed(curves, "happy", [-1, 0, 1, 2, 9]) == [0, 0, 0.5, 1, 1]
    assert keyed(curves, "neutral", [0, 1, 2]) == [1, 0.5, 0], "what is not given is what the others leave"
    assert curves.at(np.array([1.0]))["intensity"][0] == 0.75 and curves.blink_seed == 0 and not curves.of_sound


def test_frames_of_a_table_are_the_scene_s(tmp_path: Path) -> None:
    text = "frame,sad,blink,brow_raise\n0,0,0,0\n48,1,1,0.5\n"
    curves = load(tmp_path, text, "e.csv", fps=24)
    assert keyed(curves, "sad", [1, 2]) == [0.5, 1]
    assert curves.blink_seed is None, "blinks are given: none beside them"
    au = curves.at(np.array([1.0]))["au"][0]
    assert au[5] == 0.5 and au[0] == 0.25


KEYS = [{"time_code": 0.0, "emotion_values": {"joy": 0.2, "pain": 0.0}}, {"time_code": 2.0, "emotion_values": {"joy": 0.6, "grief": 0.5, "sadness": 0.3, "pain": 0.4}}]


def protobuf(keys: list) -> list:
    """As protobuf's own JSON has it: camel case, what is 0 left out."""
    return [{"emotion": key["emotion_values"]} | ({"timeCode": key["time_code"]} if key["time_code"] else {}) for key in keys]


@pytest.mark.parametrize("data", [
    KEYS,
    {"input": [], "a2e_output": [], "a2f_smoothed_output": KEYS},
    {"emotion_aggregate": {"a2f_smoothed_output": protobuf(KEYS)}},
    {"emotionAggregate": {"a2eOutput": protobuf(KEYS)}},
    {"emotions": protobuf(KEYS)},
    {"emotion_with_timecode_list": {f"emotion_with_timecode{n}": {"time_code": k["time_code"], "emotions": k["emotion_values"]} for n, k in enumerate(KEYS, 1)},
     "face_parameters": {}},
])  # fmt: skip
def test_audio2face(tmp_path: Path, data: object) -> None:
    curves = load(tmp_path, data)
    assert keyed(curves, "happy", [0, 1, 2, 3]) == [0.2, 0.4, 0.6, 0.6]
    assert keyed(curves, "sad", [0, 1, 2]) == [0, 0.25, 0.5], "the stronger of grief and sadness"
    assert curves.notes == ("pain (up to 0.4) has no counterpart and is left out",) and curves.of_sound


def test_audio2face_s_own_table(tmp_path: Path) -> None:
    """What NVIDIA's sample client writes through pandas: row numbers without a name, then the key frames flattened."""
    names = list(AUDIO2FACE)[:7]
    lines = [",".join(["", "time_code", *(f"emotion_values.{name}" for name in names)])]
    lines += [",".join(map(str, [row, row / 30, *(row / 10 * (name == "amazement") for name in names)])) for row in range(11)]
    curves = load(tmp_path, "\n".join(lines), "a2f_smoothed_emotion_output.csv")
    assert keyed(curves, "surprised", [0, 5 / 30, 10 / 30]) == [0, 0.5, 1] and curves.of_sound and not curves.notes


def test_time_codes_go_with_the_sound(tmp_path: Path) -> None:
    """Key frames made from a sound stay with it when it starts later; what is timed in the scene stays where it is."""
    sound = tmp_path / "s.wav"
    sound.write_bytes(b"any")
    rows = "0,0\n1,1\n"
    for clock, column in (("time_code", 25), ("time", 0)):
        emotion = load(tmp_path, f"{clock},happy\n{rows}", "e.csv")
        shot = compose_shot(tmp_path / "a", "a" * 64, sound, 3.0, emotion, 25.0, (0, 74), offset=1.0)
        happy = shot.keyed[:, EMOTIONS.index("happy")]
        assert np.allclose(happy, np.clip((np.arange(75) - column) / 25, 0, 1), atol=1e-6)


@pytest.mark.parametrize(
    ("name", "data", "words"),
    [
        ("e.csv", "", "column `time`"),
        ("e.csv", "happy\n1\n", "column `time`"),
        ("e.csv", "time,happy\n", "no values"),
        ("e.csv", "time,joyful\n0,1\n", "'joyful'"),
        ("e.csv", "time,happy,happy\n0,1,1\n", "twice"),
        ("e.csv", "time,happy\n0,1\n1\n", "line 3 has 1 columns"),
        ("e.csv", "time,happy\n0,much\n", "line 2: 'happy': 'much'"),
        ("e.csv", "time,happy\n0,nan\n", "line 2"),
        ("e.csv", "time,happy\n0,2\n", "happy is 2"),
        ("e.csv", "time,happy\n0,1\n0,0\n", "same time"),
        ("e.csv", b"time,happy\n\xff,1\n", "UTF-8"),
        ("e.csv", 'time,happy\n"0,1\n', "not a table"),
        ("e.json", [], "no values"),
        ("e.json", [1], "key frame 1"),
        ("e.json", [{"time_code": "0", "emotion": {}}], "key frame 1: `time_code`"),
        ("e.json", [{"time_code": 0, "emotion": {"joy": "1"}}], "key frame 1: 'joy'"),
        ("e.json", [{"time_code": 0, "emotion": {"rage": 1}}], "'rage'"),
        ("e.json", [{"time_code": 0, "emotion": {"joy": 1.2}}], "joy is 1.2"),
        ("e.json", {"facsNames": ["jawOpen"], "weightMat": [[0]]}, "`keys`"),
    ],
)
def test_bad_tables_are_refused_in_one_line(tmp_path: Path, name: str, data: object, words: str) -> None:
    with pytest.raises(UserError) as caught:
        load(tmp_path, data, name)
    assert words in str(caught.value) and name in caught.value.message and "\n" not in str(caught.value)


@settings(max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(text=st.text(alphabet="time,happy;frame\t\n\"0123.-e\x00nai", max_size=60))
def test_any_table_gives_curves_or_one_line(tmp_path: Path, text: str) -> None:
    try:
        curves = load(tmp_path, "time,happy\n" + text, "e.csv")
    except UserError as error:
        assert "\n" not in str(error)
    else:
        assert np.isfinite(curves.at(np.array([0.0, 1.0]))["keyed"]).all()
