"""A whole shot in one script: avatar + speech + emotion keys -> bake -> film. Run by `build.py demo`, or by hand:

    UA3DTALK_PYTHON=.venv/engine/bin/python blender -b --python addon/scripts/demo.py -- --zip ua3dtalk.zip --out FOLDER

It also runs in the Python of Blender as a module. The extension is installed into Blender's user folder: set
BLENDER_USER_RESOURCES to an empty folder to keep it apart from your own. What a first run finished, a second one keeps.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO

import bpy
import numpy as np

EXTENSION = "bl_ext.user_default.ua3dtalk"
FPS = 25
# Emotion, intensity, and when it is fully there as a part of the speech's length.
EMOTIONS = (("neutral", 1.0, 0.0), ("happy", 1.0, 0.22), ("angry", 1.0, 0.45), ("sad", 1.0, 0.68), ("surprised", 1.0, 0.9))
BLEND_SECONDS = 0.4
MADE = ("demo.mp4", "contact_sheet.png", "render.log")
SHEET_COLUMNS, SHEET_TILE, SHEET_LABEL = 4, 256, 28  # pictures a row; px a side; px of the label above


class DemoError(Exception):
    """One line that says what is wrong."""


def say(text: str) -> None:
    """Tell the user what is going on."""
    print(f"-- {text}", flush=True)


def arguments() -> argparse.Namespace:
    """What the command line asks for; in a Blender program it comes after `--`."""
    given = sys.argv[sys.argv.index("--") + 1 :] if "--" in sys.argv else sys.argv[1:]
    parser = argparse.ArgumentParser("demo.py", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--zip", type=Path, required=True, help="the built extension")
    parser.add_argument("--out", type=Path, required=True, help="folder that receives everything")
    parser.add_argument("--avatar", type=Path, help="avatar file (default: the bundled one)")
    parser.add_argument("--audio", type=Path, help="speech (default: the bundled one)")
    parser.add_argument("--size", type=int, default=512, help="width and height of the pictures")
    return parser.parse_args(given)


def install(zip_path: Path) -> Path:
    """Install and enable the extension; returns its folder."""
    bpy.ops.extensions.package_install_files(filepath=str(zip_path), repo="user_default", enable_on_install=True)
    if EXTENSION not in bpy.context.preferences.addons:
        raise DemoError("Blender did not enable the extension; its reasons are above")
    return Path(importlib.import_module(EXTENSION).__file__).parent


def fingerprint(*parts: Path | str | int) -> str:
    """Changes with any file or setting that the demo depends on."""
    found = hashlib.sha256(Path(__file__).read_bytes())
    for part in parts:
        found.update(part.read_bytes() if isinstance(part, Path) else repr(part).encode())
    return found.hexdigest()


def emotion_frames(last: int) -> list[tuple[str, float, int]]:
    """(emotion, intensity, frame) of each key for a shot of frames 1 to `last`."""
    return [(name, intensity, 1 + round(part * (last - 1))) for name, intensity, part in EMOTIONS]


def backdrop(size: int) -> bpy.types.Image:
    """A soft light on a dark wall, packed into the file."""
    y, x = np.linspace(0.0, 1.0, size)[:, None], np.linspace(-1.0, 1.0, size)[None]
    glow = np.exp(-((x / 0.9) ** 2 + ((y - 0.55) / 0.5) ** 2))[..., None]
    pixels = np.ones((size, size, 4), np.float32)
    pixels[..., :3] = (0.075, 0.085, 0.11) + (np.array((0.36, 0.40, 0.46)) - (0.075, 0.085, 0.11)) * glow
    image = bpy.data.images.new("Backdrop", size, size)
    image.pixels.foreach_set(pixels.ravel())
    image.pack()
    return image


class Progress:
    """A line every two seconds while frames are rendered, said to `file`."""

    def __init__(self, what: str, total: int, file: TextIO) -> None:
        self.what, self.total, self.file, self.done, self.last = what, total, file, 0, time.monotonic()
        self.started = self.last

    def __call__(self, *_: Any) -> None:
        self.done += 1
        now = time.monotonic()
        if now - self.last >= 2.0:
            self.last = now
            each = (now - self.started) / self.done
            left = each * (self.total - self.done)
            print(f"-- {self.what} {self.done} of {self.total}, {each:.2f} s each, {left:.0f} s left", file=self.file, flush=True)


@contextmanager
def quiet(log: Path) -> Iterator[TextIO]:
    """Sends what Blender prints for each frame to a file; what is yielded still reaches the user."""
    sys.stdout.flush()
    kept = os.dup(1)
    with log.open("ab") as file, os.fdopen(kept, "w", encoding="utf-8") as user:
        os.dup2(file.fileno(), 1)
        try:
            yield user
        finally:
            os.dup2(kept, 1)


def render_frames(scene: bpy.types.Scene, folder: Path) -> int:
    """The whole shot through the compositor to PNG; frames that are there stay. Returns how many were rendered."""
    folder.mkdir(parents=True, exist_ok=True)
    there = sorted(folder.glob("[0-9][0-9][0-9][0-9].png"), key=lambda p: p.stat().st_mtime)
    total = scene.frame_end - scene.frame_start + 1
    if there and len(there) < total:
        there.pop().unlink()  # an interrupted run may have cut it short
    if len(there) == total:
        return 0
    with quiet(folder.parent / "render.log") as user:
        progress = Progress("rendered frame", total - len(there), user)
        bpy.app.handlers.render_write.append(progress)
        try:
            scene.render.use_overwrite = False
            scene.render.filepath = str(folder / "####")
            bpy.ops.render.render(animation=True)
        finally:
            bpy.app.handlers.render_write.remove(progress)
    return total - len(there)


def contact_sheet(frames: Path, keys: Sequence[tuple[str, float, int]], last: int, target: Path) -> None:
    """Frames of each emotion's hold in a row, labelled."""
    import blf
    import imbuf

    tile, row_height = SHEET_TILE, SHEET_TILE + SHEET_LABEL
    height, width = len(keys) * row_height, SHEET_COLUMNS * tile
    sheet = np.zeros((height, width, 4), np.float32)
    sheet[...] = (0.09, 0.1, 0.12, 1.0)
    labels = []
    ends = [key[2] for key in keys[1:]] + [last + 1]
    for row, ((emotion, intensity, first), end) in enumerate(zip(keys, ends)):
        hold = max(1, end - first - round(BLEND_SECONDS * FPS))
        for column in range(SHEET_COLUMNS):
            frame = min(last, first + round(hold * (column + 0.5) / SHEET_COLUMNS))
            picture = bpy.data.images.load(str(frames / f"{frame:04d}.png"))
            picture.scale(tile, tile)
            pixels = np.empty(tile * tile * 4, np.float32)
            picture.pixels.foreach_get(pixels)
            bpy.data.images.remove(picture)
            bottom = height - (row + 1) * row_height
            sheet[bottom : bottom + tile, column * tile : (column + 1) * tile] = pixels.reshape(tile, tile, 4)
            labels.append((column * tile + 8, bottom + tile + 8, f"{emotion}{'' if intensity == 1 else f' {intensity:g}'}   {(frame - 1) / FPS:.1f} s"))
    image = bpy.data.images.new("Contact Sheet", width, height)
    image.pixels.foreach_set(sheet.ravel())
    image.filepath_raw, image.file_format = str(target), "PNG"
    image.save()
    bpy.data.images.remove(image)
    buffer = imbuf.load(str(target))
    with blf.bind_imbuf(0, buffer):
        blf.size(0, 15.0)
        blf.color(0, 0.95, 0.95, 0.95, 1.0)
        for x, y, text in labels:
            blf.position(0, x, y, 0.0)
            blf.draw_buffer(0, text)
    imbuf.write(buffer, filepath=str(target))


def film(frames: Path, sound: Path, target: Path) -> bool:
    """Frames and sound as an .mp4 by the ffmpeg program. False where there is none.

    Raises:
        DemoError: ffmpeg could not make it.
    """
    ffmpeg = shutil.which("ffmpeg")
    if ffmpeg is None:
        return False
    partial = target.with_name(f"{target.stem}.part.mp4")
    command = [ffmpeg, "-y", "-v", "error", "-framerate", str(FPS), "-start_number", "1", "-i", str(frames / "%04d.png")]
    command += ["-i", str(sound), "-map", "0:v", "-map", "1:a", "-pix_fmt", "yuv420p", "-c:a", "aac", "-shortest"]
    # libx264 is not in every build of ffmpeg; mpeg4 is.
    for codec in (["-c:v", "libx264", "-crf", "16"], ["-c:v", "mpeg4", "-q:v", "2"]):
        done = subprocess.run([*command, *codec, "-movflags", "+faststart", str(partial)], capture_output=True, text=True)
        if done.returncode == 0:
            os.replace(partial, target)
            return True
    partial.unlink(missing_ok=True)
    raise DemoError(f"ffmpeg could not write {target}: {(done.stderr.strip().splitlines() or ['no reason given'])[-1]}")


def part(name: str) -> Any:
    """A module of the installed extension."""
    return importlib.import_module(f"{EXTENSION}.{name}")


def set_up(avatar: Path, audio: Path, blend: Path, size: int) -> None:
    """Everything of the shot but the bake, saved as a .blend."""
    api = part("addon.api")
    bpy.ops.wm.read_homefile(use_empty=True, use_factory_startup=True)
    scene = bpy.context.scene
    scene.render.fps = FPS
    # Saved before anything is added: the bake and relative paths are beside the .blend.
    bpy.ops.wm.save_as_mainfile(filepath=str(blend))
    head = api.import_avatar(avatar)
    api.attach_audio(head, audio, frame=1)
    scene.frame_start, scene.frame_end = part("addon.audio").placement(head, scene).frames()
    for emotion, intensity, frame in emotion_frames(scene.frame_end):
        api.key_emotion(head, emotion, frame, intensity, BLEND_SECONDS * FPS)
    add_camera(scene, head)
    set_output(scene, size)
    set_compositor(scene, backdrop(size))
    scene.frame_set(1)
    bpy.ops.wm.save_mainfile()
    blend.with_name(f"{blend.name}1").unlink(missing_ok=True)  # the first, empty state, kept by Blender as a back-up


def add_camera(scene: bpy.types.Scene, head: bpy.types.Object) -> None:
    """A portrait lens at eye height that frames the head (what moves, and the hair above it); it looks along -Y."""
    avatar = part("addon.avatar")
    points = np.empty(len(head.data.points) * 3, np.float32)
    head.data.attributes["position"].data.foreach_get("vector", points)
    points = points.reshape(-1, 3)
    # What moves is the face. Percentiles, for there may be a few stray splats.
    low, high = np.percentile(points, (0.5, 99.5), axis=0)
    face_low, face_high = np.percentile(points[avatar.load(avatar.file_of(head)).moving_rows()], (2, 98), axis=0)
    bottom = max(low[2], face_low[2] - 0.05 * (face_high[2] - face_low[2]))
    side = 1.1 * (high[2] - bottom)
    data = bpy.data.cameras.new("Camera")
    data.lens, data.sensor_width = 85.0, 36.0
    camera = bpy.data.objects.new("Camera", data)
    scene.collection.objects.link(camera)
    camera.location = ((face_low[0] + face_high[0]) / 2, low[1] - side * data.lens / data.sensor_width, (high[2] + bottom) / 2)
    camera.rotation_euler = (np.pi / 2, 0.0, 0.0)
    scene.camera = camera


def set_output(scene: bpy.types.Scene, size: int) -> None:
    """Square pictures by the splat engine, alpha for the compositor, colours as the avatar was trained."""
    render = scene.render
    render.engine = part("addon.draw.viewport").ENGINE
    render.resolution_x = render.resolution_y = size
    render.resolution_percentage = 100
    render.film_transparent = True
    scene.view_settings.view_transform = "Standard"
    bpy.context.view_layer.use_pass_z = True


def set_compositor(scene: bpy.types.Scene, image: bpy.types.Image) -> None:
    """Render over backdrop."""
    if hasattr(scene, "compositing_node_group"):  # Blender 5
        tree = scene.compositing_node_group = bpy.data.node_groups.new("Demo", "CompositorNodeTree")
        tree.interface.new_socket("Image", in_out="OUTPUT", socket_type="NodeSocketColor")
        output = tree.nodes.new("NodeGroupOutput")
    else:
        scene.use_nodes = True
        tree = scene.node_tree
        tree.nodes.clear()
        output = tree.nodes.new("CompositorNodeComposite")
    layer, behind, over = (tree.nodes.new(f"CompositorNode{name}") for name in ("RLayers", "Image", "AlphaOver"))
    behind.image = image
    # Background, then foreground: the first two colour sockets in every version.
    below, above = [socket for socket in over.inputs if socket.type == "RGBA"][:2]
    tree.links.new(behind.outputs["Image"], below)
    tree.links.new(layer.outputs["Image"], above)
    tree.links.new(over.outputs["Image"], output.inputs[0])
    for place, node in enumerate((behind, layer, over, output)):
        node.location = (300 * place, 0)


def render_exr(scene: bpy.types.Scene, frame: int, target: Path) -> None:
    """One frame with all passes as multilayer EXR."""
    settings = scene.render.image_settings
    before = settings.file_format
    if hasattr(settings, "media_type"):  # Blender 5
        settings.media_type = "MULTI_LAYER_IMAGE"
    settings.file_format, settings.color_depth = "OPEN_EXR_MULTILAYER", "32"
    scene.frame_set(frame)
    scene.render.filepath = str(target)
    bpy.ops.render.render(write_still=True)
    if hasattr(settings, "media_type"):
        settings.media_type = "IMAGE"
    settings.file_format = before


def run(options: argparse.Namespace) -> None:
    """The whole demo."""
    out = options.out.resolve()
    frames, blend = out / "frames", out / "demo.blend"
    out.mkdir(parents=True, exist_ok=True)
    folder = install(options.zip)
    avatar = options.avatar or folder / "addon" / "assets" / "demo_avatar.safetensors"
    audio = options.audio or folder / "addon" / "assets" / "demo_speech.flac"
    for path in (avatar, audio):
        if not path.is_file():
            raise DemoError(f"{path} does not exist")
    now = fingerprint(options.zip, avatar, audio, options.size)
    # Beside the .blend the bundled files stay when the extension goes.
    avatar, audio = (Path(shutil.copy2(p, out)) if p.is_relative_to(folder) else p.resolve() for p in (avatar, audio))
    stamp = out / "demo.json"
    if not going_on(stamp, blend, now):
        stamp.unlink(missing_ok=True)
        shutil.rmtree(out / "ua3dtalk_cache", ignore_errors=True)
        for old in (*frames.glob("[0-9][0-9][0-9][0-9].png"), *out.glob("demo_passes_*.exr"), *(out / n for n in MADE)):
            old.unlink(missing_ok=True)
        set_up(avatar, audio, blend, options.size)
        stamp.write_text(json.dumps({"fingerprint": now}))
    scene = bpy.context.scene
    head = next(obj for obj in scene.objects if part("addon.avatar").is_avatar(obj))
    say(f"baking {scene.frame_end} frames ({len(head.data.points):,} Gaussians)")
    result = part("addon.api").bake(head)
    say(f"baked {result['computed']} frames in {result['seconds']:.1f} s; {result['up_to_date']} were up to date")
    started = time.monotonic()
    rendered = render_frames(scene, frames)
    say(f"rendered {rendered} frames in {time.monotonic() - started:.1f} s; {scene.frame_end - rendered} were there")
    keys = emotion_frames(scene.frame_end)
    exr = out / f"demo_passes_{keys[2][2]:04d}.exr"
    if not exr.exists():
        render_exr(scene, keys[2][2], exr)
    contact_sheet(frames, keys, scene.frame_end, out / "contact_sheet.png")
    filmed = film(frames, audio, out / "demo.mp4")
    # Blender's file is as the shot was set up: nothing of the rendering above stays in it.
    for what, path in {
        "Blender file": blend, "frames": frames, "all passes of a frame": exr, "contact sheet": out / "contact_sheet.png",
        "film with sound": out / "demo.mp4" if filmed else "none, as there is no ffmpeg program; install it and run this again",
    }.items():  # fmt: skip
        say(f"{what}: {path}")


def going_on(stamp: Path, blend: Path, now: str) -> bool:
    """Open what an earlier run set up of just the same; False where there is none."""
    try:
        if json.loads(stamp.read_text(encoding="utf-8"))["fingerprint"] != now:
            return False
        bpy.ops.wm.open_mainfile(filepath=str(blend))
    except (OSError, ValueError, KeyError, RuntimeError):
        return False
    say("going on with what an earlier run made")
    return True


def main() -> int:
    """Returns the exit status."""
    status = 1
    try:
        run(arguments())
        status = 0
    except DemoError as error:
        print(f"demo.py: {error}", file=sys.stderr)
    except Exception as error:  # noqa: BLE001
        if type(error).__name__ != "UserError":  # the extension's own class, imported after this script began
            raise
        print(f"demo.py: {error}", file=sys.stderr)
    finally:
        if EXTENSION in bpy.context.preferences.addons:
            bpy.ops.preferences.addon_disable(module=EXTENSION)
    return status


if __name__ == "__main__":
    status = main()
    sys.stdout.flush()
    sys.stderr.flush()
    # Blender 4.5 as a module may hang at the interpreter's exit.
    os._exit(status)
