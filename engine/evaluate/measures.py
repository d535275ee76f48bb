"""What is measured of pictures, mouths and expressions (method, "Metrics"). Each is a plain function of arrays."""

from __future__ import annotations

import numpy as np
from scipy.stats import rankdata

MOUTH = slice(48, 68)
"""The mouth's landmarks among the 68."""
UPPER_AUS = (1, 2, 4, 5, 6, 7, 9, 45)
LOWER_AUS = (10, 12, 14, 15, 17, 20, 23, 25, 26)


def psnr(found: np.ndarray, truth: np.ndarray, mask: np.ndarray | None = None) -> float:
    """dB between pictures [H,W,3] in 0..1; mask [H,W] bool limits it. Infinite where they are equal."""
    error = (np.asarray(found, np.float64) - truth) ** 2
    mean = error.mean() if mask is None else error[mask].mean()
    return float("inf") if mean == 0 else float(-10 * np.log10(mean))


def landmark_distance(found: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """LMD [F] in px: mouth landmarks of [F,68,2], both sets centred, mean Euclidean distance."""
    a, b = found[:, MOUTH], truth[:, MOUTH]
    apart = (a - a.mean(1, keepdims=True)) - (b - b.mean(1, keepdims=True))
    return np.linalg.norm(apart, axis=2).mean(1)


def action_unit_error(found: dict[str, np.ndarray], truth: dict[str, np.ndarray], numbers: tuple[int, ...]) -> float:
    """AUE: the sum over action units of the mean squared error, in OpenFace's units; those that either side lacks are left out."""
    names = [name for number in numbers if (name := f"AU{number:02d}") in found and name in truth]
    return float(sum(np.mean((found[name] - truth[name]) ** 2) for name in names)) if names else float("nan")


def aperture_lag(found: np.ndarray, truth: np.ndarray, parts: np.ndarray, fps: float, reach: float = 0.4) -> tuple[float, float]:
    """By how much a mouth is late, and how well it agrees then.

    Args:
        found, truth: [F] lip openings.
        parts: [F] number of the uninterrupted piece that a frame belongs to; nothing is compared across pieces.
        reach: seconds looked at to either side.

    Returns:
        seconds by which `found` is behind `truth` (between frames by a parabola), and the correlation at its peak; NaN where
        either does not move.
    """
    steps = np.arange(-int(reach * fps), int(reach * fps) + 1)
    pieces = [np.flatnonzero(parts == part) for part in np.unique(parts)]
    found, truth = found - found.mean(), truth - truth.mean()
    values = []
    for step in steps:
        late = [(rows[max(step, 0) :], rows[max(-step, 0) :]) for rows in pieces if len(rows) > abs(step) + 1]
        late = [(a[: min(len(a), len(b))], b[: min(len(a), len(b))]) for a, b in late]
        a, b = (np.concatenate([x[rows[i]] for rows in late]) if late else np.zeros(0) for i, x in enumerate((found, truth)))
        length = np.sqrt((a @ a) * (b @ b)) if len(a) else 0.0
        values.append(a @ b / length if length > 0 else np.nan)
    values = np.array(values)
    if not np.isfinite(values).any():
        return float("nan"), float("nan")
    peak = int(np.nanargmax(values))
    shift = 0.0
    if 0 < peak < len(values) - 1:
        low, top, high = values[peak - 1 : peak + 2]
        bend = low - 2 * top + high
        shift = 0.5 * (low - high) / bend if bend < 0 else 0.0
    return float((steps[peak] + shift) / fps), float(values[peak])


def closed_below(opening: np.ndarray, share: float = 0.25) -> float:
    """The opening under which lips count as closed: `share` of the way from the 5th to the 95th percentile of a mouth that speaks."""
    low, high = np.percentile(opening, (5, 95))
    return float(low + share * (high - low))


def frechet_distance(a: np.ndarray, b: np.ndarray) -> float:
    """Frechet distance of the Gaussians through two sets [n,C] and [m,C]: |mean difference|^2 + tr(A + B - 2 (A B)^(1/2))."""
    spread = [np.atleast_2d(np.cov(np.asarray(x, np.float64), rowvar=False)) for x in (a, b)]
    values, vectors = np.linalg.eigh(spread[0])
    root = (vectors * np.sqrt(values.clip(0))) @ vectors.T
    # (A B)^(1/2) has the eigenvalues of (A^(1/2) B A^(1/2))^(1/2), which is symmetric.
    cross = np.sqrt(np.linalg.eigvalsh(root @ spread[1] @ root).clip(0)).sum()
    apart = np.mean(a, 0, dtype=np.float64) - np.mean(b, 0, dtype=np.float64)
    return float(max(apart @ apart + np.trace(spread[0]) + np.trace(spread[1]) - 2 * cross, 0.0))


def auroc(seen: np.ndarray, unseen: np.ndarray) -> float:
    """Area under the ROC curve: how often a value of `unseen` lies above one of `seen`, ties half."""
    ranks = rankdata(np.concatenate([seen, unseen]))[len(seen) :]
    return float((ranks.sum() - len(unseen) * (len(unseen) + 1) / 2) / (len(seen) * len(unseen)))


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Spearman's correlation along the last axis of [..,n]; 0 where either is constant."""
    a, b = (rankdata(np.broadcast_to(x, np.broadcast_shapes(np.shape(a), np.shape(b))), axis=-1) for x in (a, b))
    a, b = a - a.mean(-1, keepdims=True), b - b.mean(-1, keepdims=True)
    length = np.sqrt((a * a).sum(-1) * (b * b).sum(-1))
    return np.where(length > 0, (a * b).sum(-1) / np.where(length > 0, length, 1), 0.0)


def sparsification(error: np.ndarray, uncertainty: np.ndarray, points: int = 20) -> dict[str, list[float] | float]:
    """What error is left when the least certain part is taken away (Ilg et al. 2018).

    Args:
        error, uncertainty: [n], 0 or more.

    Returns:
        removed (shares), left and oracle (mean error of the rest, the mean of all being 1; oracle: the largest errors taken away), and
        `ause`: the area between both, 0 where the uncertainty orders as the error does, `ause of no order` where it says nothing.
    """
    error, uncertainty = np.asarray(error, np.float64), np.asarray(uncertainty, np.float64)
    removed = np.arange(points) / points
    keep = np.maximum(np.rint((1 - removed) * len(error)).astype(int), 1)
    curves = {}
    for name, order in (("left", np.argsort(uncertainty, kind="stable")), ("oracle", np.argsort(error, kind="stable"))):
        rest = np.cumsum(error[order]) / np.arange(1, len(error) + 1)
        curves[name] = rest[keep - 1] / max(error.mean(), 1e-30)
    area = float(np.mean(curves["left"] - curves["oracle"]))
    return {
        "removed": removed.tolist(), "left": curves["left"].tolist(), "oracle": curves["oracle"].tolist(), "ause": area,
        "ause of no order": float(np.mean(1 - curves["oracle"])),
    }  # fmt: skip


def calibration(error: np.ndarray, variance: np.ndarray, factor: float | None = None, points: int = 19) -> dict[str, list[float] | float]:
    """How often an error lies where a normal distribution of the stated variance puts it.

    A fusion knows no unit of variance (a common factor cancels, method, trap 4), so that one factor is fitted: on these errors, or
    given, from others.

    Args:
        error: [n,..] signed errors; variance: [n], or of their shape.

    Returns:
        expected and observed shares, the mean distance of both (`calibration error`), and the `factor` on the variance.
    """
    from scipy.stats import norm

    error = np.asarray(error, np.float64)
    variance = np.asarray(variance, np.float64)
    variance = variance.reshape(*variance.shape, *[1] * (error.ndim - variance.ndim))
    if factor is None:
        factor = float(np.mean(error**2 / variance))
    apart = np.abs(error) / np.sqrt(max(factor, 1e-30) * variance)
    expected = np.arange(1, points + 1) / (points + 1)
    observed = [float(np.mean(apart <= norm.ppf(0.5 + share / 2))) for share in expected]
    return {
        "expected": expected.tolist(), "observed": observed, "calibration error": float(np.mean(np.abs(observed - expected))), "factor": factor,
    }  # fmt: skip
