"""A pair of hands and eyes in Blender's window: mouse, keys, pictures, and waiting without standing still.

What takes time is a generator that yields once for each turn of Blender's main loop (`yield from desk.click(...)`);
`drive` takes it forward from a timer.
"""

from __future__ import annotations

import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

import bpy
import numpy as np
from measure import Gaps

Steps = Iterator[None]
WAIT = 20.0
_TURN = 0.005


class Failed(AssertionError):
    """What was expected did not happen."""


def check(fact: object, what: str) -> None:
    """Raises Failed with `what` unless `fact` is true."""
    if not fact:
        raise Failed(what)


def until(condition: Callable[[], object], what: str, limit: float = WAIT) -> Steps:
    """Wait for a condition; Failed after `limit` seconds."""
    end = time.monotonic() + limit
    while not condition():
        check(time.monotonic() < end, f"after {limit:g} s: {what} did not happen")
        yield


def pause(seconds: float) -> Steps:
    """Let Blender go on for a while: only where there is no state to ask for, such as before a picture."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        yield


class Desk:
    """Blender's main window.

    Args:
        pictures: the folder that receives them. gaps: is told what time pictures took.
    """

    def __init__(self, pictures: Path, gaps: Gaps) -> None:
        self.pictures = pictures
        self._gaps = gaps
        self.x, self.y = 400, 400
        self._found: dict[tuple[str, str, str], float] = {}

    @property
    def window(self) -> bpy.types.Window:
        return bpy.context.window_manager.windows[0]

    def area(self, kind: str) -> bpy.types.Area:
        """The largest area of a type, as `VIEW_3D`."""
        found = [area for area in self.window.screen.areas if area.type == kind]
        check(found, f"the window has no {kind}")
        return max(found, key=lambda area: area.width * area.height)

    def region(self, kind: str, name: str = "WINDOW") -> bpy.types.Region:
        """A region of `area(kind)`, as `UI`."""
        return next(region for region in self.area(kind).regions if region.type == name)

    def over(self, kind: str = "VIEW_3D", name: str = "WINDOW") -> bpy.types.ContextTempOverride:
        """The context as if the mouse were there."""
        return bpy.context.temp_override(window=self.window, area=self.area(kind), region=self.region(kind, name))

    # ------------------------------------------------------------------------------------------------ mouse and keys

    def move(self, x: float, y: float) -> Steps:
        """Mouse to a place in the window: pixels from the lower left."""
        self.x, self.y = round(x), round(y)
        self.window.event_simulate(type="MOUSEMOVE", value="NOTHING", x=self.x, y=self.y)
        yield

    def key(self, kind: str, unicode: str | None = None, **held: bool) -> Steps:
        """Press and let go of a key or mouse button where the mouse is; held: shift, ctrl, alt."""
        for value in ("PRESS", "RELEASE"):
            extra = {"unicode": unicode} if unicode and value == "PRESS" else {}
            self.window.event_simulate(type=kind, value=value, x=self.x, y=self.y, **extra, **held)
            yield

    def click(self, x: float, y: float) -> Steps:
        """Click there."""
        yield from self.move(x, y)
        yield from self.key("LEFTMOUSE")

    def drag(self, start: tuple[float, float], end: tuple[float, float], turns: int = 20,
             each: Callable[[], None] | None = None, hold: float = 0.0) -> Steps:  # fmt: skip
        """Press at `start`, move to `end` in as many turns, let go.

        Args:
            each: called after each move. hold: seconds of rest after the first move and before letting go.
        """
        yield from self.move(*start)
        self.window.event_simulate(type="LEFTMOUSE", value="PRESS", x=self.x, y=self.y)
        yield
        for turn in range(1, turns + 1):
            t = turn / turns
            yield from self.move(start[0] + (end[0] - start[0]) * t, start[1] + (end[1] - start[1]) * t)
            if each is not None:
                each()
            if turn in (1, turns):
                yield from pause(hold)
        if hold:
            yield from self.move(end[0] + 1, end[1])
        self.window.event_simulate(type="LEFTMOUSE", value="RELEASE", x=self.x, y=self.y)
        yield

    def middle(self, kind: str = "VIEW_3D", name: str = "WINDOW") -> tuple[float, float]:
        """The middle of a region."""
        region = self.region(kind, name)
        return region.x + region.width / 2, region.y + region.height / 2

    def key_over(self, kind: str, key: str, **held: bool) -> Steps:
        """A key with the mouse in the middle of an area."""
        yield from self.move(*self.middle(kind))
        yield from self.key(key, **held)

    # ------------------------------------------------------------------------------------------------ buttons

    def find(self, wanted: str, kind: str = "VIEW_3D", name: str = "UI", at: float = 0.6, near: float = 0) -> Iterator[None]:
        """Look for a button by passing the mouse over the region; returns its (x, y).

        Blender itself says what lies under the mouse: nothing here depends on the layout.

        Args:
            wanted: a property's path (`ua3dtalk.happy`) or an operator's call (`ua3dtalk.bake()`; a beginning is enough).
            at: where to pass, 0 is the region's left edge, 1 its right edge. near: height at which to begin, pixels.
        """
        key = (wanted, kind, name)
        seen: dict[str, None] = {}
        for _ in range(6):
            region = self.region(kind, name)
            x = region.x + region.width * at
            rows = range(region.y + region.height - 12, region.y + 8, -14)
            # Where it was last, or near to that, first.
            near = self._found.get(key, near)
            for y in sorted(rows, key=lambda row: abs(row - near)) if near else rows:
                under = yield from self._at(x, y, kind, name)
                seen[under] = None
                if not under.startswith(wanted):
                    continue
                # To its middle, for buttons touch each other; then a rest, for panels glide when one has changed its height.
                ends = []
                for step in (3, -3):
                    end = y
                    while abs(end - y) < 40 and (yield from self._at(x, end + step, kind, name)).startswith(wanted):
                        end += step
                    ends.append(end)
                middle = sum(ends) / 2
                yield from pause(0.3)
                if (yield from self._at(x, middle, kind, name)).startswith(wanted):
                    self._found[key] = middle
                    return x, middle
            for _ in range(8):
                yield from self.key("WHEELDOWNMOUSE")
        raise Failed(f"there is no button {wanted} in the {kind} {name} region; seen: {', '.join(filter(None, seen))}")

    def _at(self, x: float, y: float, kind: str, name: str) -> Iterator[None]:
        """Move the mouse there; returns the path of the property or the call of the operator under it, or an empty text."""
        yield from self.move(x, y)
        yield  # the button that is left is let go of first, and another one lights up in Blender's next turn
        yield
        with self.over(kind, name):
            held = bpy.context.property
            if held is not None:
                return held[1]
            if bpy.ops.ui.copy_python_command_button.poll():
                bpy.ops.ui.copy_python_command_button()
                return bpy.context.window_manager.clipboard.removeprefix("bpy.ops.")
        return ""

    def press(self, wanted: str, at: float = 0.6, near: float = 0) -> Iterator[None]:
        """Find a button of the sidebar and click it; returns its (x, y)."""
        found = yield from self.find(wanted, at=at, near=near)
        yield from self.click(*found)
        return found

    def press_until(self, wanted: str, condition: Callable[[], object], what: str, at: float = 0.6, near: float = 0) -> Iterator[None]:
        """Press a button, again after some seconds where nothing came of it, as a user would; returns how often it was pressed."""
        for times in range(1, 4):
            yield from self.press(wanted, at, near)
            end = time.monotonic() + 6
            while time.monotonic() < end:
                if condition():
                    return times
                yield
        raise Failed(f"{wanted} was pressed {times} times: {what} did not happen")

    # ------------------------------------------------------------------------------------------------ file dialogs

    def choose_file(self, operator: str, path: Path) -> Steps:
        """Fill in the file dialog that `operator` (its RNA name or its beginning) has opened, and accept by the Enter key."""
        try:
            yield from until(lambda: self._dialog().startswith(operator), f"a file dialog of {operator}")
        except Failed as failed:
            raise Failed(f"{failed}; open is the one of {self._dialog() or 'none'}") from failed
        params = self.area("FILE_BROWSER").spaces.active.params
        params.directory, params.filename = str(path.parent).encode(), path.name
        yield from pause(0.4)  # it reads the folder
        yield from self.key_over("FILE_BROWSER", "RET")
        yield from until(lambda: not self._dialog().startswith(operator), f"the end of the file dialog of {operator}")

    def _dialog(self) -> str:
        """The operator whose file dialog is open, or an empty text."""
        for area in self.window.screen.areas:
            if area.type == "FILE_BROWSER" and area.spaces.active.params is not None:
                active = area.spaces.active.active_operator
                return active.bl_idname if active is not None else ""
        return ""

    # ------------------------------------------------------------------------------------------------ pictures

    def picture(self, name: str = "", kind: str = "") -> np.ndarray:
        """The screen as it is, [H,W,3] uint8, the first row on top; kept as NAME.png where it has a name.

        Args:
            kind: cut to the main region of this area, without what regions over it (sidebar, header, tools) cover.
        """
        shown = subprocess.run(["import", "-window", "root", "-depth", "8", "ppm:-"], capture_output=True, check=True).stdout
        _, size, _, pixels = shown.split(b"\n", 3)
        width, height = (int(n) for n in size.split())
        screen = np.frombuffer(pixels, np.uint8).reshape(height, width, 3)
        if name:
            subprocess.run(["convert", "ppm:-", str(self.pictures / f"{name}.png")], input=shown, check=True)
        self._gaps.leave_out()
        if not kind:
            return screen
        left, bottom, right, top = self._free(kind)
        return screen[height - top : height - bottom, left:right]

    def _free(self, kind: str) -> tuple[int, int, int, int]:
        """(left, bottom, right, top) of a main region without overlapping ones."""
        main = self.region(kind)
        left, bottom, right, top = main.x, main.y, main.x + main.width, main.y + main.height
        for region in self.area(kind).regions:
            if region.type == "WINDOW" or region.width <= 1 or region.height <= 1:
                continue
            if region.type == "UI":
                right = min(right, region.x)
            elif region.type == "TOOLS":
                left = max(left, region.x + region.width)
            elif region.type in ("HEADER", "TOOL_HEADER"):
                top = min(top, region.y)
        return left, bottom, right, top

    def settled(self, kind: str = "VIEW_3D", limit: float = WAIT) -> Iterator[None]:
        """Wait until two pictures half a second apart are the same; returns the last one."""
        end = time.monotonic() + limit
        before = self.picture(kind=kind)
        while True:
            yield from pause(0.5)
            now = self.picture(kind=kind)
            if before.shape == now.shape and difference(before, now)[1] == 0.0:
                return now
            check(time.monotonic() < end, f"after {limit:g} s the {kind} still changes")
            before = now


def difference(a: np.ndarray, b: np.ndarray) -> tuple[float, float]:
    """(mean absolute difference 0..255, share of pixels that differ by more than 8) of two pictures of one size."""
    apart = np.abs(a.astype(np.int16) - b.astype(np.int16))
    return float(apart.mean()), float((apart.max(axis=2) > 8).mean())


def drive(walk: Steps, gaps: Gaps, end: Callable[[str | None], None]) -> None:
    """Take a generator forward by a timer that outlives file loads; `end` is called with the text of its error or None."""

    def turn() -> float | None:
        gaps.tick()
        try:
            next(walk)
            return _TURN
        except StopIteration:
            end(None)
        except Exception:  # noqa: BLE001 - whatever it is, the result file must say it
            traceback.print_exc()
            end(traceback.format_exc())
        sys.stdout.flush()
        return None

    bpy.app.timers.register(turn, first_interval=1.0, persistent=True)
