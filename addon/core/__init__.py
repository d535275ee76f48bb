"""What the add-on decides without Blender: times, curves, what is stale, names, paths, presets, environment set-up."""
