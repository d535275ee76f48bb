"""What each pixel shows: face, hair, inside of the mouth, neck, torso, background; and the pictures made from that.

The person comes from mediapipe's selfie segmentation, sharpened along the picture's own edges by a guided filter (He et al.
2010). Landmarks say where the head ends and where the mouth is open; between face and hair, neck and clothes the colours
decide that the video itself has in places where there is no doubt.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageDraw
from scipy.ndimage import binary_dilation, binary_erosion, binary_fill_holes, distance_transform_edt, gaussian_filter, label, uniform_filter

from ..dataset import PARSING
from .landmarks import BROW_LEFT, BROW_RIGHT, EYE_LEFT, EYE_RIGHT, LANDMARKS_68, LIPS_INNER, LIPS_OUTER, OVAL

FACE, HAIR, MOUTH, NECK, TORSO, BACKGROUND = range(len(PARSING))
"""Numbers in a parsing, in PARSING's order."""

BINS = 16
OPEN = 0.03  # of the eyes' width: a gap between the lips from which on the mouth's inside is seen
SURE = 1.5  # log-likelihood by which a colour must speak against what the place says
SLACK = 0.03  # of the face's width: the jaw's landmarks lie a little inside it
BEHIND_HEAD = 0.25  # of the face's height: how far the neck is continued up behind the head


def refine(alpha: np.ndarray, picture: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """The person's alpha [H,W] float32 in 0..1 along the picture's edges; the face is in it for certain."""
    radius = max(2, round(0.012 * max(alpha.shape)))
    guide = picture.astype(np.float32) @ np.float32([0.299, 0.587, 0.114]) / 255
    size = 2 * radius + 1

    def mean(values: np.ndarray) -> np.ndarray:
        return uniform_filter(values, size, mode="nearest")

    guide_mean, alpha_mean = mean(guide), mean(alpha)
    slope = (mean(guide * alpha) - guide_mean * alpha_mean) / (mean(guide * guide) - guide_mean**2 + 2e-3)
    shift = alpha_mean - slope * guide_mean
    found = mean(slope) * guide + mean(shift)
    # Far from the edge the network is right and the guide is not asked.
    found = np.where((alpha > 0.98) & (alpha_mean > 0.98), 1.0, np.where((alpha < 0.02) & (alpha_mean < 0.02), 0.0, found))
    found = np.clip((found - 0.1) / 0.8, 0, 1)
    found[polygon(landmarks[OVAL], alpha.shape)] = 1.0
    return found.astype(np.float32)


@dataclass(frozen=True, eq=False)
class Colours:
    """Log-likelihoods of colours, [16,16,16] each, as the video has them."""

    skin: np.ndarray
    hair: np.ndarray
    neck: np.ndarray
    clothes: np.ndarray
    long_hair: bool
    """Hair and clothes have different colours: below the jaw they can be told apart."""


def learn_colours(samples: Iterable[tuple[np.ndarray, np.ndarray, np.ndarray]]) -> Colours:
    """Colours of a video from some of its pictures.

    Args:
        samples: (picture [H,W,3] uint8, refined alpha [H,W], landmarks [>=468,2] px) each.
    """
    counts = np.zeros((4, BINS, BINS, BINS))
    for picture, alpha, landmarks in samples:
        person = alpha > 0.9
        places = _places(landmarks, alpha.shape)
        sure = (places.bare, places.crown & person, places.throat & person, places.chest & person)
        for k, area in enumerate(sure):
            np.add.at(counts[k], tuple((picture[area] >> 4).T), 1)
    shares = np.stack([gaussian_filter(c, 0.8, mode="nearest") + 1e-4 * max(c.sum(), 1) / BINS**3 for c in counts])
    shares /= shares.sum((1, 2, 3), keepdims=True)
    # The crown holds forehead, too, where the hair is short: what skin explains is not hair. The same for the throat's collar.
    hair = shares[1] * (shares[1] > shares[0])
    hair = (hair + 1e-7) / (hair + 1e-7).sum()
    neck = shares[2] * (shares[2] > shares[3]) + 0.3 * shares[0]
    neck = (neck + 1e-7) / (neck + 1e-7).sum()
    overlap = float(np.sqrt(hair * shares[3]).sum())
    return Colours(np.log(shares[0]), np.log(hair), np.log(neck), np.log(shares[3]), overlap < 0.4)


def parse(picture: np.ndarray, alpha: np.ndarray, landmarks: np.ndarray, colours: Colours) -> np.ndarray:
    """What each pixel shows.

    Args:
        picture: [H,W,3] uint8. alpha: [H,W] refined. landmarks: [>=468,2] px.

    Returns:
        [H,W] uint8: FACE, HAIR, MOUTH, NECK, TORSO or BACKGROUND.
    """
    places = _places(landmarks, alpha.shape)
    person = alpha > 0.5
    bins = tuple(np.moveaxis(picture >> 4, -1, 0))
    sigma = max(0.7, 0.008 * max(alpha.shape))
    skin, hair, neck, clothes = (gaussian_filter(t[bins], sigma) for t in (colours.skin, colours.hair, colours.neck, colours.clothes))
    found = np.full(alpha.shape, BACKGROUND, np.uint8)
    head = person & places.head
    # Inside the outline the place speaks for the face; eyes, brows, nose, mouth and jaw are face whatever their colour.
    face = head & np.where(places.oval, skin - hair > -SURE, skin - hair > 0) | ((places.features | places.cheeks) & person)
    found[head] = HAIR
    found[_largest(face, places.features)] = FACE
    below = person & ~places.head
    found[below] = TORSO
    throat = below & places.neck & ((neck > clothes - SURE / 2) | places.throat & (neck > clothes - SURE))
    found[binary_fill_holes(_largest(throat, places.throat)) & below] = NECK
    if colours.long_hair:
        found[below & places.beside & (hair > clothes + SURE) & (hair > neck + SURE)] = HAIR
    if places.gap > OPEN:
        found[polygon(landmarks[LIPS_INNER], alpha.shape)] = MOUTH
    return found


def torso_picture(picture: np.ndarray, alpha: np.ndarray, parsing: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """Neck and torso without the head, [H,W,4] uint8. The neck goes on behind the head, so that no gap opens when the head moves."""
    body = (parsing == NECK) | (parsing == TORSO)
    result = np.zeros((*alpha.shape, 4), np.uint8)
    if not body.any():
        return result
    result[..., :3] = picture
    result[..., 3] = np.where(body, alpha * 255 + 0.5, 0)
    reach = round(BEHIND_HEAD * float(np.linalg.norm(landmarks[10, :2] - landmarks[152, :2])))
    head = (parsing == FACE) | (parsing == HAIR) | (parsing == MOUTH)
    first = np.where(body.any(0), body.argmax(0), alpha.shape[0])
    under = np.take_along_axis(head, np.clip(first - 1, 0, None)[None], 0)[0]  # columns where the head comes right above the body
    rows, columns = np.arange(alpha.shape[0])[:, None], np.arange(alpha.shape[1])
    jaw = landmarks[LANDMARKS_68[2:15], 0]
    within = under & (columns >= jaw.min()) & (columns <= jaw.max())  # an ear above a shoulder is no neck
    behind = head & within & (rows < first) & (rows >= landmarks[152, 1] - reach)
    # The rim's pixels are mixed with the chin's: colours come from a little inside.
    inner = binary_erosion(body, iterations=2)
    inner = inner if inner.any() else body
    _, (near_y, near_x) = distance_transform_edt(~inner, return_indices=True)
    rim = behind | (body & ~inner & binary_dilation(behind, iterations=3))
    result[~body, :3] = 0  # what cannot be seen takes no room in the file
    if rim.any():
        y, x = np.flatnonzero(rim.any(1)), np.flatnonzero(rim.any(0))
        box = slice(max(0, y[0] - reach), y[-1] + 1 + reach), slice(max(0, x[0] - reach), x[-1] + 1 + reach)
        fill = picture[near_y[box], near_x[box]].astype(np.float32)
        soft = gaussian_filter(fill, (reach / 10, reach / 10, 0))
        mixed = np.where(behind[box][..., None], soft, fill).clip(0, 255)
        result[box][rim[box], :3] = mixed[rim[box]]
        result[rim, 3] = 255
    return result


def background_picture(samples: Iterable[tuple[np.ndarray, np.ndarray]]) -> tuple[np.ndarray, np.ndarray]:
    """The background: the median where it was seen, its nearest colours, blurred, where the person always stood.

    Args:
        samples: (picture [H,W,3] uint8, alpha [H,W]) each.

    Returns:
        [H,W,3] uint8, and [H,W] bool where it was seen.
    """
    stack, free = [], []
    for picture, alpha in samples:
        stack.append(picture)
        free.append(~binary_dilation(alpha > 0.05, iterations=max(2, round(0.008 * max(alpha.shape)))))
    pictures, seen = np.stack(stack), np.stack(free)
    result = np.zeros(pictures.shape[1:], np.float32)
    for y in range(len(result)):  # row by row: a masked median takes eight times the room of the pictures
        row = np.ma.masked_array(pictures[:, y], np.repeat(~seen[:, y, :, None], 3, -1))
        result[y] = np.ma.median(row, axis=0).filled(0)
    known = seen.sum(0) >= max(1, len(seen) // 20)
    if not known.any():
        result[:] = 128.0
        return result.astype(np.uint8), known
    distance, (y, x) = distance_transform_edt(~known, return_indices=True)
    filled = result[y, x]
    # Blurred the more the further from what was seen.
    for sigma in (2, 6, 18):
        filled = np.where((distance > sigma)[..., None], gaussian_filter(filled, (sigma, sigma, 0)), filled)
    return filled.clip(0, 255).astype(np.uint8), known


def over(picture: np.ndarray, alpha: np.ndarray, background: np.ndarray) -> np.ndarray:
    """The person over a background, [H,W,3] uint8."""
    share = alpha[..., None]
    return (picture * share + background * (1 - share) + 0.5).astype(np.uint8)


def polygon(points: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Inside of a polygon, bool [H,W]; points in px, the first pixel's centre at 0.5."""
    image = Image.new("1", (shape[1], shape[0]))
    ImageDraw.Draw(image).polygon([(float(x) - 0.5, float(y) - 0.5) for x, y in points[:, :2]], fill=1)
    return np.array(image)


@dataclass(frozen=True, eq=False)
class _Places:
    """Areas by landmarks alone, bool [H,W] each; gap: between the lips, over the eyes' width."""

    oval: np.ndarray
    features: np.ndarray
    cheeks: np.ndarray
    bare: np.ndarray
    head: np.ndarray
    crown: np.ndarray
    neck: np.ndarray
    throat: np.ndarray
    beside: np.ndarray
    chest: np.ndarray
    gap: float


def _places(landmarks: np.ndarray, shape: tuple[int, ...]) -> _Places:
    points = np.asarray(landmarks, np.float64)[:, :2]
    jaw = points[LANDMARKS_68[3:14]]  # from below the right ear to below the left
    x = points[454] - points[234]
    width = float(np.linalg.norm(x))
    x = x / width
    down = np.array([-x[1], x[0]])
    height = float(np.linalg.norm(points[152] - points[10]))
    jaw = jaw + np.linspace(-1, 1, len(jaw))[:, None] * x * SLACK * width

    def area(*corners: np.ndarray) -> np.ndarray:
        return polygon(np.array(corners), shape)

    oval = polygon(points[OVAL], shape)
    marks = [polygon(points[part], shape) for part in (EYE_RIGHT, EYE_LEFT, BROW_RIGHT, BROW_LEFT, LIPS_OUTER)]
    nose = polygon(points[[168, 129, 98, 2, 327, 358]], shape)
    features = np.logical_or.reduce([*marks, nose])
    grown = binary_dilation(np.logical_or.reduce(marks), iterations=max(1, round(0.02 * width)))
    bare = binary_erosion(oval, iterations=max(1, round(0.06 * width))) & ~grown
    side, top = 0.45 * width, points[10] - down * height
    left, right = jaw[0] - x * side, jaw[-1] + x * side
    head = area(left, *jaw, right, right - down * 2.2 * height, left - down * 2.2 * height) | oval
    crown = area(points[127] - down * 0.15 * height, points[10] - down * 0.15 * height, points[356] - down * 0.15 * height, top + x * width / 2, top - x * width / 2)
    neck = area(jaw[0] - x * 0.05 * width, *jaw, jaw[-1] + x * 0.05 * width, jaw[-1] + down * 1.2 * height, jaw[0] + down * 1.2 * height) & ~head
    throat_width = points[LANDMARKS_68[10]] - points[LANDMARKS_68[6]]
    middle = points[152]
    throat = area(
        points[LANDMARKS_68[6]], middle, points[LANDMARKS_68[10]], middle + throat_width / 2 + down * 0.14 * height,
        middle - throat_width / 2 + down * 0.14 * height,
    ) & ~head  # fmt: skip
    beside = area(left, *jaw, right, right + down * 1.2 * height, left + down * 1.2 * height) & ~head
    chest = area(middle + down * 0.45 * height - x * 3 * width, middle + down * 0.45 * height + x * 3 * width,
                 middle + down * 3 * height + x * 3 * width, middle + down * 3 * height - x * 3 * width)  # fmt: skip
    if not chest.any():
        chest[-max(2, shape[0] // 20) :] = True
        chest &= ~head
    upper, lower = points[[82, 13, 312]].mean(0), points[[87, 14, 317]].mean(0)
    gap = float((lower - upper) @ down) / float(np.linalg.norm(points[263] - points[33]))
    return _Places(oval, features, area(*jaw), bare, head, crown, neck, throat, beside, chest, gap)


def _largest(area: np.ndarray, core: np.ndarray) -> np.ndarray:
    """The parts of an area that touch its core: specks elsewhere are left out."""
    parts, count = label(area)
    if not count:
        return area
    kept = np.unique(parts[area & core])
    return np.isin(parts, kept[kept > 0])
