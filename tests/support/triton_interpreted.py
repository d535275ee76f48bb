"""Run the Triton kernels on the processor, by Triton's interpreter, over the cases in a folder.

A process of its own: TRITON_INTERPRET must be set before Triton is imported anywhere. Each <case>.npz holds the arguments
of `fuse_rows` (both, variance, group) or of `members` (kind "members", see below); <case>.out.npz gets the results.

    TRITON_INTERPRET=1 python triton_interpreted.py FOLDER    # with the staged package on PYTHONPATH
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from ua3dtalk.engine.deform.triton_fusion import Layout, fuse_rows
from ua3dtalk.engine.deform.triton_members import View, members


def fused(case: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The fusion of rows."""
    both, variance = (torch.from_numpy(case[name]) for name in ("both", "variance"))
    return dict(zip(("mean", "aleatoric", "epistemic", "good"), (x.numpy() for x in fuse_rows(both, variance, int(case["group"])))))


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


if __name__ == "__main__":
    torch.set_num_threads(1)
    np.seterr(all="ignore")  # a spoilt row's pivots are negative: what the kernel notices
    for path in sorted(Path(sys.argv[1]).glob("*.npz")):
        with np.load(path, allow_pickle=False) as file:
            case = dict(file)
        np.savez(path.with_suffix(".out.npz"), **(packed if "weight" in case else fused)(case))
