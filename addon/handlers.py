"""What happens when Blender changes frame, loads, saves, undoes or renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
from bpy.app.handlers import persistent

from ..engine.errors import UserError
from . import avatar, baking, frames, saving, status


@persistent
def _frame_changed(scene: bpy.types.Scene, *_: Any) -> None:
    if frames.may_write(scene):
        frames.show_all(scene)


@persistent
def _edited(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph | None = None) -> None:
    if depsgraph is not None and any(depsgraph.id_type_updated(kind) for kind in ("OBJECT", "ACTION", "SCENE")):
        screen = getattr(bpy.context, "screen", None)
        if screen is None or not screen.is_animation_playing:
            status.changed()


@persistent
def _undone(scene: bpy.types.Scene, *_: Any) -> None:
    # Undo puts back what point clouds held at an earlier frame.
    frames.show_all(scene, again=True)
    status.changed()


@persistent
def _loading(*_: Any) -> None:
    baking.abandon_all()
    status.forget_all()
    frames.forget_all()


@persistent
def _loaded(*_: Any) -> None:
    frames.forget_all()
    frames.set_rendering(False)
    for scene in bpy.data.scenes:
        if avatar.avatars(scene.objects):
            frames.show_all(scene)
    status.changed()


@persistent
def _saving(path: str, *_: Any) -> None:
    saving.before_save(Path(path))


@persistent
def _saved(path: str, *_: Any) -> None:
    try:
        saving.after_save(Path(path))
    except UserError as error:
        print(f"UA-3DTalk: {error}")
    status.changed()


@persistent
def _save_failed(path: str, *_: Any) -> None:
    saving.after_failed_save()


@persistent
def _render_begins(scene: bpy.types.Scene, *_: Any) -> None:
    frames.set_rendering(True)


@persistent
def _render_ends(scene: bpy.types.Scene, *_: Any) -> None:
    frames.set_rendering(False)


_HANDLERS = {
    "frame_change_post": _frame_changed,
    "depsgraph_update_post": _edited,
    "undo_post": _undone,
    "redo_post": _undone,
    "load_pre": _loading,
    "load_post": _loaded,
    "save_pre": _saving,
    "save_post": _saved,
    "save_post_fail": _save_failed,
    "render_init": _render_begins,
    "render_complete": _render_ends,
    "render_cancel": _render_ends,
}


def register() -> None:
    """Add the handlers."""
    for name, function in _HANDLERS.items():
        getattr(bpy.app.handlers, name).append(function)


def unregister() -> None:
    """Take the handlers away and let go of all caches."""
    for name, function in _HANDLERS.items():
        held = getattr(bpy.app.handlers, name)
        if function in held:
            held.remove(function)
    baking.abandon_all()
    status.forget_all()
    frames.forget_all()
    frames.set_rendering(False)
