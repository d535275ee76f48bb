"""Text in panels."""

from __future__ import annotations

import textwrap

import bpy


def lines(layout: bpy.types.UILayout, text: str, icon: str = "NONE", most: int = 8) -> None:
    """Text in as many lines as the region's width asks for, at most `most`."""
    region = bpy.context.region
    width = region.width if region is not None and region.width > 1 else 300
    signs = max(20, int(width / (7.0 * (bpy.context.preferences.system.ui_scale or 1.0))) - 8)
    found = textwrap.wrap(text, signs, break_long_words=True)
    if len(found) > most:
        found = [*found[: most - 1], f"{found[most - 1]} ..."]
    for number, line in enumerate(found):
        layout.label(text=line, icon=icon if number == 0 or icon == "NONE" else "BLANK1")
