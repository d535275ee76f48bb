"""Pictures of 3D Gaussians in gsplat's terms: `rasterization` (torch, differentiable, CPU or CUDA), and `Splatting`, the CPU's linear map.

`reference` is the plain twin of `rasterization`: float64, every Gaussian against every pixel.
"""

from .interface import rasterization
from .results import Rasterised
from .splatting import Splatting

__all__ = ["Rasterised", "Splatting", "rasterization"]
