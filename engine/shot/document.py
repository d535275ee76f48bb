"""The shot file that pipelines pass on: JSON that a person can write too. `shot.schema.json` beside this is its schema.

    {"ua3dtalk_shot": 1, "name": "shot_010",
     "avatar": {"path": "head.safetensors", "sha256": "..."},
     "sound": {"path": "speech.wav", "sha256": "..."}, "sound_times": {"start": 10},
     "fps": 25, "frames": {"first": 1, "last": 200},
     "curves": {"happy": [[1, 0], [40, 0.8]], "intensity": 1, "au45": [0, 0, 0.5, ...]}, "smoothing": 0,
     "output": {"folder": "cache/shot_010", "format": "cache"}}

- A curve is a number (for all frames), a list with one number for each frame, or keys [[frame, value], ...] with rising frames, straight
  between them and even outside. What is left out is as in an untouched avatar: neutral, intensity, mix and strengths 1, the rest 0.
- `frames` may be a list of rising frame numbers. `sound_times` says where each frame lies in the sound, in seconds: a list with null where no
  sound plays, or {"start": frame of the sound's second 0, "first", "last": the frames it is heard between}; by default it begins with the shot.
- Paths are relative to the shot's file, with `/`. `Rules` says which are followed: shot files may come from strangers.

What Blender writes holds every curve as it acts, automatic blinks included, so that a bake of the file and one from Blender are the
same frames with the same keys.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

import numpy as np

from ..avatar import EMOTIONS
from ..errors import UserError
from ..files import atomic_write, file_hash
from .curves import CURVES, curve_values, seconds_of, whole_number, written_curve
from .shot import SMOOTHING_MAX, STRENGTHS, Shot

DOCUMENT_VERSION = 1
FORMATS = ("cache",)
MOST_BYTES = 256 << 20
MOST_FRAMES = 2_000_000
_AUS = ("au1", "au4", "au5", "au6", "au7", "au45")
_ENTRIES = {"ua3dtalk_shot", "name", "avatar", "sound", "sound_times", "fps", "frames", "curves", "smoothing", "output"}


@dataclass(frozen=True)
class Rules:
    """What a shot file may name.

    Unless `allow_outside`: bakes are written inside `root` only; avatar and sound outside of it are only used where the file
    names their SHA-256, so that nobody's files are read by guessing; and no path leads to a network server. Links are followed
    before this is judged.

    Attributes:
        root: a folder; None: the one that the shot file lies in.
    """

    root: Path | None = None
    allow_outside: bool = False


@dataclass(frozen=True)
class ShotSettings:
    """What a shot file says beside its Shot.

    Attributes:
        name: of the shot.
        output: the folder of its bake (absolute, not checked to exist); None where the file names none.
        format: one of FORMATS.
    """

    name: str
    output: Path | None
    format: str = "cache"


def write_document(shot: Shot, path: Path, name: str = "", output: Path | None = None) -> None:
    """Write a shot file in one step.

    Args:
        name: of the shot; the file's by default.
        output: folder for the bake, or None: whoever bakes it says where.

    Raises:
        UserError: the file cannot be written.
    """
    path = Path(path)
    folder = path.absolute().parent
    frames = shot.frames.tolist()
    document: dict[str, Any] = {
        "ua3dtalk_shot": DOCUMENT_VERSION,
        "name": name or path.stem,
        "avatar": {"path": _written_path(shot.avatar, folder), "sha256": shot.avatar_hash},
        "sound": None if shot.sound is None else {"path": _written_path(shot.sound, folder), "sha256": shot.sound_hash},
    }
    if shot.sound is not None:
        document["sound_times"] = [None if np.isnan(time) else time for time in shot.times.tolist()]
    document["fps"] = shot.fps
    even = len(frames) and frames[-1] - frames[0] + 1 == len(frames)
    document["frames"] = {"first": frames[0], "last": frames[-1]} if even else frames
    columns = {emotion: shot.keyed[:, column] for column, emotion in enumerate(EMOTIONS)}
    columns |= {"intensity": shot.intensity, "mix": shot.mix}
    columns |= {au: shot.au[:, column] for column, au in enumerate(_AUS)}
    columns |= {strength: getattr(shot, strength) for strength in STRENGTHS}
    document["curves"] = {curve: written_curve(values, CURVES[curve]) for curve, values in columns.items()}
    document["smoothing"] = shot.smoothing
    if output is not None:
        document["output"] = {"folder": _written_path(Path(output), folder), "format": FORMATS[0]}
    lines = ",\n".join(f" {json.dumps(key)}: {json.dumps(value, allow_nan=False)}" for key, value in document.items())
    with atomic_write(path) as handle:
        handle.write(f"{{\n{lines}\n}}\n".encode())


def read_document(path: Path, rules: Rules = Rules(), with_output: bool = True) -> tuple[Shot, ShotSettings]:
    """Read a shot file. Hashes that it names are taken as they stand (who bakes compares); missing ones are made.

    Args:
        with_output: False leaves out where it wants to be written, for those who write it elsewhere anyway.

    Raises:
        UserError: unreadable, no shot, a newer one, entries that are unknown or out of range (named), or paths against the rules.
    """
    path = Path(path)

    def refuse(why: str, remedy: str = "See engine/shot/shot.schema.json for what a shot file holds.") -> UserError:
        return UserError(f"{path}: {why}.", remedy)

    data = _load(path, refuse)
    version = data.get("ua3dtalk_shot")
    if type(version) is not int or version < 1:
        raise refuse("not a shot file: `ua3dtalk_shot` is not a version")
    if version > DOCUMENT_VERSION:
        raise refuse(f"a shot file of version {version}, newer than this engine's {DOCUMENT_VERSION}", "Update the extension or the engine.")
    _known(data, _ENTRIES, "the file", refuse)
    name = data.get("name", path.stem)
    if not isinstance(name, str) or not 0 < len(name) <= 200 or not name.isprintable():
        raise refuse("`name` is not a line of text")
    frames = _frames(data.get("frames"), refuse)
    fps = _number(data.get("fps"), "`fps`", 1e-3, 1e5, refuse)
    curves = data.get("curves", {})
    if not isinstance(curves, dict):
        raise refuse("`curves` is not an object")
    _known(curves, set(CURVES), "`curves`", refuse)
    values = {curve: curve_values(curves.get(curve, known.default), known, frames, refuse) for curve, known in CURVES.items()}
    places = _Places(path, rules, refuse)
    avatar, avatar_hash = places.file(data.get("avatar"), "avatar")
    sound, sound_hash = None, ""
    if data.get("sound") is not None:
        sound, sound_hash = places.file(data["sound"], "sound")
    elif data.get("sound_times") is not None:
        raise refuse("`sound_times` without a `sound`")
    times = np.full(len(frames), np.nan)
    if sound is not None:
        times = seconds_of(data.get("sound_times", {"start": int(frames[0])}), frames, fps, refuse)
    shot = Shot(
        avatar, avatar_hash, sound, sound_hash, fps, frames, times,
        keyed=np.stack([values[emotion] for emotion in EMOTIONS], axis=1),
        intensity=values["intensity"],
        mix=values["mix"],
        au=np.stack([values[au] for au in _AUS], axis=1),
        smoothing=_number(data.get("smoothing", 0), "`smoothing`", 0, SMOOTHING_MAX, refuse),
        **{strength: values[strength] for strength in STRENGTHS},
    )  # fmt: skip
    return shot, ShotSettings(name, *places.output(data.get("output") if with_output else None))


def _load(path: Path, refuse: Callable[..., UserError]) -> dict[str, Any]:
    def once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found = dict(pairs)
        if len(found) < len(pairs):
            raise ValueError("an entry is there twice")
        return found

    def no_number(text: str) -> None:
        raise ValueError(f"{text} is no number")

    try:
        if path.stat().st_size > MOST_BYTES:
            raise refuse(f"larger than {MOST_BYTES >> 20} MB", "Split the shot.")
        data = json.loads(path.read_text("utf-8"), object_pairs_hook=once, parse_constant=no_number)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    except (ValueError, RecursionError) as error:
        raise refuse(f"not a JSON file ({error})") from error
    if not isinstance(data, dict):
        raise refuse("not a shot file: it holds no JSON object")
    return data


def _known(data: dict[str, Any], names: set[str], where: str, refuse: Callable[..., UserError]) -> None:
    if unknown := sorted(set(data) - names):
        raise refuse(f"{where} has unknown entries: {', '.join(repr(name[:40]) for name in unknown[:8])}")


def _number(value: Any, what: str, low: float, high: float, refuse: Callable[..., UserError]) -> float:
    if type(value) not in (int, float) or not low <= value <= high:
        raise refuse(f"{what} is not a number from {low:g} to {high:g}")
    return float(value)


def _frames(data: Any, refuse: Callable[..., UserError]) -> np.ndarray:
    if isinstance(data, dict):
        _known(data, {"first", "last"}, "`frames`", refuse)
        first, last = (whole_number(data.get(end), f"`frames`: `{end}`", refuse) for end in ("first", "last"))
        if not first <= last < first + MOST_FRAMES:
            raise refuse(f"`frames` {first} to {last}: none, or more than {MOST_FRAMES}", "Split the shot.")
        return np.arange(first, last + 1, dtype=np.int32)
    if not isinstance(data, list) or not 0 < len(data) <= MOST_FRAMES:
        raise refuse(f'`frames` is not of the form {{"first": 1, "last": 200}}, nor a list of 1 to {MOST_FRAMES} numbers')
    frames = np.array([whole_number(frame, "`frames`: one", refuse) for frame in data], np.int32)
    if (np.diff(frames) <= 0).any():
        raise refuse("`frames` do not rise")
    return frames


def _written_path(path: Path, folder: Path) -> str:
    """Relative to the folder where the two have more than the root of a drive in common."""
    path = Path(os.path.abspath(path))
    try:
        common = Path(os.path.commonpath([path, folder]))
        if common != Path(common.anchor):
            return Path(os.path.relpath(path, folder)).as_posix()
    except ValueError:  # on another drive
        pass
    return path.as_posix()


@dataclass(frozen=True)
class _Places:
    """The paths of a shot file, judged by the rules."""

    path: Path
    rules: Rules
    refuse: Callable[..., UserError]

    def file(self, data: Any, what: str) -> tuple[Path, str]:
        """Path and hash of an {"path", "sha256"} entry."""
        if not isinstance(data, dict):
            raise self.refuse(f'`{what}` is not of the form {{"path": "...", "sha256": "..."}}')
        _known(data, {"path", "sha256"}, f"`{what}`", self.refuse)
        path, digest = self._path(data.get("path"), f"`{what}`: `path`"), data.get("sha256")
        if digest is not None and not (isinstance(digest, str) and re.fullmatch(r"[0-9a-f]{64}", digest)):
            raise self.refuse(f"`{what}`: `sha256` is not 64 hexadecimal digits in lower case")
        if digest is None:
            if not self._is_inside(path):
                raise self.refuse(
                    f"the {what} {path} lies outside {self._root()} and has no `sha256`",
                    "Name its hash in the file, or give --root with a folder that holds both, or --allow-outside.",
                )
            if not path.is_file():  # a device or a pipe would be read for ever
                raise self.refuse(f"there is no {what} file {path}", "Check its `path`; it is relative to the shot's file.")
            digest = file_hash(path)
        return path, digest

    def output(self, data: Any) -> tuple[Path | None, str]:
        """Folder and format of the `output` entry."""
        if data is None:
            return None, FORMATS[0]
        if not isinstance(data, dict):
            raise self.refuse('`output` is not of the form {"folder": "...", "format": "cache"}')
        _known(data, {"folder", "format"}, "`output`", self.refuse)
        kind = data.get("format", FORMATS[0])
        if kind not in FORMATS:
            raise self.refuse(f"`output`: unknown format {str(kind)[:40]!r}; known are {', '.join(FORMATS)}")
        folder = self._path(data.get("folder"), "`output`: `folder`")
        if not self._is_inside(folder):
            raise self.refuse(
                f"its output folder {folder} lies outside {self._root()}",
                "Give --out FOLDER, or --root with a folder that holds both, or --allow-outside where you trust the file.",
            )
        return folder, kind

    def _root(self) -> Path:
        return Path(os.path.realpath(self.path.parent if self.rules.root is None else self.rules.root))

    def _is_inside(self, path: Path) -> bool:
        return self.rules.allow_outside or Path(os.path.realpath(path)).is_relative_to(self._root())

    def _path(self, text: Any, what: str) -> Path:
        if not isinstance(text, str) or not 0 < len(text) <= 4096 or not text.isprintable():
            raise self.refuse(f"{what} is not a path")
        if text[:2].replace("\\", "/") == "//" and not self.rules.allow_outside:
            raise self.refuse(f"{what} leads to a network server", "Map it to a folder, or give --allow-outside where you trust the file.")
        if PureWindowsPath(text).drive and os.name != "nt":
            raise self.refuse(f"{what} {text[:80]!r} names a drive of Windows", "Write it relative to the shot's file, with /.")
        return Path(os.path.abspath(self.path.absolute().parent / text))
