"""Run the Triton kernels on the processor, by Triton's interpreter, over the cases in a folder.

A process of its own: TRITON_INTERPRET must be set before Triton is imported anywhere. Each <case>.npz holds the arguments
of `fuse_rows` (both, variance, group, doubt), of `members` (see `packed`) or of `moved`; <case>.out.npz gets the results.

    TRITON_INTERPRET=1 python triton_interpreted.py FOLDER    # with the staged package on PYTHONPATH
"""

from __future__ import annotations

import sys
from pathlib import Path

import networks
import numpy as np
import torch

from ua3dtalk.engine.deform import fast
from ua3dtalk.engine.deform.doubt import Known
from ua3dtalk.engine.deform.triton_fusion import fuse_rows
from ua3dtalk.engine.deform.triton_layout import Layout
from ua3dtalk.engine.deform.triton_members import View, members
from ua3dtalk.engine.deform.triton_rows import PackedBranch


def fused(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fusion of rows."""
    both, variance, doubt = (torch.from_numpy(case[name]) for name in ("both", "variance", "doubt"))
    found = fuse_rows(both, variance, int(case["group"]), doubt)
    return dict(zip(("mean", "aleatoric", "epistemic", "shares", "good"), (x.numpy() for x in found)))


def packed(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The packed rows of one view's members."""
    tensors = {name: torch.from_numpy(value) for name, value in case.items() if value.ndim}
    bound = float(case["bound"])
    view = View(
        tensors["first"], tensors.get("gain"), tensors.get("frame_weight"), tensors["weight"], tensors["bias"], bound or None
    )
    layout = Layout(*(int(case[name]) for name in ("views", "members", "latent")))
    out = layout.empty(int(case["rows"]), "cpu")
    members(view, int(case["number"]), tensors["x"], layout, out, int(case["rows"]))
    return {"packed": out.numpy()}


def moved(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """An avatar's motion with and without the kernels: `packed.<branch>.<name>` and `plain.<branch>.<name>`."""
    bound = float(case["bound"]) or None
    avatar = networks.make_avatar(networks.SMALL, (9, 5), moving=True, offset=float(case["offset"]), bound=bound)
    views = networks.make_views(networks.SMALL, 3)
    if case["film"].any():
        for view in ("exp", "emotion"):
            avatar.tensors |= Known.of_film(networks.make_views(networks.SMALL, 40, seed=7)[view]).tensors(view)
            views[view] = 2 * views[view]
    for name in ("style", "emotion"):
        views[name][1] = views[name][0]  # not evaluated again
    found, plain = {}, fast._branch
    for kind, make in (("plain", plain), ("packed", PackedBranch)):
        fast._branch = make
        motion = fast.Deformer(avatar, "cpu", threads=1).motion(views)
        for branch in ("face", "mouth"):
            values = vars(getattr(motion, branch))
            found |= {f"{kind}.{branch}.{name}": value for name, value in values.items() if value is not None}
    fast._branch = plain
    return found


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="ignore")  # a spoilt row's pivots are negative: what the kernel notices
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            case = dict(file)
        run = moved if "offset" in case else packed if "weight" in case else fused
        np.savez(path.with_suffix(".out.npz"), **run(case))
