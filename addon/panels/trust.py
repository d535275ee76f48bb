"""Where a bake is not to be trusted: a table of this frame, and the way to the worst ones."""

from __future__ import annotations

import bpy

from .. import uncertainty
from ..core.trust import VIEW_WORDS, Trust
from .layout import lines

# Six columns fit into a narrow sidebar.
_HEADS = {"audio": "Snd", "exp": "Exp", "style": "Tone", "emotion": "Emo"}
assert _HEADS.keys() == VIEW_WORDS.keys()


def draw_trust(layout: bpy.types.UILayout, context: bpy.types.Context, obj: bpy.types.Object) -> None:
    """Uncertainty of each region against its usual, and how much of the motion comes from each view."""
    display = context.scene.ua3dtalk_display
    found = uncertainty.shown(obj, context.scene)
    if found is None or not len(found[0]):
        lines(layout, "Nothing baked yet: there is nothing to judge", "INFO")
        return
    trust, whole = found
    column = layout.column(align=True)
    row = column.row(align=True)
    row.prop(display, "quantity", text="")
    row.prop(display, "region", text="")
    row = column.row(align=True)
    row.operator("ua3dtalk.jump_to_worst", text="", icon="PREV_KEYFRAME").step = "PREVIOUS"
    row.operator("ua3dtalk.jump_to_worst").step = "WORST"
    row.operator("ua3dtalk.jump_to_worst", text="", icon="NEXT_KEYFRAME").step = "NEXT"
    column.prop(display, "graph", icon="GRAPH")
    frame = context.scene.frame_current
    row_here = trust.row(frame)
    if row_here is None:
        lines(layout, f"Frame {frame} is not baked", "INFO")
    else:
        _table(layout, trust, row_here, display.quantity.lower())
        if whole:
            said = trust.lines(frame)
            for line in said:
                lines(layout.column(align=True), line, "ERROR")
            if not said:
                lines(layout, "Nothing stands out at this frame", "CHECKMARK")
    if not whole:  # what is usual is not known yet
        lines(layout, f"Reading the bake: {len(trust)} frames so far", "TIME")


def _table(layout: bpy.types.UILayout, trust: Trust, row_here: int, quantity: str) -> None:
    """A row for each region that moves: its uncertainty in times the usual, as an expected error in percent, then the views' shares in percent."""
    grid = layout.column(align=True)
    parts = grid.split(factor=0.27, align=True)
    parts.label(text="Region")
    heads = parts.row(align=True)
    errors = trust.expected_errors(quantity)
    for text in ("x", *([] if errors is None else ["±%"]), *(_HEADS[view] for view in trust.views)):
        heads.label(text=text)
    ratios = trust.times_usual(quantity)[row_here]
    for column, region in enumerate(trust.regions):
        if not trust.shares[row_here, column].any():
            continue
        parts = grid.split(factor=0.27, align=True)
        parts.label(text=region.capitalize())
        cells = parts.row(align=True)
        cells.label(text=f"{ratios[column]:.1f}")
        if errors is not None:
            cells.label(text=f"{100 * errors[row_here, column]:.1f}")
        for share in trust.shares[row_here, column]:
            cells.label(text=f"{100 * share:.0f}%")
    words = ", ".join(VIEW_WORDS[view] for view in trust.views)
    error = "" if errors is None else " ±%: the error of colour it expects, of full brightness."
    lines(layout.column(align=True), f"x: times its usual uncertainty.{error} Then how much of the motion comes from {words}")
