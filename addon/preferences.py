"""The extension's preferences: the engine's environment, threads and device."""

from __future__ import annotations

import os

import bpy
from bpy.props import EnumProperty, IntProperty, StringProperty

from ..engine.errors import UserError
from . import session


class Preferences(bpy.types.AddonPreferences):
    """Where the engine's Python is, and how it runs."""

    bl_idname = session.PACKAGE

    environment: EnumProperty(
        name="Environment",
        description="Which Python the engine runs in; Blender's own has not what it needs",
        items=[
            ("MANAGED", "Own", "A folder that the button below fills with pinned packages"),
            ("EXISTING", "Existing", "A Python that has the packages already"),
        ],
        default="MANAGED",
    )
    python_path: StringProperty(
        name="Python", description="Python program of an environment that has the engine's packages", subtype="FILE_PATH"
    )
    environment_folder: StringProperty(
        name="Folder", description="Where the environment is made; empty: in Blender's user folder", subtype="DIR_PATH"
    )
    base_python: StringProperty(
        name="Made With", description="Python (3.11 to 3.14) with which the environment is made; empty: Blender's own", subtype="FILE_PATH"
    )
    package_index: StringProperty(
        name="Package Index", description="Address from which pip installs; empty: pip's own settings. Name one with CPU or CUDA builds"
    )
    threads: IntProperty(
        name="Threads", description="CPU threads of the engine; 0: one fewer than the machine has cores", default=0, min=0, max=256
    )
    device: EnumProperty(
        name="Device",
        description="Where the networks run",
        items=[
            ("AUTO", "Automatic", "CUDA where there is one, else the CPU"),
            ("CPU", "CPU", "The CPU"),
            ("CUDA", "CUDA", "An NVIDIA graphics card"),
        ],
        default="AUTO",
    )

    def draw(self, context: bpy.types.Context) -> None:
        layout = self.layout
        layout.use_property_split = True
        column = layout.column()
        column.row().prop(self, "environment", expand=True)
        if self.environment == "EXISTING":
            column.prop(self, "python_path")
        else:
            column.prop(self, "environment_folder")
            column.prop(self, "base_python")
            column.prop(self, "package_index")
            row = column.row(align=True)
            row.operator("ua3dtalk.set_up_environment", icon="IMPORT")
            row.operator("ua3dtalk.cancel_set_up", text="", icon="X")
        draw_environment(layout)
        column = layout.column()
        column.prop(self, "threads")
        column.prop(self, "device")


def draw_environment(layout: bpy.types.UILayout) -> None:
    """Which Python is used, or what is being set up, or why there is none."""
    column = layout.column(align=True)
    setup = session.setup()
    if setup is not None and setup.state in ("running", "failed"):
        column.label(text=setup.text, icon="TIME" if setup.state == "running" else "ERROR")
        for line in setup.lines[-3:]:
            column.label(text=line[:120])
        return
    try:
        python = session.engine_python()
    except UserError as error:
        column.label(text=error.message, icon="ERROR")
        return
    if os.environ.get(session.PYTHON_VARIABLE):
        column.label(text=f"{session.PYTHON_VARIABLE} names the Python", icon="INFO")
    column.label(text=str(python), icon="CHECKMARK" if python.exists() else "ERROR")
    column.operator("ua3dtalk.check_environment", icon="VIEWZOOM")


CLASSES = (Preferences,)
