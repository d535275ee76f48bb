"""Runs in Blender's Python: does what blender.py asks for, a JSON object a line each way. `python blender_side.py [ZIP]`; ZIP is installed first."""

from __future__ import annotations

import hashlib
import importlib
import json
import os
import resource
import sys
import time
from typing import Any

_answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
os.dup2(2, 1)  # Blender's own words are not ours

import bpy  # noqa: E402, I001
import addon_utils  # noqa: E402 - bpy brings it
import numpy as np  # noqa: E402

EXTENSION = "bl_ext.user_default.ua3dtalk"
LONG = 100.0


def part(name: str) -> Any:
    """A module of the installed extension."""
    return importlib.import_module(f"{EXTENSION}.{name}")


def tell(**facts: Any) -> None:
    """One line to whoever asks."""
    _answers.write(json.dumps(facts) + "\n")
    _answers.flush()


def head() -> bpy.types.Object:
    """The one avatar of the file."""
    (found,) = part("addon.avatar").avatars(bpy.data.objects)
    return found


def engine() -> int | None:
    """The worker's process number."""
    client = part("addon.session").current()
    return None if client is None else client.pid


def make(avatar: str, sound: str, blend: str, last: int, low: float, high: float) -> None:
    """A saved file with an avatar that speaks and smiles; no two frames are alike."""
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene, api = bpy.context.scene, part("addon.api")
    scene.render.fps, scene.render.fps_base, scene.frame_start, scene.frame_end = 25, 1.0, 1, last
    bpy.ops.wm.save_as_mainfile(filepath=blend)
    obj = api.import_avatar(avatar)
    api.attach_audio(obj, sound, frame=1)
    obj.ua3dtalk.cache_name = "head-0000"
    for frame, value in ((1, low), (last, high)):
        obj.ua3dtalk.happy = value
        obj.keyframe_insert("ua3dtalk.happy", frame=frame)
    bpy.ops.wm.save_mainfile()


def bake() -> None:
    """A bake, told of as it goes on; how it ended, as the user reads it."""
    run = part("addon.baking").BakeRun(head(), bpy.context.scene)
    goes_on = True
    while goes_on:
        goes_on = run.step(0.01)
        tell(frames=run.take_readable(), done=run.done, engine=engine())
    tell(state=run.state, error=str(run.error or ""))


def two_bakes(pause: float) -> None:
    """A second bake of the object is asked for while the first goes on."""
    baking, errors = part("addon.baking"), part("engine.errors")
    runs = [baking.BakeRun(head(), bpy.context.scene)]
    end, told = time.monotonic() + pause, []
    while runs[0].step(0.01) and time.monotonic() < end:
        pass
    try:
        runs.append(baking.BakeRun(head(), bpy.context.scene))
    except errors.UserError as error:
        told.append(str(error))
    end = time.monotonic() + LONG
    while any([run.step(0.01) for run in runs]) and time.monotonic() < end:
        pass
    told += [str(run.error) for run in runs if run.state == "failed"]
    tell(states=[run.state for run in runs], told=told, running=len(baking.running()))


def look() -> None:
    """What is shown at each frame, as digests; what is said to be missing and out of date; files that are open."""
    obj, scene, frames = head(), bpy.context.scene, part("addon.frames")
    shown = {}
    for frame in range(scene.frame_start, scene.frame_end + 1):
        now = frames.shown(obj, frame)
        shown[frame] = digest(now.means, now.quats, now.scales, now.uncertainty, now.shares) if now.baked else None
    report = part("addon.api").stale(obj)
    scene.frame_set(scene.frame_current)
    tell(shown=shown, stale=sorted(report.frames), written=is_written(), handles=handles(), engine=engine(), state=part("addon.session").state())


def is_written() -> bool:
    """Whether the point cloud holds what the current frame shows; a bake of another avatar is never written into it."""
    obj, scene = head(), bpy.context.scene
    now = part("addon.frames").shown(obj, scene.frame_current)
    if len(obj.data.points) != len(now.means):
        return not now.baked or part("addon.api").stale(obj).frames != ()
    flat = np.empty(3 * len(obj.data.points), np.float32)
    obj.data.attributes["position"].data.foreach_get("vector", flat)
    return bool(np.array_equal(flat.reshape(-1, 3), now.means))


def digest(*arrays: np.ndarray) -> str:
    """Of numbers."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(np.ascontiguousarray(array).tobytes())
    return found.hexdigest()


def handles() -> list[str]:
    """What this process holds open."""
    found = []
    for name in os.listdir("/proc/self/fd"):
        try:
            found.append(os.readlink(f"/proc/self/fd/{name}"))
        except OSError:
            continue
    return sorted(found)


def live(edits: int, pause: float, seed: int) -> None:
    """Edits of a slider at one frame, as a drag makes them, then until the newest is shown or the engine is given up."""
    module, scene, obj = part("addon.live"), bpy.context.scene, head()
    random = np.random.default_rng(seed)
    module.forget_all()
    scene.frame_set(7)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for number in range(edits):
        obj.ua3dtalk.sad = float(random.random())
        bpy.context.view_layer.update()
        module.step(scene)
        if pause:
            time.sleep(pause)
        if number % 20 == 0:
            tell(edits=number, engine=engine())
    end, longest = time.monotonic() + LONG, 0.0
    while not (shown := newest_is_shown()) and time.monotonic() < end:
        began = time.monotonic()
        module.step(scene)
        longest = max(longest, time.monotonic() - began)
        time.sleep(0.005)
    folder = part("addon.core.paths").temporary_folder("live")
    while module._dropped and time.monotonic() < end:
        module.step(scene)
        time.sleep(0.005)
    files = len(list(folder.iterdir())) if folder.exists() else 0
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024
    tell(shown=shown, line=module.line(obj), longest=longest, files=files, grown=grown, engine=engine(), waiting=len(module._dropped))
    module.forget_all()


def newest_is_shown() -> bool:
    """The frame under the playhead is baked with the key that the sliders ask for, and is in the point cloud."""
    obj, scene = head(), bpy.context.scene
    setting = part("addon.shots").setting_of(obj, scene)
    shot = setting.shot(np.array([scene.frame_current]), part("addon.curves").now(obj, bpy.context.view_layer.depsgraph))
    key = part("engine.shot").frame_keys(shot)[0].tobytes()
    keys = part("addon.core.playback").baked_keys(part("addon.frames").pool, part("addon.places").folder_of(obj))[0]
    return keys.get(scene.frame_current) == key and is_written()


def silence(seconds: float) -> None:
    """How long a worker may say nothing."""
    part("engine.worker.client").SILENCE_TIMEOUT = seconds
    tell(ok=True)


def main() -> None:
    if sys.argv[1:]:
        bpy.ops.extensions.package_install_files(filepath=sys.argv[1], repo="user_default", enable_on_install=True)
    else:
        addon_utils.enable(EXTENSION, default_set=True)
    bpy.context.scene.render.threads_mode, bpy.context.scene.render.threads = "FIXED", 1
    tell(ready=bpy.app.version_string)
    for line in sys.stdin:
        asked = json.loads(line)
        what = asked.pop("do")
        try:
            if what == "open":
                bpy.ops.wm.open_mainfile(filepath=asked["blend"])
            elif what == "end":
                part("addon.session").shut_down()
                break
            else:
                {"make": make, "bake": bake, "two": two_bakes, "look": look, "live": live, "silence": silence}[what](**asked)
            tell(end=what)
        except Exception as error:  # told, as a script would see it
            ours = type(error).__name__ in ("UserError", "Cancelled")
            tell(end=what, raised=f"{error}" if ours else f"{type(error).__name__}: {error}")
    tell(end="end")
    os._exit(0)  # some Blenders hang at the interpreter's own end


main()
