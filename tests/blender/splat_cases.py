"""Scenes of splats for the drawing tests, and the slow, plain, float64 rasteriser that the shader is held against."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import bpy
import gpu
import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


def gpu_context() -> None:
    """Make off-screen drawing possible in the background, for the rest of the process."""
    if hasattr(gpu, "init"):
        gpu.init()
        return

    in_render(lambda: None)


def in_render(draw: Callable[[], None]) -> None:
    """Call draw() as a render engine's `render` is called, with the GPU context that renders have."""

    class Dummy(bpy.types.RenderEngine):
        """Blender opens its GPU context for an engine that asks for it, and keeps it."""

        bl_idname = "UA3DTALK_TEST_CONTEXT"
        bl_label = "Context"
        bl_use_gpu_context = True
        bl_use_preview = False

        def render(self, depsgraph: bpy.types.Depsgraph) -> None:
            draw()

    scene = bpy.context.scene
    kept = scene.render.engine, scene.render.resolution_x, scene.render.resolution_y
    bpy.utils.register_class(Dummy)
    try:
        scene.render.engine, scene.render.resolution_x, scene.render.resolution_y = Dummy.bl_idname, 64, 64
        bpy.ops.render.render()
    finally:
        scene.render.engine, scene.render.resolution_x, scene.render.resolution_y = kept
        bpy.utils.unregister_class(Dummy)


def random_arrays(count: int, coefficients: int, seed: int, spread: float = 1.0) -> dict[str, NDArray]:
    """Anisotropic splats around the origin in every respect random, most of them 1 to 12 px wide in `Case`'s views."""
    rng = np.random.default_rng(seed)
    sh = rng.normal(0.0, 0.25, (count, coefficients, 3))
    sh[:, 0] = rng.normal(0.4, 1.0, (count, 3))
    return {
        "means": rng.uniform(-spread, spread, (count, 3)).astype(np.float32),
        "quats": (rng.normal(size=(count, 4)) * rng.uniform(0.5, 2.0, (count, 1))).astype(np.float32),
        "scales": np.exp(rng.uniform(np.log(0.005), np.log(0.15), (count, 3))).astype(np.float32),
        "opacities": rng.uniform(0.0, 1.0, count).astype(np.float32),
        "sh": sh.astype(np.float32),
        "branch": rng.integers(0, 2, count).astype(np.uint8),
        "uncertainty": rng.uniform(0.0, 0.01, (count, 2)).astype(np.float32),
        "shares": rng.dirichlet(np.ones(4), count).astype(np.float32),
    }


def perspective(width: int, height: int, lens: float = 1.4, shift: tuple[float, float] = (0.0, 0.0),
                near: float = 0.001, far: float = 100.0) -> Array:
    """OpenGL projection; lens in image widths, shift in half images."""
    p = np.zeros((4, 4))
    p[0, 0], p[1, 1] = 2 * lens, 2 * lens * width / height
    p[0, 2], p[1, 2] = shift
    p[2, 2], p[2, 3], p[3, 2] = -(far + near) / (far - near), -2 * far * near / (far - near), -1
    return p


def parallel(width: int, height: int, scale: float, near: float = 0.001, far: float = 100.0) -> Array:
    """OpenGL projection without perspective; scale is the image's width in world units."""
    return np.array([[2 / scale, 0, 0, 0.1], [0, 2 * width / height / scale, 0, -0.2],
                     [0, 0, -2 / (far - near), -(far + near) / (far - near)], [0, 0, 0, 1.0]])


def look(distance: float, turn: float = 0.4, tilt: float = 0.3) -> Array:
    """World to camera, looking at the origin."""
    return translate(0, 0, -distance) @ rotate(0, tilt) @ rotate(1, turn)


def translate(x: float, y: float, z: float) -> Array:
    m = np.eye(4)
    m[:3, 3] = x, y, z
    return m


def rotate(axis: int, angle: float) -> Array:
    m = np.eye(4)
    i, j = (axis + 1) % 3, (axis + 2) % 3
    m[i, i] = m[j, j] = np.cos(angle)
    m[i, j], m[j, i] = -np.sin(angle), np.sin(angle)
    return m


def scaled(x: float, y: float, z: float) -> Array:
    return np.diag([x, y, z, 1.0])


@dataclass
class Reference:
    """What the slow rasteriser makes: all [h,w,C] float64, row 0 at the bottom; `weight` is the sum of w (= alpha).

    coverage: sum of w of each avatar; median_depth and median_avatar (its number): of the first splat from the front by which the sum of w
    reaches half of its whole; 0 where there is none.
    """

    combined: Array
    depth_sum: Array
    uncertainty_sum: Array
    shares_sum: Array
    coverage: Array
    median_depth: Array
    median_avatar: Array
    weight: Array


def rasterise(avatars: list, view: Array, projection: Array, width: int, height: int, wall: Array | None = None) -> Reference:
    """Every splat over every pixel, farthest first, float64: the equations of 3DGS as they stand.

    The camera is taken apart into focal lengths and principal point in pixels, in the y-down, z-forward camera of the
    3DGS papers; nothing is shared with the code under test. avatars: objects with the attributes of `Splats`. wall: [h,w] depth, row 0
    at the bottom, behind which nothing is seen.
    """
    perspective_view = projection[3, 2] != 0
    # Blender's camera looks along -Z with +Y up; the papers' along +Z with +Y down.
    to_cv = np.diag([1.0, -1.0, -1.0])
    fx, fy = projection[0, 0] * width / 2, projection[1, 1] * height / 2
    cx = width / 2 - projection[0, 2] * width / 2 if perspective_view else width / 2 + projection[0, 3] * width / 2
    cy = height / 2 + projection[1, 2] * height / 2 if perspective_view else height / 2 - projection[1, 3] * height / 2

    rows = []
    for number, one in enumerate(avatars):
        world = np.asarray(one.matrix_world, dtype=np.float64)
        r_cam, t_cam = to_cv @ view[:3, :3], to_cv @ view[:3, 3]
        eye = -np.linalg.inv(view[:3, :3]) @ view[:3, 3]
        splats = []
        for i in range(len(one.means)):
            mean = one.means[i].astype(np.float64)
            at = world[:3, :3] @ mean + world[:3, 3]
            t = r_cam @ at + t_cam
            if t[2] <= 0:
                continue
            # Drawn pixels that one of those covers which the splats were trained on; nearer, the trained blur lies in space.
            covers = one.pixel_size * abs(np.linalg.det(world[:3, :3])) ** (1 / 3) * np.sqrt(fx * fy) / (t[2] if perspective_view else 1)
            scales = np.sqrt(one.scales[i].astype(np.float64) ** 2 + (0.3 * one.pixel_size**2 * (1 - covers**-2) if covers > 1 else 0))
            axes = world[:3, :3] @ rotation_matrix(one.quats[i].astype(np.float64)) @ np.diag(scales)
            sigma = axes @ axes.T
            if perspective_view:
                # Limits of the Jacobian: 0.3 of the half field of view beyond the image's edges.
                tan_x, tan_y = 0.5 * width / fx, 0.5 * height / fy
                tx = t[2] * np.clip(t[0] / t[2], -(cx / fx + 0.3 * tan_x), (width - cx) / fx + 0.3 * tan_x)
                ty = t[2] * np.clip(t[1] / t[2], -(cy / fy + 0.3 * tan_y), (height - cy) / fy + 0.3 * tan_y)
                jacobian = np.array([[fx / t[2], 0, -fx * tx / t[2] ** 2], [0, fy / t[2], -fy * ty / t[2] ** 2]])
                center = np.array([fx * t[0] / t[2] + cx, fy * t[1] / t[2] + cy])
                toward = np.linalg.inv(world[:3, :3]) @ (at - eye)
            else:
                jacobian = np.array([[fx, 0, 0], [0, fy, 0]])
                center = np.array([fx * t[0] + cx, fy * t[1] + cy])
                toward = np.linalg.inv(world[:3, :3]) @ np.linalg.inv(view[:3, :3]) @ np.array([0, 0, -1.0])
            sharp = jacobian @ r_cam @ sigma @ r_cam.T @ jacobian.T
            cov, opacity = sharp + 0.3 * np.eye(2), float(one.opacities[i])
            if 0 < covers < 1:  # farther, a pixel's blur is wider than the trained one
                opacity *= np.sqrt(np.linalg.det(sharp + 0.3 * covers**2 * np.eye(2)) / np.linalg.det(cov))
            toward /= np.linalg.norm(toward)
            color = np.maximum(0.5 + sh_basis(toward)[: one.sh.shape[1]] @ one.sh[i].astype(np.float64), 0)
            doubt = np.zeros(2) if one.uncertainty is None else one.uncertainty[i].astype(np.float64)
            parts = np.zeros(4) if one.shares is None else one.shares[i].astype(np.float64)
            splats.append((t[2], int(one.branch[i]), center, np.linalg.inv(cov), opacity, color, doubt, parts, number))
        splats.sort(key=lambda s: -s[0])
        if one.composite == "layered":
            splats = [s for s in splats if s[1] == 1] + [s for s in splats if s[1] != 1]
        rows.append(splats)

    front_first = merge(rows)[::-1]
    xs, ys = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    light, weights = np.ones((height, width)), np.zeros((len(front_first), height, width))
    for w, (depth, _, center, conic, opacity, *_) in zip(weights, front_first):
        dx, dy = xs - center[0], ys - center[1]
        power = 0.5 * (conic[0, 0] * dx * dx + conic[1, 1] * dy * dy) + conic[0, 1] * dx * dy
        alpha = np.minimum(0.999, opacity * np.exp(-power))[::-1]
        alpha[alpha < 1 / 255] = 0
        if wall is not None:
            alpha[depth > wall] = 0
        w[:] = alpha * light
        light *= 1 - alpha
    # Colour, 1, depth, aleatoric, epistemic, shares, coverage of each splat.
    values = [[*s[5], 1.0, s[0], *s[6], *s[7], *(np.arange(len(avatars)) == s[8])] for s in front_first]
    sums = np.tensordot(weights, np.array(values).reshape(len(values), 11 + len(avatars)), (0, 0))
    half = (np.cumsum(weights, axis=0) >= 0.5 * sums[..., 3]).argmax(axis=0) if values else np.zeros((height, width), int)
    of_half = np.array([(s[0], s[8]) for s in front_first] or [(0, 0)], dtype=float)[half] * (sums[..., 3:4] > 0)
    return Reference(sums[..., :4], sums[..., 4:5], sums[..., 5:7], sums[..., 7:11], sums[..., 11:], of_half[..., :1], of_half[..., 1:], sums[..., 3:4])


def merge(rows: list[list]) -> list:
    """One list by depth; a layered avatar's list is only ever drawn alone here, so its own order is kept."""
    return rows[0] if len(rows) == 1 else sorted((s for row in rows for s in row), key=lambda s: -s[0])


def rotation_matrix(q: Array) -> Array:
    """Rotation of a vector by a quaternion w x y z, by its defining product q v q*."""
    w, v = q[0] / np.linalg.norm(q), q[1:] / np.linalg.norm(q)
    return np.stack([(w * w - v @ v) * e + 2 * (v @ e) * v + 2 * w * np.cross(v, e) for e in np.eye(3)], axis=1)


def sh_basis(direction: Array) -> Array:
    """Real spherical harmonics, degrees 0 to 3, in the order and signs of 3DGS, from Legendre polynomials.

    Order within a degree: m = -l .. l; 3DGS's basis carries the Condon-Shortley sign (-1)^m.
    """
    x, y, z = direction
    phi, sin_theta = np.arctan2(y, x), np.hypot(x, y)
    legendre = {
        (0, 0): 1.0, (1, 0): z, (1, 1): sin_theta,
        (2, 0): (3 * z * z - 1) / 2, (2, 1): 3 * z * sin_theta, (2, 2): 3 * sin_theta**2,
        (3, 0): (5 * z**3 - 3 * z) / 2, (3, 1): 1.5 * (5 * z * z - 1) * sin_theta,
        (3, 2): 15 * z * sin_theta**2, (3, 3): 15 * sin_theta**3,
    }
    factorial = [1, 1, 2, 6, 24, 120, 720]
    values = []
    for l in range(4):
        for m in range(-l, l + 1):
            k = np.sqrt((2 * l + 1) / (4 * np.pi) * factorial[l - abs(m)] / factorial[l + abs(m)])
            turn = 1.0 if m == 0 else np.sqrt(2) * (np.cos(m * phi) if m > 0 else np.sin(-m * phi))
            values.append((-1) ** abs(m) * k * turn * legendre[l, abs(m)])
    return np.array(values)
