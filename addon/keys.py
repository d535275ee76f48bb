"""Keys of an avatar's sliders: set by plan, and copied from one avatar or take to another."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import bpy
import numpy as np

from ..engine.errors import UserError
from . import compat, curves
from .core.keying import KeyPlan, Span, plan_keys, plan_performance, plan_values

PREFIX = "ua3dtalk."
GROUP = "UA-3DTalk"
COPIED = 0.002
"""How far a copy may be off where what moves a slider is no plain F-curve, and is followed by keys instead."""


def key_sliders(obj: bpy.types.Object, scene: bpy.types.Scene, targets: Mapping[str, float], frame: float, blend: float) -> None:
    """Key sliders to values at a frame, with what they were `blend` frames before as the begin of the change.

    Raises:
        UserError: the object cannot be edited, or a slider is driven.
    """
    check_free(obj, targets)
    begin = curves.sample(obj, scene, np.array([frame - (blend or 1.0)]))
    write(obj, scene, plan_keys(targets, frame, blend, lambda name, at: float(begin[name][0])))


def key_performance(obj: bpy.types.Object, scene: bpy.types.Scene, targets: Mapping[str, float], span: Span, decay: str) -> None:
    """Key sliders to values for a while, and back to what they would have been by then. decay: Blender's interpolation.

    Raises:
        UserError: as `key_sliders`.
    """
    check_free(obj, targets)
    ends = (span.start, span.end)
    found = curves.sample(obj, scene, np.array(ends))
    write(obj, scene, plan_performance(targets, span, decay, lambda name, at: float(found[name][ends.index(at)])))


def check_free(obj: bpy.types.Object, names: Iterable[str]) -> None:
    """Raises UserError where the object cannot be edited, or one of the sliders is driven."""
    if obj.library is not None:
        raise UserError(f"{obj.name} is linked from another file and cannot be keyed.", "Make a library override of it.")
    driven = {driver.data_path for driver in obj.animation_data.drivers} if obj.animation_data else set()
    busy = [name for name in names if PREFIX + name in driven]
    if busy:
        raise UserError(f"{', '.join(busy)} of {obj.name} is driven and cannot be keyed.", "Remove the driver, or key what drives it.")


def write(obj: bpy.types.Object, scene: bpy.types.Scene, plans: Mapping[str, KeyPlan]) -> None:
    """Set the keys of plans {slider: plan}; the sliders then show the current frame."""
    for name, plan in plans.items():
        path = PREFIX + name
        _remove_between(compat.fcurve(obj, path), *plan.clear)
        for at, value in plan.set.items():
            setattr(obj.ua3dtalk, name, value)
            obj.keyframe_insert(path, frame=at, group=GROUP)
        if plan.shapes:
            for point in compat.fcurve(obj, path).keyframe_points:
                shape = next((shape for at, shape in plan.shapes.items() if abs(point.co.x - at) < 1e-3), None)
                if shape is not None:
                    point.interpolation, point.easing = shape, "EASE_OUT" if shape == "EXPO" else "AUTO"
    _show_now(obj, scene, plans)


def _show_now(obj: bpy.types.Object, scene: bpy.types.Scene, names: Iterable[str]) -> None:
    # Inserting leaves the sliders as they are at the last key; they are to show the current frame.
    now = curves.sample(obj, scene, np.array([scene.frame_current_final]))
    for name in names:
        setattr(obj.ua3dtalk, name, float(now[name][0]))


def _remove_between(curve: Any, first: float, last: float) -> None:
    if curve is None:
        return
    for point in reversed(curve.keyframe_points):
        if first + 1e-3 < point.co.x < last - 1e-3:
            curve.keyframe_points.remove(point, fast=True)
    curve.update()


# -------------------------------------------------------------------------------------------------- copies and takes


def new_take(obj: bpy.types.Object, name: str = "") -> bpy.types.Action:
    """An empty action for an avatar's keys; the one it had is kept (fake user) and can be chosen again."""
    data = obj.animation_data or obj.animation_data_create()
    before = data.action
    if before is not None:
        before.use_fake_user = True
    data.action = None
    data.action = bpy.data.actions.new(name or f"{obj.name} Take")
    return data.action


def copy(
    source: bpy.types.Object,
    target: bpy.types.Object,
    scene: bpy.types.Scene,
    names: Iterable[str],
    offset: float = 0.0,
    take: str | None = None,
) -> int:
    """Let the target's sliders do what the source's do, `offset` frames later. Returns how many curves were copied.

    Plain F-curves are copied key by key, handles and interpolation included. Where modifiers, drivers or the NLA have a say, keys
    follow what they give over the scene's frame range. A slider that is not animated takes over its value.

    Args:
        take: name of a new action for the target ("" names it after the object); None: into the one it has.

    Raises:
        UserError: the target cannot be edited or its sliders are driven, or both share their keys.
    """
    names = tuple(names)
    check_free(target, names)
    if source != target and take is None and _same_keys(source, target):
        raise UserError(f"{source.name} and {target.name} share one action.", "Copy into a new take.")
    stepping = curves.needs_stepping(source)
    followed: list[str] = []
    plain: dict[str, tuple[str, list[_Key]]] = {}
    for name in names:
        curve = None if stepping else compat.fcurve(source, PREFIX + name)
        if stepping or (curve is not None and (curve.modifiers or curve.sampled_points)):
            followed.append(name)
        elif curve is not None and not (curve.is_empty or curve.mute or (curve.group and curve.group.mute)):
            plain[name] = _keys_of(curve, offset)
    frames = np.arange(scene.frame_start, scene.frame_end + 1)
    values = curves.sample(source, scene, frames) if followed else {}
    rest = {name: getattr(source.ua3dtalk, name) for name in names if name not in plain and name not in followed}
    if take is not None:
        new_take(target, take)
    for name in names:
        clear(target, name)
    for name, (extrapolation, found) in plain.items():
        _make(target, name, extrapolation, found)
    if followed:
        write(target, scene, plan_values(frames + offset, {name: values[name] for name in followed}, COPIED))
    for name, value in rest.items():
        setattr(target.ua3dtalk, name, value)
    _show_now(target, scene, (*plain, *followed))
    return len(plain) + len(followed)


def _same_keys(a: bpy.types.Object, b: bpy.types.Object) -> bool:
    ours, theirs = a.animation_data, b.animation_data
    if ours is None or theirs is None or ours.action is None or ours.action != theirs.action:
        return False
    return getattr(ours, "action_slot", None) == getattr(theirs, "action_slot", None)


def clear(obj: bpy.types.Object, name: str) -> None:
    """Take a slider's F-curve away, if it has one."""
    curve = compat.fcurve(obj, PREFIX + name)
    if curve is not None:
        compat.fcurves(obj).remove(curve)


_CHOICES = ("interpolation", "easing", "type", "back", "amplitude", "period", "handle_left_type", "handle_right_type")


@dataclass(frozen=True)
class _Key:
    """One key of an F-curve, apart from the curve: source and target of a copy may be the same."""

    place: tuple[float, float]
    handles: dict[str, tuple[float, float]]
    choices: dict[str, Any]


def _keys_of(curve: Any, offset: float) -> tuple[str, list[_Key]]:
    """How an F-curve goes on beyond its keys, and these, `offset` frames later."""
    found = []
    for point in curve.keyframe_points:
        handles = {name: getattr(point, name) for name in ("handle_left", "handle_right")}
        found.append(
            _Key(
                (point.co.x + offset, point.co.y),
                {name: (place.x + offset, place.y) for name, place in handles.items()},
                {name: getattr(point, name) for name in _CHOICES},
            )
        )
    return curve.extrapolation, found


def _make(obj: bpy.types.Object, name: str, extrapolation: str, keys: list[_Key]) -> None:
    # The first is inserted by its object: Blender finds or makes the action, its slot and the group, in every version.
    obj.keyframe_insert(PREFIX + name, frame=keys[0].place[0], group=GROUP)
    curve = compat.fcurve(obj, PREFIX + name)
    curve.extrapolation = extrapolation
    for key in keys:
        curve.keyframe_points.insert(*key.place, options={"FAST"})
    for point, key in zip(curve.keyframe_points, keys, strict=True):
        for choice, value in (*key.choices.items(), *key.handles.items()):
            setattr(point, choice, value)
    curve.update()
