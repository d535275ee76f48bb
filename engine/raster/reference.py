"""The rasteriser once more, plain and in float64: every Gaussian against every pixel. Slow; for tests and for reading."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from ..avatar.gaussians import sh_basis
from . import conventions as c
from .render import Composite, Rendered

Array = NDArray[np.float64]


def rotation_matrices(quats: Array) -> Array:
    """[N,4] wxyz of any length -> [N,3,3]; a zero quaternion turns nothing."""
    norm = np.linalg.norm(quats, axis=1, keepdims=True)
    w, x, y, z = np.where(norm > 0, quats / np.where(norm > 0, norm, 1), [1.0, 0.0, 0.0, 0.0]).T
    return np.stack([
        np.stack([1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)], -1),
        np.stack([2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)], -1),
        np.stack([2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)], -1),
    ], axis=1)


def render(
    means, quats, scales, opacities, sh, viewmat, K, width, height, background=None, branch=None, composite: Composite = "sorted",
    features=None, near: float = c.NEAR,
) -> Rendered:
    """The same picture as `engine.raster.render`, arguments and result alike."""
    means, quats, scales, opacities, sh = (np.asarray(v, np.float64) for v in (means, quats, scales, opacities, sh))
    view, K = np.asarray(viewmat, np.float64), np.asarray(K, np.float64)
    count = len(means)
    features = np.zeros((count, 0)) if features is None else np.asarray(features, np.float64)

    camera = means @ view[:3, :3].T + view[:3, 3]
    ray = means + view[:3, :3].T @ view[:3, 3]
    ray /= np.maximum(np.linalg.norm(ray, axis=1, keepdims=True), 1e-12)
    degree = int(round(sh.shape[1] ** 0.5)) - 1
    colors = np.maximum(0.5 + np.einsum("nk,nkc->nc", sh_basis(ray, degree), sh), 0.0)
    values = np.concatenate([colors, camera[:, 2:], features], axis=1)

    turn = rotation_matrices(quats)
    covariance = turn @ (scales[:, :, None] ** 2 * turn.transpose(0, 2, 1))

    keys = [camera[:, 2].astype(np.float32)]
    if composite == "layered":
        keys.append(np.asarray(branch) != 0)
    pixel_x, pixel_y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    transmittance, live = np.ones((height, width)), np.ones((height, width), bool)
    blended = np.zeros((height, width, values.shape[1]))
    drawn = np.zeros(count, bool)
    for i in np.lexsort(keys):
        x, y, z = camera[i]
        if not (z >= near and opacities[i] >= c.MIN_ALPHA):
            continue
        (xx, xy), (_, yy) = project_covariance(covariance[i], camera[i], view[:3, :3], K, width, height)
        determinant = xx * yy - xy * xy
        centre = K[0, 0] * x / z + K[0, 2], K[1, 1] * y / z + K[1, 2]
        dx, dy = pixel_x - centre[0], pixel_y - centre[1]
        exponent = (0.5 * (yy * dx**2 + xx * dy**2) - xy * dx * dy) / determinant
        reach = min(c.EXTEND, np.sqrt(2 * np.log(opacities[i] / c.MIN_ALPHA))) * np.sqrt([xx, yy])
        drawn[i] = all(m + r > 0 and m - r < size for m, r, size in zip(centre, reach, (width, height)))
        if not drawn[i]:
            continue
        alpha = np.minimum(c.MAX_ALPHA, opacities[i] * np.exp(-exponent))
        seen = live & (opacities[i] * np.exp(-exponent) >= c.MIN_ALPHA)
        after = transmittance * (1 - alpha)
        finished = seen & (after <= c.MIN_TRANSMITTANCE)
        live &= ~finished
        used = seen & ~finished
        blended[used] += (alpha * transmittance)[used][:, None] * values[i]
        transmittance = np.where(used, after, transmittance)

    alphas = 1 - transmittance
    background = np.zeros(3) if background is None else np.asarray(background, np.float64)
    return Rendered(
        blended[..., :3] + transmittance[..., None] * background, alphas, blended[..., 3] / np.maximum(alphas, 1e-10),
        blended[..., 4:] if features.shape[1] else None, drawn,
    )


def project_covariance(covariance: Array, centre: Array, turn: Array, K: Array, width: int, height: int) -> Array:
    """Covariance [3,3] in the world, centre [3] in the camera -> [2,2] on the picture, blurred by EPS2D (EWA: J W S W^T J^T).

    The point of linearisation is kept near the picture: outside it the linear map grows without bound.
    """
    x, y, z = centre
    fx, fy = K[0, 0], K[1, 1]
    margin = c.FRUSTUM_MARGIN * 0.5 * np.array([width / fx, height / fy])
    most = np.array([(width - K[0, 2]) / fx, (height - K[1, 2]) / fy]) + margin
    least = np.array([K[0, 2] / fx, K[1, 2] / fy]) + margin
    tx, ty = z * np.clip([x / z, y / z], -least, most)
    jacobian = np.array([[fx / z, 0, -fx * tx / z**2], [0, fy / z, -fy * ty / z**2]])
    linear = jacobian @ turn
    return linear @ covariance @ linear.T + c.EPS2D * np.eye(2)
