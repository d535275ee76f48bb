"""Pictures of how far it is: truth beside prediction while it trains, and a page at the end."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from ..dataset import Frame
from ..files import atomic_write
from .material import spaced
from .trainer import AGREE, BODY, FUSE, Trainer
from .unit import color_variance

COLUMNS = 6
SMALLEST = 160
"""Pixels of a picture in a sheet, at least."""
STYLE = (
    "body{font:15px sans-serif;max-width:70em;margin:2em auto;color:#222} td,th{padding:.2em 1em;text-align:left} th{font-weight:normal;color:#666}"
)
COLORS = ("#2b6cb0", "#c05621", "#2f855a", "#805ad5", "#b83280")


@torch.no_grad()
def preview(trainer: Trainer, path: Path, frames: list[Frame]) -> None:
    """A sheet: truth above, prediction below; while the mouth trains, its inside alone."""
    scene, material = trainer.scene, trainer.material
    rows: list[list[Tensor]] = [[], []]
    for frame in frames:
        shown = material.shown(frame)
        if trainer.name == BODY and not trainer.done:
            found = scene.draw_branch(BODY, frame, None, trainer.config.sh_degree, trainer.background).colors[0]
            pair = torch.lerp(trainer.background.expand_as(found), shown.truth, shown.body[..., None]), found
        elif "face" in scene.splats:
            pair = shown.truth, scene.picture(frame, trainer.config.sh_degree, still(trainer))
        else:
            out = None if trainer.phase == "static" else scene.motion("mouth", frame)
            found = scene.draw_branch("mouth", frame, out, trainer.config.sh_degree, trainer.background).colors[0]
            pair = torch.lerp(trainer.background.expand_as(found), shown.truth, shown.mouth[..., None]), found
        for row, picture in zip(rows, pair):
            row.append(picture)
    _sheet(path, rows)


def still(trainer: Trainer) -> tuple[str, ...]:
    """Branches whose networks have learned nothing yet."""
    return ("face",) if trainer.name == "face" and trainer.phase == "static" else ()


@torch.no_grad()
def sheet(trainer: Trainer, path: Path, frames: list[Frame], units: Mapping[str, np.ndarray]) -> None:
    """Truth, prediction, error (times 4), and the error that the avatar expects of itself (times 4); `units` as `variance_units` gives them. Below, where
    there are any, the prediction with its own neck and shoulders."""
    scene, material = trainer.scene, trainer.material
    rows: list[list[Tensor]] = [[] for _ in range(5 if BODY in scene.splats else 4)]
    background = torch.from_numpy(material.data.background / np.float32(255)).to(material.device)
    for frame in frames:
        shown = material.shown(frame)
        outs = {branch: scene.motion(branch, frame) for branch in scene.branches}
        drawn = scene.draw_head(frame, outs, trainer.config.sh_degree, shown.behind, color_variance(scene, outs, units))
        found = drawn.colors[0].clamp(0, 1)
        spread = 4 * drawn.features[0, ..., 0].clamp(min=0).sqrt()
        whole = scene.draw_head(frame, outs, trainer.config.sh_degree, background, body=True).colors[0]
        for row, picture in zip(rows, (shown.truth, found, 4 * (found - shown.truth).abs(), spread[..., None].expand_as(found), whole)):
            row.append(picture)
    _sheet(path, rows)


def _sheet(path: Path, rows: list[list[Tensor]]) -> None:
    whole = torch.cat([torch.cat(row, 1) for row in rows]).clamp(0, 1)
    times = max(1, -(-SMALLEST // rows[0][0].shape[1]))
    pixels = (255 * whole).round().byte().cpu().numpy().repeat(times, 0).repeat(times, 1)
    with atomic_write(path, durable=False) as file:
        Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")


def write(
    trainer: Trainer, folder: Path, lines: list[dict[str, Any]], about: dict[str, Any], units: Mapping[str, np.ndarray]
) -> dict[str, dict[str, float]]:
    """`report.html` with its pictures beside it.

    Args:
        lines: the journal's. about: what to tell in the table at the top. units: as `variance_units` gives them.

    Returns:
        split -> PSNR and SSIM, of at most 100 pictures each.
    """
    splits = {name: frames for name, frames in trainer.material.data.splits.items() if name != "train" and frames}
    measured = {"train": trainer.scene.quality(spaced(trainer.material.train, 50), trainer.config.sh_degree)}
    measured |= {name: trainer.scene.quality(spaced(frames, 100), trainer.config.sh_degree) for name, frames in splits.items()}
    pictures = []
    for name, frames in splits.items():
        pictures.append((name, f"held_out_{name}.png"))
        sheet(trainer, folder / pictures[-1][1], spaced(frames, COLUMNS), units)
    rows = "".join(
        f"<tr><td>{name}</td><td>{q['psnr']:.2f}</td><td>{q['psnr_head']:.2f}</td><td>{q['ssim']:.4f}</td></tr>" for name, q in measured.items()
    )
    told = "".join(f"<tr><th>{html.escape(str(key))}</th><td>{html.escape(str(value))}</td></tr>" for key, value in about.items())
    curves = [
        ("PSNR of held-out pictures, dB", [("whole picture", "psnr"), ("head", "psnr_head")], "seconds", "cpu"),
        ("PSNR of held-out pictures, dB", [("whole picture", "psnr"), ("head", "psnr_head")], "steps", "step"),
        ("Loss of the pictures", [(part, f"picture:{part}") for part in trainer.parts if part != AGREE], "steps", "step"),
        ("Gaussians", [(part, f"count:{part}") for part in trainer.parts if part not in (AGREE, FUSE)], "steps", "step"),
    ]
    body = "".join(f"<h2>{title}</h2>{_curves(lines, series, axis, along)}" for title, series, axis, along in curves)
    more = ", with its own neck and shoulders" if BODY in trainer.scene.splats else ""
    shown = "".join(
        f"<h2>Split {name}: truth, prediction, error x 4, error expected by the avatar x 4{more}</h2><img src='{source}' style='max-width:100%'>"
        for name, source in pictures
    )
    page = f"""<!doctype html><meta charset="utf-8"><title>{html.escape(str(about.get("avatar", "Training")))}</title>
<style>{STYLE}</style>
<h1>Training</h1><table>{told}</table>
<h2>Quality on raw pictures</h2><table><tr><th>split</th><th>PSNR</th><th>PSNR of the head</th><th>SSIM</th></tr>{rows}</table>
{shown}{body}<h2>Settings</h2><pre>{html.escape(json.dumps(json.loads(trainer.config.as_json()), indent=1))}</pre>"""
    with atomic_write(folder / "report.html") as file:
        file.write(page.encode())
    return measured


def _curves(lines: list[dict[str, Any]], series: list[tuple[str, str]], axis: str, along: str) -> str:
    """An SVG of some series of the journal; `name:part` takes the lines of one part alone."""
    found = []
    for label, key in series:
        name, _, part = key.partition(":")
        points = [(line[along], line[name]) for line in lines if name in line and along in line and part in ("", line["part"])]
        if len(points) > 1:
            found.append((label, np.array(points, float)))
    if not found:
        return "<p>Too short for a curve.</p>"
    joined = np.concatenate([points for _, points in found])
    low, high = joined.min(0), joined.max(0)
    span = np.where(high > low, high - low, 1)
    width, height, edge = 760, 240, 46
    drawn = [f"<svg width='{width + 2 * edge}' height='{height + 2 * edge}' font-size='12' font-family='sans-serif'>"]
    for share in (0, 0.5, 1):
        x, y = edge + share * width, edge + (1 - share) * height
        drawn.append(f"<line x1='{edge}' x2='{edge + width}' y1='{y}' y2='{y}' stroke='#ddd'/>")
        drawn.append(f"<text x='{edge - 6}' y='{y + 4}' text-anchor='end'>{low[1] + share * span[1]:.4g}</text>")
        drawn.append(f"<text x='{x}' y='{edge + height + 16}' text-anchor='middle'>{low[0] + share * span[0]:.4g}</text>")
    for number, ((label, points), color) in enumerate(zip(found, COLORS)):
        places = (points - low) / span * [width, -height] + [edge, edge + height]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        drawn.append(f"<polyline points='{path}' fill='none' stroke='{color}' stroke-width='1.6'/>")
        drawn.append(f"<text x='{edge + 8 + 160 * number}' y='{edge - 10}' fill='{color}'>{html.escape(label)}</text>")
    drawn.append(f"<text x='{edge + width / 2}' y='{edge + height + 34}' text-anchor='middle' fill='#666'>{axis}</text></svg>")
    return "".join(drawn)
