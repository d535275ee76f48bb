"""Registration: a list of steps, each with its undoing; one that fails takes back all before it."""

from __future__ import annotations

from collections.abc import Callable

import bpy

from . import automatic, commands, compositing, display, frames, handlers, live, operators, panels, preferences, properties, render_engine, session, status, uncertainty
from .draw import graph, source, strip, viewport

_CLASSES = (*properties.CLASSES, *operators.CLASSES, *panels.CLASSES, *preferences.CLASSES)
_undo: list[Callable[[], None]] = []


def _menu(self: bpy.types.Menu, context: bpy.types.Context) -> None:
    self.layout.operator("ua3dtalk.import_avatar", text="UA-3DTalk Avatar (.safetensors, .ply, .spz, .splat, .pth)")


def _export_menu(self: bpy.types.Menu, context: bpy.types.Context) -> None:
    self.layout.operator("ua3dtalk.export_shot", text="UA-3DTalk Shot File (.json)")


def _engine_off() -> None:
    if all(cls.is_registered for cls in render_engine.CLASSES):
        render_engine.unregister()
    for cls in reversed(render_engine.CLASSES):  # a registration that failed half-way
        if cls.is_registered:
            bpy.utils.unregister_class(cls)


def _nothing() -> None:
    pass


def _steps() -> list[tuple[Callable[[], None], Callable[[], None]]]:
    """(do, undo) in order; `undo` is also called where its own `do` failed half-way."""

    def registered(cls: type) -> tuple[Callable[[], None], Callable[[], None]]:
        return lambda: bpy.utils.register_class(cls), lambda: bpy.utils.unregister_class(cls) if cls.is_registered else None

    menu, exports = bpy.types.TOPBAR_MT_file_import, bpy.types.TOPBAR_MT_file_export
    return [
        *(registered(cls) for cls in _CLASSES),
        (_nothing, session.shut_down),
        (properties.register, properties.unregister),
        (panels.register, panels.unregister),
        (render_engine.register, _engine_off),
        (lambda: source.set_sources(frames.frame_source, display.look_of), lambda: source.set_sources(None)),
        (live.register, live.unregister),
        (handlers.register, handlers.unregister),
        (compositing.register, compositing.unregister),
        (viewport.add, viewport.remove),
        (_nothing, automatic.forget_all),
        (_nothing, uncertainty.forget_all),
        (lambda: strip.add(status.shown), strip.remove),
        (lambda: graph.add(uncertainty.graph_shown), graph.remove),
        (lambda: menu.append(_menu), lambda: menu.remove(_menu)),
        (lambda: exports.append(_export_menu), lambda: exports.remove(_export_menu)),
        (commands.register, commands.unregister),
    ]


def register() -> None:
    """Switch the extension on; calling it again changes nothing. What a failure had registered is taken back."""
    if _undo:
        return
    try:
        for do, undo in _steps():
            _undo.append(undo)
            do()
    except BaseException:
        unregister()
        raise


def unregister() -> None:
    """Switch the extension off; every step is taken back, whatever happens in another."""
    problems = []
    while _undo:
        try:
            _undo.pop()()
        except Exception as error:  # noqa: BLE001 - the rest must still go
            problems.append(error)
    if problems:
        raise problems[0]
