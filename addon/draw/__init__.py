"""Splat drawing: one shader and one sort for the viewport and the render engine.

`sort` and `splats` need numpy alone; `shader`, `batch`, `image` need `gpu`; `source`, `scene`, `viewport` need `bpy`.
"""
