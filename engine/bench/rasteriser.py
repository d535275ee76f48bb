"""The rasteriser: the plain brute force beside the tiles, forward and backward; how time grows."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch
from torch import Tensor

from ..avatar import load_avatar
from ..raster import rasterization, reference
from ..render import portrait
from .avatars import random_avatar
from .measure import exponent, times

SIDE = 512


class Scene:
    """Gaussians framed by a portrait camera."""

    def __init__(self, avatar_path: Path | None, count: int, side: int, device: str) -> None:
        avatar = random_avatar(count) if avatar_path is None else load_avatar(avatar_path)
        rest, _ = avatar.rest()
        camera = portrait(rest.means, side, side).at(0)
        tensor = lambda x: torch.tensor(np.asarray(x), dtype=torch.float32, device=device)  # noqa: E731
        self.parts = [tensor(x) for x in (rest.means, rest.quats, rest.scales, rest.opacities, rest.sh)]
        self.viewmats, self.Ks, self.side = tensor(camera.viewmat)[None], tensor(camera.K)[None], side
        self.weight = torch.rand(side, side, 3, device=device)

    def draw(self, function: Callable[..., Any], parts: list[Tensor], **options: Any) -> Any:
        *geometry, sh = parts
        return function(*geometry, self.viewmats.to(sh), self.Ks.to(sh), self.side, self.side, sh=sh, **options)

    def forward(self, **options: Any) -> Any:
        with torch.no_grad():
            return self.draw(rasterization, self.parts, **options)

    def both(self, function: Any = rasterization, dtype: torch.dtype = torch.float32, **options: Any) -> list[Tensor]:
        parts = [part.to(dtype, copy=True).requires_grad_() for part in self.parts]
        drawn = self.draw(function, parts, **options)
        (drawn.colors[0] * self.weight).sum().backward()
        return [drawn.colors.detach(), *(part.grad for part in parts)]


def demo_scene(avatar: Path, device: str) -> Scene:
    """An avatar at rest that fills 512 x 512."""
    return Scene(avatar, 0, SIDE, device)


def demo(avatar: Path, repeats: int) -> dict[str, Any]:
    """The demo avatar at rest, 512 x 512, on one thread and on two: forward, and forward with backward."""
    scene = demo_scene(avatar, "cpu")
    rows = {f"{threads} threads": _forward_and_both(scene, threads, repeats) for threads in (1, 2)}
    return {"gaussians": len(scene.parts[0])} | rows


def growth(sizes: tuple[int, ...], threads: int, repeats: int) -> dict[str, Any]:
    """Random heads of N Gaussians at 512 x 512."""
    rows = [{"size": n} | _forward_and_both(Scene(None, n, SIDE, "cpu"), threads, repeats) for n in sizes]
    return {"threads": threads, "rows": rows, "exponent": exponent(sizes, [row["forward"]["ms"] for row in rows])}


def _forward_and_both(scene: Scene, threads: int, repeats: int) -> dict[str, Any]:
    took = times({"forward": lambda: scene.forward(threads=threads), "both": lambda: scene.both(threads=threads)}, repeats)
    return {"forward": took["forward"].row(), "forward_backward": took["both"].row()}


def plain_and_fast(count: int, side: int, threads: int, repeats: int) -> dict[str, Any]:
    """Forward with backward by the brute force (float64) and by the tiles, in turns, at a size the brute force can do."""
    scene = Scene(None, count, side, "cpu")
    torch.set_num_threads(threads)
    calls = {
        "plain": lambda: scene.both(reference.rasterization, torch.float64),
        "fast": lambda: scene.both(threads=threads),
    }
    exact, found = calls["plain"](), calls["fast"]()
    names = ("image", "means", "quats", "scales", "opacities", "sh")
    errors = {
        name: float(f"{float((have - want).abs().max() / want.abs().max()):.2g}") for name, have, want in zip(names, found, exact)
    }
    took = times(calls, repeats)
    row = {"gaussians": count, "side": side, "threads": threads} | {name: took[name].row() for name in calls}
    return row | {"times_faster": round(took["plain"].processor / took["fast"].processor, 1), "errors": errors}
