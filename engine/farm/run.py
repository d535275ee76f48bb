"""Shots -> Dask's workers -> a row about each."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import UserError
from ..events import Events
from ..shot.document import Rules, read_document

if TYPE_CHECKING:
    from distributed import Client, Future

LOOK = 1.0
"""Seconds between two looks at which workers there are."""


@dataclass(frozen=True)
class FarmSettings:
    """How shots are baked.

    Attributes:
        scheduler: address of a Dask scheduler; None: `workers` processes on this machine, made for this run.
        retries: how often a shot is begun again after its worker died or broke.
        gpu: only workers that declare GPU=1.
        root, allow_outside, resume: as those of `bake --shot`.
        device, threads: where the networks run; threads None: the cores shared evenly among local workers, each worker's default elsewhere.
    """

    scheduler: str | None = None
    workers: int = 1
    retries: int = 2
    gpu: bool = False
    root: Path | None = None
    allow_outside: bool = False
    resume: bool = False
    device: str = "auto"
    threads: int | None = None


def bake_shots(paths: list[Path], settings: FarmSettings, tell: Events) -> list[dict[str, Any]]:
    """Bake shot files, each whole by one worker, several at a time; none stops the others.

    Returns:
        For each, in order: "file", "shot", "frames"; "worker", "computed", "moved", "up_to_date", "seconds", "cache" where it was baked;
        "error" and "remedy" where not.

    Raises:
        UserError: Dask is not installed, or no scheduler answers.
    """
    rows = _read(list(dict.fromkeys(paths)), settings)
    for row in rows:
        if "error" in row:
            tell.error(UserError(row["error"], row["remedy"]), shot=row["shot"])
    waiting = [row for row in rows if "error" not in row]
    if not waiting:
        return rows
    with _client(settings) as client:
        _bake_all(client, waiting, len(rows), settings, tell)
    return rows


def _read(paths: list[Path], settings: FarmSettings) -> list[dict[str, Any]]:
    """What can be said before anything is baked: unreadable shots, and those that would write over each other."""
    rows: list[dict[str, Any]] = []
    taken: dict[str, Path] = {}
    for path in paths:
        row: dict[str, Any] = {"file": str(path.absolute()), "shot": path.stem, "frames": 0}
        rows.append(row)
        try:
            shot, about = read_document(path, Rules(settings.root, settings.allow_outside))
            row |= {"shot": about.name, "frames": len(shot)}
            if about.output is None:
                raise UserError(f"{path}: names no output folder.", "Add `output` to it.")
            place = os.path.normcase(os.path.realpath(about.output))
            if place in taken:
                raise UserError(f"{path}: its output folder is that of {taken[place]}.", "Give each shot a folder of its own.")
            taken[place] = path
        except UserError as error:
            row |= {"error": error.message, "remedy": error.remedy}
    return rows


def _bake_all(client: Client, waiting: list[dict[str, Any]], total: int, settings: FarmSettings, tell: Events) -> None:
    from distributed import wait

    from .task import bake_file

    threads = settings.threads
    if threads is None and settings.scheduler is None:
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
    root = None if settings.root is None else str(settings.root.absolute())
    rules = (root, settings.allow_outside, settings.resume, settings.device, threads)
    running: dict[Future, dict[str, Any]] = {}
    todo, done, told = list(reversed(waiting)), total - len(waiting), False
    while todo or running:
        # No more than can run: where a worker dies, Dask blames all that waits at it, and gives up what is blamed too often.
        places = _places(client, settings.gpu)
        if not places and not told:
            tell.note("no worker yet" + (" that declares GPU=1" if settings.gpu else "") + "; waiting for one")
            told = True
        while todo and len(running) < max(1, places):
            row = todo.pop()
            resources = {"GPU": 1} if settings.gpu else None
            future = client.submit(bake_file, row["file"], *rules, pure=False, retries=settings.retries, resources=resources)
            running[future] = row
        try:
            finished = wait(list(running), timeout=LOOK, return_when="FIRST_COMPLETED").done
        except TimeoutError:
            continue
        for future in finished:
            row, done = running.pop(future), done + 1
            row |= _outcome(future)
            future.release()  # else it would be done again where its worker dies later
            if "error" in row:
                tell.error(UserError(row["error"], row["remedy"]), shot=row["shot"])
            tell(done, total, f"shots; {row['shot']} {'failed' if 'error' in row else 'is done'}")


def _places(client: Client, gpu: bool) -> int:
    workers = client.scheduler_info(n_workers=-1)["workers"].values()
    return sum(min(worker["nthreads"], int(worker["resources"].get("GPU", 0))) if gpu else worker["nthreads"] for worker in workers)


def _outcome(future: Future) -> dict[str, Any]:
    from distributed import KilledWorker

    error = future.exception()
    if error is None:
        return future.result()
    if isinstance(error, KilledWorker):
        return {"error": f"{error.allowed_failures + 1} workers died while baking it.", "remedy": "Look for want of memory on them."}
    return {"error": f"{type(error).__name__}: {error}", "remedy": "Look at the worker's log."}


@contextmanager
def _client(settings: FarmSettings) -> Iterator[Client]:
    try:
        import cryptography  # noqa: F401 - Dask asks for it late
        import dask
        from distributed import Client, LocalCluster
    except ImportError as error:
        raise UserError("A farm needs the packages dask, distributed and cryptography.", "Install engine/requirements-farm.txt.") from error
    if settings.scheduler is not None:
        try:
            client = Client(settings.scheduler, timeout=20)
        except (OSError, ValueError) as error:
            remedy = "Check the address; an address of tls:// needs Dask's certificates, see docs/farm.md."
            raise UserError(f"No Dask scheduler answers at {settings.scheduler}.", remedy) from error
        with client:
            yield client
        return
    with (
        dask.config.set({"distributed.scheduler.allowed-failures": settings.retries}),
        LocalCluster(
            n_workers=settings.workers, threads_per_worker=1, memory_limit=0, dashboard_address=None, security=True, protocol="tls://"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
