"""The fusion of the views: the small system, the compiled loop and the plain inverses say the same."""

from __future__ import annotations

import mpmath
import numpy as np
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ua3dtalk.engine.deform import reference
from ua3dtalk.engine.deform.fusion import diagonal_uncertainty, fuse, solve_rows
from ua3dtalk.engine.deform.kernel import LANES, fuse_rows

torch.set_num_threads(1)


def states(v: int, t: int, rows: int, width: int, low: float, high: float, size: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    means = (size * rng.normal(size=(v, t, rows, width))).astype(np.float32)
    return means, rng.uniform(low, high, (v, t, rows, width)).astype(np.float32)


def run_kernel(means: np.ndarray, logvars: np.ndarray, bound: float = 0, doubt: np.ndarray | None = None) -> tuple[np.ndarray, ...]:
    """Fused mean [R, L], aleatoric [R], epistemic [R], shares [R, V] and good [R]."""
    v, t, rows, width = means.shape
    padded = -(-rows // LANES) * LANES
    both = np.zeros((v, t, 2 * width, padded), np.float32)
    both[:, :, :width, :rows] = means.transpose(0, 1, 3, 2)
    both[:, :, width:, :rows] = logvars.transpose(0, 1, 3, 2)
    out = np.empty((width, padded), np.float32), *np.empty((2, padded), np.float32), np.empty((v, padded), np.float32)
    good = np.empty(padded, np.uint8)
    fuse_rows(both, np.float32(bound), np.ones(v, np.float32) if doubt is None else doubt, *out, good)
    return *(x[..., :rows].T for x in out), good[:rows].astype(bool)


def exact_fusion(means: np.ndarray, logvars: np.ndarray) -> np.ndarray:
    """Eq. 9 to 12 for every row in 80 digits."""
    v, t, rows, width = means.shape
    out = np.empty((rows, width))
    with mpmath.workdps(80):
        for row in range(rows):
            total, weighted = mpmath.zeros(width), mpmath.zeros(width, 1)
            for view in range(v):
                m = mpmath.matrix(means[view, :, row].astype(float).tolist())
                centre = mpmath.matrix([sum(m[i, k] for i in range(t)) / t for k in range(width)])
                covariance = mpmath.zeros(width)
                for a in range(width):
                    covariance[a, a] = sum(mpmath.exp(float(logvars[view, i, row, a])) for i in range(t)) / t
                    for b in range(width):
                        apart = sum((m[i, a] - centre[a]) * (m[i, b] - centre[b]) for i in range(t))
                        covariance[a, b] += apart / max(t - 1, 1)
                precision = covariance**-1
                total, weighted = total + precision, weighted + precision * centre
            out[row] = [float(x) for x in mpmath.lu_solve(total, weighted)]
    return out


@given(
    v=st.integers(1, 4), t=st.integers(1, 6), width=st.integers(1, 5), low=st.floats(-20, 20), high=st.floats(-20, 20),
    size=st.sampled_from([1e-3, 1.0, 100.0]), seed=st.integers(0, 99),
)  # fmt: skip
@example(v=4, t=2, width=5, low=-20, high=20, size=1.0, seed=0)
@example(v=4, t=4, width=5, low=-20, high=-19, size=100.0, seed=0)
@example(v=2, t=1, width=3, low=-20, high=20, size=1.0, seed=0)
@settings(max_examples=15, deadline=None)
def test_fusion_is_exact_over_all_log_variances(v: int, t: int, width: int, low: float, high: float, size: float, seed: int) -> None:
    means, logvars = states(v, t, 3, width, min(low, high), max(low, high), size, seed)
    truth = exact_fusion(means, logvars)
    kernel, _, _, _, good = run_kernel(means, logvars)
    single = solve_rows(torch.from_numpy(means), torch.from_numpy(logvars))
    double = solve_rows(torch.from_numpy(means).double(), torch.from_numpy(logvars).double())
    scale = np.abs(truth).max()
    assert double.good.all()
    assert np.abs(double.mean.numpy() - truth).max() < 1e-7 * scale
    # A row that single precision cannot do must say so; the others hold.
    assert np.abs(kernel - truth)[good].max(initial=0) < 1e-5 * scale
    assert np.abs(single.mean.numpy() - truth)[single.good.numpy()].max(initial=0) < 1e-5 * scale


@given(v=st.integers(1, 4), t=st.integers(1, 12), width=st.sampled_from([1, 7, 48]), rows=st.integers(1, 130), seed=st.integers(0, 99))
@example(v=4, t=10, width=48, rows=128, seed=0)
@example(v=4, t=4, width=48, rows=70, seed=1)
@settings(max_examples=12, deadline=None)
def test_kernel_agrees_with_the_plain_formulation(v: int, t: int, width: int, rows: int, seed: int) -> None:
    means, logvars = states(v, t, rows, width, -3, 3, 1.0, seed)
    doubt = np.random.default_rng(seed).uniform(1, 3, v).astype(np.float32) if seed % 2 else np.ones(v, np.float32)
    m, lv = torch.from_numpy(means).double(), torch.from_numpy(logvars).double()
    views = [reference.total_covariance(m[i], lv[i]) for i in range(v)]
    views = [(mean, own, apart + (float(d) - 1) * own) for (mean, own, apart), d in zip(views, doubt)]
    truth = reference.fuse([s[0] for s in views], [s[1] + s[2] for s in views]).numpy()
    parts = [[s[i].diagonal(dim1=1, dim2=2) for s in views] for i in (1, 2)]
    aleatoric, epistemic, shares = (x.numpy() for x in reference.state_uncertainty(*parts))
    fused, found_a, found_e, found_s, good = run_kernel(means, logvars, 0, doubt)
    assert np.abs(fused - truth)[good].max(initial=0) < 1e-5 * np.abs(truth).max()
    assert width * (v - 1) < v * (t - 1) or good.all()  # otherwise the system has a null space, which is noticed
    assert np.abs(found_a / aleatoric - 1).max() < 1e-5
    assert np.abs(found_e - epistemic).max() <= 1e-5 * max(aleatoric.max(), epistemic.max())
    solved = solve_rows(m, lv, torch.from_numpy(doubt).double())
    exact_a, exact_e, exact_s = diagonal_uncertainty(solved.variance, solved.contrasts, torch.from_numpy(doubt).double())
    assert np.allclose(solved.mean, truth, atol=1e-9) and np.allclose(exact_a, aleatoric)
    assert np.allclose(exact_e, epistemic) and np.allclose(exact_s, shares, atol=1e-12)
    assert np.abs(found_s - shares).max() < 1e-6 and np.abs(found_s.sum(1) - 1).max() < 1e-6


def test_shares_say_where_the_fused_state_comes_from() -> None:
    """By hand: eq. 12's weights of two views whose covariances are diagonal; and who says more firmly has the larger share."""
    logvars = np.log(np.array([[1.0, 1.0], [3.0, 1.0]], np.float32))[:, None, None]  # [views, members, rows, channels]
    means = np.zeros_like(logvars)
    found = run_kernel(means, logvars)[3]
    assert np.abs(found - [[(0.75 + 0.5) / 2, (0.25 + 0.5) / 2]]).max() < 1e-6
    means, logvars = states(4, 10, 64, 48, -1, 1, 0.5, 0)
    before, firmer = run_kernel(means, logvars)[3], logvars.copy()
    firmer[2] -= 3
    after = run_kernel(means, firmer)[3]
    assert (after[:, 2] > before[:, 2]).all() and (np.delete(after, 2, 1) < np.delete(before, 2, 1)).all()


def test_uncertainty_is_exact_where_covariances_are_diagonal() -> None:
    """Against the covariance of the fused state as matrices: sum_v A_v C_v A_v^T with A_v = (sum P)^-1 P_v."""
    rng = np.random.default_rng(0)
    d, e = rng.uniform(0.1, 2, (2, 3, 1, 6))  # [views, rows, channels]
    precisions = [np.diag(1 / (a[0] + b[0])) for a, b in zip(d, e)]
    total = np.linalg.inv(sum(precisions))
    want = [np.trace(sum(total @ p @ np.diag(part[0]) @ p @ total for p, part in zip(precisions, x))) / 6 for x in (d, e)]
    found = reference.state_uncertainty([torch.from_numpy(x) for x in d], [torch.from_numpy(x) for x in e])
    assert np.allclose([float(x[0]) for x in found[:2]], want)


@pytest.mark.parametrize("case", ["identical members", "dead view", "silent view", "certain view", "one member"])
def test_fusion_at_its_edges(case: str) -> None:
    """Dead: a variance beyond all others; silent: weights of zero say 0 +- 1 throughout; certain: a variance below all others."""
    means, logvars = states(4, 1 if case == "one member" else 5, 4, 6, -20, 20, 1.0, 3)
    if case == "identical members":
        means[:], logvars[:] = means[:, :1], logvars[:, :1]
    elif case == "silent view":
        means[1], logvars[1] = 0, 0
    elif case != "one member":
        logvars[1] = 20 if case == "dead view" else -20
        means[1] *= 1e-3
    truth = exact_fusion(means, logvars)
    kernel, aleatoric, epistemic, _, good = run_kernel(means, logvars)
    single = solve_rows(torch.from_numpy(means), torch.from_numpy(logvars))
    double = solve_rows(torch.from_numpy(means).double(), torch.from_numpy(logvars).double())
    assert good.any() and double.good.all()
    for found, rows in ((kernel, good), (single.mean.numpy(), single.good.numpy()), (double.mean.numpy(), double.good.numpy())):
        assert np.abs(found - truth)[rows].max(initial=0) < 1e-5 * np.abs(truth).max()
    assert np.isfinite(aleatoric).all() and np.isfinite(epistemic).all()


@given(bound=st.floats(0.01, 1e5), low=st.floats(-20, 20), high=st.floats(-20, 20), seed=st.integers(0, 99))
@example(bound=7.0, low=-20, high=20, seed=0)
@settings(max_examples=10, deadline=None)
def test_kernel_bounds_log_variances(bound: float, low: float, high: float, seed: int) -> None:
    means, logvars = states(3, 4, 70, 5, min(low, high), max(low, high), 0.0, seed)
    _, aleatoric, epistemic, shares, _ = run_kernel(means, logvars, bound)
    variance = np.exp(bound * np.tanh(logvars.astype(np.float64) / bound)).mean(1)
    wanted = (1 / (1 / variance).sum(0)).mean(1)  # without epistemic parts: the variance of precision-weighted means
    assert np.abs(aleatoric / wanted - 1).max() < 1e-5
    assert (epistemic == 0).all()
    assert np.abs(shares.T - (1 / variance / (1 / variance).sum(0)).mean(2)).max() < 1e-5


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf, 100, -100])
@pytest.mark.parametrize("bound", [0, 7])
def test_log_variances_that_single_precision_cannot_hold_are_noticed(value: float, bound: float) -> None:
    means, logvars = states(3, 4, 6, 5, -1, 1, 1.0, 0)
    logvars[1, :, 2, 3] = value
    fused, aleatoric, epistemic, shares, good = run_kernel(means, logvars, bound)
    noticed = ~(good & np.isfinite(fused).all(1) & np.isfinite(aleatoric) & np.isfinite(epistemic))
    assert np.isfinite(shares[~noticed]).all()
    # A bound turns what is merely large into its own size.
    assert noticed.tolist() == [row == 2 and (bound == 0 or np.isnan(value)) for row in range(6)]


def test_spoilt_rows_are_noticed() -> None:
    """More members than channels and tiny variances: the system's null space drowns in single precision's rounding."""
    means, logvars = states(3, 20, 40, 4, -20, -19, 1.0, 0)
    assert not run_kernel(means, logvars)[4].any()
    assert not solve_rows(torch.from_numpy(means), torch.from_numpy(logvars)).good.any()


def test_fusion_gradient() -> None:
    for v, t, width in ((3, 4, 5), (2, 1, 3), (1, 3, 2), (4, 6, 3)):
        means, logvars = (torch.from_numpy(x).double().requires_grad_() for x in states(v, t, 2, width, -2, 2, 1.0, 0))
        assert torch.autograd.gradcheck(fuse, (means, logvars))


def test_fusion_gradient_is_that_of_the_plain_formulation() -> None:
    means, logvars = (torch.from_numpy(x).double().requires_grad_() for x in states(4, 10, 600, 48, -7, 7, 1.0, 0))
    views = [reference.total_covariance(means[i], logvars[i]) for i in range(4)]
    slow = reference.fuse([s[0] for s in views], [s[1] + s[2] for s in views])
    weight = torch.randn(slow.shape, dtype=slow.dtype, generator=torch.Generator().manual_seed(0))
    wanted = torch.autograd.grad((slow * weight).sum(), (means, logvars))
    found = torch.autograd.grad((fuse(means, logvars) * weight).sum(), (means, logvars))
    for have, want in zip(found, wanted):
        assert (have - want).abs().max() < 1e-9 * want.abs().max()
