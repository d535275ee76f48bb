"""Faults of the disk and of the clock, and others at work in the same folder."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np

from ua3dtalk.engine.cache import LOCK_FILE, CacheReader, CacheWriter, FrameMissing
from ua3dtalk.engine.errors import UserError

from .case import Case, until
from .ground import FRAMES, Ground, digest
from .race import HEADER, STILL
from .worker import Desk, client_of, part_way, watched

FAKETIME = next((str(path) for path in sorted(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"))), None)
"""libfaketime, where it is installed: a worker's clock jumps while it bakes. Elsewhere only files' times do."""


def mount(*arguments: str) -> None:
    """Call `mount`; the mounts of a campaign are its own (see __main__.own_mounts)."""
    subprocess.run(["mount", *arguments], check=True, capture_output=True)


@contextmanager
def disk(ground: Ground, size: int) -> Iterator[Path]:
    """A file system of its own of so many bytes."""
    place = ground.place("disk")
    place.mkdir()
    mount("-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(place))
    try:
        yield place
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
        place.rmdir()


def full_disk(case: Case, desk: Desk) -> None:
    """The disk is full at a random byte of the bake; then there is room again."""
    ground = desk.ground
    with watched(case, desk), disk(ground, 64 << 20) as place:
        folder = place / "cache"
        kind = ground.before(case, folder)
        used = sum(path.stat().st_size for path in place.rglob("*") if path.is_file())
        room = int(case.random.uniform(0, 1.3e6)) >> 12 << 12
        files = sum(1 for _ in place.rglob("*"))
        case.moment["room"] = room
        mount("-o", f"remount,size={used + 4096 * files + room}", str(place))
        job = desk.bake(ground.new, folder)
        desk.follow(case, job)
        case.moment["ended"] = job.state
        if job.state == "done":
            ground.whole(case, folder, ground.new)
        elif folder.exists():
            ground.look(case, folder, job.frames)
        ground.still_there(case, folder, kind)
        case.hold("handles", not list(place.rglob(".*.part")), f"half-written files: {list(place.rglob('.*.part'))}")
        mount("-o", f"remount,size={64 << 20}", str(place))
        desk.again(case, folder, ground.new)


def read_only(case: Case, desk: Desk) -> None:
    """The folder can be read alone, from before the bake or from its middle on; nothing in it changes; then it can be written again."""
    ground = desk.ground
    with watched(case, desk), disk(ground, 64 << 20) as place:
        folder = place / "cache"
        kind = ground.before(case, folder)
        early = case.random.random() < 0.6
        case.moment["from"] = "before" if early else "middle"
        told: list[int] = []
        if early:
            mount("-o", "remount,ro", str(place))
            job = desk.bake(ground.new, folder)
            desk.follow(case, job)
            case.hold("kept", job.state == "failed", f"a bake into it is {job.state}")
        else:
            job = desk.bake(ground.new, folder)
            part_way(case, job, case.random.uniform(0, 0.9))
            mount("--bind", str(place), str(place))
            mount("-o", "remount,bind,ro", str(place))
            desk.follow(case, job)
            told = job.frames
        case.moment["ended"] = job.state
        if job.state == "done":
            ground.look(case, folder, ground.new.frames.tolist())
        elif folder.exists():
            ground.look(case, folder, told)
        ground.still_there(case, folder, kind)
        if early:
            mount("-o", "remount,rw", str(place))
        else:
            subprocess.run(["umount", "--lazy", str(place)], check=True)
        desk.again(case, folder, ground.new)


def deleted(case: Case, desk: Desk) -> None:
    """The folder, or a part of it, is deleted while it is baked into."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place() / "cache"
        ground.before(case, folder)
        job = desk.bake(ground.new, folder)
        part_way(case, job, case.random.uniform(0, 1))
        what = case.random.choice(("all", "all", "store", "index.bin", "motion.bin", "static.safetensors", "header.json", LOCK_FILE))
        case.moment["deleted"] = what
        job.client.pump()
        early = list(job.frames)
        if what == "all":
            shutil.rmtree(folder, ignore_errors=True)
        elif what == "store":
            for store in folder.glob("store-*"):
                shutil.rmtree(store, ignore_errors=True)
        else:
            for path in [*folder.glob(f"store-*/{what}"), *folder.glob(what)]:
                path.unlink(missing_ok=True)
        desk.follow(case, job)
        case.moment |= {"early": len(early), "ended": job.state}
        if job.state == "done" and len(early) < FRAMES:  # else it had ended before
            ground.whole(case, folder, ground.new)
        elif folder.exists():
            ground.look(case, folder)
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder.parent)


def spoilt(case: Case, desk: Desk) -> None:
    """A power cut that kept the index and lost data: pieces of slots are zero or gone. Such frames are missing, and a bake brings them back."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        shutil.copytree(ground.baked["new"], folder)
        store = next(folder.glob("store-*"))
        name = case.random.choice(("motion.bin", "uncertainty.bin", "shares.bin", "index.bin"))
        size = (store / name).stat().st_size
        at = case.random.randrange(size)
        how = case.random.choice(("cut", "zeros"))
        case.moment |= {"file": name, "at": at, "how": how}
        with open(store / name, "rb+") as file:
            if how == "cut":
                file.truncate(at)
            else:
                file.seek(at)
                file.write(bytes(min(4096, size - at)))
        found = ground.look(case, folder)
        case.moment["left"] = len(found)
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def times_jump(case: Case, desk: Desk) -> None:
    """Files' times go to the past and to the future while a reader shows them and a bake replaces them; the lock's as well."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        shutil.copytree(ground.baked["older"], folder)
        reader = CacheReader(folder)

        def jump(*names: str) -> None:
            for path in [path for name in names for path in folder.rglob(name)]:
                moment = time.time() + case.random.choice((-1, 1)) * 10 ** case.random.uniform(0, 8)
                try:
                    os.utime(path, (moment, moment))
                except OSError:  # the bake has just taken it away
                    continue

        def shown(frames: int) -> None:
            for _ in range(frames):
                frame = case.random.randrange(FRAMES)
                try:
                    found = digest(reader.at(frame))
                except FrameMissing:
                    continue
                case.hold("right", ground.truth.get(reader.keys().get(frame, b"")) == found, f"frame {frame} is not what its key says")

        job = desk.bake(ground.new, folder)
        end = time.monotonic() + 60
        while job.state == "running" and time.monotonic() < end:
            job.client.pump(0.01)
            jump("*.bin", "*.json", "*.safetensors", LOCK_FILE)
            shown(3)
            if 5 < job.done < FRAMES / 2:
                lock_is_held(case, folder)
        desk.follow(case, job)
        reader.close()
        if case.hold("answers", job.state == "done", f"the bake is {job.state}: {job.error}"):
            ground.whole(case, folder, ground.new)
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def lock_is_held(case: Case, folder: Path) -> None:
    """However old the lock of a process that lives looks, no second writer gets in."""
    try:
        CacheWriter(folder, HEADER, STILL, np.zeros(1, np.uint8), np.zeros(0, np.int32)).close()
    except UserError as error:
        case.line(error)
        return
    case.hold("kept", False, "a second writer got the folder while the first was at work")


def clock_jumps(case: Case, desk: Desk) -> None:
    """The worker's own clock jumps by up to years, back and forth, while it bakes (libfaketime)."""
    ground = desk.ground
    with watched(case, desk):
        folder, clock = ground.place(), ground.place("clock")
        kind = ground.before(case, folder)
        clock.write_text("+0\n")
        assert FAKETIME is not None
        variables = {"LD_PRELOAD": FAKETIME, "FAKETIME_TIMESTAMP_FILE": str(clock), "FAKETIME_NO_CACHE": "1", "FAKETIME_DONT_FAKE_MONOTONIC": "1"}
        client = client_of(ground)
        os.environ.update(variables)
        try:
            client.start()
        finally:
            for name in variables:
                del os.environ[name]
        jumps = []
        try:
            job = client.request("bake", {"shot": str(ground.write(ground.new)), "out": str(folder)})
            while job.state == "running":
                jumps.append(f"{case.random.choice('+-')}{10 ** case.random.uniform(0, 8):.0f}")
                new = clock.with_suffix(".part")
                new.write_text(jumps[-1] + "\n")
                os.replace(new, clock)
                client.pump(0.02)
                if client.state == "failed":
                    break
            desk.follow(case, job)
            case.moment |= {"jumps": len(jumps)}
            if case.hold("answers", job.state == "done", f"the bake is {job.state}: {job.error}"):
                ground.whole(case, folder, ground.new)
        finally:
            client.stop()
        case.moment["before"] = kind
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def _dead() -> str:
    """What the lock of a process says that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return f"{socket.gethostname()} {process.pid}"


def locks_of_others(case: Case, desk: Desk) -> None:
    """A lock that is left: of a dead process, of another machine long or just now, of nobody (empty, torn), from the future."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        kind = ground.before(case, folder)
        folder.mkdir(exist_ok=True)
        host, dead = socket.gethostname(), _dead()
        text, age, gives_way = case.random.choice(
            (
                (dead, 0, True), (dead, -1e8, True), ("elsewhere 12", 1000, True), ("elsewhere 12", 3, False),
                ("elsewhere 12", -1000, False), ("", 1000, True), ("", 0, False), (host, 1000, True), ("elsewhere x y", 1000, True),
            )
        )  # fmt: skip
        case.moment |= {"lock": text.replace(host, "here"), "age": age}
        lock = folder / LOCK_FILE
        lock.write_text(text)
        os.utime(lock, (time.time() - age,) * 2)
        job = desk.bake(ground.new, folder)
        desk.follow(case, job)
        case.moment["ended"] = job.state
        case.hold("answers", (job.state == "done") == gives_way, f"a lock {text!r} of {age} s: the bake is {job.state}")
        if job.state == "done":
            ground.whole(case, folder, ground.new)
        else:
            case.hold("kept", lock.exists(), "the lock of somebody at work is gone")
            ground.still_there(case, folder, kind)
            lock.unlink()
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def two_bakes(case: Case, desk: Desk) -> None:
    """Two workers, one folder, both asked at about the same moment, with or without a dead lock there: one bakes, the other is told why not."""
    ground = desk.ground
    with watched(case, desk):
        folder = ground.place()
        kind = ground.before(case, folder)
        if case.random.random() < 0.5:
            folder.mkdir(exist_ok=True)
            (folder / LOCK_FILE).write_text(_dead())
        other = client_of(ground)
        other.start()
        try:
            other.wait_ready()
            jobs = [desk.bake(ground.new, folder)]
            time.sleep(case.random.choice((0, 0.0, case.random.uniform(0, 1))))
            jobs.append(other.request("bake", {"shot": str(ground.write(ground.new)), "out": str(folder)}))
            until(lambda: [job.client.pump(0.005) for job in jobs] and all(job.state != "running" for job in jobs))
            for job in jobs:
                desk.follow(case, job)
            case.moment["ended"] = [job.state for job in jobs]
            case.hold("answers", any(job.state == "done" for job in jobs), "neither has baked")
            ground.whole(case, folder, ground.new)
            for job in jobs:
                ground.look(case, folder, job.frames)
        finally:
            other.stop()
        case.moment["before"] = kind
        desk.again(case, folder, ground.new)
    shutil.rmtree(folder)


def race_for_a_dead_lock(case: Case, desk: Desk) -> None:
    """Several processes find the same dead lock at once; over and over, one of them gets the folder."""
    ground = desk.ground
    folder = ground.place()
    folder.mkdir()
    dead, rounds, racers = _dead(), 60, 3
    command = [sys.executable, "-m", "tests.faults.race", str(folder), dead, str(rounds)]
    processes = [subprocess.Popen([*command, str(number), str(racers)], stdout=subprocess.PIPE, text=True) for number in range(racers)]
    said = [json.loads(process.communicate(timeout=300)[0]) for process in processes]
    winners = [sum(one[number] for one in said) for number in range(rounds)]
    case.moment |= {"rounds": rounds, "nobody": winners.count(0), "two": sum(number > 1 for number in winners)}
    case.hold("kept", max(winners) <= 1, f"in {case.moment['two']} of {rounds} rounds more than one writer got the folder")
    case.alone(ground.mark, {desk.client.pid or 0})
    shutil.rmtree(folder)
