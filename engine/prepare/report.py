"""The quality report: `report.html` with pictures beside it, in plain HTML and SVG."""

from __future__ import annotations

import html
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from ..dataset import DataWriter
from ..dataset.layout import PICTURE_FILES
from ..files import atomic_path, atomic_write
from .landmarks import LANDMARKS_68
from .pose import HeadPoses
from .quality import Quality
from .shape import HeadShape, project
from .video import FPS

SHOWN = 12
TILE = 256

STYLE = (
    "body{font:15px sans-serif;max-width:1100px;margin:2em auto;padding:0 1em;color:#222}td{padding:.15em 1em .15em 0}"
    "img{max-width:100%}svg{width:100%;height:110px;background:#f4f4f4}h2{margin-top:1.6em}li{margin:.4em 0}figure{margin:1em 0}"
)


def write_report(
    out: Path, video: Path, writer: DataWriter, landmarks: np.ndarray, shape: HeadShape, poses: HeadPoses, units: dict[str, np.ndarray],
    quality: Quality, background: np.ndarray,
) -> None:  # fmt: skip
    """Write `report.html` and `report/*.jpg` into the data set folder. `landmarks`: [F,478,3] px, NaN without a face."""
    seen = np.flatnonzero(np.isfinite(poses.error))
    even = seen[np.linspace(0, len(seen) - 1, min(SHOWN, len(seen))).astype(int)]
    worst = np.sort(seen[np.argsort(-poses.error[seen], kind="stable")[: SHOWN // 2]])
    wide = np.unique([seen[pick(values[seen])] for values in poses.angles.T for pick in (np.argmin, np.argmax)])
    sheets = {"overlays": even, "worst": worst, "poses": wide}
    if len(quality.blurred):
        sheets["blurred"] = quality.blurred[np.linspace(0, len(quality.blurred) - 1, min(6, len(quality.blurred))).astype(int)]
    for name, numbers in sheets.items():
        _save(_sheet([_overlay(writer, int(k), landmarks, shape, poses) for k in numbers]), out / "report" / f"{name}.jpg")
    parts = [_parts(writer, int(k), background) for k in even[:: max(1, len(even) // 4)][:4]]
    _save(np.concatenate(parts), out / "report" / "parts.jpg")

    figures = "".join(f"<tr><td>{html.escape(name)}</td><td>{html.escape(str(value))}</td></tr>" for name, value in quality.figures.items())
    notes = "".join(f"<li>{html.escape(note)}</li>" for note in quality.notes) or "<li>Nothing to complain of.</li>"
    captions = {
        "overlays": "Landmarks (green: found; red: where the head's pose puts its rigid points; axes: x red, y green, z blue)",
        "worst": "Where the pose fits worst", "poses": "The farthest turns of the head", "blurred": "Blurred pictures",
    }  # fmt: skip
    pictures = "".join(
        f'<h2>{captions[name]}</h2><figure><img src="report/{name}.jpg"><figcaption>Pictures {", ".join(map(str, numbers))}</figcaption></figure>'
        for name, numbers in sheets.items()
    )
    angles = poses.angles
    curves = "".join(
        f"<h2>{title}</h2>{_curves(lines)}"
        for title, lines in {
            "The jaw's opening (blue) and loudness (orange)": [quality.opening, quality.loudness * np.quantile(quality.opening, 0.99)],
            "Blinks: AU45": [units["AU45"]],
            "Brows: AU1 (blue), AU4 (orange)": [units["AU01"], units["AU04"]],
            "Mouth: AU12 (blue), AU26 (orange)": [units["AU12"], units["AU26"]],
            "Head, degrees: yaw (blue), pitch (orange), roll (green)": list(angles.T),
            "Reprojection error, px": [poses.error],
        }.items()
    )
    text = (
        f'<!doctype html><meta charset="utf-8"><title>{html.escape(video.name)}</title><style>{STYLE}</style>'
        f"<h1>{html.escape(video.name)}</h1><ul>{notes}</ul><table>{figures}</table>{pictures}"
        "<h2>Picture; its parts (face blue, hair black, mouth grey, neck green, torso red); what lies behind the head; person over background</h2>"
        f'<figure><img src="report/parts.jpg"></figure>{curves}'
    )
    with atomic_write(out / "report.html") as file:
        file.write(text.encode())


def _overlay(writer: DataWriter, number: int, landmarks: np.ndarray, shape: HeadShape, poses: HeadPoses) -> np.ndarray:
    picture = Image.open(writer.folder / PICTURE_FILES["ori_imgs"].format(number)).convert("RGB")
    zoom = max(1.0, 2 * TILE / max(picture.size))
    picture = picture.resize((round(picture.width * zoom), round(picture.height * zoom)), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    pose = poses.rotation[number : number + 1], poses.translation[number : number + 1]
    rigid = project(shape.points[shape.rigid], *pose, shape.focal, shape.centre)[0]
    for x, y in rigid * zoom:
        draw.ellipse([x - 1.2, y - 1.2, x + 1.2, y + 1.2], outline=(255, 40, 40))
    for x, y in landmarks[number, LANDMARKS_68, :2] * zoom:
        draw.ellipse([x - 2, y - 2, x + 2, y + 2], fill=(60, 255, 60))
    start = shape.points[4]
    ends = project(np.stack([start, *(start + 0.05 * np.eye(3))]), *pose, shape.focal, shape.centre)[0] * zoom
    for end, colour in zip(ends[1:], ((255, 0, 0), (0, 200, 0), (60, 90, 255))):
        draw.line([tuple(ends[0]), tuple(end)], fill=colour, width=2)
    draw.text((4, 4), f"{number}  {number / FPS:.2f} s  {poses.error[number]:.2f} px", fill=(255, 255, 0))
    return np.asarray(picture)


def _parts(writer: DataWriter, number: int, background: np.ndarray) -> np.ndarray:
    def read(kind: str, mode: str) -> np.ndarray:
        return np.asarray(Image.open(writer.folder / PICTURE_FILES[kind].format(number)).convert(mode))

    picture, parsing, torso = read("ori_imgs", "RGB"), read("parsing", "RGB"), read("torso_imgs", "RGBA").astype(np.float32)
    share = torso[..., 3:] / 255
    behind = (torso[..., :3] * share + background * (1 - share)).astype(np.uint8)
    return np.concatenate([picture, (picture // 2 + parsing // 2), behind, read("gt_imgs", "RGB")], axis=1)


def _sheet(tiles: list[np.ndarray], columns: int = 3) -> np.ndarray:
    high, wide = tiles[0].shape[:2]
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * high, min(columns, len(tiles)) * wide, 3), 255, np.uint8)
    for k, tile in enumerate(tiles):
        y, x = k // columns * high, k % columns * wide
        sheet[y : y + high, x : x + wide] = tile
    return sheet


def _save(picture: np.ndarray, path: Path) -> None:
    with atomic_path(path) as temporary:
        Image.fromarray(picture).save(temporary, "JPEG", quality=88)


def _curves(lines: list[np.ndarray]) -> str:
    """Lines over the video's time in one frame of reference; at most 2,000 points each."""
    values = np.concatenate(lines)
    low, high = float(np.nanmin(values)), float(np.nanmax(values))
    count = max(2, len(lines[0]))
    drawn = []
    for line, colour in zip(lines, ("#2c6fbb", "#e07b1a", "#3a9a3a")):
        steps = np.unique(np.linspace(0, len(line) - 1, min(len(line), 2000)).astype(int))
        steps = steps[np.isfinite(line[steps])]
        points = " ".join(f"{1000 * i / (count - 1):.1f},{100 - 100 * (line[i] - low) / max(high - low, 1e-9):.1f}" for i in steps)
        drawn.append(f'<polyline points="{points}" fill="none" stroke="{colour}" stroke-width="1" vector-effect="non-scaling-stroke"/>')
    return (
        f'<svg viewBox="0 -5 1000 110" preserveAspectRatio="none">{"".join(drawn)}</svg>'
        f"<div>{low:.3g} to {high:.3g}, {len(lines[0]) / FPS:.1f} s</div>"
    )
