"""Telling the user: one clear line for what cannot be done, and redraws."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import bpy

from ..engine.errors import Cancelled, UserError


def reporting(method: Callable[..., set[str]]) -> Callable[..., set[str]]:
    """An operator's `execute` or `invoke` whose UserError becomes its report (in scripts: a RuntimeError of the call)."""

    def run(self: Any, *arguments: Any) -> set[str]:
        try:
            return method(self, *arguments)
        except UserError as error:
            self.report({"ERROR"}, str(error))
        except Cancelled:
            self.report({"WARNING"}, "Cancelled; what was finished before is kept")
        return {"CANCELLED"}

    # Blender counts the arguments that a method is written with.
    if method.__code__.co_argcount == 2:
        return lambda self, context: run(self, context)
    return lambda self, context, event: run(self, context, event)


def tag_redraw(panels_only: bool = False, views_only: bool = False) -> None:
    """Ask every window to draw our panels again, and its 3D views; or only the ones, or only the others."""
    manager = bpy.context.window_manager
    for window in manager.windows if manager else ():
        for area in window.screen.areas:
            if area.type not in {"VIEW_3D", "PROPERTIES", "PREFERENCES", "GRAPH_EDITOR"}:
                continue
            for region in area.regions:
                # Splats cost time to draw; a number in the sidebar is no reason to.
                is_view = area.type == "VIEW_3D" and region.type != "UI"
                if not (is_view and panels_only or views_only and not (is_view and region.type == "WINDOW")):
                    region.tag_redraw()
