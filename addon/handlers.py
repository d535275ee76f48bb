"""What happens when Blender changes frame, loads, saves, undoes or renders."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import bpy
from bpy.app.handlers import persistent

from ..engine.errors import UserError
from . import avatar, baking, curves, frames, live, saving, status


@persistent
def _frame_changed(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph | None = None) -> None:
    if frames.may_write(scene):
        frames.show_all(scene)
    if not curves.is_ours(scene):
        live.hurry(scene, depsgraph)


@persistent
def _edited(scene: bpy.types.Scene, depsgraph: bpy.types.Depsgraph | None = None) -> None:
    if depsgraph is None or curves.is_ours(scene):
        return
    screen = getattr(bpy.context, "screen", None)
    if screen is not None and screen.is_animation_playing:
        return
    there = status.avatars_in(scene)
    if depsgraph.id_type_updated("SCENE") or depsgraph.id_type_updated("COLLECTION"):
        status.changed()
    else:
        updates = [(update.id.original, update) for update in depsgraph.updates] if there else []
        concerned = [obj for obj in there if any(_concerns(obj, found, update) for found, update in updates)]
        for obj in concerned:
            status.changed(obj)
        if not concerned:
            return
    live.hurry(scene, depsgraph)


def _concerns(obj: bpy.types.Object, found: bpy.types.ID, update: bpy.types.DepsgraphUpdate) -> bool:
    """True where an update may have to do with what moves an avatar's sliders, or with its settings."""
    if isinstance(found, bpy.types.PointCloud) or update.is_updated_geometry and not update.is_updated_transform:
        return False  # such as the frame that we show
    if found == obj or curves.needs_stepping(obj):
        return True
    data = obj.animation_data
    return data is not None and found == data.action


@persistent
def _undone(scene: bpy.types.Scene, *_: Any) -> None:
    # Undo puts back what point clouds held at an earlier frame.
    frames.show_all(scene, again=True)
    status.changed()


@persistent
def _loading(*_: Any) -> None:
    live.forget_all()
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
    live.loaded()
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
    live.forget_all()
    baking.abandon_all()
    status.forget_all()
    frames.forget_all()
    frames.set_rendering(False)
