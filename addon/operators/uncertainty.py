"""Seeing where a result is not to be trusted, and going there."""

from __future__ import annotations

import bpy
from bpy.props import EnumProperty

from ...engine.errors import UserError
from .. import api, display
from ..core.trust import next_frame, region_label, times
from ..feedback import reporting
from ..properties import QUANTITY_ITEMS, REGION_ITEMS
from .target import OnAvatar, target


class JumpToWorst(OnAvatar, bpy.types.Operator):
    """Go to the frame whose uncertainty is furthest above its usual, or to the next or previous that stands out"""

    bl_idname = "ua3dtalk.jump_to_worst"
    bl_label = "Jump to the Worst Frame"
    bl_options = {"REGISTER", "UNDO"}

    step: EnumProperty(
        name="Step",
        items=[
            ("WORST", "Worst", "The worst of all"),
            ("NEXT", "Next", "The next that stands out, as seen from the current frame"),
            ("PREVIOUS", "Previous", "The previous that stands out"),
        ],
        options={"SKIP_SAVE"},
    )
    quantity: EnumProperty(name="Uncertainty", items=QUANTITY_ITEMS, options={"SKIP_SAVE"})
    region: EnumProperty(name="Region", items=REGION_ITEMS, options={"SKIP_SAVE"})

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        obj, scene = target(self, context), context.scene
        asked, settings = self.properties.is_property_set, scene.ua3dtalk_display
        quantity = (self.quantity if asked("quantity") else settings.quantity).lower()
        region = (self.region if asked("region") else settings.region).lower()
        region = "" if region == "all" else region
        found = api.worst_frames(obj, quantity, region, scene)
        trust = api.trust(obj, scene)
        if not found or not trust.score(quantity, region).any():
            raise UserError(f"{obj.name}: no baked frame has an uncertainty.", "Bake it first.")
        score = dict(zip(trust.frames.tolist(), trust.score(quantity, region).tolist()))
        if self.step == "WORST":
            frame = max(found, key=lambda one: score[one])
        else:
            frame = next_frame(found, scene.frame_current, 1 if self.step == "NEXT" else -1)
        scene.frame_set(frame)
        column = trust.times_usual(quantity)[trust.row(frame)].argmax() if not region else trust.regions.index(region)
        self.report({"INFO"}, f"Frame {frame}: {region_label(trust.regions[column])}, {times(score[frame])} its usual")
        return {"FINISHED"}


class FitRamp(bpy.types.Operator):
    """Let the colour ramp of the 3D views go from the least to the most that avatars show at this frame"""

    bl_idname = "ua3dtalk.fit_ramp"
    bl_label = "Fit Colour Ramp"
    bl_options = {"REGISTER", "UNDO"}

    @reporting
    def execute(self, context: bpy.types.Context) -> set[str]:
        low, high = display.fit_ramp(context.scene, context.region_data)
        self.report({"INFO"}, f"From {low:.3g} to {high:.3g}")
        return {"FINISHED"}


CLASSES = (JumpToWorst, FitRamp)
