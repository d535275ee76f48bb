"""Faults of Blender, and of the worker as Blender sees it. Blender runs as a module (.venv/blender), without a window."""

from __future__ import annotations

import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from support import ROOT

from ua3dtalk.engine.cache import LOCK_FILE, CacheReader
from ua3dtalk.engine.cache.check import check_cache

from .case import LONG, Case, ended, until
from .ground import FRAMES, Ground, digest
from .worker import kill

PYTHON = ROOT / ".venv" / "blender" / "bin" / "python"
CACHE = Path("ua3dtalk_cache") / "head-0000"


class Blender:
    """One process; what it says comes as dictionaries."""

    def __init__(self, ground: Ground, user: Path, *arguments: str) -> None:
        variables = {"BLENDER_USER_RESOURCES": str(user), "UA3DTALK_PYTHON": str(ground.python), "TMPDIR": str(ground.folder / "tmp")}
        (ground.folder / "tmp").mkdir(exist_ok=True)
        self._log = open(ground.folder / "blender.log", "ab")
        self.process = subprocess.Popen(
            [str(PYTHON), str(Path(__file__).with_name("blender_side.py")), *arguments], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            stderr=self._log, env=os.environ | variables, text=True,
        )  # fmt: skip
        self._lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()
        self.hear("ready")

    def _read(self) -> None:
        assert self.process.stdout is not None
        with suppress(ValueError):
            for line in self.process.stdout:
                self._lines.put(line)
        self._lines.put("")

    def next(self, seconds: float = LONG) -> dict[str, Any]:
        """What it says next. Raises EOFError where it has ended, TimeoutError where it says nothing."""
        try:
            line = self._lines.get(timeout=seconds)
        except queue.Empty:
            raise TimeoutError("Blender does not answer") from None
        if not line:
            self._lines.put("")
            raise EOFError("Blender has ended")
        return json.loads(line)

    def hear(self, name: str) -> dict[str, Any]:
        """Wait until it says something of this name; what it said besides is in it."""
        said: dict[str, Any] = {}
        while name not in said:
            said |= self.next()
        return said

    def send(self, do: str, **facts: Any) -> None:
        """Ask for something."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **facts}) + "\n")
        self.process.stdin.flush()

    def ask(self, do: str, **facts: Any) -> dict[str, Any]:
        """Ask for something, and wait for the end of it."""
        self.send(do, **facts)
        return self.hear("end")

    def close(self) -> None:
        """End it, however it is."""
        if self.process.poll() is None:
            with suppress(OSError, EOFError, TimeoutError):
                self.ask("end")
        self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self._log):
            with suppress(OSError):
                pipe.close()


class Studio:
    """A file with an avatar, its undisturbed bakes, and Blenders that open it.

    Attributes:
        keys: of the bakes, by what was there before: frame -> key. shown: frame -> what Blender shows of the new bake and of the older.
    """

    def __init__(self, ground: Ground) -> None:
        self.ground, self.user = ground, ground.folder / "blender-user"
        self._blender: Blender | None = None
        zip_path = sys.modules["ua3dtalk_build"].package(ground.folder / "dist")
        first = Blender(ground, self.user, str(zip_path))
        files = {"avatar": str(ground.folder / "head.safetensors"), "sound": str(ground.folder / "speech.wav"), "last": FRAMES}
        self.blends = {name: ground.folder / name / "shot.blend" for name in ("new", "older")}
        for name, (low, high) in (("new", (0.0, 1.0)), ("older", (1.0, 0.2))):
            self.blends[name].parent.mkdir()
            first.ask("make", blend=str(self.blends[name]), low=low, high=high, **files)
        first.ask("bake")  # compiles what is compiled once; see __main__
        first.close()
        shutil.rmtree(self.blends["older"].parent / CACHE)
        self.keys: dict[str, dict[int, bytes]] = {"other": self._keys(ground.baked["other"])}
        self.baked = {"other": ground.baked["other"]}
        self.shown: dict[str, dict[str, str]] = {}
        blender = self.blender()
        for name, blend in self.blends.items():
            blender.ask("open", blend=str(blend))
            assert blender.ask("bake")["state"] == "done"
            self.shown[name] = blender.ask("look")["shown"]
            self.baked[name] = blend.parent / CACHE
            self.keys[name] = self._keys(self.baked[name])

    def _keys(self, folder: Path) -> dict[int, bytes]:
        reader = CacheReader(folder)
        self.ground.truth |= {key: digest(reader.at(frame)) for frame, key in reader.keys().items()}
        reader.close()
        return reader.keys()

    def blender(self) -> Blender:
        """One that runs."""
        if self._blender is not None and self._blender.process.poll() is not None:
            self._blender.close()
            self._blender = None
        if self._blender is None:
            self._blender = Blender(self.ground, self.user)
        return self._blender

    def file(self, case: Case) -> tuple[Path, Path, str]:
        """The file in a folder of its own, with or without a bake: its path, its cache folder, what was drawn."""
        blend = self.ground.place("shot") / "shot.blend"
        blend.parent.mkdir()
        shutil.copy2(self.blends["new"], blend)
        kind = case.random.choice(("nothing", "older", "other"))
        case.moment["before"] = kind
        if kind != "nothing":
            shutil.copytree(self.baked[kind], blend.parent / CACHE)
        return blend, blend.parent / CACHE, kind

    def still_there(self, case: Case, folder: Path, kind: str, told: set[int]) -> None:
        """What was reported can be read; what was there before is, or what comes in its place."""
        if not folder.exists():
            case.hold("kept", not told, "frames were reported, and the folder is not there")
            return
        found = self.ground.look(case, folder, told)
        if kind != "nothing":
            lost = [frame for frame, key in self.keys[kind].items() if found.get(frame) not in (key, self.keys["new"].get(frame))]
            case.hold("old", not lost, f"frames {lost[:5]} of {len(lost)} are neither the old bake's nor the new one's")

    def whole(self, case: Case, folder: Path) -> None:
        """The bake is whole on disk."""
        found = self.ground.look(case, folder, set(self.keys["new"]))
        missing = [frame for frame, key in self.keys["new"].items() if found.get(frame) != key]
        case.hold("answers", not missing, f"{len(missing)} frames of a bake that is done are not its own")
        checked = check_cache(folder)
        case.hold("answers", not checked.problems and not checked.damaged, f"{checked.problems} {checked.damaged[:5]}")
        case.hold("answers", not os.path.lexists(folder / LOCK_FILE), "the lock is still there")

    def shows(self, case: Case, said: dict[str, Any], kind: str) -> None:
        """What Blender shows of a frame that it does not call stale is the new bake's; of another, what was there before."""
        case.hold("right", said["written"], "the point cloud is not what the frame shows")
        stale = set(said["stale"])
        for frame, shown in said["shown"].items():
            if int(frame) in stale:
                old = self.shown["older"][frame] if kind == "older" else None
                right = kind == "other" or shown in (None, old, self.shown["new"][frame])
            else:
                right = shown == self.shown["new"][frame]
            case.hold("right", right, f"Blender shows something else at frame {frame}")

    def again(self, case: Case, blender: Blender, folder: Path) -> None:
        """The next request: the same bake, which is to stand now."""
        said = blender.ask("bake")
        if case.hold("answers", said.get("state") == "done", f"the bake after it: {said.get('error') or said.get('raised')}"):
            self.whole(case, folder)
            said = blender.ask("look")
            case.hold("right", not said["stale"], f"a bake that is done is stale at {said['stale'][:5]}")
            self.shows(case, said, "nothing")

    def close(self) -> None:
        """End Blender."""
        if self._blender is not None:
            self._blender.close()


def part_way(case: Case, blender: Blender, fraction: float) -> tuple[set[int], int | None, bool]:
    """Follow a bake for a part of it: frames that it told of, the worker's number, whether it has ended."""
    told: set[int] = set()
    pid = None
    later = case.random.uniform(0, 0.03)
    case.moment |= {"at": round(fraction, 3), "later": round(later, 4)}
    while True:
        said = blender.next()
        told |= set(said.get("frames", ()))
        pid = said.get("engine") or pid
        if "state" in said or "raised" in said or "end" in said:
            return told, pid, True
        if said.get("done", 0) >= fraction * FRAMES:
            time.sleep(later)
            return told, pid, False


def kill_blender(case: Case, studio: Studio) -> None:
    """kill -9 of Blender while it bakes; its worker ends by itself, and the next Blender goes on."""
    blend, folder, kind = studio.file(case)
    blender = studio.blender()
    blender.ask("open", blend=str(blend))
    blender.send("bake")
    told, _, _ = part_way(case, blender, case.random.uniform(-0.1, 1))
    os.kill(blender.process.pid, signal.SIGKILL)
    with suppress(EOFError):
        while True:  # what it had said before
            told |= set(blender.next().get("frames", ()))
    case.alone(studio.ground.mark)
    studio.still_there(case, folder, kind, told)
    blender = studio.blender()
    blender.ask("open", blend=str(blend))
    studio.shows(case, blender.ask("look"), kind)
    studio.again(case, blender, folder)
    shutil.rmtree(blend.parent)


def _with_worker(case: Case, studio: Studio) -> tuple[Blender, Path, Path, str, list[str]]:
    """Blender with a file open and a worker that has started; what it holds open then."""
    blend, folder, kind = studio.file(case)
    blender = studio.blender()
    blender.ask("open", blend=str(studio.blends["new"]))
    blender.ask("bake")
    held = blender.ask("look")["handles"]
    blender.ask("open", blend=str(blend))
    return blender, blend, folder, kind, held


def _after(case: Case, studio: Studio, blender: Blender, blend: Path, folder: Path, held: list[str]) -> None:
    """The next bake stands; as many open files as before, no other process."""
    blender.ask("open", blend=str(blend))
    studio.again(case, blender, folder)
    said = blender.ask("look")
    # The avatar and the cache that are shown are mapped; of pipes, sockets and the rest, none may be left.
    ours, free = str(studio.ground.folder), (str(folder), str(studio.ground.folder / "head.safetensors"))
    after = [name for name in said["handles"] if not name.startswith(free)]
    before = [name for name in held if not name.startswith((str(studio.blends["new"].parent / CACHE), free[1]))]
    case.hold("handles", len(after) <= len(before), f"{len(before)} before, {len(after)} after: {sorted(set(after) - set(before))[:5]}")
    strange = [name for name in after if name.startswith(ours) and not name.endswith(".log")]
    case.hold("handles", not strange, f"files of before are open: {strange[:3]}")
    case.alone(studio.ground.mark, {blender.process.pid, said["engine"]})
    shutil.rmtree(blend.parent)


def kill_worker(case: Case, studio: Studio) -> None:
    """kill -9 of the worker while Blender bakes: Blender says so in one line, shows nothing wrong, and bakes again."""
    blender, blend, folder, kind, held = _with_worker(case, studio)
    blender.send("bake")
    told, pid, is_over = part_way(case, blender, case.random.uniform(0, 1))
    kill(pid or 0)
    said = {} if is_over else blender.hear("state")
    blender.hear("end")
    if said.get("state") == "failed":
        case.line(said["error"])
    studio.still_there(case, folder, kind, told)
    studio.shows(case, blender.ask("look"), kind)
    _after(case, studio, blender, blend, folder, held)


def kill_live_worker(case: Case, studio: Studio) -> None:
    """kill -9 of the worker in the middle of slider edits: the newest edit is shown in the end, by a new worker."""
    blender, blend, folder, kind, held = _with_worker(case, studio)
    blender.send("live", edits=200, pause=0.005, seed=case.number)
    target, pid = case.random.randrange(0, 200), None
    while (said := blender.next()).get("edits", 999) < target and "end" not in said:
        pid = said["engine"] or pid
    pid = said.get("engine") or pid
    if pid:
        kill(pid)
    said |= blender.hear("end")
    case.moment |= {"at edit": target, "longest step": round(said.get("longest", 0), 3)}
    case.hold("answers", said.get("shown") is True, f"the newest edit is not shown: {said.get('line')} {said.get('raised')}")
    _after(case, studio, blender, blend, folder, held)


def hung_worker(case: Case, studio: Studio) -> None:
    """SIGSTOP of the worker while Blender bakes, for good or for a while."""
    blender, blend, folder, kind, held = _with_worker(case, studio)
    blender.ask("silence", seconds=3.0)
    blender.send("bake")
    told, pid, is_over = part_way(case, blender, case.random.uniform(0, 0.9))
    os.kill(pid or 0, signal.SIGSTOP)
    if case.random.random() < 0.5:
        case.moment["stopped"] = "a while"
        time.sleep(case.random.uniform(0.1, 1.5))
        os.kill(pid or 0, signal.SIGCONT)
    said = {"state": "done"} if is_over else blender.hear("state")
    blender.hear("end")
    case.moment["ended"] = said["state"]
    if said["state"] == "failed":
        case.line(said["error"])
        case.hold("orphans", until(lambda: ended(pid or 0), 10), "the hung worker lives")
    else:
        with suppress(ProcessLookupError):
            os.kill(pid or 0, signal.SIGCONT)
    studio.still_there(case, folder, kind, told)
    blender.ask("silence", seconds=60.0)
    studio.shows(case, blender.ask("look"), kind)
    _after(case, studio, blender, blend, folder, held)


def slider_edits(case: Case, studio: Studio) -> None:
    """10,000 edits of a slider, each with Blender's own round: the newest is shown, memory and files stay bounded."""
    blender, blend, folder, kind, held = _with_worker(case, studio)
    said = blender.ask("live", edits=10_000, pause=0.0, seed=case.number)
    grown = said.get("grown", 0)
    case.moment |= {"MB grown": round(grown / 1e6, 1), "files": said.get("files"), "longest step": round(said.get("longest", 0), 3)}
    case.hold("answers", said.get("shown") is True, f"the newest edit is not shown: {said.get('line')} {said.get('raised')}")
    case.hold("bounded", grown < 64e6, f"Blender grew by {grown / 1e6:.0f} MB")
    case.hold("bounded", said.get("files", 99) <= 1 and said.get("waiting") == 0, f"{said.get('files')} files of edits are left, {said.get('waiting')} requests")
    _after(case, studio, blender, blend, folder, held)


def two_blenders(case: Case, studio: Studio) -> None:
    """Two Blenders have the same file open and bake at about the same moment."""
    blend, folder, kind = studio.file(case)
    blenders = [studio.blender(), Blender(studio.ground, studio.user)]
    try:
        for blender in blenders:
            blender.ask("open", blend=str(blend))
        told: list[set[int]] = [set(), set()]
        blenders[0].send("bake")
        if case.random.random() < 0.7:  # both at work already
            said = part_way(case, blenders[0], case.random.uniform(0, 0.9))
            told[0] |= said[0]
        blenders[1].send("bake")
        ends = []
        for number, blender in enumerate(blenders):
            said = {}
            while "end" not in said:
                said |= blender.next()
                told[number] |= set(said.pop("frames", ()))
            ends.append(said.get("state", "done"))
            if said.get("error") or said.get("raised"):
                case.line(said.get("error") or said.get("raised"))
        case.moment["ended"] = ends
        case.hold("answers", "done" in ends, f"neither has baked: {ends}")
        studio.still_there(case, folder, kind, told[0] | told[1])
        for blender in blenders:
            studio.shows(case, blender.ask("look"), kind)
        for blender in blenders:
            studio.again(case, blender, folder)
    finally:
        blenders[1].close()
    shutil.rmtree(blend.parent)


def two_bakes(case: Case, studio: Studio) -> None:
    """A second bake of an object is asked for, by a script, while the first goes on."""
    blender, blend, folder, kind, held = _with_worker(case, studio)
    said = blender.ask("two", pause=case.random.uniform(0, 1.5))
    case.moment["ended"] = said.get("states")
    for line in said.get("told", ()):
        case.line(line)
    case.hold("answers", "raised" not in said and "done" in said["states"] and said["running"] == 0, f"{said}")
    studio.whole(case, folder)
    case.hold("bounded", not list(studio.ground.folder.glob(f"tmp/*/bake/{blender.process.pid}-*")), "the file of a bake on its way is left")
    _after(case, studio, blender, blend, folder, held)
