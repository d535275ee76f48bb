"""Splats with a name: those of the face that lie at landmarks; and the picture by which they are found."""

from __future__ import annotations

import numpy as np
import torch

from ..dataset import Frame
from .material import Material
from .scene import Scene

LANDMARKS = {
    "lip_upper": ((61, 62, 63), 4), "lip_lower": ((67, 66, 65), 4), "lid_upper": ((37, 38, 43, 44), 4), "lid_lower": ((41, 40, 47, 46), 4),
    "brow": (tuple(range(17, 27)), 2),
}  # fmt: skip
"""Named splats of the face: numbers of the 68 landmarks, splats for each."""
CLEAR = 0.3
"""Opacity that a named splat must have."""


def calm(material: Material) -> Frame:
    """The training picture that shows the face most from the front among those with the least mouth, eyes open."""
    data = material.data
    frames = material.train[:: max(1, len(material.train) // 200)]
    aside = np.array([abs(float(frame.viewmat[2, 0])) + abs(float(frame.viewmat[2, 1])) for frame in frames])
    blink = data.aus[[frame.number for frame in frames], -1]
    mouth = np.array([data.masks(frame).mouth.mean() for frame in frames])
    emotion = 0 if data.emotion is None else data.emotion[[frame.number for frame in frames], 1:].sum(1)
    return frames[int(np.argmin(aside + 0.5 * blink + 20 * mouth + 0.5 * emotion))]


def pixel_size(scene: Scene) -> float:
    """Units that a pixel of the training pictures covers at the face's middle, by their median."""
    material = scene.material
    middle = scene.splats["face"].parameters["means"].detach().mean(0).cpu().numpy()
    depths = [float(frame.viewmat[2, :3] @ middle + frame.viewmat[2, 3]) for frame in material.train]
    return float(np.median(depths) / np.sqrt(material.data.K[0, 0] * material.data.K[1, 1]))


@torch.no_grad()
def named_splats(scene: Scene, frame: Frame) -> dict[str, np.ndarray]:
    """Rows of the face's splats that lie at the landmarks of a picture, on the surface that is seen; {} where its landmarks are not known."""
    points = scene.material.data.landmarks[frame.number]
    if not np.isfinite(points).all():
        return {}
    out, splats = scene.motion("face", frame), scene.splats["face"]
    drawn = scene.draw_branch("face", frame, out, 0, torch.zeros(3, device=scene.material.device))
    places, depth = drawn.means2d[0].cpu().numpy(), drawn.depth[0].cpu().numpy()
    means = (splats.parameters["means"] + splats.spread(out.d_means[0])).cpu().numpy()
    far = means @ frame.viewmat[2, :3] + frame.viewmat[2, 3]
    clear = splats.parameters["opacities"].sigmoid().cpu().numpy() > CLEAR
    unit = float(np.linalg.norm(points[36:42].mean(0) - points[42:48].mean(0))) or 1.0
    found = {}
    for name, (numbers, each) in LANDMARKS.items():
        rows: list[int] = []
        allowed = clear
        part, _, side = name.partition("_")
        if side:  # lips touch: each keeps to its side of the line between them
            line = np.mean([points[list(LANDMARKS[f"{part}_{which}"][0]), 1].mean() for which in ("upper", "lower")])
            allowed = clear & ((places[:, 1] < line) == (side == "upper"))
        for number in numbers:
            x, y = points[number]
            row = min(max(int(y), 0), depth.shape[0] - 1), min(max(int(x), 0), depth.shape[1] - 1)
            apart = np.linalg.norm(places - points[number], axis=1) / unit + 20 * np.maximum(far - depth[row] - 0.005, 0)
            rows += [int(i) for i in np.argsort(np.where(allowed, apart, np.inf))[: 3 * each] if int(i) not in rows][:each]
        found[name] = np.array(rows, np.int32)
    return found
