"""UA-3DTalk's engine: avatar + sound + emotion -> moving 3D Gaussians, without Blender (arXiv 2601.19112)."""

__version__ = "0.1.0"
