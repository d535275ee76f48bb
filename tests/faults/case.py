"""One fault: what was checked after it, and what did not hold. Standard library alone."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path
from random import Random

MARK = "UA3DTALK_FAULT"
"""Environment variable that every process of a campaign carries: by it, those that were left behind are found."""
LONG = 120.0
"""Seconds after which something that is waited for counts as never coming."""
CHECKS = {
    "right": "each frame that can be read is that of an undisturbed bake, bit for bit",
    "kept": "nothing is gone that was reported as readable or as done",
    "old": "what was there before stays until the new one stands",
    "answers": "the next request is answered, and its bake is whole",
    "orphans": "no process is left behind",
    "handles": "no file handle is left open",
    "bounded": "memory, queues and files stay bounded",
    "told": "the user is told one clear line, or nothing was lost",
}


@dataclass
class Case:
    """A fault at a moment drawn from `random`.

    Attributes:
        moment: what was drawn, and how it went; for the record.
        checked: keys of CHECKS. findings: what did not hold.
    """

    fault: str
    number: int
    random: Random
    moment: dict[str, object] = field(default_factory=dict)
    checked: set[str] = field(default_factory=set)
    findings: list[str] = field(default_factory=list)

    def hold(self, check: str, holds: object, otherwise: str) -> bool:
        """`check` was made; `otherwise` says what is wrong where it does not hold."""
        assert check in CHECKS
        self.checked.add(check)
        if not holds:
            self.findings.append(f"{check}: {otherwise}")
        return bool(holds)

    def line(self, text: object) -> None:
        """What the user is told of a failure is one line of words, not a program's insides."""
        said = str(text)
        ours = bool(said) and "\n" not in said.strip() and len(said) < 400 and "Traceback" not in said
        self.moment["told"] = said
        self.hold("told", ours, f"no clear line: {said!r}")

    def alone(self, mark: str, kept: Collection[int] = (), seconds: float = 15.0) -> None:
        """No process of the campaign lives but those of `kept`; each has some seconds to end."""

        def others() -> dict[int, str]:
            return {pid: name for pid, name in marked(mark).items() if pid not in kept}

        until(lambda: not others(), seconds)
        left = others()
        self.hold("orphans", not left, f"left behind: {left}")


def until(true: Callable[[], object], seconds: float = LONG, pause: float = 0.02) -> bool:
    """Wait for something; False where it never came."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            return False
        time.sleep(pause)
    return True


def marked(mark: str) -> dict[int, str]:
    """Processes that carry the mark (zombies, and this one, do not count): number -> command."""
    found = {}
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            if f"{MARK}={mark}".encode() in (folder / "environ").read_bytes().split(b"\0") and state(int(folder.name)) != "Z":
                found[int(folder.name)] = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")[:120]
        except OSError:
            continue
    found.pop(os.getpid(), None)
    return found


def state(pid: int) -> str:
    """A process's state as the system has it: R, S, T, Z ...; "" where there is none."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except OSError:
        return ""


def ended(pid: int) -> bool:
    """Whether a process has, with all its threads: its files are closed."""
    try:
        return state(pid) in ("", "Z") and len(list(Path(f"/proc/{pid}/task").iterdir())) <= 1
    except OSError:
        return True


def handles(pid: int | str = "self") -> list[str]:
    """What a process holds open."""
    found = []
    for link in Path(f"/proc/{pid}/fd").iterdir():
        try:
            found.append(os.readlink(link))
        except OSError:  # it was that of the look itself
            continue
    return sorted(found)


def memory(pid: int) -> int:
    """Bytes of memory that a process has in use."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
