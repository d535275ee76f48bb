"""The splats of several avatars on the GPU: uploaded where changed, sorted where the view or the data changed, drawn together."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import gpu
import numpy as np
from numpy.typing import NDArray

from . import shader
from .sort import back_to_front, depth_keys
from .splats import Splats, pack_motion, pack_shares, pack_static, static_texels

MAX_SPLATS = 1 << 24
"""Indices travel as float32, which counts exactly to here."""

_ORDERS_KEPT = 4
"""Views whose draw order is kept: a quad view sorts each of its views once."""


@dataclass(frozen=True)
class View:
    """A camera and the part of its image to be drawn.

    view_matrix: [4,4] world to camera, camera looks along -Z, +Y up. projection_matrix: [4,4] camera to OpenGL clip space,
    perspective or parallel, also off-centre. width, height: the whole image, px. part: x, y, width, height of the part to
    draw, px from the lower left; None draws all. clip_planes: [P,4] in world space; splats whose centre p has
    plane . (p, 1) < 0 for any of them are left out.
    """

    view_matrix: NDArray[np.float64]
    projection_matrix: NDArray[np.float64]
    width: int
    height: int
    part: tuple[int, int, int, int] | None = None
    clip_planes: NDArray[np.float64] | None = None

    @property
    def drawn(self) -> tuple[int, int, int, int]:
        return self.part or (0, 0, self.width, self.height)

    @property
    def is_perspective(self) -> bool:
        return bool(np.any(np.abs(np.asarray(self.projection_matrix)[3, :3]) > 1e-12))


def data_texture(values: NDArray[np.float32], format: str = "RGBA32F") -> gpu.types.GPUTexture:
    """Texture that holds the rows of values [T,C] one after the other, `shader.TEXTURE_WIDTH` in a line."""
    channels = values.shape[1]
    lines = max(1, -(-len(values) // shader.TEXTURE_WIDTH))
    limit = gpu.capabilities.max_texture_size_get()
    if lines > limit:
        raise ValueError(f"too many splats for this GPU: {len(values)} texels, at most {limit * shader.TEXTURE_WIDTH}")
    size = lines * shader.TEXTURE_WIDTH * channels
    padded = np.zeros(size, dtype=np.float32)
    padded[:values.size] = values.ravel()
    return gpu.types.GPUTexture((shader.TEXTURE_WIDTH, lines), format=format, data=gpu.types.Buffer("FLOAT", size, padded))


@dataclass(frozen=True, eq=False)
class DrawOrder:
    """What of a batch a view shows, the farthest first.

    splats: [V] indices into the concatenation of the batch's avatars; avatars: [V] the avatar of each, as a place in what
    `update` was given; depths: [V] distance of each along the view axis, world units. table: the texture that the shader reads,
    None where there is nothing.
    """

    splats: NDArray[np.intp]
    avatars: NDArray[np.intp]
    depths: NDArray[np.float32]
    table: gpu.types.GPUTexture | None

    def __len__(self) -> int:
        return len(self.splats)


_NOTHING = DrawOrder(np.empty(0, dtype=np.intp), np.empty(0, dtype=np.intp), np.empty(0, dtype=np.float32), None)


class SplatBatch:
    """Keeps the GPU data of a set of avatars between draws. Needs an active GPU context for all but `free` and `update`."""

    def __init__(self) -> None:
        self._splats: tuple[Splats, ...] = ()
        self._numbers: tuple[int, ...] = ()
        self.free()

    def free(self) -> None:
        """Let go of all GPU memory; the next draw uploads again."""
        self._static: gpu.types.GPUTexture | None = None
        self._motion: gpu.types.GPUTexture | None = None
        self._shares: gpu.types.GPUTexture | None = None
        self._first_texel: list[int] = []
        self._orders: OrderedDict[bytes, DrawOrder] = OrderedDict()
        self._quads: gpu.types.GPUBatch | None = None
        self._capacity = 0
        self.uploads = {"static": 0, "motion": 0, "shares": 0, "order": 0}
        """How often each kind of data went to the GPU since `free`."""

    def update(self, splats: Sequence[Splats]) -> None:
        """Take these avatars for the next draws. Arrays that are the same objects as before stay on the GPU.

        Raises ValueError for more than `MAX_SPLATS` splats in all.
        """
        numbers = tuple(number for number, one in enumerate(splats) if len(one))
        new = tuple(splats[number] for number in numbers)
        if sum(map(len, new)) > MAX_SPLATS:
            raise ValueError(f"too many splats in one view: {sum(map(len, new))}, at most {MAX_SPLATS}")
        old = self._splats
        same_number = len(new) == len(old)
        if not (same_number and all(_same(a.static_arrays(), b.static_arrays()) for a, b in zip(new, old))):
            self._static = None
            self._orders.clear()
        if not (same_number and all(_same(a.motion_arrays(), b.motion_arrays()) for a, b in zip(new, old))):
            self._motion = None
            self._orders.clear()
        if not (same_number and all(a.shares is b.shares for a, b in zip(new, old))):
            self._shares = None
        if numbers != self._numbers:
            self._orders.clear()
        self._splats, self._numbers = new, numbers

    def draw(self, view: View, quantity: str = "color", first_avatar: int = 0) -> None:
        """Draw into the active framebuffer, whose viewport is the drawn part of the view; state of the caller's choosing.

        quantity: one of `shader.QUANTITIES`. first_avatar: for `coverage`, the first of the three avatars (places in what `update`
        was given). Writes (value * alpha, alpha) for premultiplied blending.
        """
        if len(self.order(view)):
            if quantity in shader.SHARES and self._shares is None:
                self._shares = data_texture(pack_shares(self._splats))
                self.uploads["shares"] += 1
            self._draw(view, shader.splat_shader(), shader.QUANTITIES.index(quantity), first_avatar)

    def draw_search(self, view: View, bounds: gpu.types.GPUTexture) -> None:
        """Draw one step of the search for the median splat; `shader.search_shader` says what comes of it."""
        if len(self.order(view)):
            self._draw(view, shader.search_shader(), bounds=bounds)

    def order(self, view: View) -> DrawOrder:
        """What a view shows of the batch, and in which order. Kept for the views seen last."""
        if not self._splats:
            return _NOTHING
        self._upload()
        return self._sorted(view)

    def _draw(self, view: View, program: gpu.types.GPUShader, quantity: int = 0, first_avatar: int = 0,
              bounds: gpu.types.GPUTexture | None = None) -> None:
        order = self._sorted(view)
        x, y, width, height = view.drawn
        values = np.zeros(28, dtype=np.float32)
        values[:16] = np.asarray(view.projection_matrix, dtype=np.float32).T.ravel()
        values[16:20] = view.width, view.height, x, y
        values[20:24] = width, height, quantity, view.is_perspective
        values[24] = first_avatar
        block = gpu.types.GPUUniformBuf(gpu.types.Buffer("FLOAT", 28, values))
        avatars = data_texture(self._avatar_table(view))
        shader.bind(program)
        program.uniform_block("view", block)
        program.uniform_sampler("order_data", order.table)
        program.uniform_sampler("motion_data", self._motion)
        program.uniform_sampler("static_data", self._static)
        program.uniform_sampler("avatar_data", avatars)
        # Not read but where shares are drawn; something has to be bound all the same.
        program.uniform_sampler("share_data", self._shares or self._motion)
        if bounds is not None:
            program.uniform_sampler("bounds", bounds)
        self._quads.draw_range(program, elem_start=0, elem_count=6 * len(order))

    def _upload(self) -> None:
        if self._static is None:
            texels, self._first_texel = pack_static(self._splats)
            self._static = data_texture(texels)
            self.uploads["static"] += 1
        if self._motion is None:
            self._motion = data_texture(pack_motion(self._splats))
            self.uploads["motion"] += 1
        count = sum(map(len, self._splats))
        if self._capacity < count:
            self._quads = _quads(count)
            self._capacity = count

    def _sorted(self, view: View) -> DrawOrder:
        view_models = [np.asarray(view.view_matrix, dtype=np.float64) @ one.matrix_world for one in self._splats]
        key = b"".join(matrix[2].tobytes() for matrix in view_models)
        key += "".join(one.composite for one in self._splats).encode() + bytes([view.is_perspective])
        if view.clip_planes is not None:
            key += np.asarray(view.clip_planes, dtype=np.float64).tobytes()
            key += b"".join(np.asarray(one.matrix_world, dtype=np.float64).tobytes() for one in self._splats)
        if key in self._orders:
            self._orders.move_to_end(key)
            return self._orders[key]

        depths = [depth_keys(one.means, matrix) for one, matrix in zip(self._splats, view_models)]
        # What cannot be seen need not be drawn; splats that hold no finite number would spoil the rest.
        seen = np.concatenate([np.isfinite(depth) & (one.opacities >= 1 / 255) for depth, one in zip(depths, self._splats)])
        if view.is_perspective:
            seen &= np.concatenate(depths) > 0.0
        if view.clip_planes is not None:
            seen &= np.concatenate([_inside(one, view.clip_planes) for one in self._splats])
        order = back_to_front(depths, [one.branch for one in self._splats],
                              [one.composite == "layered" for one in self._splats], seen)
        owner = np.repeat(np.arange(len(self._splats)), [len(one) for one in self._splats])[order]
        entries = np.stack([order, owner], axis=1).astype(np.float32)
        depth = np.concatenate(depths)[order]
        self._orders[key] = DrawOrder(order, np.array(self._numbers)[owner], depth, data_texture(entries, "RG32F"))
        self.uploads["order"] += 1
        while len(self._orders) > _ORDERS_KEPT:
            self._orders.popitem(last=False)
        return self._orders[key]

    def _avatar_table(self, view: View) -> NDArray[np.float32]:
        """Rows of the shader's table of avatars; the matrices are multiplied in float64, far objects would shake otherwise."""
        table = np.zeros((len(self._splats), shader.AVATAR_TEXELS, 4), dtype=np.float32)
        first_splat = 0
        for row, number, one, first_texel in zip(table, self._numbers, self._splats, self._first_texel):
            view_model = np.asarray(view.view_matrix, dtype=np.float64) @ one.matrix_world
            row[0:3] = view_model[:3]
            # The eye in object space; for parallel views the direction towards it. A flattened object has no inverse.
            back = np.linalg.pinv(view_model[:3, :3])
            row[3, :3] = back @ (-view_model[:3, 3] if view.is_perspective else [0.0, 0.0, 1.0])
            row[3, 3] = first_splat
            row[4] = first_texel % 65536, first_texel // 65536, static_texels(one), one.sh.shape[1]
            row[5, :3] = number, one.pixel_size, one.pixel_size * abs(np.linalg.det(view_model[:3, :3])) ** (1 / 3)
            first_splat += len(one)
        return table.reshape(-1, 4)


def _same(new: Sequence[NDArray | None], old: Sequence[NDArray | None]) -> bool:
    return all(a is b for a, b in zip(new, old))


def _inside(splats: Splats, planes: NDArray[np.float64]) -> NDArray[np.bool_]:
    object_planes = np.asarray(planes, dtype=np.float64) @ splats.matrix_world
    distance = splats.means @ object_planes[:, :3].T.astype(np.float32) + object_planes[:, 3].astype(np.float32)
    return (distance >= 0.0).all(axis=1)


def _quads(count: int) -> gpu.types.GPUBatch:
    """Four corners and two triangles for each place in the draw order."""
    layout = gpu.types.GPUVertFormat()
    layout.attr_add(id="corner", comp_type="U32", len=1, fetch_mode="INT")
    corners = gpu.types.GPUVertBuf(layout, 4 * count)
    corners.attr_fill("corner", np.arange(4 * count, dtype=np.uint32))
    triangles = (4 * np.arange(count, dtype=np.uint32)[:, None, None] + np.array([[0, 1, 2], [2, 1, 3]], dtype=np.uint32))
    elements = gpu.types.GPUIndexBuf(type="TRIS", seq=triangles.reshape(-1, 3))
    return gpu.types.GPUBatch(type="TRIS", buf=corners, elem=elements)
