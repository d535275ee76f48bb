"""An avatar that performs as a bake lets it: sound, emotion and action units -> views -> deformation -> rasteriser."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from ..avatar import EMOTIONS, Avatar, load_avatar
from ..avatar.regions import REGIONS, regions
from ..bake import Baker, Session
from ..deform.fast import Deformer, Motion
from ..errors import UserError
from ..files import file_hash
from ..raster import Rasterised, rasterization
from ..shot import Shot

EQUAL_LOGVAR = 16.0
"""A log-variance that dwarfs any epistemic one: where all views have it, all weigh the same."""


@dataclass
class Drawn:
    """One picture: color [H,W,3] display sRGB over black, alpha [H,W], and the expected aleatoric and epistemic variance
    [H,W] of the fused state there, of colour where the avatar has a `variance_unit` (0 where nothing moves and it has none)."""

    color: np.ndarray
    alpha: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray

    def over(self, behind: np.ndarray) -> np.ndarray:
        """[H,W,3] in 0..1 over a background [H,W,3] in 0..1."""
        return np.clip(self.color + (1 - self.alpha[..., None]) * behind, 0, 1)


class Subject:
    """An avatar to be judged.

    Args:
        path: the avatar file.
        device, threads: where its networks run, see `Deformer`.

    Raises:
        UserError: no avatar, or a static one.
    """

    def __init__(self, path: Path, device: str = "auto", threads: int | None = None) -> None:
        self.path, self.avatar = Path(path), load_avatar(path)
        if self.avatar.is_static:
            raise UserError(f"{path} is static: there is no motion to judge.", "Choose a trained avatar.")
        self.session = Session(device, threads)
        self.head = self.session.head(self.path)
        self.deformer: Deformer = self.head.deformer  # type: ignore[assignment]
        self.device = str(self.deformer.device)
        self.threads = self.deformer.threads
        sets = [self.avatar.gaussians(branch) for branch in self.avatar.branches]
        self._rest = [np.concatenate([getattr(part, name) for part in sets]) for name in ("means", "quats", "scales", "opacities")]
        width = max(part.sh.shape[1] for part in sets)
        self._sh = np.concatenate([np.pad(part.sh, ((0, 0), (0, width - part.sh.shape[1]), (0, 0))) for part in sets])
        self._branch = np.repeat([0 if branch == "face" else 1 for branch in self.avatar.branches], [len(part) for part in sets])
        self._moving = self.avatar.moving_rows()
        self._still_variance = self.avatar.still_variance()

    @property
    def means(self) -> np.ndarray:
        """Centres [N,3] at rest of the face's Gaussians, units of the avatar."""
        return self._rest[0][: self.avatar.count("face")]

    @property
    def feels(self) -> bool:
        """False where its film named no emotion: its sliders do nothing."""
        rows = self.avatar.tensors.get("emotion.prototypes")
        return rows is not None and bool((np.asarray(rows) != np.asarray(rows)[:1]).any())

    def views(
        self, sound: Path | None, times: np.ndarray, emotion: np.ndarray | None = None, au: np.ndarray | None = None, measured: bool = False
    ) -> dict[str, np.ndarray]:
        """What the networks get at times [F] seconds of a sound (None, NaN: silence).

        Args:
            emotion: [8] or [F,8] weights times intensity; None: what the voice says.
            au: [6] or [F,6] in 0..1, keyed on top of what goes with the emotion.
            measured: `au` are all that the face shows, as in a film.
        """
        count = len(times)
        spread = lambda value, width: np.array(np.broadcast_to(np.zeros(width) if value is None else value, (count, width)), np.float32)  # noqa: E731
        shot = Shot(
            self.path, self.head.hash, sound, "" if sound is None else file_hash(sound), 25.0, np.arange(count, dtype=np.int32),
            np.asarray(times, np.float64) if sound is not None else np.full(count, np.nan), spread(emotion, len(EMOTIONS)),
            np.ones(count, np.float32), np.full(count, float(emotion is not None), np.float32), spread(au, 6),
        )  # fmt: skip
        views = Baker(self.session, shot).views(np.arange(count))
        return views | {"au": shot.au} if measured else views

    def crop(self, rows: np.ndarray) -> Deformer:
        """Networks of some of the face's Gaussians alone, `rows` [R] of `means`, in that order: motion without the cost of the others."""
        tensors = {name: value for name, value in self.avatar.tensors.items() if not name.startswith("mouth.")}
        moving = self.avatar.moving("face")
        rows = np.asarray(rows, np.int64)
        for name in ("face.net.field.samples", "face.net.emotion.field.samples"):  # a frozen avatar knows its fields there alone
            if name in tensors:
                place = np.searchsorted(moving, rows, sorter=np.argsort(moving))
                tensors[name] = np.asarray(tensors[name])[np.argsort(moving)[place]]
        return Deformer(Avatar(self.avatar.meta, tensors | {"face.moving": rows.astype(np.int32)}), self.device, self.threads)

    def points(self, rows: np.ndarray, views: dict[str, np.ndarray]) -> np.ndarray:
        """Centres [F,R,3] of the face's Gaussians `rows` [R], whether they move or not."""
        found = np.repeat(self.means[None, rows], len(views["audio"]), 0)
        moving = np.flatnonzero(np.isin(rows, self.avatar.moving("face")))
        if len(moving):
            deformer = self.crop(np.asarray(rows)[moving])
            found[:, moving] = deformer.moved(deformer.motion(views))["face"][0]
        return found

    def equal_weights(self) -> Avatar:
        """The same avatar with every view weighing the same in the fusion, whatever its variance or doubt: what the uncertainty is held against."""
        tensors = {name: value for name, value in self.avatar.tensors.items() if not name.startswith("doubt.")}
        for name, value in tensors.items():
            if name.endswith(".logvar.weight"):
                tensors[name] = np.zeros(value.shape, np.float32)
            elif name.endswith(".logvar.bias"):
                tensors[name] = np.full(value.shape, EQUAL_LOGVAR, np.float32)
        return Avatar(replace(self.avatar.meta, logvar_bound=None), tensors)

    def lips(self) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the face's moving Gaussians on the upper and on the lower lip: its landmarks where it has them, else by their place."""
        named = [self.avatar.tensors.get(f"landmarks.lip_{side}") for side in ("upper", "lower")]
        if all(rows is not None and len(rows) for rows in named):
            return np.asarray(named[0], np.int64), np.asarray(named[1], np.int64)
        moving = self.avatar.moving("face")
        rows = moving[regions(self.avatar)[moving] == REGIONS.index("lips")]
        if len(rows) < 2:
            raise UserError(f"{self.path} has no Gaussians that move its lips.", "Train it with pictures in which the mouth moves.")
        middle = np.median(self.means[rows], axis=0)
        near = np.abs(self.means[rows, 0] - middle[0]) < np.median(np.abs(self.means[rows, 0] - middle[0]))
        is_upper = self.means[rows, 1] >= middle[1]
        return rows[is_upper & near], rows[~is_upper & near]

    def portrait(self, size: int) -> tuple[np.ndarray, np.ndarray]:
        """viewmat [4,4] and K [3,3] of a camera in front of the face, for pictures of size x size that hold it."""
        up, front = (np.array([("XYZ".index(axis) == i) * (1.0 if sign == "+" else -1.0) for i in range(3)])
                     for sign, axis in (self.avatar.meta.up, self.avatar.meta.front))  # fmt: skip
        axes = np.stack([np.cross(up, front), up, front])  # to the face's left, up, forward
        low, high = np.quantile(self.means @ axes.T, (0.005, 0.995), axis=0)
        centre, half = (low + high) / 2, (high - low) / 2
        distance = 8 * max(half[:2])
        viewmat = np.eye(4)
        viewmat[:3, :3] = np.diag([1.0, -1.0, -1.0]) @ axes
        viewmat[:3, 3] = -np.diag([1.0, -1.0, -1.0]) @ (centre + [0, 0, distance])
        focal = size / 2.2 / max(half[:2]) * (distance - half[2])
        return viewmat.astype(np.float32), np.array([[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]], np.float32)

    def draw(
        self, motion: Motion | None, frame: int, viewmat: np.ndarray, K: np.ndarray, width: int, height: int, deformer: Deformer | None = None,
        body: bool = True,
    ) -> Drawn:
        """One frame of a motion seen by one camera in avatar space; None: at rest.

        Args:
            viewmat: [4,4] world to camera, x right, y down, z forward; K: [3,3] px.
            deformer: what made the motion, where it was not `self.deformer` (another avatar's networks on these Gaussians).
            body: with neck and shoulders, as it is rendered; without, it is the head that a film's own neck and shoulders stand behind.
        """
        posed, uncertainty = self._posed(motion, frame, deformer or self.deformer)
        if not body:
            posed[3][torch.from_numpy(self.avatar.body())] = 0
        with torch.no_grad():
            drawn = self._drawn(posed, viewmat, K, width, height, self._tensor(uncertainty))
        color, alpha, features = (x[0].cpu().numpy() for x in (drawn.colors, drawn.alphas, drawn.features))
        expected = np.where(alpha[..., None] > 0, features / np.maximum(alpha, 1e-6)[..., None], 0)
        return Drawn(color, alpha, expected[..., 0], expected[..., 1])

    def weights(self, motion: Motion, frame: int, viewmat: np.ndarray, K: np.ndarray, maps: np.ndarray) -> np.ndarray:
        """[N,C]: each Gaussian's weight in the pixels of one frame of a motion, times maps [H,W,C], summed over the picture."""
        posed, _ = self._posed(motion, frame, self.deformer)
        height, width, channels = maps.shape
        blended = torch.zeros(len(posed[0]), channels, device=posed[0].device, requires_grad=True)
        drawn = self._drawn(posed, viewmat, K, width, height, blended)
        # A blended feature's gradient is the weight with which it is blended.
        return torch.autograd.grad((drawn.features[0] * self._tensor(maps)).sum(), blended)[0].cpu().numpy()

    def _posed(self, motion: Motion | None, frame: int, deformer: Deformer) -> tuple[list[Tensor], np.ndarray]:
        """means, quats, scales, opacities of all Gaussians, and aleatoric and epistemic variance [N,2]."""
        means, quats, scales, opacities = (np.array(x, np.float32) for x in self._rest)
        uncertainty = np.stack([self._still_variance, np.zeros_like(self._still_variance)], 1)
        if motion is not None:
            end = 0
            for branch, moved in deformer.moved(motion).items():
                rows = self._moving[end : end + moved[0].shape[1]]
                end += len(rows)
                for at_rest, values in zip((means, quats, scales), moved):
                    at_rest[rows] = values[frame]
                own = getattr(motion, branch)
                uncertainty[rows] = np.stack([own.aleatoric[frame], own.epistemic[frame]], 1)
        return [self._tensor(x) for x in (means, quats, scales, opacities)], uncertainty

    def _drawn(self, posed: list[Tensor], viewmat: np.ndarray, K: np.ndarray, width: int, height: int, features: Tensor) -> Rasterised:
        return rasterization(
            *posed, self._tensor(viewmat)[None], self._tensor(K)[None], width, height, sh=self._tensor(self._sh), features=features,
            branch=torch.from_numpy(self._branch).to(features.device), composite=self.avatar.meta.composite,
            pixel_size=self.avatar.meta.pixel_size, threads=None if self.device.startswith("cuda") else self.threads,
        )  # fmt: skip

    def _tensor(self, values: np.ndarray) -> Tensor:
        return torch.from_numpy(np.ascontiguousarray(values, np.float32)).to(self.device if self.device.startswith("cuda") else "cpu")


def project(points: np.ndarray, viewmat: np.ndarray, K: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Pixels [..,2] and depths [..] of points [..,3] of avatar space in one camera."""
    seen = points @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = seen @ K.T
    return pixels[..., :2] / pixels[..., 2:], seen[..., 2]
