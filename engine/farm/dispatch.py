"""Which worker bakes what: one piece of work at a time for each, none for those that cannot bake, another chance elsewhere for what failed.

Dask carries the work and knows who is there. It would hand work to whichever worker is free, and the one that breaks at once is always free;
so each piece is sent to a named worker here, after that has shown that it can bake.
"""

from __future__ import annotations

import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..events import Events
from ..shot import Shot
from ..shot.document import Rules
from .parts import frames_to_compute, left_parts, part_name, parts_folder, split
from .probe import engine_digest, look

if TYPE_CHECKING:
    from distributed import Client, Future

    from .run import FarmSettings

LOOK = 1.0
"""Seconds between two looks at which workers there are."""
GRACE = 5.0
"""Seconds in which a worker that can bake may still come, where all that are there cannot."""
PAUSED = "is paused by Dask, for it is near its memory limit; start it with --memory-limit 0"
LEAST_PART = 50
"""Frames below which a part is not made unless it is asked for: 17 s of one core with the demo avatar, while what each part costs
beside its frames (avatar and sound made ready, frames copied) is 0.6 s."""


@dataclass(eq=False)
class ShotWork:
    """A shot to be baked.

    Attributes:
        row: what is told of it in the end.
        parts: those that are being baked or waiting; baked: answers of those that are done.
        failed: a part of it could not be baked.
    """

    row: dict[str, Any]
    shot: Shot
    output: Path
    parts: int = 0
    baked: list[dict[str, Any]] = field(default_factory=list)
    failed: bool = False


@dataclass(eq=False)
class Job:
    """A piece of work for one worker.

    Attributes:
        frames: those of a part; None: the whole shot, and whatever parts there are.
        refused: answers of workers that could not do it, by their addresses.
        again: how often it broke, or its worker died.
    """

    of: ShotWork
    frames: list[int] | None = None
    refused: dict[str, dict[str, Any]] = field(default_factory=dict)
    again: int = 0

    @property
    def length(self) -> int:
        """Frames at most."""
        return self.of.row["frames"] if self.frames is None else len(self.frames)


@dataclass(eq=False)
class Worker:
    """A worker of the scheduler.

    Attributes:
        key: tells it apart where it is started again under another address.
        name: host:pid, once it has answered.
        future: what it is doing for us: `job`, or if that is None, showing that it can bake.
        ready: it has shown that; broken: why it gets nothing.
        baked: pieces it has done; refuted: those that it could not do and others could.
        stalled: looks in a row that found it paused, and doing nothing.
    """

    address: str
    key: str
    name: str
    future: Future | None = None
    job: Job | None = None
    ready: bool = False
    broken: str | None = None
    baked: int = 0
    refuted: int = 0
    stalled: int = 0


class Dispatcher:
    """Hands the work of some shots to a scheduler's workers.

    Args:
        total: shots in all; `done` of them are through already.
        threads: for each worker; None: its default.

    Attributes:
        workers: those that are there, by address.
        broken: why workers get nothing, by name; also of those that have gone.
    """

    def __init__(self, client: Client, work: list[ShotWork], total: int, settings: FarmSettings, threads: int | None, tell: Events) -> None:
        self.client, self.settings, self.tell = client, settings, tell
        self.total, self.done = total, total - len(work)
        # The longest first: what is begun last is short.
        self.waiting: deque[Job] = deque(Job(shot) for shot in sorted(work, key=lambda shot: -shot.row["frames"]))
        self.workers: dict[str, Worker] = {}
        self.broken: dict[str, str] = {}
        self._digest, self._died, self._told = engine_digest(), Counter[str](), False
        self._looked, self._hopeless_since = -LOOK, None
        self._root = None if settings.root is None else str(settings.root.absolute())
        self._threads = threads

    def run(self) -> None:
        """Until each shot is baked or has failed; the rows say how it went."""
        from distributed import wait

        while self.waiting or any(worker.job for worker in self.workers.values()):
            self._look()
            self._hand_out()
            if self._is_hopeless():
                self._fail_rest()
                return
            futures = [worker.future for worker in self.workers.values() if worker.future is not None]
            if not futures:
                time.sleep(LOOK / 4)
                continue
            try:
                finished = wait(futures, timeout=LOOK, return_when="FIRST_COMPLETED").done
            except TimeoutError:
                continue
            for worker in [worker for worker in self.workers.values() if worker.future in finished]:
                self._answered(worker)

    def _look(self) -> None:
        """Who came, who is gone."""
        if time.monotonic() < self._looked + LOOK:
            return
        self._looked = time.monotonic()
        there = self.client.scheduler_info(n_workers=-1)["workers"]
        for address in [address for address in self.workers if address not in there]:
            self._is_gone(self.workers.pop(address))
        for address, about in there.items():
            if address in self.workers:
                self._is_paused(self.workers[address], about)
                continue
            if self.settings.gpu and about["resources"].get("GPU", 0) < 1:
                continue
            name = str(about["name"])
            key = about["host"] if name == address else f"{about['host']} {name}"
            worker = self.workers[address] = Worker(address, key, address)
            if self._died[key] > self.settings.retries:
                self._breaks(worker, "dies while the engine loads")
            else:
                self._try(worker)
        if not self.workers and not self._told:
            self.tell.note("no worker" + (" that declares GPU=1" if self.settings.gpu else "") + "; waiting for one")
        self._told = not self.workers

    def _is_paused(self, worker: Worker, about: dict[str, Any]) -> None:
        """Dask begins nothing on a paused worker: what waits there is taken back."""
        idle = about["status"] == "paused" and not about["metrics"].get("executing")
        worker.stalled = worker.stalled + 1 if idle else 0
        if worker.stalled == 2 and worker.broken is None:
            if worker.future is not None:
                worker.future.release()
            if worker.job is not None:
                self._put_back(worker.job)
            worker.future = worker.job = None
            self._breaks(worker, PAUSED)
        elif worker.broken == PAUSED and about["status"] == "running":
            worker.broken = None
            self.broken.pop(worker.name, None)
            self._try(worker)

    def _try(self, worker: Worker) -> None:
        worker.future = self._submit(worker, look, self._digest, self.settings.gpu and self.settings.device != "cpu")

    def _submit(self, worker: Worker, function: Callable[..., Any], *arguments: Any) -> Future:
        resources = {"GPU": 1} if self.settings.gpu else None
        return self.client.submit(function, *arguments, pure=False, workers=[worker.address], allow_other_workers=False, resources=resources)

    def _hand_out(self) -> None:
        from .task import bake_file, bake_part

        for worker in self.workers.values():
            if worker.ready and worker.future is None and (job := self._next_for(worker)) is not None:
                worker.job = job
                rules, where = (self._root, self.settings.allow_outside), (self.settings.device, self._threads)
                if job.frames is None:
                    names = [part["name"] for part in job.of.baked]
                    worker.future = self._submit(worker, bake_file, job.of.row["file"], *rules, self.settings.resume, *where, names)
                else:
                    worker.future = self._submit(worker, bake_part, job.of.row["file"], *rules, *where, job.frames)

    def _next_for(self, worker: Worker) -> Job | None:
        """The first piece of work that the worker may do; a shot becomes parts here, where that is faster."""
        for job in self.waiting:
            if worker.address in job.refused and self._others(job):
                continue
            self.waiting.remove(job)
            parts = self._parts(job)
            if len(parts) > 1:
                job.of.parts = len(parts)
                job, *others = (Job(job.of, frames) for frames in parts)
                self.waiting.extendleft(reversed(others))
            return job
        return None

    def _parts(self, job: Job) -> list[list[int]]:
        """The parts of a shot that has not been begun; none where it is baked whole."""
        if job.frames is not None or job.refused or job.again or job.of.baked or self.settings.split == 0:
            return []
        # No piece is longer than an even share of what waits, so that none is begun last and holds up the night.
        able = sum(worker.broken is None for worker in self.workers.values())
        share = max(LEAST_PART, sum(other.length for other in (job, *self.waiting)) / able)
        if self.settings.split is None and job.length < 2 * share:
            return []
        place = parts_folder(Path(job.of.row["file"]), job.of.output, Rules(self.settings.root, self.settings.allow_outside))
        if place is None:
            return []
        frames = frames_to_compute(job.of.shot, job.of.output, left_parts(place))
        if self.settings.split is not None:
            return split(frames, -(-len(frames) // self.settings.split))
        return split(frames, int(len(frames) / share))

    def _others(self, job: Job) -> list[Worker]:
        """Workers that may do it and have not been tried."""
        return [worker for worker in self.workers.values() if worker.broken is None and worker.address not in job.refused]

    def _answered(self, worker: Worker) -> None:
        from distributed import KilledWorker

        future, job = worker.future, worker.job
        worker.future = worker.job = None
        error = future.exception()
        answer = future.result() if error is None else {"error": _in_one_line(error), "remedy": "Look at the worker's log."}
        future.release()
        worker.name = answer.get("worker", worker.name)
        if job is None:
            if error is None and answer["error"] is None:
                worker.ready = True
            else:
                self._breaks(worker, answer["error"])
        elif isinstance(error, KilledWorker):
            worker.ready = False
            self._worker_died(job)
        elif "error" in answer:
            self._refused(worker, job, answer, broke=error is not None)
        else:
            worker.baked += 1
            self._baked(job, answer)

    def _is_gone(self, worker: Worker) -> None:
        if worker.future is not None:
            worker.future.release()
        if worker.job is not None:
            self._worker_died(worker.job)
        elif not worker.ready and worker.broken is None:
            self._died[worker.key] += 1

    def _worker_died(self, job: Job) -> None:
        job.again += 1
        if job.again > self.settings.retries:
            self._failed(job.of, {"error": f"{job.again} workers died while baking it.", "remedy": "Look for want of memory on them."})
        else:
            self._put_back(job)

    def _refused(self, worker: Worker, job: Job, answer: dict[str, Any], broke: bool) -> None:
        """A shot's fault or the worker's? Another worker's word decides."""
        seen = bool(job.refused)
        job.refused[worker.address] = answer
        job.again += broke
        if job.again <= self.settings.retries if broke else not seen and self._others(job):
            self._put_back(job)
        else:
            self._failed(job.of, answer)

    def _put_back(self, job: Job) -> None:
        if not job.of.failed:
            self.waiting.appendleft(job)

    def _baked(self, job: Job, answer: dict[str, Any]) -> None:
        for address, refusal in job.refused.items():
            worker = self.workers.get(address)
            if worker is not None and worker.broken is None and worker.name != answer["worker"]:
                worker.refuted += 1
                if not worker.baked or worker.refuted > 1:
                    self._breaks(worker, f"could not do what others could: {refusal['error']}")
        work = job.of
        if job.frames is None:
            self._ends(work, _row(work.baked, answer))
            return
        work.baked.append({**answer, "name": part_name(job.frames)})
        self.tell(self.done, self.total, f"shots; part {len(work.baked)} of {len(work.baked) + work.parts - 1} of {work.row['shot']} is done")
        self._part_ends(work)

    def _part_ends(self, work: ShotWork) -> None:
        work.parts -= 1
        if not work.parts and not work.failed:
            self.waiting.appendleft(Job(work))

    def _failed(self, work: ShotWork, answer: dict[str, Any]) -> None:
        if work.failed:
            return
        work.failed = True
        self.waiting = deque(job for job in self.waiting if job.of is not work)
        self._ends(work, {name: answer[name] for name in ("worker", "error", "remedy") if name in answer})

    def _ends(self, work: ShotWork, facts: dict[str, Any]) -> None:
        work.row |= facts
        self.done += 1
        if "error" in facts:
            self.tell.error(UserError(facts["error"], facts["remedy"]), shot=work.row["shot"])
        self.tell(self.done, self.total, f"shots; {work.row['shot']} {'failed' if 'error' in facts else 'is done'}")

    def _breaks(self, worker: Worker, reason: str) -> None:
        worker.ready, worker.broken = False, reason
        self.broken[worker.name] = reason
        self.tell.note(f"worker {worker.name} gets no work: {reason}")

    def _is_hopeless(self) -> bool:
        """All workers that are there cannot bake, and have been there for a while."""
        if not self.workers or any(worker.broken is None for worker in self.workers.values()):
            self._hopeless_since = None
            return False
        self._hopeless_since = self._hopeless_since or time.monotonic()
        return time.monotonic() > self._hopeless_since + GRACE

    def _fail_rest(self) -> None:
        name, reason = next(iter(self.broken.items()))
        for work in dict.fromkeys(job.of for job in self.waiting):
            answer = {"error": f"No worker can bake; {name} {reason}.", "remedy": "Mend the workers' environment; see docs/farm.md."}
            self._failed(work, answer)


def _row(parts: list[dict[str, Any]], answer: dict[str, Any]) -> dict[str, Any]:
    """What is told of a shot, from the answers of its parts and of who took them in."""
    facts = {name: value for name, value in answer.items() if name != "taken"}
    computed = sum(part["computed"] for part in parts)
    facts["computed"] += computed
    facts["up_to_date"] -= min(computed, answer["taken"])
    facts["seconds"] += sum(part["seconds"] for part in parts)
    facts["worker"] = ", ".join(dict.fromkeys([part["worker"] for part in parts] + [answer["worker"]]))
    if parts:
        facts["parts"] = len(parts)
    return facts


def _in_one_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0]
