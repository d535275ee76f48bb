"""Emotion curves from other programs: tables (.csv) and the emotion key frames of NVIDIA Audio2Face.

Read are, beside our own emotion files (`emotion.py`):

- **CSV**: a header with `time` (seconds) or `frame`, then any of: our emotions, `intensity`, `mix`, `blink`, `brow_raise`, `brow_lower`, `upper`,
  `lower`, `lips`; or Audio2Face's emotions, also as `emotion_values.joy` with `time_code`, which is what NVIDIA's sample client of Audio2Face-3D
  writes (`a2e_emotion_output.csv`, `a2f_smoothed_emotion_output.csv`, `a2f_input_emotions.csv`). Separated by comma, semicolon or tab.
- **JSON** of Audio2Face-3D's key frames, a list of {"time_code": seconds, "emotion": {name: 0..1}} (or `timeCode`; `emotion_values`, `emotions`),
  bare or under one of `a2f_smoothed_output`, `a2e_output`, `input`, `input_emotions`, `emotions`, `emotion_aggregate`; and
  `emotion_with_timecode_list`, as in its configurations. Where several are there, the first of this order counts.

`time` and `frame` count from the scene's frame 0 on, Audio2Face's time codes from the sound's beginning.
Values go straight from row to row, and stay as they are before the first and after the last. Audio2Face's names become ours
as AUDIO2FACE says; `grief` and `sadness` together are the stronger of the two. What we have no word for is left out and told (`notes`).
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from typing import Any

import numpy as np

from ..avatar import EMOTIONS
from ..errors import UserError
from .emotion import CHANNELS, HIGHEST, START, EmotionCurves

AUDIO2FACE: dict[str, str | None] = {
    "amazement": "surprised", "anger": "angry", "disgust": "disgusted", "fear": "fear", "grief": "sad", "joy": "happy", "sadness": "sad",
    "neutral": "neutral", "cheekiness": None, "outofbreath": None, "pain": None,
}  # fmt: skip
"""Audio2Face's emotions and ours; None: left out."""
MOST_ROWS = 1_000_000
_OF_SOUND = ("time_code", "timecode")
_CLOCKS = ("time", *_OF_SOUND, "frame")
_LISTS = ("a2f_smoothed_output", "a2fSmoothedOutput", "a2e_output", "a2eOutput", "input", "input_emotions", "inputEmotions", "emotions")
_VALUES = ("emotion_values", "emotion", "emotions")
Refuse = Callable[[str], UserError]


def read_csv(text: str, fps: float, refuse: Refuse) -> EmotionCurves:
    """Curves of a table.

    Args:
        fps: of its column `frame`.
    """
    first = text.partition("\n")[0]
    delimiter = max(",;\t", key=first.count)
    try:
        rows = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        header = [name.strip().lower().removeprefix("emotion_values.") for name in next(rows, [])]
        # Tables of pandas begin with a column of row numbers that has no name.
        columns = {name: place for place, name in enumerate(header) if name}
        if len(columns) != sum(map(bool, header)):
            raise refuse("a column is there twice")
        clock = next((name for name in _CLOCKS if name in columns), None)
        if clock is None:
            raise refuse("the first line names no column `time` or `frame`")
        names = [name for name in columns if name not in _CLOCKS]
        times: list[float] = []
        values: list[list[float]] = []
        for number, row in enumerate(rows, start=2):
            if not any(cell.strip() for cell in row):
                continue
            if len(row) != len(header):
                raise refuse(f"line {number} has {len(row)} columns, the first {len(header)}")
            if len(times) >= MOST_ROWS:
                raise refuse(f"more than {MOST_ROWS} lines")
            times.append(_cell(row[columns[clock]], number, clock, refuse) / (fps if clock == "frame" else 1.0))
            values.append([_cell(row[columns[name]], number, name, refuse) for name in names])
    except csv.Error as error:
        raise refuse(f"not a table ({error})") from error
    return _curves(names, times, np.array(values, np.float64).reshape(len(times), len(names)), "line", clock in _OF_SOUND, refuse)


def read_audio2face(data: Any, refuse: Refuse) -> EmotionCurves | None:
    """Curves of Audio2Face's key frames; None where the JSON value holds none."""
    keys = _keys(data)
    if keys is None:
        return None
    if len(keys) > MOST_ROWS:
        raise refuse(f"more than {MOST_ROWS} key frames")
    times: list[float] = []
    found: list[dict[str, float]] = []
    names: dict[str, None] = {}
    for number, key in enumerate(keys, start=1):
        where = f"key frame {number}"
        weights = next((key[name] for name in _VALUES if name in key), None) if isinstance(key, dict) else None
        if not isinstance(weights, dict):
            raise refuse(f"{where} is not of the form {{\"time_code\": seconds, \"emotion\": {{name: 0..1}}}}")
        times.append(_real(key.get("time_code", key.get("timeCode", 0.0)), f"{where}: `time_code`", refuse))  # protobuf leaves 0 out
        found.append({name.lower(): _real(value, f"{where}: {name[:40]!r}", refuse) for name, value in weights.items()})
        names |= dict.fromkeys(found[-1])
    values = np.array([[row.get(name, 0.0) for name in names] for row in found], np.float64).reshape(len(found), len(names))
    return _curves(list(names), times, values, "key frame", True, refuse)


def _keys(data: Any) -> list[Any] | None:
    if isinstance(data, list):
        return data
    if not isinstance(data, dict):
        return None
    for name in ("emotion_aggregate", "emotionAggregate"):
        if isinstance(data.get(name), dict):
            return _keys(data[name])
    for name in _LISTS:
        if isinstance(data.get(name), list):
            return data[name]
    listed = data.get("emotion_with_timecode_list")
    return list(listed.values()) if isinstance(listed, dict) else None


def _curves(names: list[str], times: list[float], given: np.ndarray, row: str, of_sound: bool, refuse: Refuse) -> EmotionCurves:
    if not times:
        raise refuse("no values")
    unknown = [name for name in names if name not in CHANNELS and name not in AUDIO2FACE]
    if unknown:
        raise refuse(f"unknown names: {', '.join(repr(name[:40]) for name in unknown[:8])}; known are {', '.join(CHANNELS)}")
    order = np.argsort(times, kind="stable")
    clock, given = np.array(times)[order], given[order]
    if (np.diff(clock) == 0).any():
        raise refuse(f"two {row}s are of the same time, {clock[:-1][np.diff(clock) == 0][0]:g} s")
    values = np.repeat(START[None], len(clock), axis=0)
    weights: dict[str, list[np.ndarray]] = {}
    notes = []
    for column, name in enumerate(names):
        target = AUDIO2FACE.get(name, name)
        high = HIGHEST.get(name, 1.0)
        outside = np.flatnonzero((given[:, column] < 0) | (given[:, column] > high))
        if len(outside):
            raise refuse(f"{row} at {clock[outside[0]]:g} s: {name} is {given[outside[0], column]:g}, not from 0 to {high:g}")
        if target is None:
            if given[:, column].any():
                notes.append(f"{name} (up to {given[:, column].max():g}) has no counterpart and is left out")
        else:
            weights.setdefault(target, []).append(given[:, column])
    for name, several in weights.items():
        values[:, CHANNELS.index(name)] = np.max(several, axis=0)
    if "neutral" not in weights and any(name in EMOTIONS for name in weights):
        values[:, 0] = np.clip(1 - values[:, 1 : len(EMOTIONS)].sum(axis=1), 0, 1)
    seed = None if "blink" in weights else 0
    return EmotionCurves(clock, values, np.zeros(len(clock)), blink_seed=seed, straight=True, of_sound=of_sound, notes=tuple(notes))


def _cell(text: str, number: int, name: str, refuse: Refuse) -> float:
    try:
        return _real(float(text), f"line {number}: {name[:40]!r}", refuse)
    except ValueError:
        raise refuse(f"line {number}: {name[:40]!r}: {text[:40]!r} is not a number") from None


def _real(value: Any, what: str, refuse: Refuse) -> float:
    if type(value) not in (int, float) or not -1e7 <= value <= 1e7:
        raise refuse(f"{what} is not a number in range")
    return float(value)
