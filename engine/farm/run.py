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
from .dispatch import Dispatcher, ShotWork

if TYPE_CHECKING:
    from distributed import Client


@dataclass(frozen=True)
class FarmSettings:
    """How shots are baked.

    Attributes:
        scheduler: address of a Dask scheduler; None: `workers` processes on this machine, made for this run.
        retries: how often a shot is begun again after its worker died or broke.
        gpu: only workers that declare GPU=1.
        split: frames of the parts in which a shot is baked by several workers at once; 0: never; None: where a shot is longer than an even
            share of what waits, for each worker.
        root, allow_outside, resume: as those of `bake --shot`.
        device, threads: where the networks run; threads None: the cores shared evenly among local workers, each worker's default elsewhere.
    """

    scheduler: str | None = None
    workers: int = 1
    retries: int = 2
    gpu: bool = False
    split: int | None = None
    root: Path | None = None
    allow_outside: bool = False
    resume: bool = False
    device: str = "auto"
    threads: int | None = None


@dataclass(frozen=True)
class FarmResult:
    """What came of it.

    Attributes:
        rows: for each shot, in order: "file", "shot", "frames"; "worker", "computed", "moved", "up_to_date", "seconds" (of work), "cache"
            where it was baked, and "parts" where it was split; "error" and "remedy" where not.
        broken: why workers got no work, by name (host:pid, or the address of one that could not even answer).
    """

    rows: list[dict[str, Any]]
    broken: dict[str, str]


def bake_shots(paths: list[Path], settings: FarmSettings, tell: Events) -> FarmResult:
    """Bake shot files on several workers; none stops the others.

    Raises:
        UserError: Dask is not installed, or no scheduler answers.
    """
    rows, work = _read(list(dict.fromkeys(paths)), settings)
    for row in rows:
        if "error" in row:
            tell.error(UserError(row["error"], row["remedy"]), shot=row["shot"])
    if not work:
        return FarmResult(rows, {})
    threads = settings.threads
    if threads is None and settings.scheduler is None:
        threads = max(1, (os.cpu_count() or 1) // settings.workers)
    with _client(settings) as client:
        dispatcher = Dispatcher(client, work, len(rows), settings, threads, tell)
        dispatcher.run()
    return FarmResult(rows, dispatcher.broken)


def _read(paths: list[Path], settings: FarmSettings) -> tuple[list[dict[str, Any]], list[ShotWork]]:
    """A row for each shot, and the work; unreadable shots, and those that would write over each other, are told of in their rows."""
    rows: list[dict[str, Any]] = []
    work: list[ShotWork] = []
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
            work.append(ShotWork(row, shot, about.output))
        except UserError as error:
            row |= {"error": error.message, "remedy": error.remedy}
    return rows, work


@contextmanager
def _client(settings: FarmSettings) -> Iterator[Client]:
    try:
        import cryptography  # noqa: F401 - Dask asks for it late
        import dask  # noqa: F401 - so that it is named where it is missing
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
        LocalCluster(
            n_workers=settings.workers, threads_per_worker=1, memory_limit=0, dashboard_address=None, security=True, protocol="tls://"
        ) as cluster,
        Client(cluster) as client,
    ):
        yield client
