"""How long Blender's main loop stands still, and how much of that is this extension's own Python code."""

from __future__ import annotations

import sys
import threading
import time
from collections import defaultdict
from dataclasses import dataclass
from pathlib import Path
from types import CodeType


_HERE = str(Path(__file__).resolve().parent)


@dataclass(frozen=True)
class Call:
    """One call from Blender into the extension, seconds of a monotonic clock and of the main thread's processor time."""

    name: str
    phase: str
    began: float
    wall: float
    cpu: float


class OwnCode:
    """Times every call from outside into the extension's code on the main thread, nested ones within their caller's.

    By `sys.monitoring` (Python 3.12), which leaves other people's code alone: the extension runs at its own speed but for
    about a microsecond a call.
    """

    def __init__(self, package: str) -> None:
        self.calls: list[Call] = []
        self.phase = "start"
        self._package = package
        self._stack: list[tuple[CodeType, float, float]] = []
        self._main = threading.main_thread().ident
        tool, events = sys.monitoring.PROFILER_ID, sys.monitoring.events
        sys.monitoring.use_tool_id(tool, "walk")
        sys.monitoring.register_callback(tool, events.PY_START, self._enter)
        sys.monitoring.register_callback(tool, events.PY_RETURN, self._leave)
        sys.monitoring.register_callback(tool, events.PY_UNWIND, self._leave)
        sys.monitoring.set_events(tool, events.PY_START | events.PY_RETURN | events.PY_UNWIND)

    def _is_ours(self, code: CodeType) -> bool:
        return self._package in code.co_filename

    def _enter(self, code: CodeType, offset: int) -> object:
        if not self._is_ours(code):
            return sys.monitoring.DISABLE
        # A generator's start has no return of its own kind; it runs within a caller of ours.
        if threading.get_ident() == self._main and not self._stack and not code.co_flags & 0x20 and not self._asked_by_walk():
            self._stack.append((code, time.perf_counter(), time.thread_time()))
        return None

    def _leave(self, code: CodeType, offset: int, value: object) -> object:
        if not self._is_ours(code):
            return None
        if threading.get_ident() == self._main and self._stack and self._is_outermost(code):
            entered, began, cpu = self._stack.pop()
            module = entered.co_filename.rpartition(self._package)[2].removesuffix(".py").replace("/", ".").strip(".")
            self.calls.append(Call(f"{module}.{entered.co_qualname}", self.phase, began, time.perf_counter() - began, time.thread_time() - cpu))
        return None

    def _asked_by_walk(self) -> bool:
        """The walk itself looked something up."""
        caller = sys._getframe(2).f_back
        return caller is not None and caller.f_code.co_filename.startswith(_HERE)

    def _is_outermost(self, code: CodeType) -> bool:
        """The call that returns is the one that was entered from outside, not a deeper one of the same function."""
        if self._stack[0][0] is not code:
            return False
        frame = sys._getframe(2).f_back
        while frame is not None:
            if frame.f_code is code:
                return False
            frame = frame.f_back
        return True

    def worst(self, phase: str, most: int = 12) -> dict[str, dict[str, float]]:
        """{function: {"calls", "longest_ms", "longest_cpu_ms", "sum_ms"}} of a phase, longest first."""
        groups: defaultdict[str, list[Call]] = defaultdict(list)
        for call in self.calls:
            if call.phase == phase:
                groups[call.name].append(call)
        rows = {
            name: {
                "calls": len(calls),
                "longest_ms": round(max(c.wall for c in calls) * 1e3, 2),
                "longest_cpu_ms": round(max(c.cpu for c in calls) * 1e3, 2),
                "sum_ms": round(sum(c.wall for c in calls) * 1e3, 1),
            }
            for name, calls in groups.items()
        }
        return dict(sorted(rows.items(), key=lambda item: -item[1]["longest_ms"])[:most])


class Gaps:
    """The longest time between two calls of a timer, for each phase: an upper bound, for it holds redraws and all of Blender too."""

    def __init__(self) -> None:
        self.phase = "start"
        self._last: float | None = None
        self._gaps: defaultdict[str, list[float]] = defaultdict(list)

    def tick(self) -> None:
        """To be called by a timer as often as it can be."""
        now = time.perf_counter()
        if self._last is not None:
            self._gaps[self.phase].append(now - self._last)
        self._last = now

    def leave_out(self) -> None:
        """What went on since the last tick was the walk itself (a picture was taken)."""
        self._last = None

    def report(self) -> dict[str, dict[str, float]]:
        """{phase: {"ticks", "median_ms", "longest_ms"}}"""
        return {
            phase: {"ticks": len(gaps), "median_ms": round(sorted(gaps)[len(gaps) // 2] * 1e3, 1), "longest_ms": round(max(gaps) * 1e3, 1)}
            for phase, gaps in self._gaps.items()
        }
