"""Scripts that run in Blender from outside: `blender -b --python <script> -- <arguments>`."""
