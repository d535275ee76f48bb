"""What a bake of a shot would do, and whether a cache is what a shot asks for. Nothing is written."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..avatar import load_avatar
from ..cache import LOCK_FILE, SHOT_FILE, CacheReader, OlderFormat
from ..cache.check import CacheCheck, Progress, check_cache
from ..cache.index import Index
from ..cache.layout import ENTRY, FRAME_FILES, CacheHeader, read_header
from ..errors import UserError
from ..files import file_hash
from .shot import Shot, frame_keys, load_shot
from .stale import StaleReport, ranges, stale_report


@dataclass(frozen=True)
class BakePlan:
    """What a bake would do.

    Attributes:
        report: which frames are missing or out of date, and why.
        compute: frames that would be computed; moved: frames that would share the data of another one.
        bytes: that would be written at most.
    """

    report: StaleReport
    compute: tuple[int, ...]
    moved: tuple[int, ...]
    bytes: int

    def result(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "frames": self.report.total,
            "compute": list(self.compute),
            "moved": list(self.moved),
            "up_to_date": self.report.total - len(self.report.frames),
            "missing": list(self.report.missing),
            "out_of_date": list(self.report.outdated),
            "reasons": list(self.report.reasons),
            "bytes": self.bytes,
        }


def check_sources(shot: Shot) -> None:
    """Compare a shot's avatar, and its sound where it is heard, with the hashes it names.

    Raises:
        UserError: a file is missing or is another one.
    """
    for problem in _source_problems(shot):
        raise problem


def _source_problems(shot: Shot) -> Iterator[UserError]:
    heard = bool(np.isfinite(shot.times).any())
    files = [("avatar", shot.avatar, shot.avatar_hash)]
    if shot.sound is not None and heard:
        files.append(("sound", shot.sound, shot.sound_hash))
    for what, path, digest in files:
        try:
            if not path.is_file():  # nothing else is ever read: a device has no end
                yield UserError(f"There is no {what} file {path}.", "Put it there, or correct the shot.")
            elif file_hash(path) != digest:
                yield UserError(f"{path} has changed since the shot was made.", "Put the right file there, or write the shot again.")
        except (OSError, UserError) as error:
            yield error if isinstance(error, UserError) else UserError(f"Cannot read {path}: {error.strerror}.", "Check its permissions.")


def check_folder(folder: Path, shot: Shot, resume: bool) -> None:
    """A bake of the shot may go into the folder.

    Args:
        resume: it may hold a bake of another avatar or sound, which then is replaced once the new one is whole.

    Raises:
        UserError: such a bake without `resume`; or files that are no bake.
    """
    header = _header(folder)
    if header is None:
        own = re.compile(rf"store-\d+-[0-9a-f]{{1,16}}|{re.escape(LOCK_FILE)}|(next-)?{re.escape(SHOT_FILE)}")
        try:
            foreign = sorted(path.name for path in Path(folder).iterdir() if not own.fullmatch(path.name))
        except FileNotFoundError:
            return
        except OSError as error:
            raise UserError(f"{folder}: not a folder that can be written ({error.strerror}).", "Choose another folder.") from error
        if foreign:
            raise UserError(f"{folder}: holds files that are no bake ({', '.join(foreign[:3])}).", "Choose an empty or a new folder.")
    elif isinstance(header, CacheHeader) and not resume:
        other = "avatar" if header.avatar_hash != shot.avatar_hash else "sound" if header.sound_hash != shot.sound_hash else ""
        if other:
            remedy = "Choose another folder; or give --resume, and what does not fit the shot is baked anew."
            raise UserError(f"{folder}: holds the bake of another shot (another {other}).", remedy)


def _header(folder: Path) -> CacheHeader | OlderFormat | None:
    try:
        return read_header(folder)
    except OlderFormat as older:
        return older
    except UserError:
        return None


def plan_bake(shot: Shot, folder: Path) -> BakePlan:
    """What a bake of the shot into the folder would do.

    Raises:
        UserError: the avatar cannot be read.
    """
    header, keys, last = _header(folder), {}, None
    if isinstance(header, CacheHeader) and header.avatar_hash == shot.avatar_hash:
        index = Index(Path(folder) / header.store)
        index.refresh()
        keys, last = index.keys, last_shot(folder)
        about = (header.avatar_hash, header.sound_hash)
    else:  # another avatar's frames serve nothing
        about = ("", "")
    wanted = frame_keys(shot)
    report = stale_report(shot, keys, *about, last, wanted)
    todo, known = set(report.frames), set(keys.values())
    compute: list[int] = []
    moved: list[int] = []
    for frame, key in zip(shot.frames.tolist(), (row.tobytes() for row in wanted)):
        if frame in todo:
            (moved if key in known else compute).append(frame)
            known.add(key)
    avatar = load_avatar(shot.avatar)
    slot = len(avatar.moving_rows()) * sum(channels * np.dtype(kind).itemsize for channels, kind in FRAME_FILES.values())
    size = len(compute) * slot + len(todo) * ENTRY.itemsize
    if not keys:
        rest, branch = avatar.rest()
        size += sum(array.nbytes for array in (rest.means, rest.quats, rest.scales, rest.opacities, rest.sh, branch))
    return BakePlan(report, tuple(compute), tuple(moved), size)


def _still_problems(folder: Path, shot: Shot, found: CacheCheck) -> list[str]:
    """What does not move has no checksum: it is held against the avatar that it comes from."""
    if found.problems or found.header is None or found.header.avatar_hash != shot.avatar_hash:
        return []
    reader, avatar = CacheReader(folder), load_avatar(shot.avatar)
    rest, branch = avatar.rest()
    pairs = [(getattr(reader.static, name), getattr(rest, name)) for name in ("means", "quats", "scales", "opacities", "sh")]
    pairs += [(reader.branch, branch), (reader.moving, avatar.moving_rows())]
    reader.close()
    if all(a.shape == b.shape and np.allclose(a, b, rtol=1e-4, atol=1e-6) for a, b in pairs):
        return []
    return [f"{folder / found.header.store / 'static.safetensors'}: is not the avatar's."]


def last_shot(folder: Path) -> Shot | None:
    """The shot of the last whole bake in a cache folder; None where it is not there any more."""
    try:
        return load_shot(Path(folder) / SHOT_FILE)
    except UserError:
        return None


def check_bake(folder: Path, shot: Shot | None, progress: Progress = lambda done, total, text: None) -> dict[str, Any]:
    """Verify a cache: header, index, every slot's checksum; and against a shot, if given: its files' hashes, each frame's key.

    Returns:
        {"ok", "frames", "whole": how many; "missing", "out_of_date", "damaged": frames; "reasons", "problems", "notes": lines}.
        Without a shot, all frames that the cache says it has are asked for. `ok`: all are whole, and there is no problem.
    """
    found: CacheCheck = check_cache(folder, progress)
    problems = list(found.problems)
    missing: tuple[int, ...] = ()
    outdated: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    damaged, total = found.damaged, len(found.keys) + len(found.damaged)
    if shot is not None:
        problems += [error.message for error in _source_problems(shot)] or _still_problems(folder, shot, found)
        hashes = ("", "") if found.header is None else (found.header.avatar_hash, found.header.sound_hash)
        report = stale_report(shot, found.keys, *hashes, last_shot(folder))
        wanted = set(shot.frames.tolist())
        damaged = tuple(frame for frame in damaged if frame in wanted)
        missing = tuple(frame for frame in report.missing if frame not in set(damaged))
        outdated, reasons, total = report.outdated, report.reasons, report.total
    whole = total - len(missing) - len(outdated) - len(damaged)
    return {
        "ok": not problems and whole == total,
        "cache": str(folder),
        "frames": total,
        "whole": whole,
        "missing": list(missing),
        "out_of_date": list(outdated),
        "damaged": list(damaged),
        "reasons": list(reasons),
        "problems": problems,
        "notes": list(found.notes),
    }


def in_words(result: dict[str, Any]) -> dict[str, Any]:
    """A result for people: frames as ranges, sizes in megabytes."""
    shown: dict[str, Any] = {}
    for name, value in result.items():
        if isinstance(value, list):
            whole = all(isinstance(item, int) for item in value)
            shown[name] = (f"{len(value)} ({ranges(tuple(value), 12)})" if whole else "; ".join(value)) if value else "none"
        elif value is not None:
            shown[name] = f"{value / 1e6:.1f} MB" if name == "bytes" else value
    return shown
