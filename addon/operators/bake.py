"""Bake, cancel, check, clear."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import bpy
from bpy.props import BoolProperty, StringProperty
from bpy_extras.io_utils import ExportHelper

from ...engine.errors import UserError
from ...engine.shot.stale import count
from .. import api, avatar, baking, frames, live, status
from ..feedback import reporting, tag_redraw
from ..places import folder_of
from .target import OnAvatar, Ranged, target


class Bake(Ranged, bpy.types.Operator):
    """Compute the avatar's motion for each frame that is out of date. Blender stays usable meanwhile"""

    bl_idname = "ua3dtalk.bake"
    bl_label = "Bake"
    bl_options = {"REGISTER"}

    all: BoolProperty(name="All", description="Bake all avatars of the scene, one after the other", options={"SKIP_SAVE"})

    def _targets(self, context: bpy.types.Context) -> list[bpy.types.Object]:
        found = avatar.avatars(context.scene.objects) if self.all else [target(self, context)]
        for obj in found:
            if baking.run_of(obj) is not None:
                raise UserError(f"{obj.name} is being baked already.", "Wait for it, or cancel it.")
        return found

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        for obj in self._targets(context):
            self._tell(obj.name, api.bake(obj, self.range(), context.scene))
        return {"FINISHED"}

    @reporting
    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        numbers = api.frame_numbers(self.range())
        self._runs = [baking.BakeRun(obj, context.scene, numbers) for obj in self._targets(context)]
        self._timer = context.window_manager.event_timer_add(0.1, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Takes the bakes forward; everything else of Blender goes on."""
        if event.type != "TIMER":
            return {"PASS_THROUGH"}
        before = [(run.done, run.text) for run in self._runs]
        going_on = [run.step() for run in self._runs]
        if before != [(run.done, run.text) for run in self._runs]:
            tag_redraw(panels_only=True)
            if not frames.is_rendering():
                frames.show_all(context.scene)  # the current frame, as soon as it is there
        if any(going_on):
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        if not frames.is_rendering():
            frames.show_all(context.scene)
        status.changed()
        if any(run.state == "cancelled" for run in self._runs):
            live.rest()
        tag_redraw()
        results = {self._end(run) for run in self._runs}
        return {"FINISHED"} if results == {True} else {"CANCELLED"}

    def _end(self, run: baking.BakeRun) -> bool:
        if run.state == "done":
            self._tell(run.object_name, run.result)
        elif run.state == "cancelled":
            self.report({"WARNING"}, f"{run.object_name}: cancelled; {count(run.done)} of {run.total} are up to date")
        else:
            self.report({"ERROR"}, f"{run.object_name}: {run.error}")
        return run.state == "done"

    def _tell(self, name: str, result: Mapping[str, Any]) -> None:
        self.report(
            {"INFO"},
            f"{name}: {count(result['computed'])} computed in {result['seconds']:.1f} s, "
            f"{result['moved'] + result['up_to_date']} taken over as they were",
        )

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends the operator: its window was closed, or another file is loaded."""
        for run in self._runs:
            run.abandon()
        context.window_manager.event_timer_remove(self._timer)


class ExportShot(Ranged, bpy.types.Operator, ExportHelper):
    """Write the avatar's performance as a shot file, which is baked without Blender: by scripts, on other machines"""

    bl_idname = "ua3dtalk.export_shot"
    bl_label = "Export Shot File"
    bl_options = {"REGISTER"}

    filename_ext = ".json"
    filter_glob: StringProperty(default="*.json", options={"HIDDEN"})
    name: StringProperty(name="Name", description="Of the shot; the file's by default", options={"SKIP_SAVE"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        path = api.write_shot(obj, self.filepath, self.range(), self.name, scene=context.scene)
        self.report({"INFO"}, f"{obj.name}: wrote {path}")
        return {"FINISHED"}


class CancelBake(bpy.types.Operator):
    """Stop the bakes that are running. Frames that are finished stay"""

    bl_idname = "ua3dtalk.cancel_bake"
    bl_label = "Cancel Bake"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if baking.running():
            return True
        cls.poll_message_set("Nothing is being baked")
        return False

    def execute(self, context: bpy.types.Context) -> set[str]:
        for run in baking.running():
            run.cancel()
        return {"FINISHED"}


class Check(OnAvatar, bpy.types.Operator):
    """Look what of the bake is out of date, and why"""

    bl_idname = "ua3dtalk.check"
    bl_label = "Check"
    bl_options = {"REGISTER"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        report = api.stale(target(self, context), context.scene)
        self.report({"INFO"}, "; ".join(report.lines()))
        return {"FINISHED"}


class ClearCache(OnAvatar, bpy.types.Operator):
    """Remove the avatar's bake from disk. This cannot be undone"""

    bl_idname = "ua3dtalk.clear_cache"
    bl_label = "Clear Bake"
    bl_options = {"REGISTER"}

    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        return context.window_manager.invoke_confirm(self, event)

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj = target(self, context)
        if not api.clear_cache(obj, context.scene):
            raise UserError(f"{obj.name} has no bake in {folder_of(obj)}.")
        status.changed()
        live.rest()
        return {"FINISHED"}


CLASSES = (Bake, ExportShot, CancelBake, Check, ClearCache)
