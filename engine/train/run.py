"""A training from a folder to an avatar file, gone on with where it was stopped."""

from __future__ import annotations

import datetime
import hashlib
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from ..dataset import FaceData, read_data
from ..errors import UserError
from ..files import file_hash
from . import checkpoint, export, report
from .config import TrainConfig
from .journal import Clock, Journal
from .material import Material, spaced
from .perceptual import Lpips
from .sources import Sources, find_sources
from .trainer import AGREE, BODY, FUSE, Trainer
from .unit import variance_units

Progress = Callable[[int, int, str], None]
"""(steps done, steps in all, a line of text)."""


def train_avatar(
    folder: Path, out: Path, config: TrainConfig, work: Path | None = None, priors: Sequence[Path] | None = None, device: str = "auto",
    threads: int | None = None, lpips: tuple[Path, Path] | None = None, restart: bool = False, progress: Progress | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train an avatar (paper sec 2.4). A run that was stopped, however, goes on from its last checkpoint to the same file.

    Args:
        folder: the data set. out: the avatar file.
        work: checkpoints, previews, log, report (OUT.train beside the avatar).
        priors: whose providers and emotion prototypes are used, see `sources.find_sources`.
        device: `auto`, `cpu` or `cuda`. threads: of the rasteriser; torch itself uses one, so that a run can be repeated.
        lpips: weights, see `perceptual.Lpips`. restart: forget a checkpoint.

    Returns:
        paths, counts, seconds, and quality on each split.

    Raises:
        UserError: what is missing or does not fit, before anything starts.
    """
    place = _device(device)
    if place.type == "cpu":
        import numba

        torch.set_num_threads(1)
        numba.set_num_threads(max(1, min(threads or numba.get_num_threads(), numba.config.NUMBA_NUM_THREADS)))
    data = read_data(folder)
    work = Path(work) if work is not None else out.with_name(out.name + ".train")
    if restart and work.exists():
        shutil.rmtree(work)
    perceptual = None if lpips is None else Lpips(*lpips, place)
    sources = find_sources(priors)
    identity = _identity(data, config, sources, lpips is not None)
    known = checkpoint.load(work, identity)
    material = Material(data, sources, place, config.without, config.pictures_mb << 20)
    trainer = Trainer(material, config, perceptual)
    clock, created = Clock(), datetime.date.today().isoformat()
    if known is not None:
        trainer.restore(known["trainer"])
        clock, created = Clock(known["seconds"], known["cpu"], known["pace"]), known["created"]
    journal = Journal(work, known["log"] if known else 0, _all_steps(trainer))
    try:
        _loop(trainer, work, journal, clock, identity, created, progress or (lambda *_: None))
        units = variance_units(trainer.scene, config.sh_degree)
        export.save(trainer, out, units, created)
        about = {
            "avatar": out.name, "data": f"{data.folder.name}: {len(material.train)} pictures, {data.width} x {data.height}",
            "Gaussians": ", ".join(f"{branch} {len(splats)}" for branch, splats in trainer.scene.splats.items()),
            "seconds": f"{clock.seconds:.0f} (processor {clock.cpu:.0f})", "views": sources.origin,
            "curves": "log.jsonl" + (" and TensorBoard" if journal.board else "; install tensorboard for its event files as well"),
            "provenance": export.provenance(trainer),
        }  # fmt: skip
        measured = report.write(trainer, work, journal.lines(), about, units)
    finally:
        journal.close()
    return {
        "avatar": str(out), "report": str(work / "report.html"), "seconds": round(clock.seconds, 1), "cpu_seconds": round(clock.cpu, 1),
        "gaussians": {branch: len(splats) for branch, splats in trainer.scene.splats.items()},
        "quality": {split: {name: round(value, 4) for name, value in found.items()} for split, found in measured.items()},
    }  # fmt: skip


def _loop(
    trainer: Trainer, work: Path, journal: Journal, clock: Clock, identity: str, created: str, progress: Progress
) -> None:
    config, total = trainer.config, sum(trainer.steps_of(part) for part in trainer.parts)
    val = trainer.material.val or trainer.material.train
    pictures, measured = spaced(val, report.COLUMNS), spaced(val, config.held_out)
    clock.pause()
    sums: dict[str, float] = {}
    while not trainer.done:
        part, kind = trainer.name, _kind(trainer)
        for name, value in trainer.step_once().items():
            sums[name] = sums.get(name, 0.0) + value
        sums["_"] = sums.get("_", 0.0) + 1
        clock.lap(kind)
        step = _all_steps(trainer)
        if step % config.log_every == 0 or trainer.part < len(trainer.parts) and trainer.step == 0:
            counted = ("cloned", "split", "pruned")
            values = {name: value if name in counted else value / sums["_"] for name, value in sums.items() if name != "_"}
            journal.write(step, part, values | _state(trainer, part, clock))
            sums = {}
            left = clock.left(_ahead(trainer))
            progress(step, total, f"{part}: loss {values['loss']:.4f}, {_time(left)} left")
        if step % config.preview_every == 0 or trainer.done:
            report.preview(trainer, work / "previews" / f"{step:06d}_{part}.png", pictures)
            if "face" in trainer.scene.splats:
                found = trainer.scene.quality(measured, config.sh_degree, report.still(trainer))
                journal.write(step, part, found | _state(trainer, part, clock))
                progress(step, total, f"{part}: {found['psnr']:.2f} dB on held-out pictures, head {found['psnr_head']:.2f}")
            clock.pause()
        if step % config.checkpoint_every == 0 or trainer.done:
            state = {
                "identity": identity, "trainer": trainer.state(), "seconds": clock.seconds, "cpu": clock.cpu, "pace": clock.pace,
                "created": created, "log": journal.size,
            }  # fmt: skip
            checkpoint.save(work, state)
            clock.pause()


def _state(trainer: Trainer, part: str, clock: Clock) -> dict[str, Any]:
    counted = trainer.scene.splats.get(part)
    count = {} if counted is None else {"count": len(counted)}
    return count | {"seconds": round(clock.seconds, 2), "cpu": round(clock.cpu, 2)}


def _kind(trainer: Trainer) -> str:
    return f"{trainer.name} {trainer.phase}"


def _all_steps(trainer: Trainer) -> int:
    return sum(trainer.steps_of(part) for part in trainer.parts[: trainer.part]) + trainer.step


def _ahead(trainer: Trainer) -> dict[str, int]:
    """Steps left of each kind."""
    found = {}
    for number, part in enumerate(trainer.parts[trainer.part :]):
        done = trainer.step if number == 0 else 0
        if part in (AGREE, FUSE, BODY):
            found[f"{part} {part}"] = trainer.steps_of(part) - done
            continue
        plan = getattr(trainer.config, part)
        edges = [0, min(plan.static_until, plan.steps), min(max(plan.ensemble_from, plan.static_until), plan.steps), plan.steps]
        for phase, low, high in zip(("static", "single", "ensemble"), edges, edges[1:]):
            found[f"{part} {phase}"] = max(0, high - max(low, done))
    return found


def _time(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{round(seconds)} s" if seconds < 90 else f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60} min"


def _identity(data: FaceData, config: TrainConfig, sources: Sources, perceptual: bool) -> str:
    weights = [provider.weights for _, provider in sorted(sources.providers.items())]
    digest = hashlib.sha256(f"{config.as_json()}|{sources.origin}|{weights}|{perceptual}".encode() + sources.prototypes.tobytes())
    for name in ("transforms_train.json", "aud.wav", "au.csv"):
        digest.update(file_hash(data.folder / name).encode())
    digest.update(b"" if data.emotion is None else data.emotion.tobytes())
    return digest.hexdigest()


def _device(name: str) -> torch.device:
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if name == "cuda" and not torch.cuda.is_available():
        raise UserError("There is no CUDA device.", "Use --device cpu.")
    return torch.device(name)
