"""One writer at a time: the lock of a cache folder, on disks that many machines share. Standard library alone.

It says "machine process". Files are made exclusively and renamed, nothing else, since NFS breaks other locks.
"""

from __future__ import annotations

import os
import socket
import time
from contextlib import suppress
from io import FileIO
from pathlib import Path

from ..errors import UserError
from ..files import write_error
from .layout import LOCK_FILE

LOCK_AGE = 120.0
"""Seconds after which a lock that nobody touched is dead, where its process cannot be asked."""
_TRIES = 40
_held: set[str] = set()
"""Locks of this process: one that names it and is none of these was left where it could not be removed."""


class FolderLock:
    """The lock of one folder, taken and let go any number of times."""

    def __init__(self, folder: Path) -> None:
        self._folder, self._path = folder, os.path.join(folder, LOCK_FILE)  # as text: `Path` costs more than some calls below
        self._touched = 0.0

    def take(self) -> None:
        """Make the folder this process's; the folder itself, too, where it is missing.

        Raises:
            UserError: it is somebody else's, or cannot be written.
        """
        for _ in range(_TRIES):
            try:
                handle = FileIO(self._path, "x")
            except FileExistsError:
                if not lock_is_dead(self._path):
                    break
                self._remove_dead()
                continue
            except FileNotFoundError:
                self._make_folder()
                continue
            except OSError as error:
                raise write_error(self._folder, error) from error
            try:
                with handle:
                    handle.write(_own_text().encode())
            except OSError as error:  # a full disk takes an empty file
                with suppress(OSError):
                    os.unlink(self._path)
                raise write_error(self._folder, error) from error
            _held.add(self._path)
            self._touched = time.monotonic()
            return
        raise UserError(f"{self._folder}: another bake is writing here.", f"Wait for it or cancel it; if there is none, remove {self._path}.")

    def touch(self) -> None:
        """Now and then: show other machines that somebody is at work.

        Raises:
            UserError: one of them has taken the folder meanwhile. OSError: the lock is gone, or cannot be touched.
        """
        if time.monotonic() <= self._touched + LOCK_AGE / 20:
            return
        if Path(self._path).read_text("utf-8") != _own_text():
            raise UserError(f"{self._folder}: another bake has taken it over.", "Wait for that one, then bake again.")
        os.utime(self._path)
        self._touched = time.monotonic()

    def release(self) -> None:
        """Let go of it, where it is held."""
        if self._path not in _held:
            return
        _held.remove(self._path)
        with suppress(OSError):  # gone, or read-only by now: `_held` says that it is nobody's
            if Path(self._path).read_text("utf-8") == _own_text():
                os.unlink(self._path)

    def _make_folder(self) -> None:
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise write_error(self._folder, error) from error

    def _remove_dead(self) -> None:
        """One process at a time: else one could remove what another has just put in the dead one's place."""
        guard = f"{self._path}.guard"
        try:
            FileIO(guard, "x").close()
        except FileExistsError:
            time.sleep(0.01)
            with suppress(OSError):
                if time.time() - os.stat(guard).st_mtime > LOCK_AGE:
                    os.unlink(guard)
            return
        except OSError as error:
            raise write_error(self._folder, error) from error
        try:
            if _is_dead(self._path):  # not where there is none: what is made there now is somebody's
                os.unlink(self._path)
        except FileNotFoundError:
            pass
        except OSError as error:
            raise write_error(self._folder, error) from error
        finally:
            with suppress(OSError):
                os.unlink(guard)


def lock_is_dead(path: Path | str) -> bool:
    """A lock whose process is gone (same machine), or that nobody touched for two minutes (another machine, or nobody's name in it); or
    there is none."""
    return _is_dead(path) is not False


def _is_dead(path: Path | str) -> bool | None:
    """As `lock_is_dead`; None where there is none."""
    try:
        with FileIO(path) as handle:
            words = handle.read(1000).decode("utf-8", "replace").split()
        age = time.time() - os.stat(path).st_mtime
    except FileNotFoundError:
        return None
    except OSError:
        return False
    # An empty one is being written, or was when its process was killed.
    if len(words) != 2 or not words[1].isdecimal() or words[0] != socket.gethostname():
        return age > LOCK_AGE
    number = int(words[1])
    return str(path) not in _held if number == os.getpid() else not process_lives(number)


def process_lives(pid: int) -> bool:
    """True where a process with this number runs on this machine."""
    if os.name == "nt":
        import ctypes

        handle = ctypes.windll.kernel32.OpenProcess(0x1000, False, pid)  # PROCESS_QUERY_LIMITED_INFORMATION
        if not handle:
            return False
        code = ctypes.c_ulong()
        ctypes.windll.kernel32.GetExitCodeProcess(handle, ctypes.byref(code))
        ctypes.windll.kernel32.CloseHandle(handle)
        return code.value == 259  # STILL_ACTIVE
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _own_text() -> str:
    return f"{socket.gethostname()} {os.getpid()}"
