"""Colours of the splats from the renders, by linear least squares.

With geometry and opacity fixed a picture is linear in the SH coefficients: pixel = sum_i w_i sum_k basis_k(direction_i) sh_ik. The weights
w come from the rasteriser, for posed pictures from the posed splats. Solved for all views at once by preconditioned conjugate
gradients on the normal equations, with a ridge toward each splat's own mean of the pixels that show it.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from scipy import sparse
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from engine.avatar.gaussians import sh_basis
from engine.raster import Splatting, rasterization

from .face_model import FloatArray
from .look import View
from .person_binding import Binding, deform
from .person_sampling import PARTS

SH_C0 = 0.28209479177387814
SMOOTH_PART = PARTS.index("skin")
"""The part whose colours vary slowly; hair, knitwear and the rest keep their contrast."""

FINE_PARTS = [PARTS.index(name) for name in ("brows", "lashes")]


@dataclass(frozen=True)
class FitSettings:
    """degree of the SH; iterations of conjugate gradients; ridge on the DC and on the higher coefficients, and smooth on differences
    between neighbours of one part, in units of squared blending weight (a splat that fills one pixel of one view has about 1)."""

    degree: int = 1
    iterations: int = 20
    ridge: float = 0.5
    ridge_higher: float = 6.0
    smooth: float = 25.0


class ViewEquations:
    """One picture's share of the equations: W (blending) and B (SH basis toward the camera)."""

    def __init__(
        self, binding: Binding, opacities: FloatArray, flat: NDArray[np.bool_], vertices: FloatArray, view: View, picture: FloatArray,
        degree: int,
    ) -> None:
        means, quats, scales = deform(binding, vertices)
        self.splatting = Splatting(means, quats, scales, opacities, view.viewmat, view.K, view.size, view.size, threads=1)
        self.basis = sh_basis(self.splatting.directions, degree).astype(np.float32)
        # Discs seen edge on stand for more than one colour each: such pixels count less.
        normal = Rotation.from_quat(quats, scalar_first=True).as_matrix()[:, :, 2]
        facing = np.where(flat, np.abs((normal * self.splatting.directions).sum(axis=1)), 1.0)
        facing, covered = self.splatting.forward(facing[:, None])
        # A pixel counts as far as the person fills it in the render, and asks for the render's colour as far as the splats cover it:
        # coverage is the business of the geometry, not of the colours.
        self.alpha = picture[..., 3:] * np.clip(facing, 0.1, 1.0) ** 2
        self.rgb = picture[..., :3]
        self.target = self.rgb * covered[..., None]

    def apply(self, sh: NDArray) -> FloatArray:
        return self.splatting.forward(np.einsum("nk,nkc->nc", self.basis, sh))[0]

    def transpose(self, picture: NDArray) -> NDArray[np.float64]:
        return self.basis[:, :, None] * self.splatting.adjoint(self.alpha * picture)[:, None, :]

    def diagonal(self) -> NDArray[np.float64]:
        return self.basis.astype(np.float64) ** 2 * self.splatting.adjoint(self.alpha, squared=True)

    def seen(self) -> tuple[NDArray, NDArray]:
        """Each splat's blending weight in this picture [N] and the weighted sum of the pixels that show it [N,3]."""
        sums = self.splatting.adjoint(np.concatenate([self.alpha, self.alpha * self.rgb], axis=2))
        return sums[:, 0], sums[:, 1:]


def fit(
    binding: Binding, opacities: FloatArray, part: NDArray[np.int8], fixed: NDArray[np.bool_], plain: FloatArray,
    views: list[View], pictures: dict[str, FloatArray], pose: Callable[[str], FloatArray], settings: FitSettings = FitSettings(),
    progress: Callable[[str], None] = print,
) -> FloatArray:
    """SH [N,K,3] for all splats. fixed [N] keep the colour plain [N,3] (display sRGB); pose(name) gives vertices [V,3]."""
    equations = [ViewEquations(binding, opacities, part == SMOOTH_PART, pose(v.pose), v, pictures[v.name], settings.degree) for v in views]
    count, terms = len(opacities), (settings.degree + 1) ** 2
    start = prior(equations, binding, part, fixed, plain)
    x = np.zeros((count, terms, 3))
    x[:, 0] = (start - 0.5) / SH_C0
    base = x.copy()
    ridge = np.full((1, terms, 1), float(settings.ridge_higher))
    ridge[:, 0] = settings.ridge * SH_C0**2
    # Splats on the skin hide one another in an order that changes with the view: what each of them alone is seen to be must not differ
    # from its neighbours'. The finer the splats (lips, lids, iris), the more they may differ.
    size = np.minimum(np.median(binding.scales, axis=1) / 0.0019, 1.0) ** 3 * np.where(part == SMOOTH_PART, 1.0, 0.02)
    # Brow and lash hairs are finer than a pixel: alone, one has no colour of its own.
    size = np.where(np.isin(part, FINE_PARTS), 0.3, size)
    laplacian = neighbours(binding, part, size)
    smooth = settings.smooth * SH_C0**2
    diagonal = ridge[:, :, 0] + smooth * laplacian.diagonal()[:, None] + sum(e.diagonal() for e in equations)

    def between(v: NDArray) -> NDArray:
        return smooth * (laplacian @ v.reshape(count, -1)).reshape(v.shape)

    inverse = np.where(fixed[:, None], 0.0, 1.0 / diagonal)[:, :, None]
    half = np.full(3, 0.5)

    def normal(v: NDArray) -> NDArray:
        return ridge * v + between(v) + sum(e.transpose(e.apply(v)) for e in equations)

    # The 0.5 that 3DGS adds to every colour is blended too.
    constant = np.zeros_like(x)
    constant[:, 0] = half / SH_C0
    residual = sum(e.transpose(e.target - e.apply(x + constant)) for e in equations) - between(x)
    z = inverse * residual
    direction, energy = z.copy(), float((residual * z).sum())
    first = energy
    for step in range(settings.iterations):
        image = normal(direction)
        rate = energy / max(float((direction * image).sum()), 1e-30)
        x += rate * direction
        residual -= rate * image
        z = inverse * residual
        after = float((residual * z).sum())
        direction = z + (after / max(energy, 1e-30)) * direction
        energy = after
        if step % 5 == 4:
            progress(f"colours: step {step + 1} of {settings.iterations}, residual {np.sqrt(energy / first):.4f} of the first")
    x[fixed] = base[fixed]
    return x.astype(np.float32)


def neighbours(binding: Binding, part: NDArray[np.int8], weight: NDArray, count: int = 6) -> sparse.csr_matrix:
    """Graph Laplacian [N,N] over the nearest splats of the same part (mean of the differences to `count` neighbours), each
    splat's share scaled by weight [N]."""
    place = deform(binding, binding.rest_vertices)[0]
    rows, columns = [], []
    for kind in np.unique(part):
        mine = np.flatnonzero(part == kind)
        if len(mine) > count:
            near = cKDTree(place[mine]).query(place[mine], k=count + 1)[1][:, 1:]
            rows.append(np.repeat(mine, count))
            columns.append(mine[near].ravel())
    i, j = np.concatenate(rows), np.concatenate(columns)
    links = sparse.coo_matrix((weight[i] * 0.5 / count, (i, j)), shape=(len(part), len(part))).tocsr()
    links = links + links.T
    return (sparse.diags(np.asarray(links.sum(axis=1)).ravel()) - links).tocsr()


def prior(
    equations: list[ViewEquations], binding: Binding, part: NDArray[np.int8], fixed: NDArray[np.bool_], plain: FloatArray
) -> NDArray[np.float64]:
    """[N,3] mean of the pixels that show each splat; the nearest seen splat of its part where none does."""
    weight, total = np.zeros(len(part)), np.zeros((len(part), 3))
    for e in equations:
        w, t = e.seen()
        weight += w
        total += t
    # On the skin, what a splat that is hardly seen was seen to be is chance: lean on the neighbours, by how well they are seen.
    spread = neighbours(binding, part, (part == SMOOTH_PART).astype(float), 8)
    for _ in range(2):
        weight, total = weight - 0.8 * (spread @ weight), total - 0.8 * (spread @ total)
    mean = total / np.maximum(weight, 1e-9)[:, None]
    seen = weight > 0.02
    place = deform(binding, binding.rest_vertices)[0]
    for kind in np.unique(part):
        mine = np.flatnonzero((part == kind) & seen)
        lost = np.flatnonzero((part == kind) & ~seen)
        if len(lost):
            mean[lost] = mean[mine[cKDTree(place[mine]).query(place[lost])[1]]] if len(mine) else plain[lost]
    mean[fixed] = plain[fixed]
    return mean


def picture_of(
    binding: Binding, opacities: FloatArray, sh: FloatArray, vertices: FloatArray, view: View, background: tuple[float, float, float]
) -> FloatArray:
    """[H,W,3] the splats at a pose from a view."""
    parts = (*deform(binding, vertices), opacities, view.viewmat[None], view.K[None])
    tensors = [torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in parts]
    with torch.no_grad():
        drawn = rasterization(
            *tensors, view.size, view.size, sh=torch.from_numpy(np.ascontiguousarray(sh, np.float32)), backgrounds=torch.tensor(background),
            threads=1,
        )  # fmt: skip
    return drawn.colors[0].numpy()


def over(picture: FloatArray, background: tuple[float, float, float]) -> FloatArray:
    """[H,W,4] straight alpha -> [H,W,3] over a background."""
    return picture[..., :3] * picture[..., 3:] + (1 - picture[..., 3:]) * np.float32(background)


def psnr(a: FloatArray, b: FloatArray, mask: FloatArray | None = None) -> float:
    """dB between pictures in 0..1; mask [H,W] limits it."""
    error = (np.clip(a, 0, 1) - np.clip(b, 0, 1)) ** 2
    mean = error.mean() if mask is None else (error * mask[..., None]).sum() / (3 * mask.sum())
    return float(-10 * np.log10(max(mean, 1e-12)))
