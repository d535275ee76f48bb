"""The readers of what comes from outside, a valid file for each, and how its damage is made. Runs in the child process."""

from __future__ import annotations

import io
import json
import random
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from . import mutate


@dataclass(frozen=True)
class Reader:
    """make: writes damaged input number n and returns what `read` takes; read: the product's reader; refusals: what it may raise."""

    make: Callable[[random.Random], Any]
    read: Callable[[Any], Any]
    refusals: tuple[type[BaseException], ...]


def _in_file(path: Path, wholes: list[bytes], change: Callable[[bytes, random.Random], bytes]) -> Callable[[random.Random], Path]:
    def make(rng: random.Random) -> Path:
        path.write_bytes(change(rng.choice(wholes), rng))
        return path

    return make


def _bytes(wholes: list[bytes]) -> Callable[[bytes, random.Random], bytes]:
    return lambda data, rng: mutate.damaged(data, rng, wholes)


def avatar(folder: Path) -> Reader:
    """Avatar files: what `info` says, and the Gaussians at rest."""
    from support.avatars import static_avatar, talking_avatar
    from ua3dtalk.engine import commands
    from ua3dtalk.engine.avatar import load_avatar, save_avatar
    from ua3dtalk.engine.errors import UserError

    wholes = []
    for number, head in enumerate((static_avatar(12, 5), talking_avatar(12, 5))):
        save_avatar(head, folder / f"whole-{number}.safetensors")
        wholes.append((folder / f"whole-{number}.safetensors").read_bytes())

    def read(path: Path) -> None:
        json.dumps(commands.info(path))
        with np.errstate(all="ignore"):
            load_avatar(path).rest()

    return Reader(_in_file(folder / "a.safetensors", wholes[:1] * 4 + wholes, mutate.tensors_file), read, (UserError,))


def _imported(name: str, folder: Path) -> Reader:
    from test_import_splats import SAMPLES
    from ua3dtalk.engine.errors import UserError
    from ua3dtalk.engine.importers import import_file

    kinds = [sample for key, sample in SAMPLES.items() if key.startswith(name)]
    wholes = [whole for _, whole, _ in kinds]

    def make(rng: random.Random) -> Path:
        suffix, whole, packing = rng.choice(kinds)
        path = folder / f"f{suffix}"
        path.write_bytes(packing(mutate.damaged(whole, rng, wholes)))
        return path

    def read(path: Path) -> None:
        arrays = import_file(path).tensors.values()
        if not all(np.isfinite(array).all() for array in arrays if array.dtype.kind == "f"):
            raise AssertionError("numbers that are not finite came in")

    return Reader(make, read, (UserError,))


def checkpoint(folder: Path) -> Reader:
    """Checkpoints, zipped and of the old form."""
    return _imported("pth", folder)


def ply(folder: Path) -> Reader:
    """.ply: little and big endian, text, compressed."""
    return _imported("ply", folder)


def spz(folder: Path) -> Reader:
    """.spz: versions 3 and 4 as they are, and damaged inside their packing."""
    return _imported("spz", folder)


def splat(folder: Path) -> Reader:
    """.splat."""
    return _imported("splat", folder)


def cache(folder: Path) -> Reader:
    """Cache folders: one file of it damaged, then opened, read at and between frames, summed up, checked."""
    from support.caches import random_cache
    from ua3dtalk.engine.cache import CacheReader, FrameMissing
    from ua3dtalk.engine.cache.check import check_cache
    from ua3dtalk.engine.cache.layout import ENTRY
    from ua3dtalk.engine.errors import UserError

    where = random_cache(folder / "cache", 1, 12)
    whole = {path: path.read_bytes() for path in sorted(where.rglob("*")) if path.is_file()}
    last: list[Path] = []

    def make(rng: random.Random) -> Path:
        for path in last:
            path.write_bytes(whole[path])
        path = rng.choice(list(whole))
        last[:] = [path]
        data = whole[path]
        if path.suffix == ".json":
            data = mutate.as_json(mutate.changed_json(json.loads(data), rng), rng)
        elif path.suffix == ".safetensors":
            try:
                data = mutate.tensors_file(data, rng)
            except StopIteration:  # it has no metadata
                data = mutate.damaged(data, rng)
        elif path.name == "index.bin":
            data = mutate.sealed_entries(data, ENTRY.itemsize, rng)
        else:
            data = mutate.damaged(data, rng)
        path.write_bytes(data)
        return where

    def read(where: Path) -> None:
        check_cache(where)
        reader = CacheReader(where)
        try:
            with np.errstate(all="ignore"):
                for frame in reader.frames()[:4].tolist():
                    for ask in (lambda: reader.at(frame), lambda: reader.at(frame + 0.5), lambda: reader.summary(frame)):  # noqa: B023
                        try:
                            ask()
                        except FrameMissing:
                            pass
        finally:
            reader.close()

    return Reader(make, read, (UserError,))


def protocol(folder: Path) -> Reader:
    """Messages: streams in pieces; then strangers and a worker gone mad before the client, and a client gone mad before the worker."""
    from ua3dtalk.engine.worker.protocol import Decoder, ProtocolError, encode

    from .peers import MadClient, MadWorker, stranger

    messages = [
        {"type": "hello", "nonce": "ab" * 16},
        {"type": "challenge", "nonce": "cd" * 16, "proof": "00" * 32},
        {"type": "proof", "proof": "00" * 32, "info": {"protocol": 1, "engine": "0"}},
        {"type": "request", "id": 1, "method": "info", "params": {"avatar": "x"}, "generation": ["live", 3]},
        {"type": "cancel", "id": 1},
        {"type": "progress", "id": 1, "done": 1, "total": 2, "text": "x", "frames": [1, 2]},
        {"type": "result", "id": 1, "result": {"a": 1}},
        {"type": "error", "id": 1, "message": "x", "remedy": "y", "cancelled": False},
        {"type": "alive"},
    ]
    ends = (MadWorker(folder), MadClient())

    def make(rng: random.Random) -> tuple[list[bytes], int]:
        pieces = []
        for message in rng.choices(messages, k=rng.randrange(1, 5)):
            text = mutate.as_json(mutate.changed_json(message, rng), rng)
            pieces.append(struct.pack(">I", len(text)) + text)
        data = b"".join(pieces)
        if rng.randrange(4) == 0:
            data = mutate.damaged(data, rng, [encode(message) for message in messages])
        step = rng.choice((1, 7, 1000, 1 << 20)) if len(data) < 2000 else 1 << 20
        return [data[at : at + step] for at in range(0, len(data), step)], rng.randrange(3)

    def read(given: tuple[list[bytes], int]) -> None:
        pieces, end = given
        decoder = Decoder()
        for piece in pieces:
            for message in decoder.feed(piece):
                if end == 2:
                    stranger(folder, message)
                else:
                    ends[end].take(message)

    return Reader(make, read, (ProtocolError,))


def _shot(folder: Path) -> Any:
    from ua3dtalk.engine.shot import EmotionCurves, compose_shot

    (folder / "head.safetensors").write_bytes(b"head")
    (folder / "s.wav").write_bytes(b"sound")
    return compose_shot(folder / "head.safetensors", "a" * 64, folder / "s.wav", 1, EmotionCurves(), 25)


def shot(folder: Path) -> Reader:
    """Shots as Blender hands them to the worker (safetensors)."""
    from ua3dtalk.engine.errors import UserError
    from ua3dtalk.engine.shot import frame_keys, load_shot, save_shot

    save_shot(_shot(folder), folder / "whole")

    def read(path: Path) -> None:
        with np.errstate(all="ignore"):
            frame_keys(load_shot(path))

    return Reader(_in_file(folder / "shot", [(folder / "whole").read_bytes()], mutate.tensors_file), read, (UserError,))


def shot_json(folder: Path) -> Reader:
    """Shot files of pipelines (JSON), which may come from strangers."""
    from ua3dtalk.engine.errors import UserError
    from ua3dtalk.engine.shot import frame_keys
    from ua3dtalk.engine.shot.document import read_document

    whole = {
        "ua3dtalk_shot": 1, "name": "s", "avatar": {"path": "head.safetensors", "sha256": "a" * 64}, "sound": {"path": "s.wav", "sha256": "b" * 64},
        "sound_times": {"start": 2}, "fps": 25, "frames": {"first": 1, "last": 12}, "smoothing": 0,
        "curves": {"happy": [[1, 0], [10, 0.8]], "intensity": 1, "au45": [0.5] * 12}, "output": {"folder": "out", "format": "cache"},
    }  # fmt: skip
    listed = whole | {"frames": [1, 2, 5], "sound_times": [0.1, None, 0.2], "curves": {"mix": [0, 1, 0.5], "lips": 2}}
    _shot(folder)

    def make(rng: random.Random) -> Path:
        (folder / "s.json").write_bytes(mutate.as_json(mutate.changed_json(rng.choice((whole, listed)), rng), rng))
        return folder / "s.json"

    def read(path: Path) -> None:
        found, settings = read_document(path)
        if settings.output is not None and not settings.output.resolve().is_relative_to(folder.resolve()):
            raise AssertionError(f"it would write to {settings.output}")
        if len(found) < 1000:
            frame_keys(found)

    return Reader(make, read, (UserError,))


def emotion(folder: Path) -> Reader:
    """Emotion keys: our JSON, Audio2Face's, CSV."""
    from ua3dtalk.engine.errors import UserError
    from ua3dtalk.engine.shot.emotion import load_emotion

    ours = {"fps": 25, "blink": {"automatic": True, "seed": 0}, "keys": [{"frame": 0, "emotion": "happy", "intensity": 1.0}, {"frame": 9, "weights": {"sad": 0.5}, "blend": 0.2, "mix": 0, "lips": 2}]}
    theirs = {"a2f_smoothed_output": [{"time_code": 0.0, "emotion": {"joy": 0.5, "grief": 0.1}}, {"time_code": 1.0, "emotion_values": {"anger": 1}}]}
    table = b"time,happy,blink\n0,0,0\n0.5,0.7,1\n1,0.2,0\n"
    odd = (b"nan", b"inf", b"1e999", b"-0", b'"', b",,,", b"\n\n", b"9" * 400, b"\x00", b"\xef\xbb\xbf", b"frame", b"time")

    def make(rng: random.Random) -> Path:
        if rng.randrange(3) == 0:
            data = table
            if rng.randrange(2):
                at = rng.randrange(len(data))
                data = data[:at] + rng.choice(odd) + data[at + rng.randrange(4) :]
            else:
                data = mutate.damaged(data, rng)
            (folder / "e.csv").write_bytes(data)
            return folder / "e.csv"
        (folder / "e.json").write_bytes(mutate.as_json(mutate.changed_json(rng.choice((ours, theirs)), rng), rng))
        return folder / "e.json"

    def read(path: Path) -> None:
        with np.errstate(all="ignore"):
            found = load_emotion(path).at(np.linspace(0, 2, 7))
        if not all(np.isfinite(values).all() for values in found.values()):
            raise AssertionError("numbers that are not finite came in")

    return Reader(make, read, (UserError,))


def sound(folder: Path) -> Reader:
    """Sounds: headers and bodies of WAV, FLAC, Ogg, AIFF, MP3."""
    import soundfile
    from ua3dtalk.engine.audio import read_sound
    from ua3dtalk.engine.errors import UserError

    samples = 0.2 * np.random.default_rng(0).normal(size=(1600, 2)).clip(-1, 1)
    wholes = []
    for kind, subtype in (("WAV", "PCM_16"), ("WAV", "FLOAT"), ("WAVEX", "PCM_24"), ("FLAC", "PCM_16"), ("OGG", "VORBIS"), ("AIFF", "PCM_16"), ("MP3", "MPEG_LAYER_III"), ("AU", "PCM_16"), ("CAF", "PCM_16")):
        made = io.BytesIO()
        soundfile.write(made, samples, 16000 if kind != "WAVEX" else 44100, subtype, format=kind)
        wholes.append(made.getvalue())

    def read(path: Path) -> None:
        if not np.isfinite(read_sound(path).samples).all():
            raise AssertionError("samples that are not finite came in")

    return Reader(_in_file(folder / "s.wav", wholes, _bytes(wholes)), read, (UserError,))


READERS: dict[str, Callable[[Path], Reader]] = {
    "avatar": avatar, "checkpoint": checkpoint, "ply": ply, "splat": splat, "spz": spz, "cache": cache, "protocol": protocol,
    "shot": shot, "shot-json": shot_json, "emotion": emotion, "sound": sound,
}  # fmt: skip
