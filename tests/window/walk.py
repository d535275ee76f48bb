"""An animator's day in Blender's window: runs inside Blender (`blender --enable-event-simulate --python walk.py`, see sandbox.py).

Each step looks at Blender's state and at figures of the picture (how much of it changed), never at exact pixels.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import bpy
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent))
from desk import Desk, Steps, check, difference, drive, pause, until  # noqa: E402
from measure import Call, Gaps, OwnCode  # noqa: E402

GIVEN: dict[str, str] = json.loads(os.environ["WALK"])
OUT = Path(GIVEN["out"])
EXTENSION = "bl_ext.user_default.ua3dtalk"
FRAMES = 32
FACE = 0.004
"""A mouth that moves or brows that rise change more of the viewport's pixels than this, noise changes none."""


def part(name: str) -> Any:
    """A module of the installed extension."""
    return importlib.import_module(f"{EXTENSION}.addon.{name}")


class Walk:
    """The steps, in order; each returns facts for the result."""

    def __init__(self) -> None:
        self.gaps = Gaps()
        self.desk = Desk(OUT / "pictures", self.gaps)
        self.own = OwnCode("user_default/ua3dtalk")
        self.steps: list[dict[str, Any]] = []
        self.now = "start"
        self.seen: dict[str, np.ndarray] = {}

    # ------------------------------------------------------------------------------------------------ what is there

    @property
    def scene(self) -> bpy.types.Scene:
        return self.desk.window.scene

    @property
    def heads(self) -> list[bpy.types.Object]:
        return part("avatar").avatars(self.scene.objects)

    @property
    def head(self) -> bpy.types.Object:
        return self.heads[0]

    def report(self) -> Any:
        """What of the bake is missing or out of date now."""
        return part("api").stale(self.head, self.scene)

    def phase(self, name: str) -> None:
        """Times measured from now on belong to this."""
        self.own.phase = self.gaps.phase = name
        self.gaps.leave_out()

    # ------------------------------------------------------------------------------------------------ the steps

    def install(self) -> Steps:
        """The zip by Blender's own installer; the engine's Python in the preferences."""
        preferences = bpy.context.preferences
        # File dialogs and renders in this window: a second one has no window manager to place it here.
        preferences.view.filebrowser_display_type = preferences.view.render_display_type = "SCREEN"
        with self.desk.over():
            bpy.ops.extensions.package_install_files(filepath=GIVEN["zip"], repo="user_default", enable_on_install=True)
        check(EXTENSION in preferences.addons, "the extension was not enabled")
        ours = preferences.addons[EXTENSION].preferences
        ours.environment, ours.python_path, ours.threads = "EXISTING", GIVEN["python"], 1
        area = self.desk.area("VIEW_3D")
        area.ui_type = "PREFERENCES"
        with self.desk.over("PREFERENCES"):
            bpy.ops.preferences.addon_show(module=EXTENSION)
        yield from pause(0.5)
        self.desk.picture("preferences")
        area.ui_type = "VIEW_3D"
        yield from pause(0.2)
        self.scene.render.fps, self.scene.frame_end = 25, FRAMES
        self.scene.render.threads_mode, self.scene.render.threads = "FIXED", 1
        return {"blender": bpy.app.version_string, "python": sys.version.split()[0]}

    def delete_cube(self) -> Steps:
        """The cube goes by the Delete key, the camera stays."""
        yield from self.desk.key_over("VIEW_3D", "DEL")
        yield from until(lambda: "Cube" not in self.scene.objects, "the cube's end")
        yield from self.desk.key("NUMPAD_1")
        self.seen["empty"] = yield from self.desk.settled()
        return {"objects": len(self.scene.objects)}

    def import_by_menu(self) -> Steps:
        """File > Import > UA-3DTalk Avatar, and the file dialog; one step of undo takes it back."""
        yield from self.desk.click(42, self.desk.window.height - 13)
        yield from pause(0.3)
        # From the top around to Quit, Defaults, Clean Up, External Data, Export All, Export, Import; there to the last entry.
        for key in (*["UP_ARROW"] * 7, "RIGHT_ARROW", "UP_ARROW"):
            yield from self.desk.key(key)
            yield from pause(0.1)
        self.desk.picture("import_menu")
        yield from self.desk.key("RET")
        yield from self.desk.choose_file("UA3DTALK_OT_import_avatar", Path(GIVEN["avatar"]))
        yield from until(lambda: len(self.heads) == 1, "an avatar")
        facts = {"name": self.head.name, "gaussians": len(self.head.data.points)}
        yield from self.undo()
        yield from until(lambda: not self.heads, "undo of the import")
        return facts

    def import_by_drop(self) -> Steps:
        """The file dragged with the mouse from a file browser beside the 3D view onto it."""
        area = self.desk.area("PROPERTIES")
        area.ui_type = "FILES"
        browser = area.spaces.active
        yield from until(lambda: browser.params is not None, "a file browser")
        browser.show_region_toolbar = False
        file = Path(GIVEN["avatar"])
        browser.params.directory, browser.params.display_type = str(file.parent).encode(), "LIST_VERTICAL"
        browser.params.filter_search, browser.params.use_filter = file.name, True
        yield from pause(0.8)
        region = self.desk.region("FILE_BROWSER")
        row = (region.x + 20, region.y + region.height - 44)  # the icon of the first row below the columns' names
        for attempt in range(1, 5):
            # Until the row is lit by the mouse it cannot be taken hold of, which Blender tells nobody: hence the rests.
            yield from self.desk.move(*row)
            yield from pause(0.3)
            yield from self.desk.drag(row, self.desk.middle(), 40, hold=0.5)
            end = time.monotonic() + 3
            yield from until(lambda: self.heads or time.monotonic() > end, "an end of the waiting")
            if self.heads:
                break
        self.desk.picture("dropped")
        check(len(self.heads) == 1, "nothing was imported where the file was dropped")
        area.ui_type = "PROPERTIES"
        return {"name": self.head.name, "by": "a drag within Blender's window", "attempts": attempt}

    def look(self) -> Steps:
        """The head fills the view, the sidebar is open at our tab."""
        yield from self.desk.key_over("VIEW_3D", "NUMPAD_PERIOD")
        yield from pause(0.5)
        shown = yield from self.desk.settled()
        mean, share = difference(self.seen["empty"], shown)
        check(share > 0.1, f"no head is seen: {share:.3f} of the pixels differ from the empty scene")
        self.desk.area("VIEW_3D").spaces.active.show_region_ui = True
        yield from until(lambda: self.desk.region("VIEW_3D", "UI").width > 1, "the sidebar")
        yield from pause(0.6)
        self.desk.region("VIEW_3D", "UI").active_panel_category = "UA-3DTalk"
        yield from pause(0.5)
        self.desk.picture("imported")
        return {"share_of_pixels": round(share, 3)}

    def live_off(self) -> Steps:
        """The check box 'Live': what follows is about bakes that the user asks for."""
        if not hasattr(self.head.ua3dtalk, "live"):
            return {"live": "this version has no live editing"}
        check(self.head.ua3dtalk.live, "live editing is not on by default")
        yield from self.desk.press("ua3dtalk.live", at=0.7)
        yield from until(lambda: not self.head.ua3dtalk.live, "live editing's end")
        return {}

    def add_sound(self) -> Steps:
        """The button 'Sound File', and its file dialog."""
        yield from self.desk.press("ua3dtalk.attach_audio(", at=0.3)
        yield from self.desk.choose_file("UA3DTALK_OT_attach_audio", Path(GIVEN["sound"]))
        yield from until(lambda: self.head.ua3dtalk.sound_source == "STRIP", "a sound strip")
        strip = part("audio").find_strip(self.head, self.scene)
        check(strip is not None, "the sequencer has no strip for the avatar")
        return {"strip": strip.name, "heard": part("audio").placement(self.head, self.scene).frames()}

    def drag_slider(self) -> Steps:
        """The emotion 'happy', by the mouse on its slider."""
        yield from self.slide("ua3dtalk.happy", 90)
        happy = self.head.ua3dtalk.happy
        check(happy > 0.4, f"the slider is at {happy}")
        self.desk.picture("slider")
        return {"happy": round(happy, 3)}

    def slide(self, path: str, pixels: float) -> Steps:
        """Drag a slider of the sidebar by so many pixels."""
        x, y = yield from self.desk.find(path)
        self.phase(f"drag {path}")
        yield from self.desk.drag((x, y), (x + pixels, y))
        self.phase(self.now)

    def bake_and_cancel(self) -> Steps:
        """The button 'Bake'; stopped by the X beside the progress."""
        run, row = yield from self.press_bake()
        self.phase("bake, with the engine's start")
        yield from until(lambda: run.done >= 2 or run.state != "running", "two frames", 240)
        self.desk.picture("baking")
        pressed = yield from self.desk.press_until(
            "ua3dtalk.cancel_bake(", lambda: run.text == "stopping" or run.state != "running", "a bake that stops", at=0.83, near=row
        )
        yield from until(lambda: run.state != "running", "the end of the bake")
        self.phase(self.now)
        check(run.state == "cancelled", f"the bake is {run.state}, not cancelled")
        report = self.report()
        check(0 < len(report.missing) < FRAMES, f"after the cancelled bake {len(report.missing)} frames are missing")
        return {"done": run.done, "missing": len(report.missing), "cancel_pressed": pressed}

    def bake(self) -> Steps:
        """Once more, to the end: what was finished is kept."""
        run, _ = yield from self.press_bake()
        self.phase("bake")
        yield from until(lambda: run.state != "running", "the end of the bake", 240)
        self.phase(self.now)
        check(run.state == "done", f"the bake is {run.state}: {run.error}")
        check(self.report().fresh, f"the bake is not up to date: {self.report().lines()}")
        kept = run.result["up_to_date"] + run.result["moved"]
        check(kept > 0 and run.result["computed"] < FRAMES, "the cancelled bake's frames were computed again")
        return {"computed": run.result["computed"], "kept": kept, "seconds": run.result["seconds"]}

    def scrub(self) -> Steps:
        """The mouse over the timeline's numbers: the picture follows."""
        region = self.desk.region("DOPESHEET_EDITOR")
        y = region.y + region.height - 12

        def at(frame: int) -> tuple[float, float]:
            return region.x + region.view2d.view_to_region(frame, 0, clip=False)[0], y

        passed: list[int] = []
        self.phase("scrub")
        yield from self.desk.drag(at(1), at(14), 16, lambda: passed.append(self.scene.frame_current))
        self.phase(self.now)
        check(self.scene.frame_current == 14, f"the playhead is at {self.scene.frame_current}, not at 14")
        self.seen["frame 14"] = yield from self.desk.settled()
        yield from self.desk.drag(at(14), at(5), 8)
        self.seen["frame 5"] = yield from self.desk.settled()
        self.differs("frame 5", "frame 14")
        yield from self.desk.drag(at(5), at(14), 8)
        again = yield from self.desk.settled()
        check(difference(again, self.seen["frame 14"])[1] < FACE / 4, "frame 14 looks otherwise the second time")
        self.desk.picture("scrubbed")
        return {"frames_passed": len(set(passed))}

    def undo_and_redo(self) -> Steps:
        """Ctrl+Z takes the slider back and the bake is out of date; Ctrl+Shift+Z makes it fresh, for nothing is lost."""
        value = self.head.ua3dtalk.happy
        yield from self.slide("ua3dtalk.sad", 90)
        yield from until(lambda: self.head.ua3dtalk.sad > 0.4, "a slider that moved")
        check(len(self.report().outdated) == FRAMES, "after an edit the bake is not out of date")
        yield from self.undo()
        yield from until(lambda: self.head.ua3dtalk.sad == 0.0, "undo of the slider")
        check(self.head.ua3dtalk.happy == value, "undo took more than one edit")
        check(self.report().fresh, f"after undo the bake is not up to date: {self.report().lines()}")
        yield from self.undo(redo=True)
        yield from until(lambda: self.head.ua3dtalk.sad > 0.4, "redo of the slider")
        check(len(self.report().outdated) == FRAMES, "after redo the bake is not out of date")
        yield from self.undo()
        yield from until(lambda: self.head.ua3dtalk.sad == 0.0, "the second undo")
        check(self.heads and self.scene.frame_current == 14, "undo changed more than the slider")
        now = yield from self.desk.settled()
        check(difference(now, self.seen["frame 14"])[1] < FACE / 4, "after undo frame 14 looks otherwise")
        return {}

    def another_emotion(self) -> Steps:
        """Angry in the place of happy, baked: the face is another one."""
        yield from self.slide("ua3dtalk.angry", 110)
        yield from self.slide("ua3dtalk.happy", -130)
        check(self.head.ua3dtalk.angry > 0.4 and self.head.ua3dtalk.happy < 0.1, "the sliders are not where they were dragged")
        run, _ = yield from self.press_bake()
        self.phase("second bake, engine ready")
        yield from until(lambda: run.state != "running", "the end of the bake", 240)
        self.phase(self.now)
        check(run.state == "done", f"the bake is {run.state}: {run.error}")
        self.seen["angry"] = yield from self.desk.settled()
        self.desk.picture("angry")
        return {"changed": self.differs("frame 14", "angry"), "computed": run.result["computed"], "seconds": run.result["seconds"]}

    def live(self) -> Steps:
        """Live editing: a slider is dragged, the face under the playhead follows without a bake, then the frames around it."""
        if not hasattr(self.head.ua3dtalk, "live"):
            return {"live": "this version has no live editing"}
        yield from self.desk.press("ua3dtalk.live", at=0.7)
        yield from until(lambda: self.head.ua3dtalk.live, "live editing")
        x, y = yield from self.desk.find("ua3dtalk.surprised")
        yield from pause(1.0)
        self.phase("live: dragging a slider")
        shown: list[float] = []
        yield from self.desk.drag((x, y), (x + 100, y), 12, lambda: shown.append(self.mean_of_frame()), hold=0.2)
        edited = time.perf_counter()
        yield from until(lambda: self.frame_state() == "BAKED", "the frame under the playhead", 60)
        seconds = time.perf_counter() - edited
        drawn = len(self.draws())
        yield from until(lambda: len(self.draws()) > drawn, "its picture")
        picture = self.draws()[drawn]
        self.phase("live: frames around")
        self.desk.picture("live_filling")
        yield from until(lambda: self.report().fresh, "all frames", 240)
        self.phase(self.now)
        self.seen["live"] = yield from self.desk.settled()
        self.desk.picture("live")
        facts = {
            "changed": self.differs("angry", "live"),
            "last_edit_to_frame_ms": round(seconds * 1e3),
            "last_edit_to_picture_ms": round((picture.began + picture.wall - edited) * 1e3),
            "faces_seen_while_dragging": len(set(shown)),
        }
        facts["beyond_compute_ms"] = yield from self.beyond_compute()
        yield from self.undo()
        yield from until(lambda: self.head.ua3dtalk.surprised == 0.0, "undo of the slider")
        yield from until(lambda: self.frame_state() == "BAKED", "the frame as it was", 60)
        yield from until(lambda: self.report().fresh, "all frames as they were", 240)
        again = yield from self.desk.settled()
        check(difference(again, self.seen["angry"])[1] < FACE / 4, "after undo the face is not as it was")
        yield from self.desk.press("ua3dtalk.live", at=0.7)
        return facts

    def beyond_compute(self) -> Iterator[None]:
        """Single edits of a slider, each from the edit to the face in Blender: returns milliseconds that were not the engine's."""
        found: list[float] = []
        live = part("live")
        for value in (0.2, 0.4, 0.6, 0.8, 1.0):
            before = self.mean_of_frame()
            self.phase("live: single edits")
            began = time.perf_counter()
            self.head.ua3dtalk.surprised = value
            yield from until(lambda: live._order is not None and live._order.at_playhead, "an order", 5)
            job = live._order.job
            while self.mean_of_frame() == before:
                check(time.perf_counter() - began < 10, "the face did not follow an edit")
                yield
            seconds = time.perf_counter() - began
            yield from until(lambda job=job: job.state != "running", "the engine's word", 5)
            found.append(round((seconds - job.result["seconds"]) * 1e3, 1))
            self.phase(self.now)
            yield from self.desk.settled()
        return found

    def save_and_reopen(self) -> Steps:
        """Ctrl+S and its dialog; Ctrl+O and its dialog; everything is as it was, and the bake lies beside the file."""
        blend = OUT / "shot" / "shot.blend"
        before = (self.head.ua3dtalk.angry, len(self.head.data.points))
        yield from self.desk.key_over("VIEW_3D", "S", ctrl=True)
        yield from self.desk.choose_file("WM_OT_save", blend)  # _mainfile or _as_mainfile: Blender takes now this, now that
        yield from until(blend.exists, "a saved file")
        check(part("places").folder_of(self.head).is_relative_to(blend.parent), "the bake is not beside the file")
        check(self.report().fresh, f"after saving the bake is not up to date: {self.report().lines()}")
        uid = self.head.session_uid
        yield from self.desk.key_over("VIEW_3D", "O", ctrl=True)
        yield from self.desk.choose_file("WM_OT_open_mainfile", blend)
        yield from until(lambda: self.heads and self.head.session_uid != uid, "another session's objects")
        yield from until(lambda: self.desk.region("VIEW_3D").width > 1, "the window")
        check((self.head.ua3dtalk.angry, len(self.head.data.points)) == before, "the avatar is not as it was saved")
        check(self.report().fresh, f"after opening the bake is not up to date: {self.report().lines()}")
        now = yield from self.desk.settled()
        check(difference(now, self.seen["angry"])[1] < FACE / 4, "after opening the picture is another one")
        self.desk.picture("reopened")
        return {"cache": str(part("places").folder_of(self.head).relative_to(blend.parent))}

    def render(self) -> Steps:
        """The camera at the view by Ctrl+Alt+Numpad 0, F12, and Esc back."""
        yield from self.desk.key_over("VIEW_3D", "NUMPAD_0", ctrl=True, alt=True)
        yield from until(lambda: self.desk.area("VIEW_3D").spaces.active.region_3d.view_perspective == "CAMERA", "the camera's view")
        scene = self.scene
        scene.render.engine = "UA3DTALK"
        scene.render.resolution_x, scene.render.resolution_y, scene.render.film_transparent = 640, 480, True
        scene.view_settings.view_transform = "Standard"
        ended: list[str] = []
        for name in ("render_complete", "render_cancel"):
            getattr(bpy.app.handlers, name).append(lambda *_, name=name: ended.append(name))
        yield from self.desk.key_over("VIEW_3D", "F12")
        yield from until(lambda: ended, "the end of the render", 120)
        check(ended[0] == "render_complete", "the render was cancelled")
        yield from pause(0.5)
        self.desk.picture("rendered")
        file = OUT / "pictures" / "render.png"
        scene.render.image_settings.file_format, scene.render.image_settings.color_mode = "PNG", "RGBA"
        bpy.data.images["Render Result"].save_render(str(file), scene=scene)
        covered, colours = statistics(file)
        check(0.1 < covered < 0.95, f"the render shows {covered:.2f} of the picture covered")
        check(colours > 0.1, "the render has one colour only")
        if not any(area.type == "VIEW_3D" for area in self.desk.window.screen.areas):
            yield from self.desk.key_over("IMAGE_EDITOR", "ESC")
            yield from until(lambda: any(area.type == "VIEW_3D" for area in self.desk.window.screen.areas), "the window as before the render")
        return {"covered": round(covered, 3), "spread": round(colours, 3)}

    def rendered_mode(self) -> Steps:
        """The 3D view's rendered mode by our engine, then solid again."""
        shading = self.desk.area("VIEW_3D").spaces.active.shading
        before = yield from self.desk.settled()
        shading.type = "RENDERED"
        yield from pause(0.5)
        shown = yield from self.desk.settled()
        self.desk.picture("rendered_mode")
        check(not part("draw.viewport").problems(), f"{part('draw.viewport').problems()}")
        spread = float(shown.std())
        check(spread > 10, "the rendered mode shows nothing")
        shading.type = "SOLID"
        again = yield from self.desk.settled()
        check(difference(before, again)[1] < FACE / 4, "solid mode looks otherwise after the rendered mode")
        return {"spread": round(spread, 1), "changed": round(difference(before, shown)[1], 3)}

    # ------------------------------------------------------------------------------------------------ what they share

    def press_bake(self) -> Iterator[None]:
        """The button 'Bake'; returns the bake that began, and the height of its row."""
        _, row = yield from self.desk.press("ua3dtalk.bake(", at=0.3)
        yield from until(lambda: part("baking").run_of(self.head) is not None, "a bake")
        return part("baking").run_of(self.head), row

    def undo(self, redo: bool = False) -> Steps:
        """Ctrl+Z or Ctrl+Shift+Z over the 3D view."""
        yield from self.desk.key_over("VIEW_3D", "Z", ctrl=True, shift=redo)

    def draws(self) -> list[Call]:
        """Redraws of the 3D view by the extension so far."""
        return [call for call in self.own.calls if call.name == "addon.draw.viewport._on_post_view"]

    def mean_of_frame(self) -> float:
        """A number that tells shown faces apart."""
        return float(np.abs(part("frames").shown(self.head, self.scene.frame_current).means).sum())

    def frame_state(self) -> str:
        """What live editing says of the frame under the playhead: `BAKED`, `OUTDATED`, `COMPUTING`, `MISSING`, `FAILED`."""
        states = part("core.states")
        frames, found = part("status").states(self.head)
        state = found[list(frames).index(self.scene.frame_current)]
        return next(n for n in ("BAKED", "OUTDATED", "COMPUTING", "MISSING", "FAILED", "UNKNOWN") if getattr(states, n) == state)

    def differs(self, one: str, other: str) -> float:
        """The share of pixels that differ between two pictures that were kept; Failed where no face moved."""
        share = difference(self.seen[one], self.seen[other])[1]
        check(share > FACE, f"{one} and {other} look the same: {share:.5f} of the pixels differ")
        return round(share, 4)


def statistics(file: Path) -> tuple[float, float]:
    """(share of pixels that are covered, spread of their brightness 0..1) of a picture with alpha."""
    image = bpy.data.images.load(str(file))
    pixels = np.empty(len(image.pixels), np.float32)
    image.pixels.foreach_get(pixels)
    bpy.data.images.remove(image)
    pixels = pixels.reshape(-1, 4)
    covered = pixels[:, 3] > 0.5
    return float(covered.mean()), float(pixels[covered, :3].std()) if covered.any() else 0.0


def steps_of(walk: Walk) -> list[Callable[[], Steps]]:
    """In order."""
    return [
        walk.install, walk.delete_cube, walk.import_by_menu, walk.import_by_drop, walk.look, walk.live_off, walk.add_sound, walk.drag_slider,
        walk.bake_and_cancel, walk.bake, walk.scrub, walk.undo_and_redo, walk.another_emotion, walk.live, walk.save_and_reopen,
        walk.render, walk.rendered_mode,
    ]  # fmt: skip


def whole(walk: Walk) -> Steps:
    """All steps, each noted."""
    for step in steps_of(walk):
        walk.now = step.__name__
        walk.phase(step.__name__)
        began = time.monotonic()
        print(f"-- {walk.now}", flush=True)
        facts = yield from step()
        walk.steps.append({"name": walk.now, "seconds": round(time.monotonic() - began, 2), "facts": facts or {}})


def main() -> None:
    """Start the walk; Blender ends with it."""
    bpy.context.preferences.view.show_splash = False  # before Blender shows it
    walk = Walk()

    def end(error: str | None) -> None:
        if error is not None:
            walk.desk.picture("failed")
        phases = list(walk.gaps.report())
        result = {
            "steps": walk.steps,
            "failed": walk.now if error is not None else None,
            "error": error,
            "measured": {"main_loop": walk.gaps.report(), "own_code": {phase: walk.own.worst(phase) for phase in phases}},
        }
        part_file = OUT / "result.json.part"
        part_file.write_text(json.dumps(result, indent=1), encoding="utf-8")
        part_file.replace(OUT / "result.json")
        sys.stdout.flush()
        os._exit(0 if error is None else 1)

    drive(whole(walk), walk.gaps, end)


main()
