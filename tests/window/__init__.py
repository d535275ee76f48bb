"""A walk through Blender's real window: `make_root` makes its folder, `sandbox` runs `walk` in it."""
