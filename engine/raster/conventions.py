"""Numbers that decide the picture, as gsplat 1.5 has them."""

EPS2D = 0.3
"""Pixels squared added to both diagonal terms of a projected covariance.

This blur belongs to what a Gaussian looks like in the pictures that it was trained on. With `pixel_size` p, the size of their pixels at the
Gaussian, and r = p sqrt(fx fy) / z, how many drawn pixels one of them covers, it keeps that look at any distance (ours; Mip-Splatting, Yu et
al. 2024, trains with such filters):

    r > 1, nearer:    scales^2 <- scales^2 + EPS2D p^2 (1 - 1 / r^2)          the trained blur in space, less what a drawn pixel brings anyway
    r < 1, farther:   opacity <- opacity sqrt(det(S + EPS2D r^2 I) / det(S + EPS2D I))          S the projected covariance
"""

NEAR = 0.01
"""Gaussians whose centre lies nearer to the camera plane (or behind it) are not drawn; scene units."""

FAR = 1e10
"""Gaussians whose centre lies farther away are not drawn either."""

MAX_ALPHA = 0.9990000128746033
MIN_ALPHA = 0.003921568859368563
"""A Gaussian's alpha at a pixel is clamped to MAX_ALPHA and skipped below MIN_ALPHA: 0.999 and 1/255 as float32 has them."""

MIN_TRANSMITTANCE = 1e-4
"""A pixel is finished before the Gaussian that would take its transmittance to this or below."""

FRUSTUM_MARGIN = 0.3
"""Share of the half field of view by which the point of linearisation may lie outside the picture."""

EXTEND = 3.33
"""Standard deviations that bound a Gaussian of opacity 1: just past where its alpha falls under MIN_ALPHA."""

LEAST_ALPHA = 1e-10
"""What depth is divided by where a pixel's alpha is less."""

TILE = 16
"""Width and height of a tile in pixels; its rows fill one row of lanes."""
