"""Caches among faults: folders that go, data that is lost, locks that are left. tests/faults does it with real processes."""

from __future__ import annotations

import errno
import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest
from test_cache import check, key, put, writer

from ua3dtalk.engine.cache import LOCK_FILE, CacheReader, FrameMissing
from ua3dtalk.engine.cache.check import check_cache
from ua3dtalk.engine.cache.lock import LOCK_AGE, FolderLock, lock_is_dead
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.worker.server import _is_want_of_memory

HOST = socket.gethostname()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return tmp_path / "cache"


@pytest.mark.skipif(os.name == "nt", reason="Windows keeps files that are open")
@pytest.mark.parametrize("what", ["", "store-*", "store-*/index.bin", "store-*/motion.bin", "store-*/static.safetensors"])
def test_a_bake_whose_folder_is_deleted_is_not_done(folder: Path, what: str) -> None:
    """Nor is it known as baked by the writer that did it."""
    with writer(folder) as target:
        put(target, 1)
        for path in list(folder.glob(what)) if what else [folder]:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        put(target, 2)
        with pytest.raises(UserError, match="removed or replaced"):
            target.finish()
    target.begin(target.header)
    try:
        for frame in (1, 2):
            if not target.has(frame, key(frame)):
                put(target, frame)
        target.finish()
    finally:
        target.close()
    reader = CacheReader(folder)
    for frame in (1, 2):
        check(reader, frame, frame)
    reader.close()


def test_a_header_that_is_deleted_comes_back(folder: Path) -> None:
    with writer(folder) as target:
        put(target, 1)
        (folder / "header.json").unlink()
        target.finish()
    check(CacheReader(folder), 1, 1)


@pytest.mark.parametrize("name", ["motion.bin", "uncertainty.bin", "shares.bin"])
@pytest.mark.parametrize("again", [False, True], ids=["new process", "same writer"])
def test_data_that_was_lost_is_baked_again(folder: Path, name: str, again: bool) -> None:
    """A power cut may keep the index and lose slots; frames that share one are lost together."""
    with writer(folder) as target:
        for frame in range(4):
            put(target, frame)
        assert target.reuse(9, key(2))
        target.finish()
    path = next(folder.glob(f"store-*/{name}"))
    data = bytearray(path.read_bytes())
    size = len(data) // 4
    data[2 * size : 2 * size + 8] = bytes(value ^ 255 for value in data[2 * size : 2 * size + 8])
    path.write_bytes(data[: 3 * size])  # frame 2 is spoilt, frame 3 is cut off
    os.utime(path, (1, 1))
    with pytest.raises(FrameMissing):
        CacheReader(folder).at(3)
    if again:
        target.begin(target.header)
    else:
        target = writer(folder)
    assert [target.has(frame, key(frame)) for frame in range(4)] == [True, True, False, False]
    assert not target.has(9, key(2)) and not target.knows(key(2)) and target.knows(key(1))
    for frame in (2, 3):
        put(target, frame)
    assert target.has(2, key(2)) and target.knows(key(2)) and target.reuse(9, key(2))
    target.finish()
    target.close()
    found = check_cache(folder)
    assert not found.damaged and not found.problems and set(found.keys) == {0, 1, 2, 3, 9}


def dead_process() -> int:
    done = subprocess.Popen([sys.executable, "-c", ""])
    done.wait()
    return done.pid


@pytest.mark.parametrize(
    "text, age, dead",
    [
        (f"{HOST} {{dead}}", 0, True),
        (f"{HOST} {{own}}", 0, True),  # it names this process, which does not hold it: it could not be removed
        (f"{HOST} {os.getppid()}", LOCK_AGE * 9, False),
        ("elsewhere 1", LOCK_AGE * 2, True),
        ("elsewhere 1", 1, False),
        ("", 1, False),
        ("", LOCK_AGE * 2, True),  # killed, or out of room, before it said whose it is
        (f"{HOST} -1", LOCK_AGE * 2, True),
        (f"{HOST} {10**30}", 0, True),
        ("\xff" * 40, LOCK_AGE * 2, True),
    ],
)
def test_locks_that_were_left(folder: Path, text: str, age: float, dead: bool) -> None:
    folder.mkdir()
    lock = folder / LOCK_FILE
    lock.write_text(text.format(dead=dead_process(), own=os.getpid()), encoding="latin-1")
    os.utime(lock, (time.time() - age,) * 2)
    assert lock_is_dead(lock) == dead
    if dead:
        with writer(folder) as target:
            put(target, 1)
        assert [path.name for path in folder.iterdir() if LOCK_FILE in path.name] == []
    else:
        with pytest.raises(UserError, match="another bake is writing here"):
            writer(folder)
        assert lock.exists()


def test_one_writer_at_a_time_in_one_process_too(folder: Path) -> None:
    with writer(folder):
        with pytest.raises(UserError, match="another bake"):
            writer(folder)
    writer(folder).close()


def test_a_lock_that_another_machine_took_over_is_noticed_and_left(folder: Path) -> None:
    with writer(folder) as target:
        put(target, 1)
        (folder / LOCK_FILE).write_text("elsewhere 12")
        target._lock._touched -= LOCK_AGE
        with pytest.raises(UserError, match="taken it over"):
            put(target, 2)
    assert (folder / LOCK_FILE).read_text() == "elsewhere 12"


def test_a_full_disk_leaves_no_empty_lock(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder.mkdir()

    def full() -> str:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("ua3dtalk.engine.cache.lock._own_text", full)
        with pytest.raises(UserError, match="No space left"):
            FolderLock(folder).take()
    assert not list(folder.iterdir())
    lock = FolderLock(folder)
    lock.take()
    lock.release()


@pytest.mark.parametrize(
    "error, wanted",
    [
        (MemoryError(), True),
        (OSError(errno.ENOMEM, "Cannot allocate memory"), True),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes"), True),
        (OSError(errno.ENOSPC, "No space left on device"), False),
        (RuntimeError("shape mismatch"), False),
    ],
)
def test_want_of_memory_is_told_as_such(error: Exception, wanted: bool) -> None:
    assert _is_want_of_memory(error) == wanted
