"""What the operators do, as plain functions for scripts.

    from bl_ext.user_default.ua3dtalk.addon import api

    head = api.import_avatar("head.safetensors")
    api.attach_audio(head, "speech.wav", frame=10)
    api.key_emotion(head, "happy", frame=25, blend=10)
    api.bake(head)
    api.write_shot(head, "//shot.json")
    api.render("//frames/####")

Each raises `UserError` (`message`, `remedy`) with one clear line where something cannot be done; what was there before stays then.
Frames are those of the scene's timeline, `scene` is the current one by default.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TypedDict, cast

import bpy
import numpy as np

from ..engine.errors import UserError
from ..engine.shot.stale import StaleReport
from ..engine.shot.document import write_document
from . import audio, automatic, avatar, baking, compat, compositing, emotion_file, frames, keys, proxy, session, shots, status, uncertainty
from .core.channels import INTENSITY_MAX
from .core.keying import Span
from .core.paths import is_temporary
from .core.performance import BlinkShape, channels_of, decay_shape, usual_timing
from .core.presets import all_weights, preset_weights, weights_of
from .core.trust import QUANTITIES, Trust
from .draw.viewport import ENGINE
from .places import folder_of

CONVERTED = (".ply", ".spz", ".splat", ".pth", ".pt")
"""Files that the engine turns into an avatar beside them."""

__all__ = [
    "BakeReport", "UserError", "add_compositing", "add_proxy", "attach_audio", "automatic_to_keys", "bake", "clear_cache",
    "copy_performance", "import_avatar", "key_blink", "key_emotion", "key_emotion_file", "key_performance", "key_preset",
    "remove_compositing", "remove_proxy", "render", "stale", "trust", "worst_frames", "write_shot",
]  # fmt: skip


class BakeReport(TypedDict):
    """What a bake did.

    computed: frames that the networks were run for. moved: frames that share the data of another one with the same key. up_to_date: frames
    there was nothing to do for. seconds: that it took. cache: the folder.
    """

    computed: int
    moved: int
    up_to_date: int
    seconds: float
    cache: str


def import_avatar(
    path: str | Path,
    name: str = "",
    location: tuple[float, float, float] = (0.0, 0.0, 0.0),
    collection: bpy.types.Collection | None = None,
    up: str = "+Y",
    front: str = "+Z",
    metres_per_unit: float = 1.0,
    pixel_size: float = 0.0,
) -> bpy.types.Object:
    """A new object from an avatar file; it becomes the active one.

    Args:
        path: .safetensors; or .ply, .spz or .splat (3DGS), or .pth (the authors' checkpoint), which are converted into an avatar beside them.
        name: of the object; the avatar's own by default.
        location: metres. collection: where it is linked; the active one by default.
        up, front, metres_per_unit: of these, which do not say: axes such as `+Y`, `-Z`.
        pixel_size: of these, metres that a pixel covered at the face in the pictures they were trained on; 0: not known.
    """
    path = Path(bpy.path.abspath(str(path)))
    if path.suffix.lower() in CONVERTED:
        path = convert(path, up, front, metres_per_unit, pixel_size)
    obj = avatar.create(path, name, collection)
    obj.location = location
    bpy.context.view_layer.update()  # it does not know yet what was linked just now
    objects = bpy.context.view_layer.objects
    if obj in objects.values():
        for other in objects.selected.values():
            other.select_set(False)
        obj.select_set(True)
        objects.active = obj
    return obj


def convert(source: Path, up: str = "+Y", front: str = "+Z", metres_per_unit: float = 1.0, pixel_size: float = 0.0) -> Path:
    """Let the engine turn a file of CONVERTED into an avatar file; nothing that exists is overwritten. Returns the new file."""
    if not source.is_file():
        raise UserError(f"There is no file {source}.", "Check the path.")
    numbered = (source.with_name(f"{source.stem}{number}.safetensors") for number in ("", *(f"-{n}" for n in range(2, 1000))))
    out = next(path for path in numbered if not path.exists())
    parameters = {"source": str(source), "out": str(out), "up": up, "front": front, "metres": metres_per_unit, "pixel": pixel_size}
    session.client().request("import", parameters).wait()
    return out


def attach_audio(
    obj: bpy.types.Object,
    path: str | Path | None = None,
    frame: float | None = None,
    strip: str | None = None,
    as_strip: bool = True,
    scene: bpy.types.Scene | None = None,
) -> bpy.types.SoundStrip | None:
    """Give an avatar its speech.

    Args:
        path: a sound file. frame: scene frame at which it begins, the scene's first by default.
        strip: name of a sound strip that exists, instead of a file.
        as_strip: True adds a sound strip for the file (heard in playback, can be moved and trimmed); False does without.

    Returns:
        The strip, or None.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    if strip is not None:
        found: bpy.types.SoundStrip | None = next((one for one in compat.sound_strips(scene) if one.name == strip), None)
        if found is None:
            raise UserError(f"{scene.name} has no sound strip {strip!r}.", "Check the name in the sequencer.")
        audio.attach_strip(obj, found)
        return found
    if path is None:
        raise UserError("Give a sound file, or the name of a strip.")
    path = Path(bpy.path.abspath(str(path)))
    frame = scene.frame_start if frame is None else frame
    if not as_strip:
        audio.attach_file(obj, path, float(frame))
        return None
    if frame != int(frame):
        raise UserError(f"A strip begins at a whole frame, not at {frame:g}.", "Round it, or attach the file without a strip.")
    made: bpy.types.SoundStrip = audio.add_strip(scene, path, int(frame))
    audio.attach_strip(obj, made)
    return made


def key_emotion(
    obj: bpy.types.Object,
    emotion: str | Mapping[str, float],
    frame: float | None = None,
    intensity: float = 1.0,
    blend: float = 10.0,
    scene: bpy.types.Scene | None = None,
) -> None:
    """Key all eight emotion sliders and the intensity, blending from what they were `blend` frames before.

    Args:
        emotion: one of engine.avatar.EMOTIONS, or a mixture such as {"happy": 0.7, "surprised": 0.3}.
        frame: at which the emotion is fully there, the current one by default.
        intensity: 0..2; blend: frames, >= 0.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    if not 0.0 <= intensity <= INTENSITY_MAX or blend < 0:
        raise UserError(f"Intensity {intensity:g} or blend {blend:g} is out of range.", f"Intensity is 0 to {INTENSITY_MAX:g}, blend 0 or more.")
    frame = scene.frame_current_final if frame is None else frame
    keys.key_sliders(obj, scene, {**all_weights(emotion), "intensity": intensity}, float(frame), float(blend))


def key_emotion_file(
    obj: bpy.types.Object,
    path: str | Path,
    frame_range: tuple[int, int] | None = None,
    tolerance: float = 0.03,
    scene: bpy.types.Scene | None = None,
) -> emotion_file.EmotionKeys:
    """Key what an emotion file says, in the place of the keys there: our own (.json), a table (.csv), Audio2Face's key frames (.json).

    Args:
        path: of the file. README, "Emotion files", says what is read.
        frame_range: first and last frame, instead of the object's own range.
        tolerance: how far a slider may be off between keys, above 0, at most 1.

    Returns:
        How many frames and keys, which sliders, and what the file has that was left out.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    if not 0.0 < tolerance <= 1.0:
        raise UserError(f"The tolerance {tolerance:g} is out of range.", "Give a number above 0, up to 1.")
    return emotion_file.key_file(obj, scene, Path(bpy.path.abspath(str(path))), frame_numbers(frame_range), tolerance)


def key_preset(
    obj: bpy.types.Object, preset: str, frame: float | None = None, intensity: float = 1.0, blend: float = 10.0,
    scene: bpy.types.Scene | None = None,
) -> None:  # fmt: skip
    """`key_emotion` with a mixture that has a name.

    Args:
        preset: identifier of one of core.presets.PRESETS.
        frame: at which it is fully there, the current one by default. intensity: 0..2; blend: frames, >= 0.
    """
    key_emotion(obj, preset_weights(preset), frame, intensity, blend, scene)


def key_performance(
    obj: bpy.types.Object,
    emotion: str | Mapping[str, float],
    frame: float | None = None,
    intensity: float = 1.0,
    onset: float | None = None,
    apex: float | None = None,
    release: float | None = None,
    decay: str = "SMOOTH",
    scene: bpy.types.Scene | None = None,
) -> None:
    """Key an emotion that comes, stays and goes: before and after it the sliders are what they would have been without it.

    Args:
        emotion: an emotion, a preset's identifier, or a mixture.
        frame: at which it is fully there, the current one by default.
        onset, apex, release: frames until it is there, while it stays, until it is gone; by default as such an emotion usually takes.
        intensity: 0..2. decay: how it goes: one of core.performance.DECAYS.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    if not 0.0 <= intensity <= INTENSITY_MAX:
        raise UserError(f"Intensity {intensity:g} is out of range.", f"It is 0 to {INTENSITY_MAX:g}.")
    weights = weights_of(emotion)
    usual = usual_timing(weights).frames(audio.fps_of(scene))
    asked = (float(u if given is None else given) for given, u in zip((onset, apex, release), usual))
    span = Span(float(scene.frame_current_final if frame is None else frame), *asked)
    keys.key_performance(obj, scene, {**weights, "intensity": intensity}, span, decay_shape(decay))


def key_blink(
    obj: bpy.types.Object, frame: float | None = None, length: float = 0.32, amount: float = 1.0, scene: bpy.types.Scene | None = None
) -> None:
    """Key a blink whose eyes are closed at a frame.

    Args:
        frame: the current one by default. length: seconds in all. amount: 0..1, 1 closes the eyes fully.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    if not 0.0 < amount <= 1.0 or not 0.0 < length <= 60.0:
        raise UserError(f"A blink of {length:g} s and strength {amount:g} cannot be keyed.", "Give seconds above 0, and 0 to 1.")
    close, hold, opening = BlinkShape().frames(length * audio.fps_of(scene))
    span = Span(float(scene.frame_current_final if frame is None else frame), close, hold, opening)
    keys.key_performance(obj, scene, {"blink": amount}, span, decay_shape("SMOOTH"))


def copy_performance(
    source: bpy.types.Object,
    targets: bpy.types.Object | Sequence[bpy.types.Object],
    offset: float = 0.0,
    channels: str | set[str] = "EMOTION",
    take: str | None = None,
    scene: bpy.types.Scene | None = None,
) -> int:
    """Copy what animates an avatar's sliders to other avatars, or to another take of its own. Returns the number of curves.

    Args:
        targets: one avatar or several. offset: frames by which the copy comes later.
        channels: one or several of core.performance.CHANNEL_SETS: "EMOTION", "FACE", "STRENGTH".
        take: name of a new action for each target ("" names it after the object), whose old one is kept; None: into what it has.
    """
    scene = scene or bpy.context.scene
    _is_avatar(source)
    found = [targets] if isinstance(targets, bpy.types.Object) else list(targets)
    names = channels_of(channels)
    for target in found:
        _editable(target)
        keys.check_free(target, names)
    return sum(keys.copy(source, target, scene, names, float(offset), take) for target in found)


def automatic_to_keys(
    obj: bpy.types.Object,
    tolerance: float = 0.03,
    frame_range: tuple[int, int] | None = None,
    keep: bool = False,
    scene: bpy.types.Scene | None = None,
) -> automatic.Keyed:
    """Turn the emotion that the voice carries into a few keys that can be edited, and set it to be used as keyed.

    Args:
        tolerance: how far the weights may be off between keys, above 0.
        frame_range: first and last frame, instead of the object's own range.
        keep: True mixes it with what was keyed, as `mix` said until now; False replaces that.

    Returns:
        How many frames and keys, and how sure the voice was.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    if not 0.0 < tolerance <= 1.0:
        raise UserError(f"The tolerance {tolerance:g} is out of range.", "Give a number above 0, up to 1.")
    listening = automatic.Listening(obj, scene, frame_numbers(frame_range))
    return automatic.to_keys(obj, scene, listening, listening.wait(), tolerance, keep)


def trust(obj: bpy.types.Object, scene: bpy.types.Scene | None = None) -> Trust:
    """Uncertainty and the views' shares of each region, for each baked frame of an avatar's range."""
    _is_avatar(obj)
    return uncertainty.trust_of(obj, scene or bpy.context.scene)[0]


def worst_frames(
    obj: bpy.types.Object, quantity: str = "epistemic", region: str = "", scene: bpy.types.Scene | None = None
) -> list[int]:
    """Frames at which the uncertainty stands out, rising; the single highest where none does; none where nothing is baked.

    Args:
        quantity: one of core.trust.QUANTITIES.
        region: one of engine.avatar.REGIONS; "": whichever is furthest from its usual.
    """
    found = trust(obj, scene)
    if quantity not in QUANTITIES or region not in ("", *found.regions):
        known = f"{', '.join(QUANTITIES)}; regions {', '.join(found.regions)}"
        raise UserError(f"There is no {quantity!r} of {region!r}.", f"Known are {known}.")
    return found.worst(quantity, region)


def bake(
    obj: bpy.types.Object, frame_range: tuple[int, int] | None = None, scene: bpy.types.Scene | None = None
) -> BakeReport:
    """Bake an avatar and wait for it; only frames that are missing or out of date are computed, so that a stopped bake goes on.

    Args:
        frame_range: first and last frame, instead of the object's own range.

    Raises:
        UserError: a frame could not be computed, or what the bake needs is missing; frames finished before stay.
        engine.errors.Cancelled: it was cancelled.
    """
    scene = scene or bpy.context.scene
    _editable(obj)
    try:
        return cast(BakeReport, baking.BakeRun(obj, scene, frame_numbers(frame_range)).wait())
    finally:
        frames.show(obj, scene)


def write_shot(
    obj: bpy.types.Object,
    path: str | Path,
    frame_range: tuple[int, int] | None = None,
    name: str = "",
    output: str | Path | None = None,
    scene: bpy.types.Scene | None = None,
) -> Path:
    """Write an avatar's performance as a shot file (JSON), which `python -m engine bake --shot` bakes without Blender.

    A bake of the file and one from here are the same frames with the same keys: either goes on where the other stopped.

    Args:
        path: of the file, such as "//shot_010.json"; replaced in one step.
        frame_range: first and last frame, instead of the object's own range.
        name: of the shot; the file's by default.
        output: folder for the bake; the object's own cache folder by default (of a .blend never saved: none).

    Returns:
        The file's path.

    Raises:
        UserError: the avatar or the sound cannot be read, the sound is packed into the .blend, or the file cannot be written.
    """
    scene = scene or bpy.context.scene
    _is_avatar(obj)
    path = Path(bpy.path.abspath(str(path)))
    shot = baking.portable(shots.shot_of(obj, scene, frame_numbers(frame_range)))
    if shot.sound is not None and is_temporary(shot.sound):
        raise UserError(f"{obj.name}: its sound is packed into the .blend.", "Unpack it (File > External Data), so that other programs find it.")
    if output is not None:
        folder = Path(bpy.path.abspath(str(output)))
    else:
        folder = folder_of(obj) if obj.library is not None else baking.own_folder(obj)
    write_document(shot, path, name, None if output is None and is_temporary(folder) else folder)
    return path


def frame_numbers(frame_range: tuple[int, int] | None) -> np.ndarray | None:
    """Frames of a (first, last) pair; None for None."""
    if frame_range is None:
        return None
    first, last = frame_range
    if last < first:
        raise UserError(f"Frames {first} to {last} cannot be baked.", "Give the first and the last frame.")
    return np.arange(first, last + 1, dtype=np.int32)


def stale(obj: bpy.types.Object, scene: bpy.types.Scene | None = None) -> StaleReport:
    """What of an avatar's bake is missing or out of date, and why."""
    _is_avatar(obj)
    return status.check(obj, scene or bpy.context.scene)


def clear_cache(obj: bpy.types.Object, scene: bpy.types.Scene | None = None) -> bool:
    """Remove an avatar's bake from disk. True where there was one."""
    _editable(obj)
    cleared = baking.clear(obj)
    frames.show(obj, scene or bpy.context.scene, again=True)
    return cleared


def render(
    path: str | Path | None = None,
    frame_range: tuple[int, int] | None = None,
    animation: bool = True,
    scene: bpy.types.Scene | None = None,
    engine: str = ENGINE,
) -> None:
    """Render the scene, with its own compositor set-up as it is.

    Args:
        path: output path, `####` for the frame number; the scene's own by default.
        frame_range: first and last frame; the scene's own by default.
        animation: False renders the current frame alone.
        engine: `bl_idname` of a render engine; "" keeps the scene's.
    """
    scene = scene or bpy.context.scene
    before = (scene.render.filepath, scene.render.engine, scene.frame_start, scene.frame_end)
    try:
        if path is not None:
            scene.render.filepath = str(path)
        if engine:
            scene.render.engine = engine
        if frame_range is not None:
            scene.frame_start, scene.frame_end = frame_range
        bpy.ops.render.render(animation=animation, write_still=not animation, scene=scene.name)
    except RuntimeError as error:
        raise UserError(str(error).strip(), "") from error
    finally:
        scene.render.filepath, scene.render.engine, scene.frame_start, scene.frame_end = before


def add_compositing(
    scene: bpy.types.Scene | None = None, connect: bool = False, layer: str = "", shadows: bool | None = None
) -> compositing.Compositing:
    """Put the splats into the picture of the scene's own engine (Cycles, EEVEE) with nodes beside the user's.

    Args:
        connect: let the result be the output also where something of the user's is.
        layer: name of the view layer whose picture the splats go over; the first that renders by default.
        shadows: let shadows of the scene fall on the splats (Cycles, avatars with a proxy); None: as it is.

    Returns:
        The scenes that help, the nodes' tree, the socket with the combined picture, and what is left to do.
    """
    return compositing.add(scene or bpy.context.scene, connect, layer, shadows)


def remove_compositing(scene: bpy.types.Scene | None = None) -> bool:
    """Undo `add_compositing`, whatever came after it. True where there was something to remove."""
    return compositing.remove(scene or bpy.context.scene)


def add_proxy(obj: bpy.types.Object, size: float = 2.0, opacity: float = 0.3, in_viewport: bool = False) -> bpy.types.Object:
    """Give an avatar an invisible child that casts shadows and is reflected in Cycles and EEVEE, or change the one it has.

    Args:
        size: radius of its balls in standard deviations of their splats, above 0.
        opacity: splats that are less opaque than this, 0..1, are left out.
        in_viewport: have it in 3D views too; else in renders only.

    Returns:
        The child.
    """
    _is_avatar(obj)
    return proxy.add(obj, size, opacity, in_viewport)


def remove_proxy(obj: bpy.types.Object) -> bool:
    """Remove an avatar's proxy. True where there was one."""
    _is_avatar(obj)
    return proxy.remove(obj)


def _is_avatar(obj: bpy.types.Object) -> None:
    if not avatar.is_avatar(obj):
        raise UserError(f"{obj.name if obj else 'Nothing'} is no UA-3DTalk avatar.", "Import one with File > Import.")


def _editable(obj: bpy.types.Object) -> None:
    _is_avatar(obj)
    if obj.library is not None:
        raise UserError(f"{obj.name} is linked from {obj.library.filepath}.", "Edit it in its own file, or make it local.")
