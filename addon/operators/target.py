"""Which avatar, and which frames, an operator means."""

from __future__ import annotations

from typing import Any

import bpy
from bpy.props import IntProperty, StringProperty

from ...engine.errors import UserError
from .. import avatar


class OnAvatar:
    """For operators on one avatar: the named object, the active one, or the only one in the scene."""

    object: StringProperty(name="Object", description="The avatar's object; the active one by default", options={"SKIP_SAVE"})

    @classmethod
    def poll(cls, context: bpy.types.Context) -> bool:
        """Says why it cannot run."""
        if avatar.is_avatar(context.object) or avatar.avatars(context.scene.objects):
            return True
        cls.poll_message_set("The scene has no avatar; import one with File > Import > UA-3DTalk Avatar")
        return False


class Ranged(OnAvatar):
    """For operators on the avatar's own range, or on other frames."""

    first: IntProperty(name="First", description="First frame, instead of the avatar's own range", options={"SKIP_SAVE"})
    last: IntProperty(name="Last", description="Last frame, instead of the avatar's own range", options={"SKIP_SAVE"})

    def range(self) -> tuple[int, int] | None:
        """First and last frame where they were given."""
        asked = [self.properties.is_property_set(name) for name in ("first", "last")]
        if any(asked) and not all(asked):
            raise UserError("Give both, the first and the last frame.")
        return (self.first, self.last) if all(asked) else None


def target(operator: Any, context: bpy.types.Context) -> bpy.types.Object:
    """The avatar that an operator means. Raises UserError where that is not clear."""
    if operator.object:
        obj = bpy.data.objects.get(operator.object)
        if not avatar.is_avatar(obj):
            raise UserError(f"There is no avatar object {operator.object!r}.", "Check the name in the outliner.")
        return obj
    if avatar.is_avatar(context.object):
        return context.object
    there = avatar.avatars(context.scene.objects)
    if len(there) == 1:
        return there[0]
    raise UserError(f"The scene has {len(there)} avatars and none is active.", "Select the one that is meant.")
