"""Can a worker bake? Asked of each before it gets a shot. Standard library alone, so that it runs where the rest would not."""

from __future__ import annotations

import hashlib
import os
import socket
from pathlib import Path
from typing import Any

from .. import __version__


def worker_name() -> str:
    """Host and process number of this process."""
    return f"{socket.gethostname()}:{os.getpid()}"


def engine_digest() -> str:
    """SHA-256 of the engine's Python files in this process, hexadecimal; equal on systems that end lines differently."""
    root, digest = Path(__file__).resolve().parents[1], hashlib.sha256()
    for path in sorted(root.rglob("*.py"), key=lambda path: path.relative_to(root).as_posix()):
        digest.update(f"{path.relative_to(root).as_posix()}\n".encode() + path.read_bytes().replace(b"\r\n", b"\n"))
    return digest.hexdigest()


def look(digest: str, gpu: bool) -> dict[str, Any]:
    """Load what baking needs.

    Args:
        digest: `engine_digest` of whoever sends the work.
        gpu: torch must see a graphics card.

    Returns:
        "worker": host:pid; "error": why it cannot bake, in one line, or None.
    """
    about = {"worker": worker_name()}
    try:
        if engine_digest() != digest:
            return {**about, "error": f"has another engine (version {__version__}) than the one that sends the work"}
        from . import task  # noqa: F401 - torch and all

        if gpu:
            import torch

            if not torch.cuda.is_available():
                return {**about, "error": "declares GPU=1, but torch finds no graphics card there"}
    except Exception as error:  # noqa: BLE001 - whatever it is, it would be the same for every shot
        return {**about, "error": f"{type(error).__name__}: {error}".splitlines()[0]}
    return {**about, "error": None}
