"""Emotion keys of a JSON file -> per-frame curves; tables and other programs' files are in `emotion_tables.py`.

The smallest file is `{"fps": 25, "keys": [{"frame": 0, "emotion": "happy", "intensity": 1.0}]}`. A key may give `weights`
({emotion: 0..1}) instead of one `emotion`, and `mix` (1: as keyed, 0: as the sound says), `blink`, `brow_raise`, `brow_lower` (0..1),
`upper`, `lower`, `lips` (how strongly the upper face, the lower face and the lips move, 0..2, 1 by default: as learned) and
`blend` (seconds the change into the key takes, 0.4 by default, never longer than the way from the key before). A value a key does not
name stays as it was. `"blink": {"automatic": true, "seed": 0}` and `"brows": {...}` switch on seeded automatic ones.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from ..avatar import EMOTIONS
from ..errors import UserError
from .automatic import automatic_blinks, automatic_brows
from .shot import STRENGTHS

BLEND = 0.4
MOST_BYTES = 128 << 20
CHANNELS = (*EMOTIONS, "intensity", "mix", "blink", "brow_raise", "brow_lower", *STRENGTHS)
START = np.array([1.0] + [0.0] * (len(EMOTIONS) - 1) + [1.0, 1.0, 0.0, 0.0, 0.0] + [1.0] * len(STRENGTHS))
HIGHEST = {"intensity": 2.0} | dict.fromkeys(STRENGTHS, 2.0)


@dataclass
class EmotionCurves:
    """Keys in seconds: `times` [K] rising, `values` [K,16] in the order of CHANNELS, `blends` [K] seconds.

    straight: straight lines from key to key instead of blends. of_sound: `times` count from the sound's beginning, not from frame 0.
    notes: what a reader had to leave out, in lines.
    """

    times: np.ndarray = field(default_factory=lambda: np.zeros(1))
    values: np.ndarray = field(default_factory=lambda: START[None].copy())
    blends: np.ndarray = field(default_factory=lambda: np.zeros(1))
    blink_seed: int | None = 0
    brow_seed: int | None = None
    straight: bool = False
    of_sound: bool = False
    notes: tuple[str, ...] = ()

    def at(self, times: np.ndarray, sound_times: np.ndarray | None = None) -> dict[str, np.ndarray]:
        """Curves at `times` [F] seconds of the scene.

        Automatic blinks and brows run on `sound_times` where there is sound (so that a strip that moves takes them along).

        Returns:
            keyed [F,8], intensity [F], mix [F], au [F,6] (AU1, 4, 5, 6, 7, 45), upper, lower, lips [F].
        """
        times = np.asarray(times, np.float64)
        value = self._straight(times) if self.straight else self._blended(times)
        keyed = value[:, : len(EMOTIONS)]
        intensity, mix, blink, brow_raise, brow_lower, *strengths = value[:, len(EMOTIONS) :].T
        clock = times if sound_times is None else np.where(np.isfinite(sound_times), sound_times, times)
        if self.blink_seed is not None:
            blink = np.maximum(blink, automatic_blinks(clock, self.blink_seed))
        if self.brow_seed is not None:
            brow_raise = np.maximum(brow_raise, automatic_brows(clock, self.brow_seed))
        au = np.zeros((len(times), 6))
        au[:, 0], au[:, 1], au[:, 5] = brow_raise, brow_lower, blink
        return {"keyed": keyed, "intensity": intensity, "mix": mix, "au": au} | dict(zip(STRENGTHS, strengths))

    def _straight(self, times: np.ndarray) -> np.ndarray:
        return np.stack([np.interp(times, self.times, column) for column in self.values.T], axis=1)

    def _blended(self, times: np.ndarray) -> np.ndarray:
        value = np.repeat(self.values[:1], len(times), axis=0)
        for k in range(1, len(self.times)):
            span = min(self.blends[k], self.times[k] - self.times[k - 1])
            x = np.clip((times - self.times[k] + span) / span, 0, 1) if span > 0 else (times >= self.times[k]).astype(float)
            x = (x * x * (3 - 2 * x))[:, None]
            value = value + (self.values[k] - self.values[k - 1]) * x
        return value


def load_emotion(path: Path, fps: float = 25.0) -> EmotionCurves:
    """Read an emotion file: our own (.json), Audio2Face's key frames (.json), or a table (.csv), see `emotion_tables`.

    Args:
        fps: of a table's column `frame`; the others say theirs, or count in seconds.

    Raises:
        UserError: unreadable, none of these, or a key that cannot be understood (named by its number).
    """
    from .emotion_tables import read_audio2face, read_csv

    path = Path(path)

    def refuse(why: str) -> UserError:
        return UserError(f"{path}: {why}.", "See README, 'Emotion files'.")

    try:
        if path.stat().st_size > MOST_BYTES:
            raise refuse(f"larger than {MOST_BYTES >> 20} MB")
        text = path.read_text("utf-8-sig")
        if path.suffix.lower() == ".csv":
            return read_csv(text, fps, refuse)
        data = json.loads(text)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    except UnicodeDecodeError as error:
        raise refuse(f"not a text file in UTF-8 ({error.reason})") from error
    except (ValueError, RecursionError) as error:
        raise refuse(f"not a JSON file ({error})") from error
    foreign = None if isinstance(data, dict) and "keys" in data else read_audio2face(data, refuse)
    return parse_emotion(data, str(path)) if foreign is None else foreign


def parse_emotion(data: Any, name: str) -> EmotionCurves:
    """Curves from the JSON value of an emotion file called `name`; raises UserError as `load_emotion` does."""

    def refuse(why: str) -> UserError:
        return UserError(f"{name}: {why}.", "See README, 'Emotion files'.")

    if not isinstance(data, dict):
        raise refuse("the file does not hold a JSON object")
    fps = _number(data.get("fps", 25), "`fps`", 0.001, 10000, refuse)
    keys = data.get("keys")
    if not isinstance(keys, list):
        raise refuse("`keys` is not a list")
    rows = []
    for number, key in enumerate(keys, start=1):
        where = f"key {number}"
        if not isinstance(key, dict):
            raise refuse(f"{where} is not a JSON object")
        unknown = set(key) - {"frame", "emotion", "weights", "blend", *CHANNELS[len(EMOTIONS) :]}
        if unknown:
            raise refuse(f"{where} has unknown entries: {', '.join(sorted(unknown))}")
        frame = _number(key.get("frame"), f"{where}: `frame`", -1e7, 1e7, refuse)
        blend = _number(key.get("blend", BLEND), f"{where}: `blend`", 0, 3600, refuse)
        rows.append((frame / fps, blend, _channels(key, where, refuse)))
    rows.sort(key=lambda row: row[0])
    curves = EmotionCurves(blink_seed=_seed(data, "blink", True, refuse), brow_seed=_seed(data, "brows", False, refuse))
    if rows:
        value, values = START.copy(), []
        for _, _, changes in rows:
            value = value.copy()
            for index, number in changes.items():
                value[index] = number
            values.append(value)
        curves.times = np.array([row[0] for row in rows])
        curves.blends = np.array([row[1] for row in rows])
        curves.values = np.array(values)
    return curves


def _channels(key: dict[str, Any], where: str, refuse: Any) -> dict[int, float]:
    changes: dict[int, float] = {}
    weights = key.get("weights")
    if "emotion" in key:
        if weights is not None:
            raise refuse(f"{where} gives both `emotion` and `weights`")
        weights = {key["emotion"]: 1.0} if isinstance(key["emotion"], str) else None
        if weights is None:
            raise refuse(f"{where}: `emotion` is not a name")
    if weights is not None:
        if not isinstance(weights, dict):
            raise refuse(f"{where}: `weights` is not a JSON object")
        for name in weights:
            if name not in EMOTIONS:
                raise refuse(f"{where}: unknown emotion {name!r}; known are {', '.join(EMOTIONS)}")
        for index, name in enumerate(EMOTIONS):
            changes[index] = _number(weights.get(name, 0.0), f"{where}: weight of {name}", 0, 1, refuse)
    for name in CHANNELS[len(EMOTIONS) :]:
        if name in key:
            changes[CHANNELS.index(name)] = _number(key[name], f"{where}: `{name}`", 0, HIGHEST.get(name, 1.0), refuse)
    return changes


def _number(value: Any, what: str, low: float, high: float, refuse: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise refuse(f"{what} is not a number from {low:g} to {high:g}")
    return float(value)


def _seed(data: dict[str, Any], name: str, default: bool, refuse: Any) -> int | None:
    options = data.get(name, {})
    if not isinstance(options, dict) or not isinstance(options.get("automatic", default), bool):
        raise refuse(f"`{name}` is not of the form {{\"automatic\": true, \"seed\": 0}}")
    seed = options.get("seed", 0)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise refuse(f"`{name}`: `seed` is not a whole number")
    return seed if options.get("automatic", default) else None
