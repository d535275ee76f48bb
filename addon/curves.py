"""The sliders over time: sampled for a bake, keyed for an emotion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bpy
import numpy as np

from ..engine.errors import UserError
from . import compat, frames as shown
from .core.channels import CHANNEL_NAMES, HIGHEST
from .core.keying import plan_keys

_PREFIX = "ua3dtalk."


def needs_stepping(obj: bpy.types.Object) -> bool:
    """True where more than an action's own F-curves moves the sliders: drivers or NLA strips."""
    data = obj.animation_data
    if data is None:
        return False
    driven = any(driver.data_path.startswith(_PREFIX) for driver in data.drivers)
    return driven or (data.use_nla and any(not track.mute and track.strips for track in data.nla_tracks))


def sample(obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray) -> dict[str, np.ndarray]:
    """Each slider at scene `frames` [F] (fractions too): name -> [F] float64.

    F-curves are read as they stand; where drivers or the NLA have a say, the scene steps through the frames and back.
    """
    frames = np.asarray(frames, np.float64)
    return _step(obj, scene, frames) if needs_stepping(obj) else _read(obj, frames)


def _read(obj: bpy.types.Object, frames: np.ndarray) -> dict[str, np.ndarray]:
    curves = {curve.data_path: curve for curve in compat.fcurves(obj)}
    values = {}
    for name in CHANNEL_NAMES:
        curve = curves.get(_PREFIX + name)
        acts = curve is not None and not curve.is_empty and not curve.mute and not (curve.group and curve.group.mute)
        if acts:
            values[name] = np.clip([curve.evaluate(frame) for frame in frames.tolist()], 0.0, HIGHEST[name])
        else:
            values[name] = np.full(len(frames), getattr(obj.ua3dtalk, name), np.float64)
    return values


def _step(obj: bpy.types.Object, scene: bpy.types.Scene, frames: np.ndarray) -> dict[str, np.ndarray]:
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


def key_sliders(obj: bpy.types.Object, scene: bpy.types.Scene, targets: Mapping[str, float], frame: float, blend: float) -> None:
    """Key sliders to values at a frame, with what they were `blend` frames before as the begin of the change.

    Raises:
        UserError: the object cannot be edited, or a slider is driven.
    """
    if obj.library is not None:
        raise UserError(f"{obj.name} is linked from another file and cannot be keyed.", "Make a library override of it.")
    driven = {driver.data_path for driver in obj.animation_data.drivers} if obj.animation_data else set()
    busy = [name for name in targets if _PREFIX + name in driven]
    if busy:
        raise UserError(f"{', '.join(busy)} of {obj.name} is driven and cannot be keyed.", "Remove the driver, or key what drives it.")
    begin = sample(obj, scene, np.array([frame - (blend or 1.0)]))
    plans = plan_keys(targets, frame, blend, lambda name, at: float(begin[name][0]))
    for name, plan in plans.items():
        path = _PREFIX + name
        _remove_between(compat.fcurve(obj, path), *plan.clear)
        for at, value in plan.set.items():
            setattr(obj.ua3dtalk, name, value)
            obj.keyframe_insert(path, frame=at, group="UA-3DTalk")
    # Inserting leaves the sliders as they are at the last key; they are to show the current frame.
    for name, value in sample(obj, scene, np.array([scene.frame_current_final])).items():
        if name in targets:
            setattr(obj.ua3dtalk, name, float(value[0]))


def _remove_between(curve: Any, first: float, last: float) -> None:
    if curve is None:
        return
    for point in reversed(curve.keyframe_points):
        if first + 1e-3 < point.co.x < last - 1e-3:
            curve.keyframe_points.remove(point, fast=True)
    curve.update()
