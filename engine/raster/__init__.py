"""CPU rasteriser for 3D Gaussians in gsplat's terms: `render` for pictures, `Splatting` for its parts."""

from .render import Rendered, Splatting, render

__all__ = ["Rendered", "Splatting", "render"]
