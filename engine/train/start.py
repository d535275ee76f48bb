"""Where the Gaussians begin: on the surface that depths give, in the hull that masks leave (a face on the usual front of a head), or anywhere (the
paper); neck and shoulders where a bust usually is."""

from __future__ import annotations

import numpy as np
import torch
from scipy.ndimage import binary_dilation

from ..dataset import Frame
from ..errors import UserError
from .config import TrainConfig
from .material import Material, ring, spaced
from .splats import Splats

CUBE = 0.1
"""Half the edge of the cube of random points (paper)."""
VIEWS = 12
"""Pictures that are looked at."""
AGREE = 0.9
"""Share of them whose mask a point of the hull must lie in."""
TRIES = 40
FRONT = 0.085, -0.055, -10.2, -2.2
"""z = a + b y + c x^2 + d y^2 is where a head's front usually lies, in units of about a metre, to 13 mm (measured on the synthetic person)."""
BUST = 0.06, 0.45, 0.15, 0.1, -2.2
"""z = min(a + b max(0, -c - y), d) + e x^2 is where neck and chest usually lie, in the same units."""
FAR = 1.0
"""Farther from the head is no bust: rays that run beside it."""
BACK, THICK = -0.03, 0.002
"""Behind the first is no front; the second is its spread."""


def begin(branch: str, material: Material, config: TrainConfig, random: np.random.Generator) -> tuple[Splats, str]:
    """The first Gaussians of a branch, and in a word where they come from.

    Raises:
        UserError: `depth` is wanted and the data has none.
    """
    count = getattr(config, branch).points
    if branch == "body":
        means, colors = _bust(material, spaced(material.with_body(material.train), VIEWS), count, random)
        return Splats.at(means, colors, config.sh_degree).to(material.device), "bust"
    frames = material.train if branch == "face" else material.with_mouth(material.train)
    frames = spaced(frames, VIEWS)
    has_depth = all(material.data.depth(frame) is not None for frame in frames)
    kind = config.start if config.start != "auto" else ("depth" if has_depth else "hull")
    if kind == "depth" and not has_depth:
        raise UserError(f"{material.data.folder} has no depth to begin with.", "Set `start` to hull or random.")
    if kind == "depth":
        means, colors = _surface(branch, material, frames, count, config.lining > 0, random)
    elif kind == "hull":
        means, colors = _hull(branch, material, frames, count, config.lining > 0, random)
    else:
        means, colors = random.uniform(-CUBE, CUBE, (count, 3)), random.uniform(0.3, 0.7, (count, 3))
    return Splats.at(means, colors, config.sh_degree).to(material.device), kind


def outside_hair(splats: Splats, material: Material) -> torch.Tensor:
    """[N] bool: Gaussians whose centre lies in or near the face or mouth in at least a quarter of some pictures."""
    frames = spaced(material.train, VIEWS)
    means, hits = splats.parameters["means"].detach().cpu().numpy(), np.zeros(len(splats))
    for frame in frames:
        masks = material.data.masks(frame)
        near = binary_dilation(masks.face | masks.mouth, iterations=max(1, masks.face.shape[0] // 64))
        inside, rows, columns = _pixels(means, material, frame)
        hits[inside] += near[rows, columns]
    return torch.from_numpy(hits >= len(frames) / 4).to(material.device)


def _pixels(points: np.ndarray, material: Material, frame: Frame) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which of the points [N,3] a picture holds [N] bool, and the rows and columns of those."""
    place = (points @ frame.viewmat[:3, :3].T + frame.viewmat[:3, 3]) @ material.data.K.T
    x, y = np.floor(place[:, :2] / place[:, 2:]).astype(int).T
    inside = (x >= 0) & (y >= 0) & (x < material.size[0]) & (y < material.size[1]) & (place[:, 2] > 0)
    return inside, y[inside], x[inside]


def _seen(branch: str, material: Material, frame: Frame, lining: bool) -> tuple[np.ndarray, np.ndarray]:
    """Where a picture shows a branch [H,W] bool, and the picture [H,W,3] in 0..1. With a lining the mouth goes on behind the ring round it, in
    its own usual colour."""
    masks, picture = material.data.masks(frame), material.data.picture(frame) / 255.0
    if branch == "face":
        return masks.face | masks.hair, picture
    if not lining or not masks.mouth.any():
        return masks.mouth, picture
    hidden = ring(masks)
    picture[hidden] = np.median(picture[masks.mouth], 0)
    return masks.mouth | hidden, picture


def _surface(
    branch: str, material: Material, frames: list[Frame], count: int, lining: bool, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Pixels of the mask of several pictures, taken back into space: [count,3] and their colours."""
    points, colors = [], []
    K, per_unit = material.data.K, float(material.data.info.get("metres_per_unit", 1.0))
    for frame in frames:
        depth = material.data.depth(frame) / per_unit
        mask, picture = _seen(branch, material, frame, lining)
        rows, columns = np.nonzero(mask & np.isfinite(depth) & (depth > 0))
        z = depth[rows, columns]
        place = np.stack([(columns + 0.5 - K[0, 2]) / K[0, 0] * z, (rows + 0.5 - K[1, 2]) / K[1, 1] * z, z], 1)
        rotation, shift = frame.viewmat[:3, :3], frame.viewmat[:3, 3]
        points.append((place - shift) @ rotation)
        colors.append(picture[rows, columns])
    found, seen = np.concatenate(points), np.concatenate(colors)
    inside = np.abs(found).max(1) < 0.15  # depths at the edge of a mask may be the background's
    found, seen = found[inside], seen[inside]
    if not len(found):
        raise UserError(f"{material.data.folder}: its depths put the {branch} outside +-0.15 units.", "Check metres_per_unit in data.json.")
    chosen = random.choice(len(found), count, replace=len(found) < count)
    return found[chosen] + random.normal(0, 2e-4, (count, 3)), seen[chosen]


def _bust(material: Material, frames: list[Frame], count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pixels that show neck and torso, taken back to where a bust usually is: [count,3] and their colours."""
    points, colors = [], []
    for frame in frames:
        masks = material.data.masks(frame)
        rows, columns = np.nonzero(masks.neck | masks.torso)
        rays = np.stack([columns + 0.5, rows + 0.5, np.ones(len(rows))], 1) @ np.linalg.inv(material.data.K).T @ frame.viewmat[:3, :3]
        camera, front = -frame.viewmat[:3, :3].T @ frame.viewmat[:3, 3], np.full(len(rows), BUST[0])
        for _ in range(4):  # to the plane at the depth that the bust has where the ray met the last one
            places = camera + rays * ((front - camera[2]) / rays[:, 2])[:, None]
            front = np.minimum(BUST[0] + BUST[1] * np.maximum(0, -BUST[2] - places[:, 1]), BUST[3]) + BUST[4] * places[:, 0] ** 2
        points.append(np.nan_to_num(places).clip(-FAR, FAR))
        colors.append(material.data.picture(frame)[rows, columns] / 255)
    found, seen = np.concatenate(points), np.concatenate(colors)
    chosen = random.choice(len(found), count, replace=len(found) < count)
    return found[chosen] + random.normal(0, THICK, (count, 3)), seen[chosen]


def _hull(
    branch: str, material: Material, frames: list[Frame], count: int, lining: bool, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Random points that lie in the masks: [count,3] and their mean colours. Of the face, on the usual front of a head: few poses leave a hull as
    deep as the cube, and what lies behind lips would show when they open. Where nothing there is in the masks, anywhere."""
    share = AGREE if branch == "face" else 0.3  # the mouth's is another one in every picture
    points, colors, total = [], [], 0
    masks, pictures = zip(*(_seen(branch, material, frame, lining) for frame in frames))
    for attempt in range(TRIES):
        tried = random.uniform(-CUBE * 1.2, CUBE * 1.2, (20 * count, 3))
        if branch == "face" and (total or attempt < TRIES // 2):
            x, y = tried[:, 0], tried[:, 1]
            front = FRONT[0] + FRONT[1] * y + FRONT[2] * x**2 + FRONT[3] * y**2
            tried[:, 2] = front.clip(BACK) + random.normal(0, THICK, len(tried))
        hits, color = np.zeros(len(tried)), np.zeros((len(tried), 3))
        for frame, mask, picture in zip(frames, masks, pictures):
            inside, rows, columns = _pixels(tried, material, frame)
            here = mask[rows, columns]
            inside[inside] = here
            hits += inside
            color[inside] += picture[rows[here], columns[here]]
        good = hits >= share * len(frames)
        points.append(tried[good])
        colors.append(color[good] / hits[good][:, None])
        total += int(good.sum())
        if total >= count:
            return np.concatenate(points)[:count], np.concatenate(colors)[:count]
    if not total:
        raise UserError(
            f"{material.data.folder}: no point within +-{CUBE * 1.2:g} units lies in the {branch} masks of all pictures.",
            "The cameras do not look at the head: it must be at the origin, about 0.2 units tall.",
        )
    chosen = random.choice(total, count)
    return np.concatenate(points)[chosen], np.concatenate(colors)[chosen]
