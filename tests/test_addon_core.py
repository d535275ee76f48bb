"""The add-on's decisions that need no Blender: times, curves, what is stale, paths, keys, the environment's set-up."""

from __future__ import annotations

import os
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, strategies as st

from ua3dtalk.addon.core import environment, paths
from ua3dtalk.addon.core.attributes import moving_attributes, read_gaussians, static_attributes
from ua3dtalk.addon.core.channels import AU_CHANNELS, CHANNEL_NAMES, CHANNELS, Source, build_shot
from ua3dtalk.addon.core.keying import plan_keys
from ua3dtalk.addon.core.playback import CachePool, FrameMissing, baked_keys
from ua3dtalk.addon.core.presets import PRESETS, all_weights, preset_weights
from ua3dtalk.engine.shot.stale import ranges, stale_report
from ua3dtalk.addon.core.states import BAKED, COMPUTING, FAILED, MISSING, OUTDATED, UNKNOWN, FrameTable, outwards
from ua3dtalk.addon.core.timing import Placement, file_placement, nearest_first, strip_placement, whole_frames
from ua3dtalk.engine.avatar import EMOTIONS
from ua3dtalk.engine.cache import LOCK_FILE, CacheHeader, CacheWriter
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import Shot, frame_keys

from support.avatars import static_avatar

SOURCE = Source(Path("head.safetensors"), "a" * 64, Path("speech.wav"), "b" * 64)
REST = {channel.name: channel.default for channel in CHANNELS}


def shot(frames: np.ndarray, place: Placement | None, fps: float = 25.0, source: Source = SOURCE, **values: float) -> Shot:
    curves = {name: np.full(len(frames), values.get(name, REST[name])) for name in CHANNEL_NAMES}
    return build_shot(source, fps, frames, curves, place, None, None)


# ---------------------------------------------------------------------------------------------------------- times


@pytest.mark.parametrize("fps", [12.0, 24.0, 24 / 1.001, 25.0, 29.97, 30.0, 60.0])
def test_a_strip_at_frame_ten_starts_with_second_zero(fps: float) -> None:
    place = strip_placement(frame_start=10, animation_offset=0, sound_offset=0, first=10, end=10 + 4 * fps, fps=fps)
    times = place.times(np.array([9, 10, 11]), fps)
    assert np.isnan(times[0]) and times[1] == 0.0 and times[2] == pytest.approx(1 / fps, abs=1e-8)
    assert place.frames() == (10, int(np.ceil(10 + 4 * fps)) - 1)


@given(
    start=st.integers(-2000, 2000), trim=st.integers(0, 50), shift=st.floats(-1, 1), left=st.integers(0, 90), length=st.integers(1, 300),
    fps=st.sampled_from([23.976, 24.0, 25.0, 30.0, 50.0]), moved=st.integers(-5000, 5000),
)  # fmt: skip
def test_a_strip_that_moves_takes_its_sound_and_keys_along(
    start: int, trim: int, shift: float, left: int, length: int, fps: float, moved: int
) -> None:
    def at(offset: int) -> Shot:
        place = strip_placement(
            frame_start=start + offset, animation_offset=trim, sound_offset=shift, first=start + offset + left,
            end=start + offset + left + length, fps=fps,
        )  # fmt: skip
        return shot(np.arange(start + left - 3, start + left + length + 3) + offset, place, fps)

    here, there = at(0), at(moved)
    assert np.array_equal(frame_keys(here), frame_keys(there))
    heard = np.flatnonzero(np.isfinite(here.times))
    # Exactly the strip's own frames are heard, but for those before the sound's begin.
    assert len(heard) <= length and (not len(heard) or heard[-1] == 3 + length - 1)
    expected = (here.frames[heard] - start + trim) / fps - shift
    assert np.allclose(here.times[heard], np.maximum(expected, 0), atol=1e-7)


def test_handles_cut_but_do_not_move() -> None:
    whole = strip_placement(frame_start=10, animation_offset=0, sound_offset=0, first=10, end=110, fps=25)
    cut = strip_placement(frame_start=10, animation_offset=0, sound_offset=0, first=30, end=105, fps=25)
    frames = np.arange(1, 130)
    inside = (frames >= 30) & (frames < 105)
    assert np.array_equal(whole.times(frames, 25)[inside], cut.times(frames, 25)[inside])
    assert np.isnan(cut.times(frames, 25)[~inside]).all()
    assert cut.frames() == (30, 104)
    assert np.array_equal(np.isfinite(whole.cut(30, 105).times(frames, 25)), inside)


def test_a_file_ends_with_its_last_second() -> None:
    place = file_placement(5.5, 2.0, 25.0)
    assert place.frames() == (6, 55)
    times = place.times(np.array([5, 6, 55, 56]), 25.0)
    assert np.isnan(times[[0, 3]]).all() and times[1] == pytest.approx(0.02) and times[2] == pytest.approx(1.98)


def test_frames_and_their_order() -> None:
    assert whole_frames(3, 3).tolist() == [3]
    with pytest.raises(ValueError, match="before the first"):
        whole_frames(4, 3)
    assert nearest_first(whole_frames(1, 5), 3.5) == [3, 4, 5, 1, 2]
    assert nearest_first(whole_frames(1, 3), 90) == [1, 2, 3]


# ----------------------------------------------------------------------------------------------------------- shots


def test_sliders_reach_the_shot_in_their_places_and_ranges() -> None:
    frames = whole_frames(1, 4)
    values = {name: 0.05 * (i + 1) for i, name in enumerate(CHANNEL_NAMES)}
    made = shot(frames, None, **values)
    assert np.allclose(made.keyed[0], [values[name] for name in EMOTIONS])
    assert np.allclose(made.au[0], [values[name] for name in AU_CHANNELS])
    assert AU_CHANNELS == ("brow_raise", "brow_lower", "lid_raise", "cheek_raise", "lid_tighten", "blink")
    assert made.intensity[0] == pytest.approx(values["intensity"]) and made.mix[0] == pytest.approx(values["mix"])
    assert np.isnan(made.times).all()
    wild = shot(frames, None, happy=7.0, intensity=9.0, blink=-1.0)
    assert wild.keyed[0, 1] == 1.0 and wild.intensity[0] == 2.0 and wild.au[0, 5] == 0.0


def test_automatic_blinks_go_with_the_sound() -> None:
    def blinks(start: float) -> np.ndarray:
        frames = np.arange(0, 500) + int(start)
        curves = {name: np.full(500, REST[name]) for name in CHANNEL_NAMES}
        return build_shot(SOURCE, 25, frames, curves, file_placement(start, 5.0, 25.0), 3, 4).au

    assert blinks(0).max() > 0.9 and np.array_equal(blinks(0), blinks(130))
    keyed = {name: np.full(500, REST[name]) for name in CHANNEL_NAMES} | {"blink": np.full(500, 0.5)}
    both = build_shot(SOURCE, 25, np.arange(500), keyed, None, 3, None).au[:, 5]
    assert both.min() == 0.5 and both.max() > 0.9


# ----------------------------------------------------------------------------------------------------------- stale


def baked(made: Shot) -> dict[int, bytes]:
    return dict(zip(made.frames.tolist(), (key.tobytes() for key in frame_keys(made))))


def test_nothing_baked_and_everything_fresh() -> None:
    made = shot(whole_frames(1, 10), file_placement(1, 9, 25))
    empty = stale_report(made, {})
    assert empty.missing == tuple(range(1, 11)) and not empty.fresh and empty.lines() == ["Not baked: 10 frames"]
    full = stale_report(made, baked(made), SOURCE.avatar_hash, SOURCE.sound_hash, made)
    assert full.fresh and full.lines() == ["Up to date: 10 frames"] and full.frames == ()


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"happy": 0.5}, "emotion"),
        ({"happy": 0.2, "intensity": 0.5}, "emotion"),
        ({"mix": 0.5}, "emotion"),
        ({"blink": 0.5}, "blinks"),
        ({"lid_raise": 0.5}, "brows and eyes"),
        ({"place": file_placement(2, 9, 25)}, "the sound's place"),
        ({"source": replace(SOURCE, avatar_hash="c" * 64)}, "the avatar's file"),
        ({"source": replace(SOURCE, sound_hash="c" * 64)}, "the sound file"),
        ({"source": Source(SOURCE.avatar, SOURCE.avatar_hash), "place": None}, "sound removed"),
    ],
)
def test_reasons(change: dict, reason: str) -> None:
    frames, place = whole_frames(1, 10), file_placement(1, 9, 25)
    before = shot(frames, place)
    settings = {"place": place, **change}
    now = shot(frames, settings.pop("place"), **settings)
    report = stale_report(now, baked(before), SOURCE.avatar_hash, SOURCE.sound_hash, before)
    assert report.outdated and report.reasons == (reason,), report


def test_what_has_no_effect_is_not_stale() -> None:
    frames, place = whole_frames(1, 10), file_placement(1, 9, 25)
    before = shot(frames, place, happy=0.5, intensity=0.0)
    now = shot(frames, place, happy=0.9, intensity=0.0, neutral=0.2)
    assert stale_report(now, baked(before), SOURCE.avatar_hash, SOURCE.sound_hash, before).fresh


def test_only_changed_frames_and_an_unknown_past() -> None:
    frames = whole_frames(1, 10)
    before = shot(frames, None)
    curves = {name: np.full(10, REST[name]) for name in CHANNEL_NAMES}
    curves["sad"] = np.where(frames >= 8, 0.4, 0.0)
    now = build_shot(SOURCE, 25, frames, curves, None, None, None)
    keys = baked(before)
    del keys[2]
    report = stale_report(now, keys, SOURCE.avatar_hash, "", None)
    assert report.outdated == (8, 9, 10) and report.missing == (2,) and report.frames == (2, 8, 9, 10)
    assert report.lines() == ["Not baked: 2 (1 of 10)", "Out of date: 8-10 (3 of 10)", "Changed: settings since an earlier bake"]


def test_ranges_as_text() -> None:
    assert ranges((1, 2, 3, 7, 9, 10)) == "1-3, 7, 9-10"
    assert ranges((1, 3, 5, 7)) == "1, 3, 5 ..."
    assert ranges(()) == ""


# ----------------------------------------------------------------------------------------------------------- states


def sampled(table: FrameTable, made: Shot, most: int = 7) -> None:
    """Fill a table from a shot of its frames, in pieces."""
    while not table.is_complete:
        rows = np.searchsorted(made.frames, table.pending(most))
        table.put(made.part(rows))


def ramp(first: int, last: int, top: float = 1.0) -> Shot:
    """A shot whose frames all differ."""
    frames = whole_frames(first, last)
    curves = {name: np.full(len(frames), REST[name]) for name in CHANNEL_NAMES} | {"happy": (frames - first) / 100 * top}
    return build_shot(SOURCE, 25, frames, curves, None, None, None)


@given(st.integers(-50, 50), st.integers(1, 60), st.floats(-80, 120))
def test_outwards_is_by_distance(first: int, count: int, here: float) -> None:
    frames = np.arange(first, first + count)
    rows = outwards(frames, here)
    assert sorted(rows.tolist()) == list(range(count))
    distance = np.abs(frames[rows] - here)
    assert (np.diff(distance) >= 0).all()
    assert outwards(np.arange(1, 8), 4).tolist() == [3, 4, 2, 5, 1, 6, 0]


@given(st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)), st.sets(st.integers(1, 30)), st.integers(1, 9))
def test_states_of_frames(there: set[int], changed: set[int], asked: set[int], refused: set[int], most: int) -> None:
    """Held against the plain definition, frame by frame."""
    made = ramp(1, 30)
    table = FrameTable()
    table.begin(made.frames, 12)
    assert (table.states({}) == UNKNOWN).all()
    sampled(table, made, most)
    keys = baked(made)
    held = {frame: bytes(16) if frame in changed else key for frame, key in keys.items() if frame in there}
    found = table.states(held, frozenset(asked), {keys[frame] for frame in refused})
    for frame, state in zip(made.frames.tolist(), found.tolist()):
        if held.get(frame) == keys[frame]:
            expected = BAKED
        elif frame in asked:
            expected = COMPUTING
        elif frame in refused:
            expected = FAILED
        else:
            expected = OUTDATED if frame in held else MISSING
        assert state == expected
    report = stale_report(made, held, keys=table.keys)
    assert set(report.missing) == set(range(1, 31)) - there and set(report.outdated) == there & changed


def test_a_table_keeps_what_it_knew_until_it_knows_better() -> None:
    old, new = ramp(1, 20), ramp(5, 30, 0.5)
    table = FrameTable()
    table.begin(old.frames, 1)
    sampled(table, old)
    assert table.key(7) == baked(old)[7] and table.key(99) is None
    shot_of_all = table.shot()
    assert np.array_equal(frame_keys(shot_of_all), frame_keys(old)) and np.array_equal(shot_of_all.keyed, old.keyed)
    table.begin(new.frames, 10)
    assert not table.is_complete and table.key(7) is None
    states = table.states(baked(old))
    assert (states[:16] == BAKED).all() and (states[16:] == UNKNOWN).all()
    rows = np.searchsorted(new.frames, table.pending(3))
    assert new.frames[rows].tolist() == [10, 11, 9], "from the playhead outwards"
    table.put(new.part(rows))
    table.head_for(28)
    assert table.pending(3).tolist() == [28, 29, 27]
    states = table.states(baked(old))
    assert (states[[4, 5, 6]] == OUTDATED).all() and (states[:4] == BAKED).all()
    sampled(table, new)
    assert np.array_equal(table.keys, frame_keys(new)) and np.array_equal(frame_keys(table.shot(np.array([3, 20]))), frame_keys(new)[[3, 20]])


# ----------------------------------------------------------------------------------------------------------- paths


@pytest.mark.parametrize("name", ["Anna", "", "...", "con", "a/b\\c:d*?", "x" * 300, "名前", " . ", "COM1"])
def test_names_for_every_file_system(name: str, tmp_path: Path) -> None:
    safe = paths.safe_name(name)
    assert safe and len(safe) <= 49 and not set(safe) & set('/\\:*?"<>|') and safe.strip(" .") == safe
    assert safe.upper() not in {"CON", "COM1"}
    (tmp_path / safe).mkdir()
    assert paths.new_cache_name(name).startswith(safe)


def test_cache_beside_the_blend_or_temporary(tmp_path: Path) -> None:
    assert paths.cache_folder("Anna-1", tmp_path) == tmp_path / "ua3dtalk_cache" / "Anna-1"
    assert tmp_path not in paths.cache_folder("Anna-1", None).parents


def make_cache(folder: Path, frames: dict[int, float], seed: int = 0) -> None:
    """A real cache of a small avatar: frame -> offset along x."""
    avatar = static_avatar(seed=seed)
    rest, branch = avatar.rest()
    header = CacheHeader("Test head", avatar.hash, "", "layered", 25.0, "", 0, 0, "0", "cpu")
    rows = np.arange(0, len(rest), 2)
    with CacheWriter(folder, header, rest, branch, rows) as writer:
        for frame, offset in frames.items():
            means = rest.means[rows] + np.array([offset, 0, 0], np.float32)
            flat = np.full(len(rows), 0.1, np.float32)
            key = np.array([frame, round(offset * 1e6)], "<i8").tobytes()  # as real ones: equal for equal content alone
            writer.put(frame, key, means, rest.quats[rows], rest.scales[rows], flat, flat)
        writer.finish()


def test_taking_a_bake_along(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "deep" / "new"
    assert not paths.take_along(old, new, move=True)
    make_cache(old, {1: 0.0})
    (old / LOCK_FILE).write_text("of an engine that is at work")
    assert paths.take_along(old, new, move=False) and paths.is_cache(old) and paths.is_cache(new)
    assert (old / LOCK_FILE).exists() and not (new / LOCK_FILE).exists(), "the copy is free to be written"
    assert not paths.take_along(old, new, move=True), "what lies there stays"
    assert paths.take_along(old, tmp_path / "moved", move=True) and not old.exists()
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".part")]


def test_a_bake_that_cannot_be_taken_along_is_whole(tmp_path: Path) -> None:
    old = tmp_path / "old"
    make_cache(old, {1: 0.0})
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match="still in"):
        paths.take_along(old, tmp_path / "file" / "new", move=True)
    assert CachePool().frame(old, 1)


def test_clearing_removes_our_files_alone(tmp_path: Path) -> None:
    folder = tmp_path / "cache"
    assert not paths.clear_cache(folder)
    make_cache(folder, {1: 0.0})
    (folder / "notes.txt").write_text("mine")
    assert paths.clear_cache(folder) and [p.name for p in folder.iterdir()] == ["notes.txt"]
    assert not paths.clear_cache(folder)


# -------------------------------------------------------------------------------------------------------- playback


def test_pool_gives_the_same_arrays_until_something_changes(tmp_path: Path) -> None:
    pool = CachePool()
    with pytest.raises(UserError, match="no bake"):
        pool.reader(tmp_path)
    assert baked_keys(pool, tmp_path) == ({}, "", "")
    make_cache(tmp_path, {1: 0.0, 2: 1.0})
    reader, first = pool.frame(tmp_path, 1)
    assert pool.frame(tmp_path, 1)[1] is first
    between = pool.frame(tmp_path, 1.25)[1]
    row = reader.moving[0]
    assert between.means[row, 0] - first.means[row, 0] == pytest.approx(0.25, abs=1e-3)
    with pytest.raises(FrameMissing):
        pool.frame(tmp_path, 3)
    make_cache(tmp_path, {1: 0.5, 3: 0.0})
    again = pool.frame(tmp_path, 1)[1]
    assert again is not first and again.means[row, 0] - first.means[row, 0] == pytest.approx(0.5, abs=1e-3)
    assert set(baked_keys(pool, tmp_path)[0]) == {1, 2, 3}


def test_pool_keeps_what_is_shown_while_others_are_baked(tmp_path: Path) -> None:
    """A frame that comes in the background is no reason to decode, upload and sort the shown one again."""
    pool = CachePool()
    make_cache(tmp_path, {1: 0.0, 2: 1.0})
    shown, between, keys = pool.frame(tmp_path, 1)[1], pool.frame(tmp_path, 2.5)[1], pool.keys(tmp_path)[0]
    assert pool.keys(tmp_path)[0] is keys
    make_cache(tmp_path, {7: 0.0})
    assert pool.frame(tmp_path, 1)[1] is shown and pool.frame(tmp_path, 2.5)[1] is between
    assert pool.keys(tmp_path)[0] is not keys and set(keys) == {1, 2}
    make_cache(tmp_path, {3: 0.0})
    assert pool.frame(tmp_path, 1)[1] is shown and pool.frame(tmp_path, 2.5)[1] is not between, "the frame after it is there now"


def test_pool_closes_what_nobody_uses(tmp_path: Path) -> None:
    pool = CachePool()
    make_cache(tmp_path, {1: 0.0})
    before = pool.frame(tmp_path, 1)[1].means
    pool.close_idle(60.0)
    assert pool.folders == {tmp_path}
    time.sleep(0.02)
    pool.keys(tmp_path, in_passing=True)
    pool.close_idle(0.01)
    assert pool.folders == set(), "a look in passing is no use"
    assert np.array_equal(pool.frame(tmp_path, 1)[1].means, before)
    time.sleep(0.02)
    pool.keys(tmp_path)
    pool.close_idle(0.01)
    assert pool.folders == {tmp_path}


def test_pool_follows_another_avatar_and_a_cleared_folder(tmp_path: Path) -> None:
    pool = CachePool()
    make_cache(tmp_path, {1: 0.0})
    before = pool.frame(tmp_path, 1)[0]
    make_cache(tmp_path, {1: 0.0}, seed=1)
    after = pool.frame(tmp_path, 1)[0]
    assert after is not before and after.header.avatar_hash != before.header.avatar_hash
    paths.clear_cache(tmp_path)
    with pytest.raises(UserError, match="no bake"):
        pool.frame(tmp_path, 1)
    make_cache(tmp_path, {4: 0.0})
    assert pool.frame(tmp_path, 4)
    pool.keep_only(set())
    assert pool.folders == set()


# ------------------------------------------------------------------------------------------------ attributes, keys


def test_attributes_hold_the_gaussians() -> None:
    gaussians, branch = static_avatar(degree=2).rest()
    static = static_attributes(gaussians, branch)
    assert {name for name in static if name.startswith("radiance:sh_")} == {f"radiance:sh_{i}" for i in range(8)}
    assert np.array_equal(static["radiance:base"][1][:, 3], gaussians.opacities)
    arrays = {name: values for name, (_, values) in (static | moving_attributes(gaussians.means, gaussians.quats, gaussians.scales)).items()}
    back = read_gaussians(arrays)
    for name in ("means", "quats", "scales", "opacities", "sh"):
        assert np.array_equal(getattr(back, name), getattr(gaussians, name)), name


def test_key_plan() -> None:
    plan = plan_keys({"happy": 1.0, "sad": 0.0}, 20, 5, lambda name, frame: 0.3 if name == "sad" else frame / 100)
    assert plan["happy"].set == {15: 0.15, 20: 1.0} and plan["sad"].set == {15: 0.3, 20: 0.0} and plan["sad"].clear == (15, 20)
    assert plan_keys({"happy": 1.0}, 20, 0, lambda name, frame: 0.0)["happy"].set == {19: 0.0, 20: 1.0}
    with pytest.raises(ValueError):
        plan_keys({"happy": 1.0}, 20, -1, lambda name, frame: 0.0)


def test_presets_and_mixtures() -> None:
    for preset in PRESETS:
        weights = preset_weights(preset.identifier)
        assert tuple(weights) == EMOTIONS and max(weights.values()) > 0
    assert all_weights("Happy")["happy"] == 1.0 and sum(all_weights("happy").values()) == 1.0
    for wrong in ("joy", {"happy": 2.0}):
        with pytest.raises(UserError):
            all_weights(wrong)
    with pytest.raises(UserError, match="CALM"):
        preset_weights("nothing")


# ----------------------------------------------------------------------------------------------------- environment


def run(setup: environment.Setup) -> environment.Setup:
    while setup.state == "running":
        setup.pump()
        time.sleep(0.02)
    setup.pump()
    return setup


def test_setting_up_an_environment(tmp_path: Path) -> None:
    """A real virtual environment by real commands; there is nothing to install, so nothing is asked of a network."""
    requirements, folder = tmp_path / "requirements.txt", tmp_path / "made here" / "environment"
    requirements.write_text("# nothing\n")
    assert not environment.is_ready(folder, requirements)
    setup = run(environment.Setup(environment.setup_steps(Path(sys.executable), folder, requirements), folder, requirements))
    assert setup.state == "done", setup.lines
    assert environment.venv_python(folder).exists() and environment.is_ready(folder, requirements)
    requirements.write_text("# something new\n")
    assert not environment.is_ready(folder, requirements), "made for other requirements"


def test_a_set_up_that_fails_says_why_and_is_not_ready(tmp_path: Path) -> None:
    requirements, folder = tmp_path / "requirements.txt", tmp_path / "environment"
    requirements.write_text("this is no requirement !!\n")
    setup = run(environment.Setup(environment.setup_steps(Path(sys.executable), folder, requirements), folder, requirements))
    assert setup.state == "failed" and "Installing packages failed" in str(setup.error)
    assert not environment.is_ready(folder, requirements)
    missing = run(environment.Setup(environment.setup_steps(tmp_path / "no-python", folder, requirements), folder, requirements))
    assert missing.state == "failed" and "cannot be started" in str(missing.error)


def test_a_set_up_that_is_cancelled_ends_its_process(tmp_path: Path) -> None:
    slow = environment.Step("Waiting", (sys.executable, "-u", "-c", "import os, time; print(os.getpid()); time.sleep(600)"))
    setup = environment.Setup([slow], tmp_path, tmp_path / "none")
    while len(setup.lines) < 2:
        setup.pump()
        time.sleep(0.02)
    setup.cancel()
    assert setup.state == "cancelled"
    with pytest.raises(ProcessLookupError):
        os.kill(int(setup.lines[1]), 0)


def test_checking_environments(tmp_path: Path, engine_python: Path) -> None:
    import ua3dtalk.engine

    root = Path(ua3dtalk.engine.__file__).parents[1]
    report = environment.check_environment(engine_python, root)
    assert report["missing"] == {} and report["device"] in ("cpu", "cuda")
    with pytest.raises(UserError, match="no Python at"):
        environment.check_environment(tmp_path / "python", root)
    (tmp_path / "pretender").write_text("#!/bin/sh\necho I am no Python\nexit 3\n")
    (tmp_path / "pretender").chmod(0o755)
    with pytest.raises(UserError, match="I am no Python"):
        environment.check_environment(tmp_path / "pretender", root)
    # A Python without the packages: what is missing is named.
    empty = tmp_path / "empty"
    requirements = tmp_path / "requirements.txt"
    requirements.write_text("")
    run(environment.Setup(environment.setup_steps(Path(sys.executable), empty, requirements), empty, requirements))
    with pytest.raises(UserError, match="torch"):
        environment.check_environment(environment.venv_python(empty), root)


def test_variables_of_other_pythons_stay_out(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", "elsewhere")
    monkeypatch.setenv("PYTHONHOME", "elsewhere")
    assert not {"PYTHONPATH", "PYTHONHOME"} & set(environment.clean_variables())
