"""The engine's process and environment."""

from __future__ import annotations

import time
from pathlib import Path

import bpy
from bpy.props import EnumProperty

from ...engine.errors import UserError
from .. import baking, session
from ..feedback import reporting, tag_redraw
from ..places import folder_of
from .target import OnAvatar, target


class StartEngine(bpy.types.Operator):
    """Start the engine's process now, so that the first bake need not wait for it"""

    bl_idname = "ua3dtalk.start_engine"
    bl_label = "Start Engine"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if session.state() in ("starting", "ready"):
            cls.poll_message_set("The engine is running")
            return False
        return True

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        client = session.client()
        if bpy.app.background:
            client.wait_ready()
        return {"FINISHED"}


class StopEngine(bpy.types.Operator):
    """Stop the engine's process and free its memory. Bakes that are running end; what they finished stays"""

    bl_idname = "ua3dtalk.stop_engine"
    bl_label = "Stop Engine"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if session.state() in ("starting", "ready"):
            return True
        cls.poll_message_set("The engine is not running")
        return False

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.stop()
        for run in baking.running():
            run.step()
        return {"FINISHED"}


class SetUpEnvironment(bpy.types.Operator):
    """Make the engine's own Python environment and install its packages from the network (some hundred megabytes)"""

    bl_idname = "ua3dtalk.set_up_environment"
    bl_label = "Set Up Environment"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        if not bpy.app.online_access:
            cls.poll_message_set("Blender is not allowed to go online: Preferences > System > Network > Allow Online Access")
            return False
        running = session.setup()
        if running is not None and running.state == "running":
            cls.poll_message_set("It is being set up")
            return False
        return True

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        setup = session.begin_setup()
        while setup.state == "running":
            setup.pump()
            time.sleep(0.05)
        return self._end()

    @reporting
    def invoke(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        if bpy.app.background:
            return self.execute(context)
        session.begin_setup()
        self._timer = context.window_manager.event_timer_add(0.25, window=context.window)
        context.window_manager.modal_handler_add(self)
        return {"RUNNING_MODAL"}

    def modal(self, context: bpy.types.Context, event: bpy.types.Event) -> set[str]:
        """Takes the set-up forward."""
        setup = session.setup()
        if event.type != "TIMER" or setup is None:
            return {"PASS_THROUGH"}
        setup.pump()
        tag_redraw(panels_only=True)
        if setup.state == "running":
            return {"PASS_THROUGH"}
        context.window_manager.event_timer_remove(self._timer)
        return self._end()

    def _end(self) -> set[str]:
        setup = session.setup()
        if setup.state == "done":
            self.report({"INFO"}, f"The engine's environment is ready in {session.managed_folder()}")
            return {"FINISHED"}
        if setup.error is not None:
            self.report({"ERROR"}, str(setup.error))
        return {"CANCELLED"}

    def cancel(self, context: bpy.types.Context) -> None:
        """Blender ends the operator."""
        session.setup().cancel()
        context.window_manager.event_timer_remove(self._timer)


class CancelSetUp(bpy.types.Operator):
    """Stop setting up the environment"""

    bl_idname = "ua3dtalk.cancel_set_up"
    bl_label = "Cancel"
    bl_options = {"REGISTER"}

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        running = session.setup()
        if running is not None and running.state == "running":
            return True
        cls.poll_message_set("No environment is being set up")
        return False

    def execute(self, context: bpy.types.Context) -> set[str]:
        session.setup().cancel()
        return {"FINISHED"}


class CheckEnvironment(bpy.types.Operator):
    """Ask the environment in use what it has installed and which device it would use"""

    bl_idname = "ua3dtalk.check_environment"
    bl_label = "Check Environment"
    bl_options = {"REGISTER"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        found = session.check()
        packages = ", ".join(f"{name} {version}" for name, version in found["packages"].items())
        self.report({"INFO"}, f"The engine can bake on {found['device']}: Python {found['python']}, {packages}")
        return {"FINISHED"}


class OpenPlace(OnAvatar, bpy.types.Operator):
    """Show a folder in the file browser"""

    bl_idname = "ua3dtalk.open_place"
    bl_label = "Open Folder"
    bl_options = {"REGISTER"}

    place: EnumProperty(
        name="Place",
        items=[
            ("CACHE", "Bake", "The folder of the avatar's bake"),
            ("LOG", "Log", "The folder of the engine's log"),
            ("ENVIRONMENT", "Environment", "The folder of the engine's environment"),
        ],
        options={"SKIP_SAVE"},
    )

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        return True

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        folder = self.folder(context)
        if not folder.is_dir():
            raise UserError(f"There is no folder {folder} yet.")
        bpy.ops.wm.path_open(filepath=str(folder))
        return {"FINISHED"}

    def folder(self, context: bpy.types.Context) -> Path:
        """The folder that `place` names."""
        if self.place == "CACHE":
            return folder_of(target(self, context))
        return session.log_file().parent if self.place == "LOG" else session.managed_folder()


CLASSES = (StartEngine, StopEngine, SetUpEnvironment, CancelSetUp, CheckEnvironment, OpenPlace)
