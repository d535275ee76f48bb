"""Writing files so that a half-written one is never readable as whole. Standard library alone."""

from __future__ import annotations

import hashlib
import os
import tempfile
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Iterator

from .errors import UserError


@contextmanager
def atomic_path(path: Path) -> Iterator[Path]:
    """The path of an empty temporary file beside `path`; on success it replaces `path` in one step, on failure it is removed.

    Raises:
        UserError: the folder cannot be written to, or the disk is full.
    """
    path = Path(path)
    temporary: Path | None = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".part", dir=path.parent)
        os.close(descriptor)
        temporary = Path(name)
        yield temporary
        umask = os.umask(0)
        os.umask(umask)
        os.chmod(temporary, 0o666 & ~umask)  # mkstemp makes the file private; a shared folder needs the usual rights
        os.replace(temporary, path)
    except OSError as error:
        raise write_error(path, error) from error
    finally:
        if temporary is not None and temporary.exists():
            temporary.unlink()


@contextmanager
def atomic_write(path: Path, durable: bool = True) -> Iterator[BinaryIO]:
    """A file open for writing that takes the place of `path` once it is whole and on disk, see `atomic_path`.

    Args:
        durable: False does not wait for the disk, for what is handed to another process and needs no longer life.
    """
    with atomic_path(path) as temporary, open(temporary, "wb") as handle:
        yield handle
        handle.flush()
        if durable:
            os.fsync(handle.fileno())


def write_error(path: Path, error: OSError) -> UserError:
    """The clear line for a write that failed (full disk, read-only folder, missing folder)."""
    return UserError(
        f"Cannot write {path}: {error.strerror or error}.",
        "Free some space or choose another folder; what was there before is unchanged.",
    )


def file_hash(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal.

    Raises:
        UserError: the file cannot be read.
    """
    digest = hashlib.sha256()
    try:
        with open(path, "rb") as handle:
            while block := handle.read(1 << 20):
                digest.update(block)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    return digest.hexdigest()
