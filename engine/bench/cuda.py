"""On a CUDA device: first whether the results are right, then absolute times. What no such device has run is said in the README."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from ..avatar import load_avatar
from ..bake import Baker, Session
from ..deform import reference
from ..deform.fast import Deformer
from ..deform.parameters import branch_tensors
from ..raster import rasterization
from . import baking, rasteriser
from .avatars import random_avatar, random_views


def device_ms(call: Callable[[], object], repeats: int) -> float:
    """Median milliseconds of a call on the device, between CUDA events, after warming up."""
    for _ in range(3):
        call()
    found = []
    for _ in range(repeats):
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        call()
        end.record()
        torch.cuda.synchronize()
        found.append(begin.elapsed_time(end))
    return round(statistics.median(found), 4)


def deformation(avatar: Path, audio: Path, quick: bool) -> dict[str, Any]:
    """Both branches of 50,000 Gaussians, T = 10: against float64 and the processor's path, then a frame's time beside the plain formulation's."""
    face, mouth, frames = (1000, 200, 2) if quick else (45000, 5000, 16)
    head, views = random_avatar(face, mouth), random_views(frames)
    on_device, on_processor = Deformer(head, "cuda"), Deformer(head, "cpu")
    found, wanted = on_device.motion(views), on_processor.motion(views)
    few = np.arange(0, face, max(1, face // 500))
    network = branch_tensors(head.tensors, "face")
    exact = reference.deform("face", head.tensors["face.means"][few], network, {k: v[0] for k, v in views.items()})
    names = ("d_means", "d_quats", "d_scales", "aleatoric", "epistemic")
    error = lambda have, want: float(np.abs(have - want).max() / np.abs(want).max())  # noqa: E731
    errors = {
        "against_float64": max(error(getattr(found.face, n)[0][few], getattr(exact, n)) for n in names),
        "against_processor": max(error(getattr(found.face, n), getattr(wanted.face, n)) for n in names),
        "mouth_against_processor": error(found.mouth.d_means, wanted.mouth.d_means),
    }
    tensors = {k: torch.from_numpy(v).cuda() for k, v in network.items()}
    one = {k: torch.from_numpy(v[0]).cuda() for k, v in views.items()}
    means = torch.from_numpy(head.tensors["face.means"]).cuda()
    row: dict[str, Any] = {"gaussians": face + mouth, "frames": frames, "errors": {k: float(f"{v:.2g}") for k, v in errors.items()}}
    row["ms_a_frame"] = round(device_ms(lambda: on_device.motion(views), 20) / frames, 4)
    row["one_frame_ms"] = device_ms(lambda: on_device.motion({k: v[:1] for k, v in views.items()}), 20)
    try:
        row["plain_ms_a_frame_face"] = device_ms(lambda: _plain(means, tensors, one), 3)
    except torch.cuda.OutOfMemoryError:
        row["plain_ms_a_frame_face"] = None
    row["kernels_ms"] = _kernels(on_device)
    row["peak_mb"] = round(torch.cuda.max_memory_allocated() / 1e6, 1)
    return row


def _kernels(deformer: Deformer) -> dict[str, float]:
    """The face's Triton kernels one by one, on the rows of the last `motion`; empty where they do not run."""
    rows = getattr(deformer._branches["face"], "_rows", None)
    if not rows:
        return {}
    from ..deform.triton_fusion import fuse_packed
    from ..deform.triton_members import members

    own, times = rows[0], {}
    for number, (name, view) in enumerate(own.views.items()):
        x = torch.randn((view.first if view.gain is None else view.gain).shape[1], device="cuda")
        times[f"members, {name}"] = device_ms(lambda: members(view, number, x, own.layout, own.packed, own.count), 20)  # noqa: B023
    return times | {"fusion": device_ms(lambda: fuse_packed(own.layout, own.packed, own.count), 20)}


def _plain(means: torch.Tensor, net: dict[str, torch.Tensor], frame: dict[str, torch.Tensor]) -> torch.Tensor:
    """The plain formulation's steps on the device, face, float32."""
    position = reference.plane_field(net, "field", means)
    inputs = reference.view_inputs("face", net, frame, means, position)
    states = [reference.total_covariance(*reference.members(net, view, x, None)) for view, x in inputs.items()]
    fused = reference.fuse([m for m, _, _ in states], [a + e for _, a, e in states])
    state = reference.linear(net, "fuse.fc", torch.cat([fused, position], 1))
    return torch.cat([reference.head(net, name, state) for name in ("means", "quats", "scales")], 1)


def splats(avatar: Path, audio: Path, quick: bool) -> dict[str, Any]:
    """The demo avatar at rest at 512 x 512: gsplat against the processor's rasteriser, then its times."""
    here, there = (rasteriser.demo_scene(avatar, device) for device in ("cpu", "cuda"))
    wanted, found = here.both(), [x.cpu() for x in there.both()]
    names = ("image", "means", "quats", "scales", "opacities", "sh")
    errors = {n: float(f"{float((a - b).abs().max() / b.abs().max()):.2g}") for n, a, b in zip(names, found, wanted)}
    return {"errors": errors, "forward_ms": device_ms(there.forward, 50), "forward_backward_ms": device_ms(there.both, 50)}


def talking(avatar: Path, audio: Path, quick: bool) -> dict[str, Any]:
    """Frames a second at 512 x 512, networks included: views to picture, nothing written."""
    session, count = Session("cuda"), 8 if quick else 200
    baker = Baker(session, baking.speech(session, avatar, audio, count))
    scene = rasteriser.demo_scene(avatar, "cuda")
    loaded = load_avatar(avatar)
    rest, _ = loaded.rest()
    rows = torch.from_numpy(loaded.moving_rows()).cuda()
    static = [torch.from_numpy(np.array(x, np.float32)).cuda() for x in (rest.means, rest.quats, rest.scales)]

    def run(batch: int = 8) -> None:
        for start in range(0, count, batch):
            for means, quats, scales, *_ in baker.frames(np.arange(start, min(start + batch, count))):
                moved = [x.index_copy(0, rows, torch.from_numpy(y).float().cuda()) for x, y in zip(static, (means, quats, scales))]
                with torch.no_grad():
                    scene.draw(rasterization, [*moved, *scene.parts[3:]])

    return {"frames": count, "ms_a_frame": round(device_ms(run, 3) / count, 3)}


def bake(avatar: Path, audio: Path, quick: bool) -> dict[str, Any]:
    """The bake into a cache, networks on the device."""
    return baking.incremental(avatar, audio, 8 if quick else 200, "cuda", 1)


JOBS = {"deformation": deformation, "splats": splats, "talking": talking, "bake": bake}
