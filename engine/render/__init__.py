"""From a cache to picture files without Blender: a camera, the rasteriser, PNG or OpenEXR."""

from .camera import CameraPath, load_camera, portrait
from .sequence import RenderSettings, render_frames

__all__ = ["CameraPath", "RenderSettings", "load_camera", "portrait", "render_frames"]
