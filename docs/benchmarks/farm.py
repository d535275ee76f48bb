"""How a farm scales: measured with one and two workers, and simulated for many from measured costs.

    python docs/benchmarks/farm.py costs|workers|overhead|simulate [--result docs/benchmarks/farm.json]

Run in the engine's Python, with engine/requirements-farm.txt. Each part adds its figures to the result file; `simulate` takes from there what
`costs` and `overhead` measured. Processor seconds where other programs would disturb the clock.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
os.environ["PYTHONPATH"] = str(ROOT)  # of the workers

import numpy as np  # noqa: E402

from engine.events import Events  # noqa: E402
from engine.files import file_hash  # noqa: E402
from engine.farm import dispatch  # noqa: E402
from engine.farm.run import FarmSettings, bake_shots  # noqa: E402

AVATAR, SOUND = ROOT / "addon" / "assets" / "demo_avatar.safetensors", ROOT / "addon" / "assets" / "demo_speech.flac"


def write_shots(folder: Path, frames: list[int], start: int = 0) -> list[Path]:
    """Shot files of the demo avatar with a smile that never stands still, each of another stretch of time."""
    hashes = [file_hash(path) for path in (AVATAR, SOUND)]
    paths = []
    for number, count in enumerate(frames):
        document = {
            "ua3dtalk_shot": 1, "avatar": {"path": str(AVATAR), "sha256": hashes[0]}, "sound": {"path": str(SOUND), "sha256": hashes[1]},
            "fps": 25, "frames": {"first": start, "last": start + count - 1}, "curves": {"happy": [[start, 0], [start + count, 0.1 + 0.9 * number / len(frames)]]},
            "output": {"folder": f"cache/{number}"},
        }  # fmt: skip
        paths.append(folder / f"{number}.json")
        paths[-1].write_text(json.dumps(document), encoding="utf-8")
    return paths


def processor(work: Callable[[], Any]) -> tuple[float, float, Any]:
    """Clock and processor seconds (this process and the ended ones it started), and what the work returned."""

    def used() -> float:
        return sum(resource.getrusage(who).ru_utime + resource.getrusage(who).ru_stime for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))

    before, begin = used(), time.perf_counter()
    result = work()
    return time.perf_counter() - begin, used() - before, result


def costs(frames: int = 24) -> dict[str, float]:
    """Processor seconds of what a worker does for a shot."""
    _, start, _ = processor(lambda: subprocess.run([sys.executable, "-c", "import engine.farm.task, distributed.nanny"], check=True))
    import torch

    from engine.farm import parts, task
    from engine.shot.document import Rules, read_document

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        os.environ["UA3DTALK_CACHE"] = name
        folder = Path(name)
        rules, where = (None, True), ("cpu", 1)

        def least(work: Callable[[], Any], turns: int = 3) -> float:
            return min(processor(work)[1] for _ in range(turns))

        first, *singles, long, other = map(str, write_shots(folder, [1] * 7 + [frames, frames]))
        bakes, parts_of = iter(singles[:3]), iter(singles[3:])
        _, load, _ = processor(lambda: task.bake_file(first, *rules, False, *where))  # avatar, sound, and what comes next
        shot = least(lambda: task.bake_file(next(bakes), *rules, False, *where))  # a shot of one frame
        part = least(lambda: task.bake_part(next(parts_of), *rules, *where, [0]))  # a part of one frame
        _, bake, _ = processor(lambda: task.bake_file(long, *rules, False, *where))
        _, piece, _ = processor(lambda: task.bake_part(other, *rules, *where, list(range(frames))))
        _, take, _ = processor(lambda: task.bake_file(other, *rules, False, *where, [f"0-{frames - 1}"]))
        document = read_document(Path(long), Rules(*rules))[0]
        plan = least(lambda: parts.frames_to_compute(document, folder / "nothing", []))
    frame = (min(bake, piece) - min(shot, part)) / (frames - 1)
    return {
        "start_of_a_worker": start, "avatar_and_sound": load - shot, "shot": shot - frame, "frame": frame, "part": part - frame,
        "take_in_a_frame": take / frames, "plan_parts": plan,
    }  # fmt: skip


def workers(repeats: int, frames: int, shots: int) -> dict[str, Any]:
    """One and two workers, in turns; then one shot on two workers, whole and in parts."""

    def run(counts: list[int], number: int, split: int | None) -> tuple[float, float, Any]:
        with tempfile.TemporaryDirectory() as name:
            paths = write_shots(Path(name), counts)
            settings = FarmSettings(None, number, 0, split=split, allow_outside=True, device="cpu", threads=1)
            wall, used, result = processor(lambda: bake_shots(paths, settings, Events(False)))
            assert not any("error" in row for row in result.rows), result
            return wall, used, sum(row["computed"] for row in result.rows)

    many, one = [frames] * shots, [frames * shots]
    cases = {"1 worker": (many, 1, 0), "2 workers": (many, 2, 0), "1 shot, whole": (one, 2, 0), "1 shot, 2 parts": (one, 2, None)}
    found: dict[str, list[tuple[float, float, float]]] = {name: [] for name in cases}
    for turn in range(repeats):
        for name, case in list(cases.items())[:: -1 if turn % 2 else 1]:
            wall, used, computed = run(*case)
            assert computed == frames * shots
            found[name].append((wall, used, os.getloadavg()[0]))
            print(name, *(f"{value:.1f}" for value in found[name][-1]), flush=True)
    rows = {name: dict(zip(("wall", "processor", "load"), np.median(runs, axis=0).round(2).tolist())) for name, runs in found.items()}
    return {"frames": frames, "shots": shots, "repeats": repeats, **rows}


def baked_at_once(path: str, *rest: Any) -> dict[str, Any]:
    """Stands in for a bake that takes no time."""
    return {"worker": path, "computed": 1, "moved": 0, "up_to_date": 0, "seconds": 0.0, "cache": path, "taken": 0}


def seen_at_once(*rest: Any) -> dict[str, Any]:
    return {"worker": "here", "error": None}


def overhead(shots: int = 1000) -> dict[str, Any]:
    """Processor seconds for a shot that takes no time, through all of our own path and Dask's: shot files read, work sent, answers taken.

    The workers are threads of this process, so that their own share is in it: more than what the scheduler's machine does in a farm.
    """
    import dask
    from distributed import LocalCluster

    from engine.farm import task

    dask.config.set({"distributed.worker.profile.enabled": False})  # which looks at all threads of this process, for each worker
    task.bake_file, dispatch.look = baked_at_once, seen_at_once
    rows = {}
    with tempfile.TemporaryDirectory() as name:
        paths = write_shots(Path(name), [250] * shots)
        from engine.farm.run import _read

        _, read, _ = processor(lambda: _read(paths, FarmSettings(allow_outside=True)))
        for count in (1, 10, 30):
            with LocalCluster(n_workers=count, threads_per_worker=1, processes=False, memory_limit=0, dashboard_address=None, protocol="tcp://") as cluster:
                settings = FarmSettings(cluster.scheduler_address, allow_outside=True, split=0)
                wall, used, result = processor(lambda: bake_shots(paths, settings, Quiet(False)))
                assert not any("error" in row for row in result.rows), [row for row in result.rows if "error" in row][0]
            rows[str(count)] = {"wall": wall, "processor": used, "processor_ms_a_shot": (used - read) / shots * 1e3}
            print(count, rows[str(count)], flush=True)
    return {"shots": shots, "read_ms_a_shot": read / shots * 1e3, "workers": rows}


class Quiet(Events):
    """Says nothing."""

    def __call__(self, *rest: Any) -> None:
        pass

    def note(self, text: str) -> None:
        pass

    def error(self, *rest: Any, **facts: Any) -> None:
        pass


class Future:
    """Done at `when`, in simulated seconds; never, where its worker is dead by then."""

    def __init__(self, when: float, answer: dict[str, Any]) -> None:
        self.when, self.answer = when, answer

    def exception(self) -> None:
        return None

    def result(self) -> dict[str, Any]:
        return self.answer

    def release(self) -> None:
        self.when = np.inf


class Farm:
    """A scheduler with workers, and a clock, in the place of Dask's client: what takes time only says how long it would.

    The dispatcher that hands out the work is the real one. Each piece that is sent and answered holds the scheduler up for `overhead` seconds.
    """

    def __init__(self, count: int, costs: dict[str, float], overhead: float, deaths: float, random: np.random.Generator) -> None:
        self.now, self.costs, self.overhead, self.deaths, self.random = 0.0, costs, overhead, deaths, random
        self.alive = {f"w{number}": 0.0 for number in range(count)}  # address -> when it is there
        self.loaded: set[str] = set()
        self.dies: dict[str, float] = {}
        self.busy = 0.0
        self.sent = 0

    def monotonic(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        self.now += seconds

    def scheduler_info(self, n_workers: int) -> dict[str, Any]:
        for address in [address for address, when in self.dies.items() if when <= self.now]:
            del self.dies[address], self.alive[address]
            self.alive[f"{address}'"] = self.now  # its nanny starts it again; loading is what its first answer takes
        return {"workers": {a: {"name": a, "host": a, "resources": {}, "status": "running"} for a, when in self.alive.items() if when <= self.now}}

    def submit(self, function: Callable[..., Any], *arguments: Any, workers: list[str], **rest: Any) -> Future:
        self.now += self.overhead
        self.sent += 1
        (address,), c = workers, self.costs
        answer = {"worker": address, "error": None}
        if function.__name__ == "look":
            return Future(self.now + c["start_of_a_worker"], answer)
        seconds = 0.0 if address in self.loaded else c["avatar_and_sound"]
        self.loaded.add(address)
        if function.__name__ == "bake_part":
            count = len(arguments[-1])
            seconds += c["part"] + count * c["frame"]
        else:
            count, names = self.counts[arguments[0]], arguments[-1]
            seconds += c["shot"] + (count * c["take_in_a_frame"] if names else count * c["frame"])
        answer = {"worker": address, "computed": count, "moved": 0, "up_to_date": 0, "seconds": seconds, "cache": "", "taken": count}
        if function.__name__ == "bake_file" and names:
            answer |= {"computed": 0, "up_to_date": count}
        self.busy += seconds
        if self.random.random() < self.deaths:
            self.dies[address] = self.now + self.random.random() * seconds
            return Future(np.inf, answer)
        return Future(self.now + seconds, answer)

    def wait(self, futures: list[Future], timeout: float, return_when: str) -> Any:
        first = min(future.when for future in futures)
        if first > self.now + timeout:
            self.now += timeout
            raise TimeoutError
        self.now = max(self.now, first)
        return type("Done", (), {"done": {future for future in futures if future.when <= self.now}})


def simulated(counts: list[int], number: int, figures: dict[str, Any], frame: float | None, split: int | None, deaths: float) -> dict[str, float]:
    """One night of some shots with so many frames on so many workers."""
    import distributed

    from engine.farm import dispatch as module
    from engine.farm.dispatch import Dispatcher, ShotWork

    price = dict(figures["costs"]) | ({} if frame is None else {"frame": frame})
    overhead_ms = np.interp(number, *zip(*((int(n), row["processor_ms_a_shot"]) for n, row in figures["overhead"]["workers"].items())))
    farm = Farm(number, price, float(overhead_ms) / 1e3, deaths, np.random.default_rng(1))
    farm.counts = {str(place): count for place, count in enumerate(counts)}
    work = [ShotWork({"file": str(place), "shot": str(place), "frames": count}, None, Path(str(place))) for place, count in enumerate(counts)]
    kept = module.time, distributed.wait, module.frames_to_compute
    module.time, distributed.wait = farm, farm.wait
    module.frames_to_compute = lambda shot, output, parts: list(range(farm.counts[str(output)]))
    farm.now = len(counts) * figures["overhead"]["read_ms_a_shot"] / 1e3
    try:
        settings = FarmSettings("simulated", split=split, retries=5, allow_outside=True)
        Dispatcher(farm, work, len(work), settings, 1, Quiet(False)).run()
    finally:
        module.time, distributed.wait, module.frames_to_compute = kept
    assert not any("error" in item.row for item in work)
    ideal = sum(counts) * price["frame"] / number
    return {"hours": farm.now / 3600, "efficiency": ideal / farm.now, "scheduler_busy": farm.sent * farm.overhead / farm.now, "pieces": farm.sent}


def simulate(figures: dict[str, Any]) -> dict[str, Any]:
    """1,000 shots of 2 to 40 s at 25 frames a second, on up to 1,000 workers of one core each; and with faster frames, and with deaths."""
    counts = np.clip(np.random.default_rng(0).lognormal(np.log(200), 0.6, 1000), 50, 1000).astype(int).tolist()
    about = {"shots": len(counts), "frames": sum(counts), "longest": max(counts)}
    rows = []
    for number, frame, split, deaths in (
        *((number, None, None, 0.0) for number in (1, 10, 100, 300, 1000)),
        (100, None, 0, 0.0), (1000, None, 0, 0.0), (100, None, None, 0.02), (100, 0.01, None, 0.0), (100, 0.01, 0, 0.0),
    ):  # fmt: skip
        row = simulated(counts, number, figures, frame, split, deaths)
        rows.append({"workers": number, "frame": frame or figures["costs"]["frame"], "split": split, "deaths": deaths, **row})
        print(rows[-1], flush=True)
    few = [simulated([250] * 3, 100, figures, None, split, 0.0) for split in (None, 0)]
    return {**about, "rows": rows, "3 shots of 250 frames on 100 workers, in parts and whole": few}


def main() -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("part", choices=("costs", "workers", "overhead", "simulate"))
    parser.add_argument("--result", type=Path, default=Path(__file__).with_suffix(".json"))
    parser.add_argument("--repeats", type=int, default=2, help="turns of `workers` (2)")
    parser.add_argument("--frames", type=int, default=26, help="frames of a shot for `costs` and `workers` (26: four together are enough for parts)")
    parser.add_argument("--shots", type=int, default=4, help="shots for `workers` (4)")
    chosen = parser.parse_args()
    figures = json.loads(chosen.result.read_text()) if chosen.result.exists() else {}
    made = {
        "costs": lambda: costs(chosen.frames), "workers": lambda: workers(chosen.repeats, chosen.frames, chosen.shots),
        "overhead": overhead, "simulate": lambda: simulate(figures),
    }[chosen.part]()  # fmt: skip
    figures[chosen.part] = _rounded(made)
    chosen.result.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(part) for name, part in value.items()}
    if isinstance(value, list):
        return [_rounded(part) for part in value]
    return float(f"{value:.3g}") if isinstance(value, float) else value


if __name__ == "__main__":
    main()
