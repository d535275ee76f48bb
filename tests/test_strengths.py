"""Strengths of the parts of the face, smoothing and lead: from the shot to what lies in the cache."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from test_bake import engine, files, shot_of  # noqa: F401 - `files` is a fixture
from ua3dtalk.engine.avatar import load_avatar, strength_masks
from ua3dtalk.engine.bake import Baker, Session
from ua3dtalk.engine.cache import CacheReader


def moved(reader: CacheReader, frame: int) -> np.ndarray:
    """How far each moving Gaussian's mean is from rest [M,3]."""
    return (reader.at(frame).means - reader.static.means)[reader.moving]


@pytest.mark.parametrize("name", ["upper", "lower", "lips"])
def test_a_strength_scales_the_motion_where_it_acts(name: str, files: Path, tmp_path: Path) -> None:
    shot, session = shot_of(files), Session("cpu", 1)
    Baker(session, shot).bake(tmp_path / "c")
    before = moved(CacheReader(tmp_path / "c"), 20)
    mask = dict(zip(("upper", "lower", "lips"), strength_masks(load_avatar(files / "head.safetensors"))))[name]
    assert 0 < mask.mean() < 1
    for strength in (0.0, 0.5, 2.0):
        values = np.ones(50, np.float32)
        values[20] = strength
        result = Baker(session, replace(shot, **{name: values})).bake(tmp_path / "c")
        assert result.computed == 1  # a strength is part of the frame's key
        after = moved(CacheReader(tmp_path / "c"), 20)
        np.testing.assert_allclose(after, before * (1 + mask * (strength - 1))[:, None], atol=2e-5 * np.abs(before).max() + 1e-5)


def test_strengths_multiply_and_reach_turns_and_sizes(files: Path) -> None:
    from ua3dtalk.engine.avatar.gaussians import normalise, softplus

    shot, session = shot_of(files), Session("cpu", 1)
    rows, avatar = np.array([20]), load_avatar(files / "head.safetensors")
    baker = Baker(session, replace(shot, upper=np.full(50, 0.5, np.float32), lower=np.full(50, 1.5, np.float32), lips=np.full(50, 2, np.float32)))
    upper, lower, lips = strength_masks(avatar)
    gain = ((1 + upper * -0.5) * (1 + lower * 0.5) * (1 + lips))[:, None]
    np.testing.assert_allclose(baker.strength(rows)[0], gain[:, 0], rtol=1e-6)
    motion = baker.deformer.motion(baker.views(rows))
    face = avatar.moving("face")
    raw = {name: np.asarray(avatar.tensors[f"face.{name}"], np.float32)[face] for name in ("quats", "scales")}
    (means, quats, scales, *_) = baker.frames(rows)[0]
    own = gain[: len(face)]
    turn = baker.head.turn_quats
    np.testing.assert_allclose(quats[: len(face)], normalise(raw["quats"] + own * motion.face.d_quats[0]) @ turn, atol=1e-6)
    np.testing.assert_allclose(scales[: len(face)], softplus(raw["scales"] + own * motion.face.d_scales[0]), rtol=1e-5)


def test_what_is_as_learned_changes_no_bit(files: Path, tmp_path: Path) -> None:
    """Strengths of 1 and no smoothing, also beside frames that have others."""
    shot, session = shot_of(files), Session("cpu", 1)
    plain = Baker(session, shot)
    assert plain.strength(np.arange(50)) is None
    mixed = np.ones(50, np.float32)
    mixed[::2] = 0.3
    rows = np.arange(10, 18)
    for one, other in list(zip(plain.frames(rows), Baker(session, replace(shot, lips=mixed)).frames(rows)))[1::2]:
        for a, b in zip(one, other):
            np.testing.assert_array_equal(a, b)
    plain.bake(tmp_path / "c")
    assert Baker(session, replace(shot, smoothing=0.0, upper=np.ones(50, np.float32))).bake(tmp_path / "c").up_to_date == 50


def test_smoothing_averages_what_the_sound_says_in_time(files: Path) -> None:
    """Against an average over many times drawn from the Gaussian; silence stays silence, keyed emotion and blinks are left alone."""
    keys = [{"frame": 0, "emotion": "sad", "mix": 0.3}, {"frame": 25, "emotion": "happy", "blink": 1.0, "blend": 0.0}]
    shot, session, rows = shot_of(files, keys, frames=(0, 59)), Session("cpu", 1), np.array([0, 3, 24, 25, 44, 49, 55])
    plain, deviation = Baker(session, shot), 0.04
    smooth = Baker(session, replace(shot, smoothing=deviation)).views(rows)
    sharp = plain.views(rows)
    places = np.linspace(-4, 4, 801)
    weights = np.exp(-0.5 * places**2)
    weights /= weights.sum()
    for view in ("audio", "exp", "style"):
        track = plain.tracks[view]
        at = track.at((shot.times[rows][:, None] + deviation * places).reshape(-1)).astype(np.float64)
        wanted = np.einsum("k,fk...->f...", weights, at.reshape(len(rows), len(places), *at.shape[1:]))
        size = np.abs(sharp[view] - wanted).max()
        assert np.abs(smooth[view] - wanted).max() < 0.25 * size + 1e-6, view
        np.testing.assert_array_equal(smooth[view][-1], sharp[view][-1])  # beyond the sound
    np.testing.assert_array_equal(smooth["au"], sharp["au"])
    calm = replace(shot, mix=np.ones(60, np.float32))
    np.testing.assert_array_equal(
        Baker(session, replace(calm, smoothing=deviation)).views(rows)["emotion"], Baker(session, calm).views(rows)["emotion"]
    )
    assert not np.array_equal(smooth["emotion"][2], sharp["emotion"][2])


def test_smoothing_calms_the_motion_and_frames_stay_independent(files: Path, tmp_path: Path) -> None:
    shot, session = shot_of(files), Session("cpu", 1)
    restless = []
    for deviation in (0.0, 0.03, 0.1):
        Baker(session, replace(shot, smoothing=deviation)).bake(tmp_path / f"{deviation}")
        reader = CacheReader(tmp_path / f"{deviation}")
        steps = [np.abs(reader.at(frame + 1).means - reader.at(frame).means).mean() for frame in range(10, 40)]
        restless.append(np.mean(steps))
    assert restless[0] > restless[1] > restless[2]
    baker = Baker(session, replace(shot, smoothing=0.03))
    for together, alone in zip(baker.frames(np.array([12, 30, 31])), (baker.frames(np.array([row]))[0] for row in (12, 30, 31))):
        for a, b in zip(together, alone):
            np.testing.assert_array_equal(a, b)


def test_the_command_line_takes_lead_smoothing_and_strengths(files: Path, tmp_path: Path) -> None:
    (tmp_path / "e.json").write_text('{"keys": [{"frame": 0, "emotion": "happy", "lips": 0.5}], "blink": {"automatic": false}}')
    common = ("bake", "--avatar", files / "head.safetensors", "--audio", files / "s.wav", "--emotion", tmp_path / "e.json", "--threads", 1)
    done = engine(*common, "--lead", 80, "--smoothing", 0.05, "--frames", "0:9", "--out", tmp_path / "c")
    assert done.returncode == 0, done.stderr
    shot = shot_of(files, [{"frame": 0, "emotion": "happy", "lips": 0.5}], frames=(0, 9), lead=0.08, smoothing=0.05)
    Baker(Session("cpu", 1), shot).bake(tmp_path / "here")
    one, two = (next((tmp_path / name).glob("store-*")) / "motion.bin" for name in ("c", "here"))
    assert one.read_bytes() == two.read_bytes()
    assert CacheReader(tmp_path / "c").keys() == CacheReader(tmp_path / "here").keys()
    done = engine(*common, "--smoothing", -1, "--out", tmp_path / "d")
    assert done.returncode == 1 and "smoothing" in done.stderr and len(done.stderr.strip().splitlines()) == 1
