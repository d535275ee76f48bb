"""Emotion files, automatic blinks, and frame keys that change exactly with what a frame depends on."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ua3dtalk.engine.avatar.tensors import SMALL, load_tensors, save_tensors
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import (
    STRENGTHS, EmotionCurves, Shot, automatic_blinks, automatic_brows, compose_shot, frame_keys, load_emotion, load_shot, save_shot,
)  # fmt: skip
from ua3dtalk.engine.shot.emotion import parse_emotion
from ua3dtalk.engine.shot.shot import METADATA


def shot(count: int = 20) -> Shot:
    random = np.random.default_rng(0)
    return Shot(
        Path("a.safetensors"), "aa", Path("s.wav"), "bb", 25.0, np.arange(count, dtype=np.int32), np.arange(count) / 25,
        random.random((count, 8)).astype(np.float32), np.ones(count, np.float32), np.full(count, 0.5, np.float32),
        random.random((count, 6)).astype(np.float32),
    )  # fmt: skip


def changed(before: Shot, after: Shot) -> np.ndarray:
    return np.flatnonzero((frame_keys(before) != frame_keys(after)).any(axis=1))


def altered(shot: Shot, name: str, row: int, value: float) -> Shot:
    array = getattr(shot, name).copy()
    array[row] = value
    return replace(shot, **{name: array})


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("times", 3.3), ("times", np.nan), ("keyed", 0.123), ("intensity", 0.3), ("mix", 0.7), ("au", 0.01),
        ("upper", 0.5), ("lower", 2.0), ("lips", 0.0),
    ],
)  # fmt: skip
def test_a_change_reaches_its_frame_alone(name: str, value: float) -> None:
    base = shot()
    assert list(changed(base, altered(base, name, 7, value))) == [7]


def test_everything_depends_on_avatar_and_sound() -> None:
    base = altered(shot(), "times", 4, np.nan)
    assert len(changed(base, replace(base, avatar_hash="other"))) == 20
    assert list(changed(base, replace(base, sound_hash="other"))) == [row for row in range(20) if row != 4]


def test_smoothing_reaches_the_frames_that_have_sound() -> None:
    base = altered(shot(), "times", 4, np.nan)
    assert list(changed(base, replace(base, smoothing=0.05))) == [row for row in range(20) if row != 4]
    silent = replace(base, sound=None, sound_hash="")
    assert not len(changed(silent, replace(silent, smoothing=0.05)))


def test_strengths_are_one_where_nothing_is_said() -> None:
    base = shot()
    for name in STRENGTHS:
        assert getattr(base, name).dtype == np.float32 and getattr(base, name).tolist() == [1] * 20
    part = replace(base, lips=np.linspace(0, 2, 20, dtype=np.float32)).part(np.array([19, 0]))
    assert part.lips.tolist() == [2, 0] and part.upper.tolist() == [1, 1]


def test_what_has_no_effect_does_not_count() -> None:
    base = shot()
    assert not len(changed(base, replace(base, avatar=Path("/elsewhere/a"), sound=Path("/elsewhere/b"))))
    assert not len(changed(base, replace(base, frames=base.frames + 100)))
    hidden = replace(base, intensity=np.zeros(20, np.float32))
    assert not len(changed(hidden, replace(hidden, keyed=hidden.keyed * 0.5, mix=hidden.mix * 0.5)))
    keyed_only = replace(base, mix=np.ones(20, np.float32))
    assert len(changed(keyed_only, replace(keyed_only, keyed=keyed_only.keyed * 0.5))) == 20


def test_a_moved_strip_keeps_its_keys() -> None:
    base = shot()
    constant = replace(base, keyed=np.zeros((20, 8), np.float32), au=np.zeros((20, 6), np.float32))
    moved = replace(constant, times=(np.arange(20) - 3) / 25)
    assert (frame_keys(moved)[3:] == frame_keys(constant)[:-3]).all()


def test_shot_file_round_trip(tmp_path: Path) -> None:
    base = replace(altered(altered(shot(), "times", 2, np.nan), "lower", 5, 0.25), smoothing=0.08)
    save_shot(base, tmp_path / "shot")
    again = load_shot(tmp_path / "shot")
    assert not len(changed(base, again)) and again.smoothing == 0.08 and again.lower[5] == 0.25
    assert (again.avatar, again.sound, again.fps) == (base.avatar, base.sound, base.fps)
    data = (tmp_path / "shot").read_bytes()
    for end in (0, 5, 20, len(data) // 2, len(data) - 1):
        (tmp_path / "cut").write_bytes(data[:end])
        with pytest.raises(UserError):
            load_shot(tmp_path / "cut")


def test_a_long_shot_s_file_is_let_go(tmp_path: Path) -> None:
    """Files above a size are mapped; what was loaded is no part of them."""
    base = shot(SMALL // 80)
    save_shot(base, tmp_path / "shot")
    assert (tmp_path / "shot").stat().st_size > SMALL
    again = load_shot(tmp_path / "shot")
    (tmp_path / "shot").write_bytes(bytes((tmp_path / "shot").stat().st_size))
    assert not len(changed(base, again))


def test_a_shot_file_of_version_1_is_as_learned(tmp_path: Path) -> None:
    save_shot(shot(), tmp_path / "shot")
    tensors, metadata = load_tensors(tmp_path / "shot")
    about = json.loads(metadata[METADATA]) | {"format_version": 1}
    del about["smoothing"]
    rest = {name: np.array(tensor) for name, tensor in tensors.items() if name not in STRENGTHS}
    save_tensors(tmp_path / "old", rest, {METADATA: json.dumps(about)})
    assert not len(changed(shot(), load_shot(tmp_path / "old")))
    save_tensors(tmp_path / "newer", rest, {METADATA: json.dumps(about | {"format_version": 2})})
    with pytest.raises(UserError, match="not a whole shot"):  # a file of version 2 must have them
        load_shot(tmp_path / "newer")
    for value in (-0.1, float("nan"), 9.0, "much"):
        save_tensors(tmp_path / "bad", dict(tensors), {METADATA: json.dumps(about | {"format_version": 2, "smoothing": value})})
        with pytest.raises(UserError, match="not a whole shot"):
            load_shot(tmp_path / "bad")


@given(lead=st.floats(-1, 1), offset=st.floats(-1, 1), fps=st.sampled_from([24.0, 25.0, 29.97]))
@settings(max_examples=25, deadline=None)
def test_lead_shifts_the_sound_s_time(lead: float, offset: float, fps: float) -> None:
    """The mouth shows at a frame what is heard `lead` seconds later; outside the sound there is none."""
    sound = Path(__file__)  # any file: its bytes are hashed, nothing more
    made = compose_shot(Path("a"), "a", sound, 2.0, EmotionCurves(blink_seed=None), fps, (-50, 120), offset, lead)
    heard = made.frames / fps - offset
    inside = (heard + lead >= 0) & (heard + lead < 2.0)
    np.testing.assert_allclose(made.times[inside], heard[inside] + lead)
    assert np.isnan(made.times[~inside]).all()


def test_strengths_are_keyed(tmp_path: Path) -> None:
    keys = [{"frame": 0, "upper": 0.5}, {"frame": 25, "lips": 1.6, "blend": 0}, {"frame": 50, "upper": 2, "lower": 0, "blend": 0.4}]
    curves = parse_emotion({"fps": 25, "keys": keys}, "x").at(np.array([0, 1, 1.8, 2]))
    np.testing.assert_allclose(curves["upper"], [0.5, 0.5, 1.25, 2])
    np.testing.assert_allclose(curves["lower"], [1, 1, 0.5, 0], atol=1e-12)
    np.testing.assert_allclose(curves["lips"], [1, 1.6, 1.6, 1.6])
    made = compose_shot(Path("a"), "a", None, 0, parse_emotion({"fps": 25, "keys": keys}, "x"), 25, (0, 50))
    assert made.lips[30] == np.float32(1.6) and made.upper.dtype == np.float32


@pytest.mark.parametrize(("options", "words"), [({"smoothing": -1}, "smoothing"), ({"smoothing": np.nan}, "smoothing"), ({"lead": np.inf}, "lead")])
def test_settings_out_of_range_are_refused(options: dict[str, float], words: str) -> None:
    with pytest.raises(UserError, match=words):
        compose_shot(Path("a"), "a", None, 0, EmotionCurves(), 25, (0, 5), **options)


def test_the_smallest_emotion_file(tmp_path: Path) -> None:
    path = tmp_path / "e.json"
    path.write_text('{"fps": 25, "keys": [{"frame": 0, "emotion": "happy", "intensity": 1.0}]}')
    curves = load_emotion(path).at(np.arange(10) / 25)
    np.testing.assert_array_equal(curves["keyed"], np.tile([0, 1, 0, 0, 0, 0, 0, 0], (10, 1)))
    np.testing.assert_array_equal(curves["intensity"], 1)
    np.testing.assert_array_equal(curves["mix"], 1)


def test_keys_blend_and_hold() -> None:
    keys = [{"frame": 0, "emotion": "neutral"}, {"frame": 50, "emotion": "angry", "intensity": 0.5, "blend": 0.4}]
    curves = parse_emotion({"fps": 25, "keys": keys}, "x").at(np.array([0, 1.6, 1.8, 2.0, 9.0]))
    np.testing.assert_allclose(curves["keyed"][:, 3], [0, 0, 0.5, 1, 1], atol=1e-9)
    np.testing.assert_allclose(curves["intensity"], [1, 1, 0.75, 0.5, 0.5], atol=1e-9)
    np.testing.assert_allclose(curves["keyed"].sum(axis=1), 1)


def test_keys_in_any_order_and_other_rates() -> None:
    keys = [{"frame": 60, "emotion": "sad"}, {"frame": 0, "emotion": "happy"}]
    curves = parse_emotion({"fps": 30, "keys": keys}, "x")
    assert list(curves.times) == [0, 2]
    assert curves.at(np.array([2.0]))["keyed"][0, 2] == 1


@pytest.mark.parametrize(
    ("data", "words"),
    [
        ([], "JSON object"),
        ({"keys": 3}, "`keys`"),
        ({"keys": [{"frame": 0, "emotion": "glad"}]}, "'glad'"),
        ({"keys": [{"emotion": "happy"}]}, "key 1: `frame`"),
        ({"keys": [{"frame": 0, "intensity": "much"}]}, "`intensity`"),
        ({"keys": [{"frame": 0, "lips": 2.5}]}, "`lips` is not a number from 0 to 2"),
        ({"keys": [{"frame": 0, "intensity": float("nan")}]}, "`intensity`"),
        ({"keys": [{"frame": 0}, {"frame": 1, "mod": 1}]}, "key 2 has unknown entries: mod"),
        ({"fps": 0, "keys": []}, "`fps`"),
        ({"keys": [], "blink": {"seed": 1.5}}, "seed"),
    ],
)
def test_bad_emotion_files_name_the_key(data: object, words: str) -> None:
    with pytest.raises(UserError, match="e.json") as caught:
        parse_emotion(data, "e.json")
    assert words in caught.value.message


def test_unreadable_emotion_files(tmp_path: Path) -> None:
    (tmp_path / "x.json").write_text("{")
    for name in ("x.json", "missing.json"):
        with pytest.raises(UserError, match=name):
            load_emotion(tmp_path / name)


def test_blinks_are_seeded_and_do_not_depend_on_what_is_asked_together() -> None:
    times = np.arange(0, 300, 0.04)
    blinks = automatic_blinks(times, 5)
    np.testing.assert_array_equal(blinks[1000:1100], automatic_blinks(times[1000:1100], 5))
    assert not np.array_equal(blinks, automatic_blinks(times, 6))
    begins = np.flatnonzero((blinks[1:] > 0.5) & (blinks[:-1] <= 0.5))
    assert 300 / 7 < len(begins) < 300 / 2
    assert blinks.max() == 1 and blinks.min() == 0
    brows = automatic_brows(times, 5)
    assert 0.1 < brows.max() <= 0.4 and (brows == 0).mean() > 0.5


def test_keyed_blinks_win_over_automatic_ones() -> None:
    curves = EmotionCurves(blink_seed=None)
    assert curves.at(np.arange(100) / 25)["au"].max() == 0
    keyed = parse_emotion({"keys": [{"frame": 0, "blink": 1.0}]}, "x").at(np.arange(100) / 25)
    np.testing.assert_array_equal(keyed["au"][:, 5], 1)


def test_emotion_file_is_plain_json(tmp_path: Path) -> None:
    data = {"fps": 24, "keys": [{"frame": 1, "weights": {"happy": 0.5, "surprised": 0.5}, "mix": 0.2}], "brows": {"automatic": True}}
    (tmp_path / "e.json").write_text(json.dumps(data))
    curves = load_emotion(tmp_path / "e.json")
    assert curves.brow_seed == 0 and curves.blink_seed == 0
    assert list(curves.at(np.array([1.0]))["keyed"][0]) == [0, 0.5, 0, 0, 0, 0, 0.5, 0]
