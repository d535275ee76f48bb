"""What faults happen to: small avatars, shots, their bakes; and the truth that everything is held against."""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Collection
from dataclasses import replace
from itertools import count
from pathlib import Path

import numpy as np
import soundfile
from support.avatars import talking_avatar

from ua3dtalk.engine.avatar import load_avatar, save_avatar
from ua3dtalk.engine.bake import Baker, Session
from ua3dtalk.engine.cache import LOCK_FILE, CachedFrame, CacheReader, FrameMissing
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import EmotionCurves, Shot, compose_shot, frame_keys, save_shot
from ua3dtalk.engine.shot.plan import check_bake

from .case import Case

FRAMES = 100
"""Of a shot: about a second of work."""
RATE = 25


def digest(frame: CachedFrame) -> str:
    """Of all numbers that a frame shows."""
    found = hashlib.sha256()
    for array in (frame.means, frame.quats, frame.scales, frame.uncertainty, frame.shares):
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


class Ground:
    """A folder with everything that a campaign needs.

    Args:
        mark: what the campaign's processes carry in case.MARK. root: folder that holds the `engine` package.

    Attributes:
        new, older: shots of one avatar whose frames all differ; other: of another avatar. big: of one that needs much memory.
        truth: key of a frame -> digest of what an undisturbed bake shows.
    """

    def __init__(self, folder: Path, mark: str, python: Path, root: Path) -> None:
        self.folder, self.mark, self.python, self.root = folder, mark, python, root
        self.truth: dict[bytes, str] = {}
        self._numbers = count(1)
        folder.mkdir(parents=True, exist_ok=True)
        os.environ["UA3DTALK_CACHE"] = str(folder / "tracks")
        self._session = Session("cpu", 1)
        for name, size, seed in (("head", 600, 0), ("other", 500, 1), ("big", 20000, 2)):
            save_avatar(talking_avatar(size, size // 10, seed=seed), folder / f"{name}.safetensors")
        noise = np.random.default_rng(0).normal(size=FRAMES * 16000 // RATE)
        soundfile.write(folder / "speech.wav", (0.2 * noise).clip(-1, 1), 16000)
        self.new, self.older = self.shot("head", 0.0, 1.0), self.shot("head", 1.0, 0.2)
        self.other, self.big = self.shot("other", 0.0, 1.0), self.shot("big", 0.0, 1.0)
        self.baked = {name: self.learn(getattr(self, name), folder / f"baked-{name}") for name in ("new", "older", "other")}

    def shot(self, avatar: str, low: float, high: float) -> Shot:
        """FRAMES frames of the speech while a smile goes from one strength to another: no two frames are alike."""
        path = self.folder / f"{avatar}.safetensors"
        made = compose_shot(path, load_avatar(path).hash, self.folder / "speech.wav", FRAMES / RATE, EmotionCurves(), RATE)
        keyed = np.zeros_like(made.keyed)
        keyed[:, 1] = np.linspace(low, high, len(made))
        return replace(made, keyed=keyed)

    def place(self, name: str = "cache") -> Path:
        """A path where nothing is yet."""
        return self.folder / f"{name}-{next(self._numbers)}"

    def write(self, shot: Shot) -> Path:
        """A shot as a file."""
        path = self.place("shot")
        save_shot(shot, path, durable=False)
        return path

    def learn(self, shot: Shot, folder: Path | None = None) -> Path:
        """Bake a shot undisturbed, in this process, and remember what each key shows."""
        folder = folder or self.place("truth")
        Baker(self._session, shot).bake(folder)
        reader = CacheReader(folder)
        self.truth |= {key: digest(reader.at(frame)) for frame, key in reader.keys().items()}
        reader.close()
        return folder

    def before(self, case: Case, folder: Path) -> str:
        """Put nothing, an older bake or another avatar's into a folder; which, is drawn."""
        kind = case.random.choice(("nothing", "older", "other"))
        case.moment["before"] = kind
        if kind != "nothing":
            shutil.copytree(self.baked[kind], folder, dirs_exist_ok=True)
        return kind

    def look(self, case: Case, folder: Path, told: Collection[int] = ()) -> dict[int, bytes]:
        """Each frame that can be read is right, and those of `told` can be read. Returns their keys."""
        try:
            reader = CacheReader(folder)
        except UserError as error:
            case.line(error)
            case.hold("kept", not told, f"frames {sorted(told)[:5]} were reported, and there is no bake: {error}")
            return {}
        found = {}
        for frame, key in reader.keys().items():
            try:
                shown = digest(reader.at(frame))
            except FrameMissing:
                continue
            found[frame] = key
            case.hold("right", self.truth.get(key) == shown, f"frame {frame} of {folder.name} is not what its key says")
        reader.close()
        lost = sorted(set(told) - set(found))
        case.hold("kept", not lost, f"frames {lost[:5]} of {len(lost)} were reported, and cannot be read")
        return found

    def still_there(self, case: Case, folder: Path, kind: str) -> None:
        """What `before` put there is there, or what was to come in its place is, as a whole."""
        if kind == "nothing":
            return
        found = self.look(case, folder)
        wanted = [frame_keys(shot) for shot in (self.new, getattr(self, kind))]
        missing = [row for row in range(FRAMES) if found.get(row) not in [keys[row].tobytes() for keys in wanted]]
        case.hold("old", not missing, f"frames {missing[:5]} of {len(missing)} are neither the old bake's nor the new one's")

    def whole(self, case: Case, folder: Path, shot: Shot) -> None:
        """A bake that was reported as done is: all frames there, right, with the shot's keys; and nobody holds the folder."""
        found = self.look(case, folder, shot.frames.tolist())
        keys = {int(frame): key.tobytes() for frame, key in zip(shot.frames, frame_keys(shot))}
        case.hold("answers", keys.items() <= found.items(), f"{len(keys.items() - found.items())} frames of a bake that is done are not its own")
        checked = check_bake(folder, shot)
        case.hold("answers", checked["ok"], f"bake --check: {checked['problems']} {checked['damaged'][:5]} {checked['missing'][:5]}")
        case.hold("answers", not os.path.lexists(folder / LOCK_FILE), "the lock is still there")
