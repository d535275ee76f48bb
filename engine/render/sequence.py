"""Frames of a cache through the rasteriser into picture files."""

from __future__ import annotations

import re
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Literal

import numpy as np
import torch
from torch import Tensor

from ..cache import CachedFrame, CacheReader, FrameMissing
from ..errors import Cancelled, UserError
from ..raster import rasterization
from .camera import Camera, CameraPath
from .images import Picture, write_exr, write_png

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True)
class RenderSettings:
    """How frames are drawn and written.

    Attributes:
        format: `png` (colour with alpha, depth, uncertainty in three files) or `exr` (all in one, scene linear).
        background: None for transparent, or "#rrggbb" in sRGB (PNG only).
        backend: `auto` (gsplat where there is CUDA, else the processor), `cpu`, `gsplat`.
        threads: of the processor's rasteriser; None for as many as there are cores.
        largest_uncertainty: variance that is white in uncertainty PNGs; None takes the first frame's 99.9th percentile.
    """

    format: Literal["png", "exr"] = "png"
    background: str | None = None
    backend: Literal["auto", "cpu", "gsplat"] = "auto"
    threads: int | None = None
    largest_uncertainty: float | None = None


class FrameRenderer:
    """Draws a cache's frames.

    Args:
        reader: the open cache.
        backend, threads: see `RenderSettings`.
        shares: also draw the views' shares.
    """

    def __init__(self, reader: CacheReader, backend: str = "auto", threads: int | None = None, shares: bool = False) -> None:
        cuda = backend == "gsplat" or backend == "auto" and torch.cuda.is_available()
        self.device = torch.device("cuda" if cuda else "cpu")
        self.shares = shares
        self.reader, self.backend, self.threads = reader, "gsplat" if cuda else "cpu", threads
        self.opacities, self.sh = self._tensor(reader.static.opacities), self._tensor(reader.static.sh)
        self.branch = torch.from_numpy(reader.branch.astype(np.int64)).to(self.device)

    def _tensor(self, array: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(array, np.float32)).to(self.device)

    def picture(self, moved: CachedFrame, camera: Camera) -> Picture:
        """One frame's Gaussians seen by one camera.

        Raises:
            UserError: the back end is not there.
        """
        features = np.concatenate([moved.uncertainty, moved.shares], axis=1) if self.shares else moved.uncertainty
        with torch.no_grad():
            drawn = rasterization(
                self._tensor(moved.means), self._tensor(moved.quats), self._tensor(moved.scales), self.opacities,
                self._tensor(camera.viewmat)[None], self._tensor(camera.K)[None], camera.width, camera.height,
                sh=self.sh, features=self._tensor(features), branch=self.branch, composite=self.reader.header.composite,
                pixel_size=self.reader.header.pixel_size, backend=self.backend, threads=self.threads,
            )  # fmt: skip
        color, alpha, depth, summed = (x[0].cpu().numpy() for x in (drawn.colors, drawn.alphas, drawn.depth, drawn.features))
        mean = np.where(alpha[..., None] > 0, summed / np.maximum(alpha, 1e-6)[..., None], 0)
        return Picture(color, alpha, depth, mean[..., 0], mean[..., 1], mean[..., 2:] if self.shares else None)


def render_frames(
    cache: Path,
    cameras: CameraPath,
    out: Path,
    frames: tuple[int, int] | None = None,
    settings: RenderSettings = RenderSettings(),
    progress: Progress = lambda done, total, text: None,
    stopped: Callable[[], bool] = lambda: False,
) -> dict[str, Any]:
    """Draw frames of a cache into files `out/<frame, four digits>.*`; each is written in one step.

    Args:
        frames: first and last, both included; None draws all that are baked.

    Returns:
        frames, files, folder, back end, and the scale of uncertainty PNGs.

    Raises:
        UserError: no cache, frames that are not baked (named before anything is drawn), or a folder that cannot be written.
        Cancelled: `stopped` said so; files written until then are whole.
    """
    background = _background(settings)
    reader = CacheReader(Path(cache))
    try:
        wanted = reader.asked(frames)
        renderer = FrameRenderer(reader, settings.backend, settings.threads, shares=settings.format == "exr")
        scale = settings.largest_uncertainty
        files: list[Path] = []
        with ThreadPoolExecutor(1) as pool:  # writes one frame while the next is drawn
            writing: Future[list[Path]] | None = None
            for done, frame in enumerate(wanted):
                if stopped():
                    raise Cancelled()
                try:
                    picture = renderer.picture(reader.at(frame), cameras.at(frame))
                except FrameMissing as error:
                    raise UserError(f"{cache}: frame {frame} is damaged.", "Bake it again.") from error
                if scale is None:
                    total = picture.aleatoric + picture.epistemic
                    scale = float(np.quantile(total[total > 0], 0.999)) if (total > 0).any() else 1.0
                if background is not None:  # blended as it is seen, which is how avatars are trained
                    picture.color += (1 - picture.alpha[..., None]) * background
                    picture.alpha = np.ones_like(picture.alpha)
                if writing is not None:
                    files += writing.result()
                stem = f"{frame:04d}" if frame >= 0 else f"-{-frame:04d}"
                if settings.format == "exr":
                    writing = pool.submit(write_exr, picture, Path(out), stem)
                else:
                    writing = pool.submit(write_png, picture, Path(out), stem, scale)
                progress(done + 1, len(wanted), f"frame {frame}")
            files += writing.result() if writing is not None else []
    finally:
        reader.close()
    result: dict[str, Any] = {"frames": len(wanted), "files": len(files), "out": str(out), "backend": renderer.backend}
    return result | ({"uncertainty_white": scale} if settings.format == "png" else {})


def _background(settings: RenderSettings) -> np.ndarray | None:
    text = settings.background
    if text is None:
        return None
    if settings.format == "exr":
        raise UserError("An OpenEXR picture keeps its alpha and takes no background.", "Leave the background out, or write PNG.")
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise UserError(f"{text!r} is no colour.", "Write a background as #rrggbb, for example #808080.")
    return np.array([int(text[at : at + 2], 16) / 255 for at in (1, 3, 5)], np.float32)
