"""Structure-aware fuzzing of everything that reads files and messages.

    python -m tests.fuzz --seconds 600 --seed 1 [--readers ply,spz] [--json result.json]

Each reader runs in a child process of its own, with a limit of memory; the parent kills it where one input takes too long, and starts
another behind that input. Input number n of a seed is always the same: `--readers ply --seed 1 --only n` gives it again, with the traceback.
A finding is anything but success or the reader's own refusal: another exception, MemoryError, a crash, a hang, a program started,
a connection, a file written elsewhere. Exit status 1 where there are findings.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import re
import selectors
import subprocess
import sys
import tempfile
import time
import traceback
import warnings
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
STAGE = ROOT / "build" / "fuzz"
"""A copy of what ships, of its own: tests and builds replace theirs."""
HANG = 30.0
"""Seconds that one input may take."""
MEMORY = 2 << 30
"""Bytes that a child may take beyond those it begins with."""
NAMES = ("avatar", "checkpoint", "ply", "splat", "spz", "cache", "protocol", "shot", "shot-json", "emotion", "sound")


@dataclass
class Result:
    """Of one reader: inputs given, accepted, refused; findings by where they were raised, each with a number that shows it."""

    inputs: int = 0
    accepted: int = 0
    refused: int = 0
    seconds: float = 0.0
    findings: dict[str, list[int]] = field(default_factory=dict)


def stage() -> None:
    """Bring STAGE to what would ship now."""
    sys.path.insert(0, str(ROOT / "tests"))
    from support import load_build

    load_build().stage(STAGE / "ua3dtalk")


def _folder() -> tempfile.TemporaryDirectory[str]:
    """Where a child's files lie; in memory where the system has such a place."""
    memory = Path("/dev/shm")
    return tempfile.TemporaryDirectory(prefix="ua3dtalk-fuzz-", dir=memory if memory.is_dir() else None, ignore_cleanup_errors=True)


def _limit_memory() -> None:
    try:
        import resource

        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + MEMORY,) * 2)
    except (ImportError, OSError):  # other systems go without
        pass


def _watch(folder: Path) -> None:
    inside = str(folder)
    never = ("os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty", "subprocess.Popen", "socket.connect", "socket.getaddrinfo", "pickle.find_class")

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        if event in never:
            raise AssertionError(f"{event} was called")
        if event == "open" and isinstance(arguments[0], (str, bytes)) and isinstance(arguments[2], int):
            if arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and not os.fsdecode(arguments[0]).startswith((inside, os.devnull)):
                raise AssertionError(f"{os.fsdecode(arguments[0])} was opened to be written")

    sys.addaudithook(hook)


def child(name: str, seed: int, first: int, only: bool, place: Path) -> None:
    """Give inputs `first`, `first` + 1, ...; a line to stdout before ("at n") and after ("ok", "no", "?? finding") each."""
    for path in (STAGE, ROOT / "tests"):
        sys.path.insert(0, str(path))
    sys.dont_write_bytecode = True
    warnings.simplefilter("ignore")
    from .readers import READERS

    reader = READERS[name](place)
    for number in range(20):  # what is loaded late is loaded before the watch begins
        try:
            reader.read(reader.make(random.Random(number)))
        except Exception:
            pass
    _limit_memory()
    _watch(place)
    number = first
    while True:
        given = reader.make(random.Random(f"{name}/{seed}/{number}"))
        os.write(1, b"at %d\n" % number)
        try:
            reader.read(given)
            answer = "ok"
        except reader.refusals as error:
            # A line that a person is shown: one line.
            answer = "no" if "\n" not in str(error) else "?? a refusal of several lines"
        except BaseException as error:
            frames = [f for f in traceback.extract_tb(error.__traceback__) if "ua3dtalk" in f.filename or f"{os.sep}fuzz{os.sep}" in f.filename]
            where = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
            answer = re.sub(r"\s+", " ", f"?? {type(error).__name__} at {where}: {error}")[:160]
            if only:
                traceback.print_exc()
        os.write(1, answer.encode("utf-8", "backslashreplace") + b"\n")
        if only:
            return
        number += 1


def run(name: str, seed: int, seconds: float, first: int = 0, most: int | None = None) -> Result:
    """Fuzz one reader for so long or up to `most` inputs."""
    result, number, end = Result(), first, None
    started = time.monotonic()
    while (end is None or time.monotonic() < end) and (most is None or result.inputs < most):
        place = _folder()  # ours, since children are killed
        command = [sys.executable, "-m", "tests.fuzz", "--child", name, "--seed", str(seed), "--first", str(number), "--place", place.name]
        process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)  # libraries talk
        assert process.stdout is not None
        os.set_blocking(process.stdout.fileno(), False)
        begun, waiting, heard, died = False, b"", time.monotonic(), "stopped"
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while (end is None or time.monotonic() < end) and (most is None or result.inputs < most):
                if not selector.select(1.0):
                    if time.monotonic() - heard > (HANG if begun else 10 * HANG):
                        died = "hang"
                        break
                    continue
                data = os.read(process.stdout.fileno(), 1 << 16)
                if not data:
                    died = "crash"
                    break
                heard = time.monotonic()
                *lines, waiting = (waiting + data).split(b"\n")
                for line in lines:
                    if line.startswith(b"at "):
                        if end is None:
                            end = time.monotonic() + seconds  # what a child takes to start does not count
                        number, begun = int(line[3:]), True
                        continue
                    if most is not None and result.inputs >= most:
                        break
                    result.inputs += 1
                    result.accepted += line == b"ok"
                    result.refused += line == b"no"
                    if line.startswith(b"??"):
                        result.findings.setdefault(line[3:].decode(), []).append(number)
        process.kill()
        process.wait()
        process.stdout.close()
        place.cleanup()
        if died in ("crash", "hang"):
            result.inputs += begun
            result.findings.setdefault(f"{died} (exit status {process.returncode})" if died == "crash" else died, []).append(number)
            if not begun:
                break  # it does not even start
        number += 1
    result.seconds = time.monotonic() - started
    return result


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60, help="of all readers together")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--readers", default=",".join(NAMES), help="a comma between names")
    parser.add_argument("--only", type=int, help="give one input again")
    parser.add_argument("--json", type=Path, help="add the figures to this file")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("--place", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--first", type=int, default=0, help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.child:
        child(given.child, given.seed, given.first, False, given.place)
        return 0
    names = given.readers.split(",")
    if unknown := set(names) - set(NAMES):
        parser.error(f"no reader {', '.join(sorted(unknown))}; there are {', '.join(NAMES)}")
    stage()
    if given.only is not None:
        with _folder() as place:
            child(names[0], given.seed, given.only, True, Path(place))
        return 0
    results = {}
    for name in names:
        result = results[name] = run(name, given.seed, given.seconds / len(names))
        print(f"{name}: {result.inputs} inputs, {result.accepted} accepted, {result.refused} refused, {result.seconds:.0f} s", flush=True)
        for what, numbers in result.findings.items():
            print(f"    {len(numbers)} x {what} (first: --readers {name} --seed {given.seed} --only {numbers[0]})", flush=True)
    if given.json:
        before = json.loads(given.json.read_text()) if given.json.exists() else []
        given.json.write_text(json.dumps([*before, {"seed": given.seed, "readers": {name: asdict(r) for name, r in results.items()}}], indent=1))
    print(f"{sum(r.inputs for r in results.values())} inputs in all")
    return 1 if any(r.findings for r in results.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
