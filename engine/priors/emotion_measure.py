"""How well emotion is heard: right answers, and whether the confidence knows which they are."""

from __future__ import annotations

from typing import Any

import numpy as np


def auroc(score: np.ndarray, positive: np.ndarray) -> float | None:
    """Probability that a positive [n] bool has a higher score [n] than a negative, ties half; None where one kind is missing."""
    high, low = np.sort(score[positive]), score[~positive]
    if not len(high) or not len(low):
        return None
    above = len(high) - np.searchsorted(high, low, "right")
    ties = np.searchsorted(high, low, "right") - np.searchsorted(high, low, "left")
    return float((above + 0.5 * ties).sum() / (len(high) * len(low)))


def best_temperature(logits: np.ndarray, label: np.ndarray) -> float:
    """The temperature of logits [n,classes] at which the labels [n] are likeliest."""
    choices = np.geomspace(0.2, 5.0, 65)

    def surprise(temperature: float) -> float:
        scaled = logits.astype(np.float64) / temperature
        top = scaled.max(1, keepdims=True)
        total = np.log(np.exp(scaled - top).sum(1)) + top[:, 0]
        return float((total - scaled[np.arange(len(label)), label]).mean())

    return float(min(choices, key=surprise))


def by_clip(values: np.ndarray, clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean over each recording's windows, and the index of each recording's first window."""
    _, first, group, count = np.unique(clip, return_index=True, return_inverse=True, return_counts=True)
    total = np.zeros((len(first), values.shape[1]))
    np.add.at(total, group, values)
    return total / count[:, None], first


def score(probabilities: np.ndarray, label: np.ndarray, clip: np.ndarray, classes: tuple[str, ...]) -> dict[str, Any]:
    """Figures over recordings.

    Args:
        probabilities: [n,classes] of windows; label, clip: [n].

    Returns:
        right: share of recordings whose emotion is named; right_mean: the mean of the emotions' own shares; chance: the
        commonest emotion's share; confidence_auroc: probability that a right answer is more confident than a wrong one;
        calibration_error: mean distance of confidence and share right over ten bins; reliability: [lowest confidence, recordings,
        mean confidence, share right] of bins that hold any; confusion: for each emotion that was meant, how often each was named, in the same order.
    """
    mean, first = by_clip(probabilities, clip)
    meant = label[first]
    said, confidence = mean.argmax(1), mean.max(1)
    right = said == meant
    bins = np.minimum((confidence * 10).astype(int), 9)
    table = [
        [round(int(b) / 10, 1), int((bins == b).sum()), round(float(confidence[bins == b].mean()), 3), round(float(right[bins == b].mean()), 3)]
        for b in np.unique(bins)
    ]
    found = auroc(confidence, right)
    confusion = np.zeros((len(classes), len(classes)), int)
    np.add.at(confusion, (meant, said), 1)
    return {
        "recordings": len(meant),
        "right": round(float(right.mean()), 3),
        "right_mean": round(float(np.mean([right[meant == c].mean() for c in np.unique(meant)])), 3),
        "chance": round(float(np.bincount(meant).max() / len(meant)), 3),
        "confidence_auroc": None if found is None else round(found, 3),
        "calibration_error": round(float(sum(row[1] * abs(row[2] - row[3]) for row in table) / len(meant)), 3),
        "reliability": table,
        "confusion": {name: row.tolist() for name, row in zip(classes, confusion)},
    }
