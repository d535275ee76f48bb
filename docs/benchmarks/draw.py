"""Benchmark results as a picture: `python docs/benchmarks/draw.py RESULT.json PICTURE.svg` (needs matplotlib)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
matplotlib.rcParams["svg.fonttype"] = "none"
import matplotlib.pyplot as plt  # noqa: E402

PLAIN, FAST, LATER = "#b0b0b0", "#2a6fbb", "#e08a2e"


def bars(axes: Any, title: str, rows: list[tuple[str, float, str]], unit: str) -> None:
    """Horizontal bars on a logarithmic scale, each with its figure."""
    names, values, colours = zip(*rows)
    axes.barh(range(len(rows)), values, color=colours)
    axes.set_yticks(range(len(rows)), names)
    axes.invert_yaxis()
    axes.set_xscale("log")
    axes.set_xlim(min(values) / 3, max(values) * 6)
    for place, value in enumerate(values):
        axes.text(value * 1.1, place, f"{value:,.0f} {unit}" if value >= 1000 else f"{value:.3g} {unit}", va="center", fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")


def lines(axes: Any, title: str, series: dict[str, tuple[list[float], list[float], str]]) -> None:
    """Time over size, both logarithmic."""
    for name, (sizes, ms, colour) in series.items():
        axes.plot(sizes, ms, "o-", color=colour, label=name, markersize=3)
    axes.set(xscale="log", yscale="log", xlabel="Gaussians", ylabel="ms")
    axes.legend(fontsize=8)
    axes.set_title(title, fontsize=9, loc="left")


def draw(result: dict[str, Any], target: Path) -> None:
    """Six panels of one CPU run."""
    networks, splats, bake = result["deformation"], result["rasteriser"], result["bake"]
    figure, axes = plt.subplots(2, 3, figsize=(13, 6), layout="constrained")
    pair = networks["plain_and_fast"]
    key = "processor_ms"
    title = f"Networks, {pair['gaussians']:,} Gaussians: {pair['times_faster']:g} times faster"
    bars(axes[0, 0], title, [("plain", pair["plain"][key], PLAIN), ("fast", pair["fast"][key], FAST)], "ms")
    memory = [("plain", pair["plain"]["peak_mb"], PLAIN), ("fast", pair["fast"]["peak_mb"], FAST)]
    bars(axes[0, 1], f"Their peak memory: {pair['times_less_memory']:g} times less", memory, "MB")
    brute = splats["plain_and_fast"]
    rows = [("brute force\n+ gradients", brute["plain"][key], PLAIN), ("tiles\n+ gradients", brute["fast"][key], FAST)]
    title = f"Rasteriser, {brute['gaussians']:,} splats, {brute['side']}²: {brute['times_faster']:g} times faster"
    bars(axes[0, 2], title, rows, "ms")
    rows = networks["growth"]["gaussians"]["rows"]
    both = splats["growth"]["rows"]
    sizes = [row["size"] for row in both]
    lines(axes[1, 0], "Time over size (networks 1 thread, splats 2)", {
        f"networks, N^{networks['growth']['gaussians']['exponent']:g}": ([r["size"] for r in rows], [r[key] for r in rows], FAST),
        f"splats 512², forward, N^{splats['growth']['exponent']:g}": (sizes, [r["forward"]["ms"] for r in both], LATER),
        "splats, forward + backward": (sizes, [r["forward_backward"]["ms"] for r in both], PLAIN),
    })  # fmt: skip
    bakes = bake["incremental"]["bakes"]
    rows = [(f"{name}\n({b['computed']} computed)", max(b["seconds"], 1e-3), FAST) for name, b in bakes.items() if name != "sound to be moved"]
    bars(axes[1, 1], f"Bake of {bake['incremental']['frames']} frames, demo avatar", rows, "s")
    late = bake["latency"]
    rows = [("networks alone", late["networks_ms"], PLAIN), ("request to readable", late["request_ms"], FAST)]
    rows.append(("read from the cache", bake["incremental"]["cache"]["read"]["ms"], LATER))
    bars(axes[1, 2], f"One frame on request: {late['beyond_networks_ms']:g} ms more", rows, "ms")
    about = result["machine"]
    figure.suptitle(f"{about['processor']}, {about['threads']} of {about['cores']} cores; plain formulation grey", fontsize=9, x=0.01, ha="left")
    for one in axes.flat:
        one.spines[["top", "right"]].set_visible(False)
        one.tick_params(labelsize=8)
    figure.savefig(target)


if __name__ == "__main__":
    draw(json.loads(Path(sys.argv[1]).read_text("utf-8")), Path(sys.argv[2]))
