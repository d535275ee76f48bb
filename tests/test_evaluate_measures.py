"""Each measure of the evaluation against known answers, brute force or a library."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.linalg import sqrtm
from scipy.stats import norm, spearmanr

from ua3dtalk.engine.evaluate import measures
from ua3dtalk.engine.train.losses import ssim


@pytest.fixture
def random() -> np.random.Generator:
    return np.random.default_rng(0)


def test_psnr_of_known_errors() -> None:
    truth = np.full((4, 5, 3), 0.5)
    found = truth + 0.1
    assert measures.psnr(found, truth) == pytest.approx(20)
    assert measures.psnr(truth, truth) == np.inf
    found[0] += 0.9
    mask = np.zeros((4, 5), bool)
    mask[1:] = True
    assert measures.psnr(found, truth, mask) == pytest.approx(20) and measures.psnr(found, truth) < 10


def test_ssim_is_what_brute_force_says(random: np.random.Generator) -> None:
    one, other = random.random((2, 14, 13, 3)).astype(np.float32)
    places = np.arange(11) - 5
    window = np.exp(-(places**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    values = []
    for channel in range(3):
        a, b = (np.pad(x[..., channel].astype(float), 5) for x in (one, other))
        for y in range(14):
            for x in range(13):
                p, q = a[y : y + 11, x : x + 11], b[y : y + 11, x : x + 11]
                mp, mq = (window * p).sum(), (window * q).sum()
                vp, vq, both = (window * p * p).sum() - mp**2, (window * q * q).sum() - mq**2, (window * p * q).sum() - mp * mq
                values.append((2 * mp * mq + 1e-4) * (2 * both + 9e-4) / ((mp**2 + mq**2 + 1e-4) * (vp + vq + 9e-4)))
    found = float(ssim(torch.from_numpy(one), torch.from_numpy(other)))
    assert found == pytest.approx(np.mean(values), abs=1e-5) and abs(found) < 0.3
    assert float(ssim(torch.from_numpy(one), torch.from_numpy(one))) == pytest.approx(1)


def test_landmark_distance_is_centred_and_of_the_mouth_alone(random: np.random.Generator) -> None:
    truth = random.normal(size=(3, 68, 2))
    found = truth + [7, -3]
    found[:, :48] += random.normal(size=(3, 48, 2))
    assert np.allclose(measures.landmark_distance(found, truth), 0)
    found[0, 50, 0] += 20  # moves the centre of twenty by 1
    assert measures.landmark_distance(found, truth)[0] == pytest.approx((19 + 19 * 1) / 20)


def test_action_unit_error() -> None:
    truth = {"AU01": np.zeros(4), "AU12": np.zeros(4), "AU25": np.zeros(4)}
    found = {"AU01": np.full(4, 2.0), "AU12": np.array([1.0, 1, 3, 3]), "AU26": np.ones(4)}
    assert measures.action_unit_error(found, truth, measures.UPPER_AUS) == pytest.approx(4)
    assert measures.action_unit_error(found, truth, measures.LOWER_AUS) == pytest.approx(5)
    assert np.isnan(measures.action_unit_error({}, truth, measures.UPPER_AUS))


def test_a_late_mouth_is_found_late(random: np.random.Generator) -> None:
    smooth = np.convolve(random.normal(size=400), np.hanning(9), "same")
    parts = np.zeros(380, int)
    lag, peak = measures.aperture_lag(smooth[17:397], 3 * smooth[20:400] + 1, parts, 25)
    assert lag == pytest.approx(3 / 25, abs=0.004) and peak == pytest.approx(1, abs=0.01)
    lag, _ = measures.aperture_lag(smooth[20:400], smooth[18:398], parts, 25)
    assert lag == pytest.approx(-2 / 25, abs=0.004)
    half = (smooth[1:] + smooth[:-1]) / 2  # half a frame early
    lag, _ = measures.aperture_lag(half[:380], smooth[:380], parts, 25)
    assert lag == pytest.approx(-0.5 / 25, abs=0.004)


def test_pieces_are_not_compared_with_each_other(random: np.random.Generator) -> None:
    smooth = np.convolve(random.normal(size=200), np.hanning(9), "same")
    truth = np.concatenate([smooth[:100], smooth[100:][::-1]])
    found = np.concatenate([np.roll(smooth[:100], 2), np.roll(smooth[100:][::-1], 2)])
    _, apart = measures.aperture_lag(found, truth, np.repeat([0, 1], 100), 25)
    _, together = measures.aperture_lag(found, truth, np.zeros(200, int), 25)
    assert apart > together
    assert np.isnan(measures.aperture_lag(np.zeros(200), truth, np.zeros(200, int), 25)[1])


def test_closed_below_is_a_share_of_the_range() -> None:
    assert measures.closed_below(np.linspace(2, 6, 101)) == pytest.approx(2.2 + 0.25 * 3.6)


def test_frechet_distance(random: np.random.Generator) -> None:
    a, b = random.normal(size=(500, 1)), random.normal(2, 3, (700, 1))
    closed = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
    assert measures.frechet_distance(a, b) == pytest.approx(closed)
    a, b = random.normal(size=(60, 5)) @ random.normal(size=(5, 5)), random.normal(size=(50, 5)) + 1
    first, second = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    wanted = ((a.mean(0) - b.mean(0)) ** 2).sum() + np.trace(first + second - 2 * np.real(sqrtm(first @ second)))
    assert measures.frechet_distance(a, b) == pytest.approx(wanted)
    assert measures.frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    few = random.normal(size=(4, 9))  # fewer frames than coefficients
    assert np.isfinite(measures.frechet_distance(few, b[:, [0] * 9]))


def test_auroc_is_the_share_of_pairs(random: np.random.Generator) -> None:
    seen, unseen = random.integers(0, 6, 40), random.integers(1, 8, 30)
    pairs = np.mean([(u > s) + 0.5 * (u == s) for s in seen for u in unseen])
    assert measures.auroc(seen, unseen) == pytest.approx(pairs)
    assert measures.auroc(np.zeros(3), np.ones(3)) == 1 and measures.auroc(np.ones(3), np.zeros(3)) == 0


def test_rank_correlation_is_scipys(random: np.random.Generator) -> None:
    rows, other = random.integers(0, 5, (4, 9)), random.normal(size=9)
    wanted = [spearmanr(row, other).statistic for row in rows]
    assert np.allclose(measures.rank_correlation(rows, other), wanted)
    assert measures.rank_correlation(np.ones((1, 9)), other)[0] == 0


def test_sparsification(random: np.random.Generator) -> None:
    error = random.exponential(size=5000)
    knows, blind, wrong = (measures.sparsification(error, x) for x in (3 * error, random.random(5000), -error))
    assert knows["ause"] == pytest.approx(0, abs=1e-12)
    assert blind["ause"] == pytest.approx(blind["ause of no order"], abs=0.05) and wrong["ause"] > 1.3 * blind["ause"]
    four = measures.sparsification(np.array([4.0, 1, 2, 1]), np.array([1.0, 4, 3, 2]), points=4)
    assert four["removed"] == [0, 0.25, 0.5, 0.75]
    assert np.allclose(four["left"], np.array([8 / 4, 7 / 3, 5 / 2, 4]) / 2) and np.allclose(four["oracle"], np.array([8 / 4, 4 / 3, 1, 1]) / 2)


def test_calibration(random: np.random.Generator) -> None:
    variance = random.uniform(0.1, 4, 20000)
    error = np.sqrt(variance) * random.normal(size=20000)
    right = measures.calibration(error, variance / 7)  # the unit is not known
    assert right["calibration error"] < 0.01 and right["factor"] == pytest.approx(7, rel=0.05)
    assert measures.calibration(error, random.permutation(variance))["calibration error"] > 0.02
    bold = measures.calibration(error, variance, factor=0.25)  # stated half as wide as it is
    assert bold["observed"][9] == pytest.approx(2 * norm.cdf(norm.ppf(0.75) / 2) - 1, abs=0.02)
    assert measures.calibration(error.reshape(-1, 2), variance[::2], factor=1)["factor"] == 1
