"""The sliders over time: what they are now, and sampled for a bake, all at once or a piece at a time.

F-curves are read as they stand. Where drivers or the NLA have a say, Blender itself has to evaluate them: in a scene of
our own that holds nothing but a driver which asks for the sliders, so that neither the user's playhead nor anything else
of theirs is touched and nothing but what moves the sliders is evaluated. Where what moves them looks at the scene itself
(its frame number, a property of it), only the user's own scene can tell; a bake or a check steps through it then.
"""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import bpy
import numpy as np

from ..engine.errors import UserError
from . import compat, frames as shown
from .core.channels import CHANNEL_NAMES, HIGHEST

Values = dict[str, np.ndarray]
"""Slider -> its values [F] float64."""

_PREFIX = "ua3dtalk."
_PRIVATE = ".ua3dtalk"
_AT_ONCE = 32
"""Frames of F-curves read between two looks at the clock: a third of a millisecond."""
_ours = 0


class NeedsTheScene(Exception):
    """Only stepping through the user's scene tells the sliders."""


def needs_stepping(obj: bpy.types.Object) -> bool:
    """True where more than an action's own F-curves moves the sliders: drivers or NLA strips."""
    data = obj.animation_data
    if data is None:
        return False
    driven = any(driver.data_path.startswith(_PREFIX) for driver in data.drivers)
    return driven or (data.use_nla and any(not track.mute and track.strips for track in data.nla_tracks))


def signature(obj: bpy.types.Object) -> tuple[object, ...]:
    """Tells cheaply of most edits of what moves the sliders, also of those that Blender reports to nobody."""
    data = obj.animation_data
    if data is None:
        return ()
    return (
        data.action.session_uid if data.action is not None else 0,
        getattr(data, "action_slot_handle", 0),
        data.use_nla,
        *((one.data_path, one.mute, one.driver.type, one.driver.expression) for one in data.drivers if one.data_path.startswith(_PREFIX)),
        *((one.data_path, one.mute, len(one.keyframe_points), len(one.modifiers)) for one in compat.fcurves(obj)),
        *(
            (track.mute, track.is_solo, strip.name, strip.mute, strip.frame_start, strip.frame_end, strip.scale, strip.influence)
            for track in data.nla_tracks
            for strip in track.strips
        ),
    )


def now(obj: bpy.types.Object, depsgraph: bpy.types.Depsgraph | None) -> Values:
    """Each slider as Blender shows it at this moment, a value that was dragged over its F-curve included: [1] each."""
    evaluated = obj if depsgraph is None else obj.evaluated_get(depsgraph)
    sliders = evaluated.ua3dtalk
    return {name: np.array([min(max(getattr(sliders, name), 0.0), HIGHEST[name])]) for name in CHANNEL_NAMES}


def sample(obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray) -> Values:
    """Each slider at scene `frames` [F] (fractions too), at once.

    Raises:
        UserError: what moves them can only be evaluated in a scene that does not hold the object.
    """
    frames = np.asarray(frames, np.float64)
    try:
        return sample_some(obj, frames, math.inf)
    except NeedsTheScene:
        return _step(obj, scene, frames)


def sample_some(obj: bpy.types.Object, frames: np.ndarray, seconds: float) -> Values:
    """Each slider at the first of `frames` [F], as many as go into `seconds`, and one at least.

    Raises:
        NeedsTheScene: see there.
    """
    frames = np.asarray(frames, np.float64)
    return _evaluate(obj, frames, seconds) if needs_stepping(obj) else _read(obj, frames, seconds)


def _read(obj: bpy.types.Object, frames: np.ndarray, seconds: float) -> Values:
    end = time.perf_counter() + seconds
    curves = {curve.data_path: curve for curve in compat.fcurves(obj)}
    acting, still = {}, {}
    for name in CHANNEL_NAMES:
        curve = curves.get(_PREFIX + name)
        if curve is not None and not curve.is_empty and not curve.mute and not (curve.group and curve.group.mute):
            acting[name] = (curve.evaluate, [])
        else:
            still[name] = getattr(obj.ua3dtalk, name)
    done = 0
    while done < len(frames) and (not done or time.perf_counter() < end):
        piece = frames[done : done + _AT_ONCE].tolist() if acting else frames
        for evaluate, values in acting.values():
            values += [evaluate(frame) for frame in piece]
        done += len(piece)
    values = {name: np.full(done, value, np.float64) for name, value in still.items()}
    return values | {name: np.clip(np.array(found, np.float64), 0.0, HIGHEST[name]) for name, (_, found) in acting.items()}


# ---------------------------------------------------------------------------------------------- drivers and the NLA


def is_ours(scene: bpy.types.Scene) -> bool:
    """True while we change scenes of our own: what Blender tells of the user's is no edit of theirs."""
    return _ours > 0 or scene.name.startswith(_PRIVATE)


def _evaluate(obj: bpy.types.Object, frames: np.ndarray, seconds: float) -> Values:
    end = time.perf_counter() + seconds
    rows = []
    with _private_scene(obj) as private:
        for frame in frames.tolist():
            whole = math.floor(frame)
            private.frame_set(whole, subframe=frame - whole)
            depsgraph = private.view_layers[0].depsgraph
            if not rows:
                _check(obj, private, depsgraph)
            sliders = obj.evaluated_get(depsgraph).ua3dtalk
            rows.append([getattr(sliders, name) for name in CHANNEL_NAMES])
            if time.perf_counter() > end:
                break
    values = np.array(rows, np.float64)
    return {name: np.clip(values[:, column], 0.0, HIGHEST[name]) for column, name in enumerate(CHANNEL_NAMES)}


def _check(obj: bpy.types.Object, private: bpy.types.Scene, depsgraph: bpy.types.Depsgraph) -> None:
    for found in (obj, *(evaluated.original for evaluated in depsgraph.ids)):
        if isinstance(found, bpy.types.Scene) and found != private:
            raise NeedsTheScene
        data = getattr(found, "animation_data", None)
        for driver in data.drivers if data is not None else ():
            for variable in driver.driver.variables:
                if variable.type == "CONTEXT_PROP" or any(isinstance(target.id, bpy.types.Scene) for target in variable.targets):
                    raise NeedsTheScene


@contextmanager
def _private_scene(obj: bpy.types.Object) -> Iterator[bpy.types.Scene]:
    """A scene whose dependency graph holds what moves the sliders of `obj`. Nothing of it is left, in no undo step either."""
    global _ours
    _ours += 1
    private = asking = None
    try:
        with shown.paused():
            private = bpy.data.scenes.new(_PRIVATE)
            asking = bpy.data.objects.new(_PRIVATE, None)
            private.collection.objects.link(asking)
            asking["asks"] = 0.0
            driver = asking.driver_add('["asks"]').driver
            driver.type = "SUM"
            for name in CHANNEL_NAMES:
                target = driver.variables.new().targets[0]
                target.id, target.data_path = obj, _PREFIX + name
            yield private
    finally:
        if asking is not None:
            bpy.data.objects.remove(asking)
        if private is not None:
            bpy.data.scenes.remove(private)
        # Blender sorts its dependency graphs anew now; later it would look like an edit of the user's.
        for window in bpy.context.window_manager.windows if bpy.context.window_manager else ():
            window.view_layer.update()
        if bpy.context.view_layer is not None:
            bpy.context.view_layer.update()
        _ours -= 1


def _step(obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray) -> Values:
    layer = next((layer for layer in scene.view_layers if obj in layer.objects.values()), None)
    if layer is None:
        raise UserError(f"{obj.name} is in no view layer of {scene.name}; its drivers cannot be evaluated.", "Link it to the scene.")
    values = np.empty((len(frames), len(CHANNEL_NAMES)))
    here, part = scene.frame_current, scene.frame_subframe
    with shown.paused():
        try:
            for row, frame in enumerate(frames.tolist()):
                whole = int(np.floor(frame))
                scene.frame_set(whole, subframe=frame - whole)
                evaluated = obj.evaluated_get(layer.depsgraph).ua3dtalk
                values[row] = [getattr(evaluated, name) for name in CHANNEL_NAMES]
        finally:
            scene.frame_set(here, subframe=part)
    return {name: np.clip(values[:, column], 0.0, HIGHEST[name]) for column, name in enumerate(CHANNEL_NAMES)}
