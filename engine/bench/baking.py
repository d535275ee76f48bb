"""Baking: per frame, again, after one changed key, after a moved sound; one frame on request; the cache's size and reading."""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from typing import Any, Sequence

import numpy as np

from ..audio import read_sound
from ..bake import Baker, Session
from ..cache import CacheReader
from ..cache.layout import FRAME_FILES
from ..errors import Cancelled, UserError
from ..shot import Shot, compose_shot, load_shot, save_shot
from ..shot.emotion import parse_emotion
from .measure import Time, times

FPS = 25
KEYED = {"fps": FPS, "keys": [{"frame": 0, "emotion": "neutral"}, {"frame": 40, "emotion": "happy"}, {"frame": 80, "emotion": "angry"}]}
CHANGED_KEY = 2  # of `keys`: its emotion is swapped
SHIFT = 12  # frames by which the sound moves


def incremental(avatar: Path, audio: Path, frames: int, device: str, threads: int) -> dict[str, Any]:
    """Bake some frames of speech, then again unchanged, with one emotion key changed, and with the sound moved."""
    session = Session(device, threads)
    first = speech(session, avatar, audio, frames)
    changed = _keys(frames)
    changed["keys"][CHANGED_KEY] |= {"emotion": "sad"}
    # Neutral throughout: the emotion stays where it is while the sound moves, and would be another one at each sound time.
    plain = {"fps": FPS, "keys": [], "blink": {"automatic": False}}
    bakes: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        cache = Path(folder) / "cache"
        for name, shot in (
            ("all frames", first),
            ("nothing changed", first),
            ("one key changed", speech(session, avatar, audio, frames, changed)),
            ("sound to be moved", speech(session, avatar, audio, frames, plain)),
            (f"sound moved by {SHIFT} frames", speech(session, avatar, audio, frames, plain, SHIFT / FPS)),
        ):
            bakes[name] = _bake(session, shot, cache)
        reader = CacheReader(cache)
        sizes = {name.removesuffix(".bin"): count * np.dtype(kind).itemsize for name, (count, kind) in FRAME_FILES.items()}
        about = {"bytes_a_frame": {name: size * reader.header.moving for name, size in sizes.items()}, **_reading(reader)}
        reader.close()
    return {"frames": frames, "threads": threads, "bakes": bakes, "cache": about}


def latency(avatar: Path, audio: Path, shot_frames: int, requests: int, device: str, threads: int) -> dict[str, Any]:
    """One frame on request out of a long shot's file: until it can be read from the cache, and how much of that is not the networks."""
    session = Session(device, threads)
    shot = speech(session, avatar, audio, shot_frames)
    deformer = session.head(avatar).deformer
    if deformer is None:
        raise UserError(f"{avatar} is static: it has no networks to wait for.", "Choose a trained avatar.")
    whole: list[tuple[float, float]] = []
    networks: list[float] = []
    motion = deformer.motion

    def timed(*arguments: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        found = motion(*arguments, **options)
        networks.append(time.perf_counter() - begin)
        return found

    with tempfile.TemporaryDirectory() as folder:
        path, cache = Path(folder) / "shot", Path(folder) / "cache"
        save_shot(shot, path)
        deformer.motion = timed  # type: ignore[method-assign]
        heard = shot.frames[np.isfinite(shot.times)]  # silent frames are one and the same
        for number in np.random.default_rng(0).choice(heard, requests + 1, replace=False).tolist():
            arrived: list[float] = []

            def progress(done: int, total: int, text: str, frames: Sequence[int]) -> None:
                if number in frames:  # noqa: B023
                    arrived.append(time.perf_counter())  # noqa: B023

            networks.clear()
            begin = time.perf_counter()
            try:
                Baker(session, load_shot(path)).bake(cache, [number], progress, lambda: bool(arrived))  # noqa: B023
            except Cancelled:
                pass
            whole.append((arrived[0] - begin, networks[0]))
        del deformer.motion  # the class's own again
    request, alone = (1e3 * np.median([pair[i] for pair in whole[1:]]) for i in (0, 1))
    over = sorted(1e3 * (a - b) for a, b in whole[1:])
    return {
        "shot_frames": shot_frames,
        "threads": threads,
        "request_ms": round(float(request), 2),
        "networks_ms": round(float(alone), 2),
        "beyond_networks_ms": round(over[len(over) // 2], 2),
        "beyond_networks_least_ms": round(over[0], 2),
    }


def _keys(frames: int) -> dict[str, Any]:
    scale = frames / 100
    return KEYED | {"keys": [key | {"frame": round(key["frame"] * scale)} for key in KEYED["keys"]]}


def speech(
    session: Session, avatar: Path, audio: Path, frames: int, keys: dict[str, Any] | None = None, offset: float = 0.0
) -> Shot:
    """The first frames of a sound under three keys (or those given), the sound starting `offset` seconds after frame 0."""
    loaded = session.head(avatar)
    emotion = parse_emotion(_keys(frames) if keys is None else keys, "the benchmark's emotion")
    return compose_shot(avatar, loaded.hash, audio, read_sound(audio).duration, emotion, FPS, (0, frames - 1), offset)


def _bake(session: Session, shot: Shot, cache: Path) -> dict[str, Any]:
    processor = time.process_time()
    result = Baker(session, shot).bake(cache)
    row: dict[str, Any] = {"computed": result.computed, "shared": result.moved, "up_to_date": result.up_to_date}
    row |= {"seconds": round(result.seconds, 3), "processor_seconds": round(time.process_time() - processor, 3)}
    return row | ({"ms_a_computed_frame": round(1e3 * result.seconds / result.computed, 1)} if result.computed else {})


def _reading(reader: CacheReader) -> dict[str, Any]:
    frames = reader.frames().tolist()
    for frame in frames:
        reader.at(frame)  # checksums are looked at once, as in a first play
    took = [times({"read": lambda: reader.at(frame)}, 3, warm_up=False)["read"] for frame in frames]  # noqa: B023
    between = [times({"read": lambda: reader.at(frame + 0.5)}, 3, warm_up=False)["read"] for frame in frames[:-1]]  # noqa: B023
    median = lambda rows: Time(*(float(np.median(column)) for column in zip(*((t.wall, t.processor) for t in rows)))).row()  # noqa: E731
    return {"read": median(took), "read_between_frames": median(between)}
