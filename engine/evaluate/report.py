"""An evaluation as files: tables (Markdown, JSON), a sheet of pictures, curves where matplotlib is installed."""

from __future__ import annotations

import io
import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import atomic_write
from .pictures import PictureResult

ROWS = (
    ("psnr", "PSNR, dB ↑", 2), ("psnr head", "PSNR of the head, dB ↑", 2), ("psnr with its body", "PSNR with its own neck and shoulders, dB ↑", 2),
    ("ssim", "SSIM ↑", 4), ("lpips", "LPIPS ↓", 4),
    ("lmd", "LMD, px ↓", 3), ("aue upper", "AUE upper, OpenFace's units² ↓", 3), ("aue lower", "AUE lower, the same ↓", 3),
    ("frechet distance of expression", "Frechet distance of expression ↓", 4), ("lip lag (ms)", "lips late by, ms →0", 0),
    ("lip correlation", "lip correlation at its peak ↑", 3), ("lip travel", "lip travel, of the true →1", 3),
    ("faces found", "found in the pictures: faces, share of the frames", 3), ("detected lmd", "found in the pictures: LMD, px ↓", 3),
    ("detected lips correlation", "found in the pictures: lips, correlation ↑", 3), ("detected lips travel", "found in the pictures: lips, travel →1", 3),
    ("detected lids correlation", "found in the pictures: lids, correlation ↑", 3), ("detected lids travel", "found in the pictures: lids, travel →1", 3),
    ("detected lids shut", "found in the pictures: lids shut where the true ones are ↑", 3), ("detected brows correlation", "found in the pictures: brows, correlation ↑", 3),
    ("detected brows travel", "found in the pictures: brows, travel →1", 3),
    ("closure recall", "closure recall on p b m ↑", 3), ("open vowels open", "open vowels open ↑", 3),
    ("sync-c", "Sync-C (LSE-C) ↑", 3), ("sync-d", "Sync-D (LSE-D) ↓", 3), ("sync offset (ms)", "lips late by, by SyncNet, ms →0", 0),
    ("sync lag (ms)", "lips late by, by the shipped sync discriminator, ms →0", 0), ("sync clearness", "its clearness, deviations ↑", 1),
)  # fmt: skip
EMOTION_ROWS = (
    ("nearest", "right emotion nearest at full intensity ↑", 3), ("nearest to the person's", "nearest to the person's own ↑", 3),
    ("spearman", "Spearman of response and intensity ↑", 3), ("least spearman", "the same, least of an emotion ↑", 3),
    ("closure recall, neutral", "closure recall, neutral ↑", 3), ("closure recall falls by (points)", "falls at most by, points of 100 ↓", 1),
)  # fmt: skip

TRUTH = (" of the true landmarks", " of the true pictures")
"""What figures of the truth end in."""

MEANINGS = (
    "PSNR, SSIM (window of 11 px, zero padded): of whole pictures, prediction over the data's background; `of the head`: face, hair and mouth alone.",
    "LMD: mean distance of the mouth's landmarks, both mouths centred. AUE: sum over action units of the mean squared error, 0 to 5 each.",
    "Lips: opening between the inner lips. Lag and correlation at the peak of the cross-correlation within 0.4 s; travel: deviation over the true one.",
    "Found in the pictures: by a face detector, in drawn and true ones alike. Landmarks carried by Gaussians miss what comes about otherwise, as a lid"
    " whose Gaussians grow.",
    "Closure recall: of the p b m on which the true lips close, the share on which these do, a frame to either side.",
)
DIGITS = {"psnr": 2, "loses": 3, "loses ±": 3}
"""Of what becomes of a spoilt view; all else has four."""
SPOILT = (
    "`weight`: what the view counts in the fusion, mean over the face (all views: 1). `motion`: RMS change of the face's motion against the unspoilt"
    " views, the motion's own RMS being 1. `psnr`: dB, against the truth where a data set gives it, else against the unspoilt portrait. `loses`: dB"
    " against the truth that the noise costs, `±` its standard error over the pictures. `fusion`: the avatar; `equal weights`: its networks, every"
    " view weighing the same; `baseline`: the avatar of --baseline."
)


def write_report(result: dict[str, Any], out: Path, pictures: PictureResult | None) -> list[str]:
    """Write `evaluation.md`, `evaluation.json`, `sheet.png` and `curves.png` into a folder; return their names.

    Raises:
        UserError: it cannot be written.
    """
    files = {"evaluation.json": as_json(result)}
    if pictures is not None and pictures.sheet:
        files["sheet.png"] = _png(sheet(pictures.sheet))
    curves = draw_curves(result, pictures)
    if curves:
        files["curves.png"] = curves
    files["evaluation.md"] = markdown(result, bool(curves), "sheet.png" in files).encode()
    for name, content in files.items():
        with atomic_write(out / name) as file:
            file.write(content)
    return sorted(files)


def as_json(result: dict[str, Any]) -> bytes:
    """JSON, see `plain`."""
    return json.dumps(plain(result), indent=1, allow_nan=False).encode()


def plain(value: Any) -> Any:
    """As JSON knows it: numbers of Python, None for what is not finite."""
    if isinstance(value, dict):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(v) for v in value]
    if isinstance(value, (float, np.floating)):
        return float(value) if np.isfinite(value) else None
    return value.item() if isinstance(value, np.generic) else value


def without_curves(value: Any) -> Any:
    """A result for the eye: without the points of curves, numbers in four digits."""
    if isinstance(value, dict):
        return {k: without_curves(v) for k, v in value.items() if not (isinstance(v, list) and v and isinstance(v[0], float))}
    return float(f"{value:.4g}") if isinstance(value, float) else value


def sheet(rows: list[list[np.ndarray]]) -> np.ndarray:
    """Pictures [H,W,3] uint8 side by side, a line of white between; rows under each other."""
    height, width, _ = rows[0][0].shape
    out = np.full((len(rows) * (height + 2) - 2, len(rows[0]) * (width + 2) - 2, 3), 255, np.uint8)
    for y, row in enumerate(rows):
        for x, picture in enumerate(row):
            out[y * (height + 2) : y * (height + 2) + height, x * (width + 2) : x * (width + 2) + width] = picture
    return out


def markdown(result: dict[str, Any], has_curves: bool = False, has_sheet: bool = False) -> str:
    """The tables."""
    lines = [f"# {result['avatar']}", "", f"`{result['file']}`, {result['gaussians']} Gaussians"]
    if result.get("data"):
        lines[-1] += f"; data set `{result['data']}`, split `{result['split']}`"
    if "pictures" in result:
        lines += ["", "## Pictures, mouths and expressions", ""]
        columns = {name: dict(figures) for name, figures in result["pictures"].items()}
        first = next(iter(result["pictures"].values()))
        columns["still"] = {key.removesuffix(" still"): value for key, value in first.items() if key.endswith(" still")}
        columns["truth"] = {key.removesuffix(mark): value for mark in TRUTH for key, value in first.items() if key.endswith(mark)}
        lines += table(ROWS, columns)
        counts = f"{first['frames drawn']} frames drawn, {first['frames followed']} followed, {first.get('closures', 0)} closures; raw frames."
        lines += ["", f"{counts} ↑ more is better, ↓ less is, →n nearest n is."]
        lines += ["`still`: the same head at rest. `truth`: the same measured of the data's own landmarks and pictures. Shares are of 1."]
        lines += ["", *(f"- {text}" for text in MEANINGS)]
        lines += [f"- {note}" for note in result["notes"]]
        lines += ["- LPIPS (--lpips) and Sync-C (--syncnet) where their weights are given; none come with this."]
    if "emotion" in result:
        lines += ["", "## Emotion control", ""]
        if result["without emotions"]:
            lines += [f"{', '.join(result['without emotions'])}: the film names no emotion, the sliders do nothing; nothing to measure.", ""]
    if result.get("emotion"):
        lines += table(EMOTION_ROWS, result["emotion"])
        first = next(iter(result["emotion"].values()))
        lines += ["", f"{first['sentences']} sentences, {first['frames']} frames, {first.get('closures', 0)} closures.", ""]
        names = list(next(iter(first["per emotion"].values())))
        lines += ["| emotion | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
        for emotion, figures in first["per emotion"].items():
            lines.append(f"| {emotion} | " + " | ".join(_number(figures.get(name), 3) for name in names) + " |")
        lines += ["", "`response at half`: how far the face has gone at intensity 0.5, of the way to full; shares are of 1."]
    if "uncertainty" in result:
        lines += _uncertainty(result["uncertainty"])
    if has_sheet:
        lines += ["", "![truth, prediction, four times the difference, four times the error it expects](sheet.png)"]
    if has_curves:
        lines += ["", "![curves](curves.png)"]
    return "\n".join(lines) + "\n"


def table(rows: tuple[tuple[str, str, int], ...], columns: dict[str, dict[str, Any]]) -> list[str]:
    """Markdown: rows (key, name, digits), one column for each dict; rows without a number are left out, and so are empty columns."""
    columns = {name: figures for name, figures in columns.items() if any(key in figures for key, _, _ in rows)}
    lines = ["| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    for key, name, digits in rows:
        numbers = [_number(figures.get(key), digits) for figures in columns.values()]
        if any(numbers):
            lines.append(f"| {name} | " + " | ".join(numbers) + " |")
    return lines


def _uncertainty(found: dict[str, Any]) -> list[str]:
    lines = ["", "## Uncertainty", "", "One view spoilt at a time:", ""]
    cases = [(view, case, figures) for view, entries in found["spoilt views"].items() for case, figures in entries.items() if isinstance(figures, dict)]
    names = list(dict.fromkeys(key for _, _, figures in cases for key in figures))
    lines += ["| view | spoilt by | " + " | ".join(names) + " |", "|---" * (len(names) + 2) + "|"]
    for view, case, figures in cases:
        values = (_number(figures.get(name), DIGITS.get(name.partition(",")[0], 4)) for name in names)
        lines.append(f"| {view} | {case} | " + " | ".join(values) + " |")
    lines += ["", SPOILT]
    falls = {view: entries["weight falls with the noise"] for view, entries in found["spoilt views"].items() if "weight falls with the noise" in entries}
    lines += ["", "Its weight falls with every step of the noise: " + ", ".join(f"{view} {'yes' if yes else 'no'}" for view, yes in falls.items()) + "."]
    lines += ["", "What was not trained on, against what was (or is like it). AUROC: how often the variance of an unseen frame lies above that of a seen one"]
    lines += ["(0.5: it cannot tell). Intensities are of the emotions' sliders, which end at 1.", ""]
    lines += ["| unseen | AUROC of the epistemic variance | of the aleatoric | epistemic, times the seen |", "|---|---|---|---|"]
    for name, figures in found["unseen"].items():
        values = (figures["auroc"], figures["auroc of the aleatoric"], figures["epistemic, times the seen"])
        lines.append(f"| {name} | " + " | ".join(_number(value, 3) for value in values) + " |")
    if "calibration" in found:
        lines += ["", "Calibration error: how far the shares of errors within what the variance says are from the shares that are to lie there."]
        lines += ["Sparsification error: area between the error that is left when the least certain go and when the worst go. Both 0 at best.", ""]
        unit = found["calibration"]["factor"]
        told = "the avatar's own unit of variance" if unit == 1 else "one factor on the variance, from training frames"
        lines += [f"Calibration error of pixels ({told}): {found['calibration']['calibration error']:.3f}."]
        for what in ("pixels", "frames"):
            one = found[f"sparsification, {what}"]
            lines += ["", f"Sparsification error of {what}: {one['ause']:.3f} (no order: {one['ause of no order']:.3f})."]
    return lines


def draw_curves(result: dict[str, Any], pictures: PictureResult | None) -> bytes | None:
    """Lip opening, calibration, sparsification and weights as one PNG; None without matplotlib (an extra) or without anything to draw."""
    if find_spec("matplotlib") is None:
        return None
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    found, plots = result.get("uncertainty", {}), []
    if pictures is not None and np.isfinite(pictures.opening).any():

        def lips(axes: Any) -> None:
            some = slice(0, 250)
            axes.plot(pictures.true_opening[some], label="truth")
            axes.plot(pictures.opening[some], label="avatar")
            axes.set(title="Lip opening", xlabel="held-out frame")
            axes.legend()

        plots.append(lips)
    if "calibration" in found:

        def calibrated(axes: Any) -> None:
            axes.plot(found["calibration"]["expected"], found["calibration"]["observed"], marker=".")
            axes.plot([0, 1], [0, 1], "k:")
            axes.set(title="Calibration of pixels", xlabel="share expected within", ylabel="share within")

        def sparse(axes: Any) -> None:
            one = found["sparsification, pixels"]
            axes.plot(one["removed"], one["left"], label="least certain removed")
            axes.plot(one["removed"], one["oracle"], label="largest errors removed")
            axes.set(title="Sparsification of pixels", xlabel="share removed", ylabel="mean error left")
            axes.legend()

        plots += [calibrated, sparse]
    if "spoilt views" in found:

        def weights(axes: Any) -> None:
            for view, entries in found["spoilt views"].items():
                cases = [case for case, figures in entries.items() if isinstance(figures, dict) and (case == "clean" or case.endswith("dB"))]
                if len(cases) > 2:
                    axes.plot(cases, [entries[case]["weight"] for case in cases], marker=".", label=view)
            axes.set(title="Weight of a spoilt view")
            if axes.lines:
                axes.legend()

        plots.append(weights)
    if not plots:
        return None
    figure = Figure(figsize=(5 * len(plots), 3.6), layout="constrained")
    for number, plot in enumerate(plots):
        plot(figure.add_subplot(1, len(plots), number + 1))
    memory = io.BytesIO()
    FigureCanvasAgg(figure).print_png(memory)
    return memory.getvalue()


def _number(value: Any, digits: int) -> str:
    if value is None or isinstance(value, float) and np.isnan(value):
        return ""
    return f"{value:.{digits}f}" if isinstance(value, (int, float)) else str(value)


def _png(picture: np.ndarray) -> bytes:
    memory = io.BytesIO()
    Image.fromarray(picture).save(memory, "PNG")
    return memory.getvalue()
