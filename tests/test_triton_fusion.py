"""The Triton kernels: their arithmetic by Triton's interpreter, their fit on an H200's multiprocessors by its compiler.

Neither needs a graphics card. Where there is one, the same is held against it.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from support import ROOT, STAGE

from test_fusion import run_kernel, states
from ua3dtalk.engine.deform.fusion import diagonal_uncertainty, helmert, solve_rows
from ua3dtalk.engine.deform.triton_layout import Layout

pytest.importorskip("triton", reason="Triton is not installed (it is made for Linux)")

torch.set_num_threads(1)

CUDA = pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")


# name: views, members, rows, channels, log-variances from, to, size of the means, rows a program takes
STATES = {
    "face": (4, 10, 6, 48, -3, 3, 1.0, 4),
    "face_odd": (4, 10, 33, 7, -10, 10, 1.0, 32),
    "mouth": (3, 10, 17, 48, -3, 3, 1.0, 16),
    "wide_variances": (4, 10, 25, 48, -20, 20, 1.0, 32),
    "tiny_variances": (4, 10, 25, 48, -20, -19, 100.0, 32),
    "spoilt": (3, 10, 40, 4, -20, -19, 1.0, 32),
    "pairs": (4, 2, 9, 48, -3, 3, 1.0, 4),
    "pairs_of_three": (3, 2, 9, 5, -3, 3, 1.0, 4),
    "single": (4, 1, 5, 48, -20, 20, 1.0, 4),
    "single_of_three": (3, 1, 5, 3, -3, 3, 1.0, 4),
    "one_view": (1, 12, 9, 13, -3, 3, 1.0, 8),
    "two_views": (2, 7, 9, 1, -3, 3, 1.0, 8),
    "six_views": (6, 5, 9, 6, -3, 3, 1.0, 8),
}


def state(name: str) -> tuple[np.ndarray, np.ndarray, int]:
    """Member means and log-variances [V, T, R, L] of a case, and the rows that a program takes."""
    if name == "identical":  # members that all say the same have no epistemic variance
        means, logvars = states(4, 10, 9, 48, -3, 3, 1.0, 1)
        return means[:, :1].repeat(10, 1), logvars, 16
    if name == "dead_view":
        means, logvars = states(4, 10, 9, 48, -3, 3, 1.0, 2)
        means[2], logvars[2] = 0, -18
        return means, logvars, 16
    if name == "overflow":  # exp of the log-variance is more than float32 holds, in one row
        means, logvars = states(4, 3, 9, 5, -3, 3, 1.0, 3)
        logvars[0, :, 4] = 100
        return means, logvars, 8
    if name == "not_a_number":
        means, logvars = states(4, 3, 9, 5, -3, 3, 1.0, 4)
        means[1, 2, 3, 0] = np.nan
        return means, logvars, 8
    views, members, rows, width, low, high, size, group = STATES[name]
    return *states(views, members, rows, width, low, high, size, 0), group


# name: members, hidden, latent, rows, what a Gaussian multiplies the frame with, one first layer for all, bound
VIEWS = {
    "audio": (10, 64, 48, 70, 38, False, 7.0),
    "exp": (10, 64, 48, 70, 0, False, None),
    "emotion": (3, 64, 48, 130, 192, True, 7.0),
    "small": (2, 20, 7, 9, 5, True, 10.0),
    "lone": (1, 64, 48, 64, 0, False, 10.0),
}


def view(name: str) -> dict[str, np.ndarray]:
    """The arguments of a view's evaluation."""
    members, hidden, latent, rows, dim, shared, bound = VIEWS[name]
    draw = np.random.default_rng(7).normal
    made = {
        "first": draw(size=(1 if shared else rows, members * hidden)),
        "x": draw(size=dim or members * hidden),
        "weight": draw(size=(members, 2 * latent, hidden)) / hidden**0.5,
        "bias": draw(size=(members, 2 * latent)),
    }
    if dim:
        made |= {"gain": draw(size=(rows, dim)), "frame_weight": draw(size=(members * hidden, dim)) / dim**0.5}
    numbers = {"rows": rows, "views": 3, "members": members, "latent": latent, "number": 1}
    whole = {key: np.array(value) for key, value in numbers.items()} | {"bound": np.array(bound or 0.0)}
    return {key: value.astype(np.float32) for key, value in made.items()} | whole


# name: what is added to the log-variances, their bound (0: none), whether views are doubted. exp(95) is more than float32 holds.
AVATARS = {"bounded": (0.0, 7.0, False), "free": (-2.0, 0.0, False), "overflow": (95.0, 0.0, False), "doubtful": (0.0, 7.0, True)}

DOUBTFUL = ("mouth", "single")


def doubts(name: str, views: int) -> np.ndarray:
    """What a case's variances are multiplied with."""
    return np.linspace(1, 3, views, dtype=np.float32) if name in DOUBTFUL else np.ones(views, np.float32)


SPECIAL = ("identical", "dead_view", "overflow", "not_a_number")


@pytest.fixture(scope="module")
def interpreted(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], dict[str, np.ndarray]]:
    """What the interpreter makes of a case."""
    folder = tmp_path_factory.mktemp("triton")
    for name in (*STATES, *SPECIAL):
        means, logvars, group = state(name)
        variance = np.exp(logvars.astype(np.float64)).mean(1).transpose(0, 2, 1)
        with np.errstate(over="ignore"):
            variance = variance.astype(np.float32)
        doubt = doubts(name, len(means))
        both, variance = means.transpose(0, 1, 3, 2), variance * doubt[:, None, None]
        np.savez(folder / f"{name}.npz", both=both, variance=variance, group=np.array(group), doubt=doubt)
    for name in VIEWS:
        np.savez(folder / f"view_{name}.npz", **view(name))
    for name, (offset, bound, film) in AVATARS.items():
        np.savez(folder / f"avatar_{name}.npz", offset=np.array(offset), bound=np.array(bound), film=np.array(film))
    env = os.environ | {"TRITON_INTERPRET": "1", "PYTHONPATH": str(STAGE)}
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "support" / "triton_interpreted.py", folder], env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr

    def read(name: str) -> dict[str, np.ndarray]:
        with np.load(folder / f"{name}.out.npz", allow_pickle=False) as file:
            return dict(file)

    return read


def check_fused(name: str, found: dict[str, np.ndarray]) -> None:
    """The good rows of a case against float64; which ones have to be good."""
    means, logvars, _ = state(name)
    views, members, _, width = means.shape
    doubt = torch.from_numpy(doubts(name, views)).double()
    solved = solve_rows(torch.from_numpy(means).double(), torch.from_numpy(logvars).double(), doubt)
    aleatoric, epistemic, shares = (x.numpy() for x in diagonal_uncertainty(solved.variance, solved.contrasts, doubt))
    good, truth = found["good"], solved.mean.numpy()
    if name == "spoilt":
        assert not good.any()
    elif name == "overflow":
        assert good.tolist() == [row != 4 for row in range(9)]
    elif name == "not_a_number":
        assert good.tolist() == [row != 3 for row in range(9)]
    elif width * (views - 1) >= views * (members - 1):  # otherwise the system has a null space, which may be noticed
        assert good.all()
    if not good.any():
        return
    assert np.abs(found["mean"].T - truth)[good].max() < 1e-5 * np.abs(truth[good]).max()
    assert np.abs(found["aleatoric"] / aleatoric - 1)[good].max() < 1e-5
    assert np.abs(found["shares"].T - shares)[good].max() < 1e-6
    rounding = np.square(1e-6 * means[:, :, good]).max()  # all there is where members say the same
    assert np.abs(found["epistemic"] - epistemic)[good].max() <= 1e-5 * epistemic[good].max() + rounding


@pytest.mark.parametrize("name", [*STATES, *SPECIAL])
def test_fusion_by_the_interpreter(name: str, interpreted: Callable[[str], dict[str, np.ndarray]]) -> None:
    check_fused(name, interpreted(name))


@pytest.mark.parametrize("name", ["face", "mouth", "wide_variances", "single"])
def test_fusion_agrees_with_the_processor_s_kernel(name: str, interpreted: Callable[[str], dict[str, np.ndarray]]) -> None:
    means, logvars, _ = state(name)
    fused, aleatoric, epistemic, shares, good = run_kernel(means, logvars, 0, doubts(name, len(means)))
    found = interpreted(name)
    assert good.all() and found["good"].all()
    assert np.abs(found["mean"].T - fused).max() < 1e-5 * np.abs(fused).max()
    assert np.abs(found["aleatoric"] / aleatoric - 1).max() < 1e-5
    assert np.abs(found["epistemic"] - epistemic).max() <= 1e-5 * epistemic.max()
    assert np.abs(found["shares"].T - shares).max() < 1e-6


def check_members(name: str, packed: np.ndarray) -> None:
    """One view's packed rows against the same in float64."""
    case = view(name)
    members, hidden, latent, rows, dim, _, bound = VIEWS[name]
    t = {key: torch.from_numpy(value).double() for key, value in case.items() if value.ndim}
    own = (t["gain"] * t["x"]) @ t["frame_weight"].T if dim else t["x"]
    layer = (t["first"] + own).relu().view(rows, members, hidden)
    both = torch.einsum("rth,tkh->tkr", layer, t["weight"]) + t["bias"][..., None]
    means, logvars = both.split(latent, 1)
    if bound:
        logvars = bound * (logvars / bound).tanh()
    turned = torch.tensordot(helmert(members, means) / max(members - 1, 1) ** 0.5, means, ([1], [0]))
    layout = Layout(3, members, latent)
    # [blocks, L, slots, group] -> [slots, L, rows]
    found = torch.from_numpy(packed).permute(2, 1, 0, 3).flatten(2)[..., :rows].double()
    for contrast in range(members - 1):
        assert (found[layout.slot(1, contrast)] - turned[contrast]).abs().max() < 1e-5 * means.abs().max()
    assert (found[layout.centre_slot(1)] - means.mean(0)).abs().max() < 1e-5 * means.abs().max()
    assert (found[layout.variance_slot(1)] / logvars.exp().mean(0) - 1).abs().max() < 1e-5
    # The other views' slots are as they were: nothing is written beside the view's own.
    mine = {layout.centre_slot(1), layout.variance_slot(1), *(layout.slot(1, c) for c in range(members - 1))}
    others = [s for s in range(layout.slots) if s not in mine]
    assert torch.equal(found[others], layout.empty(rows, "cpu").permute(2, 1, 0, 3).flatten(2)[others, :, :rows].double())


@pytest.mark.parametrize("name", VIEWS)
def test_members_by_the_interpreter(name: str, interpreted: Callable[[str], dict[str, np.ndarray]]) -> None:
    check_members(name, interpreted(f"view_{name}")["packed"])


@pytest.mark.parametrize("name", AVATARS)
def test_whole_motion_by_the_interpreter(name: str, interpreted: Callable[[str], dict[str, np.ndarray]]) -> None:
    """As `Deformer` has it on a card: views that stand still, rows that are solved again in float64."""
    found = interpreted(f"avatar_{name}")
    names = [key.removeprefix("plain.") for key in found if key.startswith("plain.")]
    assert {"face.d_means", "face.d_quats", "face.d_scales", "face.epistemic", "mouth.d_means", "mouth.aleatoric", "mouth.shares"} <= set(names)
    for key in names:
        plain, packed = found[f"plain.{key}"], found[f"packed.{key}"]
        assert packed.shape == plain.shape and len(plain) == 3
        assert np.abs(packed - plain).max() < 1e-5 * np.abs(plain).max(), key


def resources(kernel: object, kinds: dict[str, str], constants: dict[str, object], tmp_path: Path, **options: int) -> tuple[int, int]:
    """Registers of a thread and bytes spilt, of a kernel compiled for compute capability 9.0 (no device needed)."""
    import triton
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    names = kernel.arg_names  # type: ignore[attr-defined]
    signature = {name: "constexpr" if name in constants else kinds[name] for name in names}
    # A pointer whose address is a multiple of 16 bytes, as torch's are, allows wide accesses.
    aligned = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature[name].startswith("*")}
    source = ASTSource(kernel, signature, constants, aligned)
    ptx = tmp_path / "kernel.ptx"
    ptx.write_text(triton.compile(source, target=GPUTarget("cuda", 90, 32), options=options).asm["ptx"], encoding="utf-8")
    assembler = triton.knobs.nvidia.ptxas.path
    said = subprocess.run(
        [assembler, "-v", "--gpu-name", "sm_90a", ptx, "-o", tmp_path / "kernel.cubin"], capture_output=True, text=True
    )
    assert said.returncode == 0, said.stderr
    spilt = sum(int(n) for n in re.findall(r"(\d+) bytes spill", said.stderr))
    return int(re.search(r"Used (\d+) registers", said.stderr)[1]), spilt  # type: ignore[index]


@pytest.mark.parametrize(("views", "members"), [(4, 10), (3, 10), (4, 1)])
def test_fusion_compiles_without_spilling(views: int, members: int, tmp_path: Path, measured: Callable[[str], None]) -> None:
    from ua3dtalk.engine.deform.triton_fusion import fuse_constants, fuse_kernel
    kinds = {"packed": "*fp32", "doubt": "*fp32", "mean": "*fp32", "summary": "*fp32", "rows": "i32"}
    registers, spilt = resources(fuse_kernel, kinds, fuse_constants(Layout(views, members, 48)), tmp_path, num_warps=1)
    measured(f"Triton fusion, {views} views of {members} on sm_90: {registers} registers, {spilt} bytes spilt")
    assert spilt == 0


@pytest.mark.parametrize("name", ["audio", "exp", "emotion"])
def test_members_compile_without_spilling(name: str, tmp_path: Path, measured: Callable[[str], None]) -> None:
    from ua3dtalk.engine.deform.triton_members import View, members_constants, members_kernel

    case = {key: torch.from_numpy(value) for key, value in view(name).items() if value.ndim}
    made = View(case["first"], case.get("gain"), case.get("frame_weight"), case["weight"], case["bias"], 7.0)
    constants: dict[str, object] = dict(members_constants(made, 0, Layout(4, VIEWS[name][0], 48), "tf32x3"))
    if made.gain is None:
        constants |= {"gain": None, "frame_weight": None}
    kinds = {name: "*fp32" for name in ("first", "x", "gain", "frame_weight", "weight", "bias", "packed")}
    kinds |= {"rows": "i32", "blocks": "i32", "bound": "fp32"}
    registers, spilt = resources(members_kernel, kinds, constants, tmp_path, num_warps=4, num_stages=1)
    measured(f"Triton members, view {name} on sm_90: {registers} registers, {spilt} bytes spilt")
    assert spilt == 0


@pytest.mark.parametrize(("views", "members", "fits"), [(4, 10, True), (3, 10, True), (4, 1, True), (4, 30, False), (9, 2, False)])
def test_which_shapes_the_kernel_takes(views: int, members: int, fits: bool) -> None:
    assert Layout(views, members, 48).fits == fits


@CUDA
@pytest.mark.parametrize("name", [*STATES, *SPECIAL])
def test_fusion_on_cuda(name: str) -> None:
    from ua3dtalk.engine.deform.triton_fusion import fuse_rows

    means, logvars, _ = state(name)
    both = torch.from_numpy(means.transpose(0, 1, 3, 2).copy()).cuda()
    doubt = torch.from_numpy(doubts(name, len(means)))
    variance = torch.from_numpy(logvars).double().exp().mean(1).transpose(1, 2).float().contiguous() * doubt[:, None, None]
    found = fuse_rows(both, variance.cuda(), doubt=doubt.cuda())
    check_fused(name, {key: x.cpu().numpy() for key, x in zip(("mean", "aleatoric", "epistemic", "shares", "good"), found)})


@CUDA
@pytest.mark.parametrize("name", VIEWS)
def test_members_on_cuda(name: str) -> None:
    from ua3dtalk.engine.deform.triton_members import View, members

    case = {key: torch.from_numpy(value).cuda() for key, value in view(name).items() if value.ndim}
    made = View(case["first"], case.get("gain"), case.get("frame_weight"), case["weight"], case["bias"], VIEWS[name][6])
    layout, rows = Layout(3, VIEWS[name][0], VIEWS[name][2]), VIEWS[name][3]
    packed = layout.empty(rows, "cuda")
    members(made, 1, case["x"], layout, packed, rows)
    check_members(name, packed.cpu().numpy())
