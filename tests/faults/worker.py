"""Faults of the worker, seen from the client that Blender holds."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np

from ua3dtalk.engine.errors import Cancelled, UserError
from ua3dtalk.engine.shot import Shot, frame_keys
from ua3dtalk.engine.worker.client import Job, WorkerClient

from .case import LONG, Case, ended, handles, memory, until
from .ground import FRAMES, Ground

HERE = 7
"""Frame under the playhead of live edits."""
SILENCE = 3.0
"""Seconds of silence after which a worker counts as hung here; 60 for users."""


class Desk:
    """One client, its worker kept from fault to fault where it survives."""

    def __init__(self, ground: Ground) -> None:
        self.ground, self.client = ground, client_of(ground)

    def ready(self) -> WorkerClient:
        """The client, with a worker that answers."""
        self.client.pump()
        if self.client.state != "ready":
            self.client.start()
            self.client.wait_ready()
        return self.client

    def bake(self, shot: Shot, folder: Path, generation: tuple[str, int] | None = None) -> Job:
        """Ask for a bake."""
        return self.client.request("bake", {"shot": str(self.ground.write(shot)), "out": str(folder)}, generation)

    def warm(self) -> None:
        """Have everything compiled that workers compile once."""
        self.ready()
        self.bake(self.ground.new, self.ground.place()).wait(LONG)

    def follow(self, case: Case, job: Job) -> None:
        """Wait until a request has ended, however."""
        end = time.monotonic() + LONG
        while job.state == "running" and time.monotonic() < end:
            job.client.pump(0.02)
        if case.hold("answers", job.state != "running", "a request never ended") and job.state == "failed":
            case.line(job.error)

    def again(self, case: Case, folder: Path, shot: Shot) -> None:
        """The next request: the same bake once more, which is to stand now."""
        try:
            self.ready()
            self.bake(shot, folder).wait(LONG)
        except (UserError, Cancelled) as error:
            case.hold("answers", False, f"the bake after it failed: {error}")
            return
        self.ground.whole(case, folder, shot)

    def stop(self) -> None:
        """End the worker."""
        self.client.stop()


def client_of(ground: Ground, root: Path | None = None) -> WorkerClient:
    """A client whose worker is as users have it, on one thread."""
    return WorkerClient(ground.python, root or ground.root, 1, "cpu", ground.folder / "worker.log")


@contextmanager
def watched(case: Case, desk: Desk) -> Iterator[None]:
    """Round a fault: a worker that answers before and after, nobody else; as many open files after as before."""
    desk.ready()
    before = handles()
    yield
    desk.ready()
    after = handles()
    case.hold("handles", len(after) <= len(before), f"{len(before)} before, {len(after)} after: {sorted(set(after) - set(before))[:5]}")
    case.alone(desk.ground.mark, {desk.client.pid or 0})


def kill(pid: int) -> None:
    """kill -9, and wait until the system has done it."""
    os.kill(pid, signal.SIGKILL)
    until(lambda: ended(pid), pause=0.001)


def part_way(case: Case, job: Job, fraction: float) -> None:
    """Wait until a part of a bake is done, and a little longer."""
    end = time.monotonic() + LONG
    while job.state == "running" and job.done < fraction * FRAMES and time.monotonic() < end:
        job.client.pump(0.01)
    later = case.random.uniform(0, 0.03)
    case.moment |= {"at": round(fraction, 3), "later": round(later, 4)}
    time.sleep(later)


def kill_baking(case: Case, desk: Desk) -> None:
    """kill -9 of the worker while it bakes: into nothing, over an older bake, over another avatar's."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        kind = ground.before(case, folder)
        job = desk.bake(ground.new, folder)
        part_way(case, job, case.random.uniform(-0.1, 1.0))
        kill(desk.client.pid or 0)
        desk.follow(case, job)
        case.moment["done"] = job.done
        if job.state == "done":  # it had been quicker
            ground.whole(case, folder, ground.new)
        elif folder.exists():
            ground.look(case, folder, job.frames)
        ground.still_there(case, folder, kind)
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def kill_starting(case: Case, desk: Desk) -> None:
    """kill -9 of the worker while it starts; what was asked for meanwhile fails, and can be asked for again."""
    ground = desk.ground
    with watched(case, desk):
        desk.stop()
        desk.client.start()
        folder = ground.place()
        job = desk.bake(ground.new, folder)
        later = case.random.uniform(0, 3.5)
        case.moment["later"] = round(later, 3)
        end = time.monotonic() + later
        while time.monotonic() < end:
            desk.client.pump(0.01)
        kill(desk.client.pid or 0)
        desk.follow(case, job)
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def edit(ground: Ground, row: int) -> tuple[Shot, bytes]:
    """The frame under the playhead after an edit: as row `row` of the shot says, and the key that it has then."""
    shot = replace(ground.new.part(np.array([row])), frames=np.array([HERE], np.int32))
    return shot, frame_keys(shot)[0].tobytes()


def kill_live(case: Case, desk: Desk) -> None:
    """kill -9 of the worker between live edits: a frame that was shown is there, or the one after it."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        jobs: list[tuple[Job, bytes]] = []
        for _ in range(case.random.randint(1, 12)):
            shot, key = edit(ground, case.random.randrange(FRAMES))
            jobs.append((desk.bake(shot, folder, ("live", len(jobs) + 1 + 1000 * case.number)), key))
            end = time.monotonic() + case.random.uniform(0, 0.06)
            while time.monotonic() < end:
                desk.client.pump(0.005)
        kill(desk.client.pid or 0)
        for job, _ in jobs:
            desk.follow(case, job)
        seen = [number for number, (job, _) in enumerate(jobs) if job.frames]
        case.moment |= {"edits": len(jobs), "seen": len(seen)}
        found = ground.look(case, folder, {HERE} if seen else ()) if folder.exists() else {}
        if seen:
            later = [key for _, key in jobs[seen[-1] :]]
            case.hold("kept", found.get(HERE) in later, "the frame that is there is older than one that was reported")
        desk.again(case, folder, edit(ground, case.random.randrange(FRAMES))[0])
    shutil.rmtree(folder)


def hung_long(case: Case, desk: Desk) -> None:
    """SIGSTOP in the middle of a bake, and no SIGCONT: it is noticed, ended, and replaced."""
    ground, module = desk.ground, sys.modules[WorkerClient.__module__]
    with watched(case, desk):
        folder = ground.place()
        kind = ground.before(case, folder)
        job = desk.bake(ground.new, folder)
        part_way(case, job, case.random.uniform(0, 0.9))
        pid, usual = desk.client.pid or 0, module.SILENCE_TIMEOUT
        os.kill(pid, signal.SIGSTOP)
        module.SILENCE_TIMEOUT = SILENCE
        try:
            desk.follow(case, job)
        finally:
            module.SILENCE_TIMEOUT = usual
        case.hold("orphans", ended(pid), "the hung worker lives")
        if job.state != "done" and folder.exists():
            ground.look(case, folder, job.frames)
        ground.still_there(case, folder, kind)
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def hung_short(case: Case, desk: Desk) -> None:
    """SIGSTOP in the middle of a bake, SIGCONT a while later: it goes on as if nothing had been."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        job = desk.bake(ground.new, folder)
        part_way(case, job, case.random.uniform(0, 0.9))
        os.kill(desk.client.pid or 0, signal.SIGSTOP)
        seconds = case.random.uniform(0.1, 2.0)
        case.moment["stopped"] = round(seconds, 2)
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            desk.client.pump(0.05)
        os.kill(desk.client.pid or 0, signal.SIGCONT)
        desk.follow(case, job)
        if case.hold("answers", job.state == "done", f"the bake did not go on: {job.error}"):
            ground.whole(case, folder, ground.new)
    shutil.rmtree(folder)


def other_version(case: Case, desk: Desk) -> None:
    """A worker that speaks another version of the protocol, or is of another version itself."""
    ground = desk.ground
    with watched(case, desk):
        root = ground.place("engine")
        shutil.copytree(ground.root / "engine", root / "engine", ignore=shutil.ignore_patterns("__pycache__"))
        name, old, new = case.random.choice(
            [("worker/protocol.py", "PROTOCOL_VERSION = 1", "PROTOCOL_VERSION = 99"), ("__init__.py", '__version__ = "', '__version__ = "9')]
        )
        case.moment["changed"] = name
        text = (root / "engine" / name).read_text("utf-8")
        case.hold("answers", old in text, f"{name} has no {old}")
        (root / "engine" / name).write_text(text.replace(old, new), "utf-8")
        client = client_of(ground, root)
        folder = ground.place()
        try:
            client.start()
            job = client.request("bake", {"shot": str(ground.write(ground.new)), "out": str(folder)})
            desk.follow(case, job)
            case.hold("answers", job.state == "failed" and client.state == "failed", "it was taken for ours")
            case.hold("right", not folder.exists(), "it has baked")
        finally:
            client.stop()
        desk.again(case, folder, ground.new)
    shutil.rmtree(root)
    shutil.rmtree(folder)


def rapid_edits(case: Case, desk: Desk, edits: int = 10_000) -> None:
    """Edits as fast as they can be sent, to a live worker: the newest wins; memory, queues and files stay bounded."""
    ground = desk.ground
    with watched(case, desk):
        client, folder = desk.client, ground.place()
        desk.bake(edit(ground, 0)[0], folder).wait(LONG)
        files = [ground.write(edit(ground, row)[0]) for row in range(FRAMES)]
        pid = client.pid or 0
        before, held, most, seen = memory(pid), handles(pid), 0, 0
        jobs: list[tuple[Job, int]] = []
        running: list[tuple[Job, int]] = []
        for number in range(edits):
            row = case.random.randrange(FRAMES)
            generation = ("live", 10**6 * (case.number + 1) + number)
            running.append((client.request("bake", {"shot": str(files[row]), "out": str(folder)}, generation), row))
            if case.random.random() < 0.2:
                client.pump()
                seen += sum(bool(job.frames) for job, _ in running)
                running = [pair for pair in running if pair[0].state == "running"]
            most = max(most, memory(pid))
            jobs[:] = [running[-1]] if running else jobs
        last, row = jobs[-1]
        desk.follow(case, last)
        case.hold("answers", last.state == "done", f"the last edit was not computed: {last.state} {last.error}")
        found = ground.look(case, folder, {HERE})
        case.hold("right", found.get(HERE) == edit(ground, row)[1], "the frame shown is not that of the newest edit")
        case.hold("bounded", until(lambda: client.pump(0.01) or not client._jobs, 30), f"{len(client._jobs)} requests were never answered")
        grown = memory(pid) - before
        case.moment |= {"edits": edits, "frames shown": seen, "MB grown": round(grown / 1e6, 1), "most": round((most - before) / 1e6, 1)}
        case.hold("bounded", grown < 32e6 and most - before < 64e6, f"the worker grew by {grown / 1e6:.0f} MB")
        entries = sum(path.stat().st_size for path in folder.glob("store-*/index.bin")) / 132
        slots = sum(path.stat().st_size for path in folder.glob("store-*/motion.bin"))
        case.moment |= {"index entries": round(entries), "slot bytes": slots}
        case.hold("bounded", slots < 64 * 20 * 1000, f"{slots} bytes of slots for one frame")
        after = handles(pid)
        case.hold("handles", len(after) <= len(held), f"the worker held {len(held)}, holds {len(after)}: {sorted(set(after) - set(held))[:5]}")
    shutil.rmtree(folder)


def little_memory(case: Case, desk: Desk) -> None:
    """The worker may take no more than a little memory beyond what it has (RLIMIT_AS), and gets a large avatar."""
    ground = desk.ground
    with watched(case, desk):
        client, folder = desk.client, ground.place()
        kind = ground.before(case, folder)
        pid = client.pid or 0
        shot = ground.big.part(np.arange(4))
        room = int(10 ** case.random.uniform(5, 8.3))
        case.moment["room"] = room
        taken = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
        hard = resource.prlimit(pid, resource.RLIMIT_AS)[1]
        resource.prlimit(pid, resource.RLIMIT_AS, (taken + room, hard))
        job = desk.bake(shot, folder)
        desk.follow(case, job)
        case.moment["ended"] = job.state
        if job.state == "done":
            ground.learn(shot)
            ground.whole(case, folder, shot)
        else:
            ground.still_there(case, folder, kind)
            case.moment["worker"] = client.state
        if client.state == "ready":
            resource.prlimit(pid, resource.RLIMIT_AS, (hard, hard))
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)
