"""The decisions behind performances, automatic keys, strengths and trust, without Blender."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

from ua3dtalk.addon.core.channels import CHANNEL_NAMES, CHANNELS, STRENGTH_CHANNELS, Source, build_shot
from ua3dtalk.addon.core.keying import Span, few_keys, plan_performance, plan_values
from ua3dtalk.addon.core.performance import DECAYS, BlinkShape, Timing, channels_of, decay_shape, usual_timing
from ua3dtalk.addon.core.presets import PRESETS, all_weights, preset_weights, weights_of
from ua3dtalk.engine.shot.stale import stale_report
from ua3dtalk.addon.core.timing import file_placement
from ua3dtalk.addon.core.trust import STANDS_OUT, Trust, next_frame, times
from ua3dtalk.engine.avatar import EMOTIONS, REGIONS
from ua3dtalk.engine.cache import SHARES
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import Shot, frame_keys

# ---------------------------------------------------------------------------------------------------------- performances


def test_a_performance_comes_stays_and_goes() -> None:
    span = Span(40, 10, 25, 20)
    assert (span.start, span.fade, span.end) == (30, 65, 85)
    before = {"happy": 0.2, "neutral": 0.7}
    plans = plan_performance({"happy": 0.9, "neutral": 0.0}, span, "EXPO", lambda name, at: before[name] + at / 1000)
    assert plans["happy"].set == {30: 0.23, 40: 0.9, 65: 0.9, 85: pytest.approx(0.285)}
    assert plans["neutral"].set == {30: pytest.approx(0.73), 40: 0.0, 65: 0.0, 85: pytest.approx(0.785)}
    assert plans["happy"].clear == (30, 85) and plans["happy"].shapes[65] == "EXPO" and plans["happy"].shapes[30] == "BEZIER"


def test_a_performance_without_apex_or_sudden() -> None:
    plan = plan_performance({"sad": 1.0}, Span(10, 5, 0, 5), "LINEAR", lambda name, at: 0.0)["sad"]
    assert plan.set == {5: 0.0, 10: 1.0, 15: 0.0} and plan.shapes[10] == "LINEAR", "one key at the top, and it fades from there"
    assert plan_performance({"sad": 1.0}, Span(10, 0, 0, 0), "LINEAR", lambda name, at: 0.0)["sad"].set == {9: 0.0, 10: 1.0, 11: 0.0}
    for wrong in ((-1, 0, 0), (0, -1, 0), (0, 0, float("nan")), (float("inf"), 0, 0)):
        with pytest.raises(UserError, match="frames"):
            Span(10, *wrong)


def test_usual_timing() -> None:
    sad, surprised = usual_timing(all_weights("sad")), usual_timing(all_weights("surprised"))
    assert sad.onset > surprised.onset and sad.apex > surprised.apex and sad.release > surprised.release
    mixed = usual_timing(all_weights({"sad": 0.5, "surprised": 0.5, "neutral": 0.9}))
    assert mixed.onset == pytest.approx((sad.onset + surprised.onset) / 2), "neutral has no say in a mixture"
    assert usual_timing(all_weights({})) == usual_timing(all_weights("neutral"))
    assert Timing(0.5, 1.0, 0.01).frames(24) == (12, 24, 1)
    for preset in PRESETS:
        assert min(usual_timing(preset_weights(preset.identifier)).frames(24)) >= 1


def test_names_of_what_is_keyed() -> None:
    assert weights_of("furious") == preset_weights("FURIOUS") and weights_of("happy") == all_weights("happy")
    assert decay_shape("linger") == "EXPO" and {shape for *_, shape in DECAYS} == {"BEZIER", "LINEAR", "EXPO"}
    with pytest.raises(UserError, match="Known are"):
        decay_shape("never")
    with pytest.raises(UserError):
        weights_of("joy")
    assert channels_of("EMOTION")[:8] == EMOTIONS and channels_of({"FACE", "STRENGTH"})[-3:] == STRENGTH_CHANNELS
    assert set(channels_of({"EMOTION", "FACE", "STRENGTH"})) == set(CHANNEL_NAMES), "everything keyable can be copied"
    for wrong in ("ALL", set()):
        with pytest.raises(UserError, match="Known are"):
            channels_of(wrong)


def test_a_blink_closes_faster_than_it_opens() -> None:
    close, hold, opening = BlinkShape().frames(10)
    assert close + hold + opening == pytest.approx(10) and close < opening and hold > 0


# ------------------------------------------------------------------------------------------------------------- few keys

curves = st.integers(1, 60).flatmap(
    lambda count: st.lists(st.lists(st.floats(0, 1, width=32), min_size=2, max_size=2), min_size=count, max_size=count)
)


@given(curves, st.floats(0.001, 0.5))
@settings(deadline=None, max_examples=150)
def test_few_keys_stay_within_the_tolerance(values: list[list[float]], tolerance: float) -> None:
    table = np.array(values)
    rows = few_keys(table, tolerance)
    every = np.arange(len(table))
    assert rows[0] == 0 and rows[-1] == len(table) - 1 and np.all(np.diff(rows) > 0)
    for column in range(2):
        assert np.abs(np.interp(every, rows, table[rows, column]) - table[:, column]).max() <= tolerance + 1e-9


def test_straight_lines_need_their_ends_alone() -> None:
    ramp = np.linspace(0, 1, 50)[:, None]
    assert few_keys(ramp, 1e-6).tolist() == [0, 49]
    bend = np.minimum(ramp, 0.5)
    assert len(few_keys(bend, 0.05)) <= 4
    waves = np.sin(np.arange(400) / 20)[:, None]
    assert len(few_keys(waves, 0.2)) < len(few_keys(waves, 0.02)) < 100


def test_keys_of_values() -> None:
    frames = np.arange(10, 31)
    plans = plan_values(frames, {"happy": (frames - 10) / 20, "sad": np.zeros(21)}, 0.01)
    assert plans["happy"].set == {10: 0.0, 30: 1.0} and plans["happy"].clear == (10, 30) and plans["sad"].set == {10: 0.0, 30: 0.0}
    assert set(plans["happy"].shapes.values()) == {"LINEAR"}


# ---------------------------------------------------------------------------------------------------------------- shots

SOURCE = Source(Path("a.safetensors"), "a" * 64, Path("s.wav"), "b" * 64)
REST = {channel.name: channel.default for channel in CHANNELS}


def shot(smoothing: float = 0.0, lead: float = 0.0, start: float = 1.0, **values: float) -> Shot:
    frames = np.arange(1, 101)
    table = {name: np.full(100, (REST | values)[name]) for name in CHANNEL_NAMES}
    return build_shot(SOURCE, 25.0, frames, table, file_placement(start, 2.0, 25.0), 3, None, smoothing, lead)


def test_strengths_reach_the_shot() -> None:
    made = shot(upper_strength=0.5, lower_strength=1.5, lip_strength=9.0)
    assert (made.upper[0], made.lower[0], made.lips[0]) == (0.5, 1.5, 2.0)
    rest = shot()
    assert made.upper.shape == (100,) and (rest.upper == 1).all() and (rest.lower == 1).all() and (rest.lips == 1).all()
    assert shot(smoothing=0.08).smoothing == pytest.approx(0.08)


def test_the_mouth_leads_the_sound() -> None:
    plain, leads, lags = shot(start=11), shot(start=11, lead=0.08), shot(start=11, lead=-0.08)
    heard = np.flatnonzero(np.isfinite(plain.times))
    assert len(heard) == 50 and np.array_equal(np.flatnonzero(np.isfinite(leads.times)), heard - 2), "0.08 s are two frames"
    assert np.allclose(leads.times[heard - 2], plain.times[heard]) and np.allclose(lags.times[heard + 2], plain.times[heard])
    assert np.allclose(leads.times, shot(start=9.0).times, equal_nan=True), "as if the sound lay two frames earlier"
    assert np.array_equal(leads.au, plain.au), "blinks stay where they are"


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        ({"upper_strength": 0.5}, "the upper face's strength"),
        ({"lower_strength": 0.5}, "the lower face's strength"),
        ({"lip_strength": 0.5}, "the lips' strength"),
        ({"smoothing": 0.1}, "smoothing"),
        ({"lead": 0.05}, "the sound's place"),
    ],
)
def test_reasons_in_words(change: dict[str, float], reason: str) -> None:
    before, now = shot(), shot(**change)
    baked = dict(zip(before.frames.tolist(), (key.tobytes() for key in frame_keys(before))))
    report = stale_report(now, baked, SOURCE.avatar_hash, SOURCE.sound_hash, before)
    assert report.outdated and report.reasons == (reason,)


# ---------------------------------------------------------------------------------------------------------------- trust


def trust(frames: int = 40, **peaks: float) -> Trust:
    """Even uncertainties but for {"lips_epistemic_12": 0.5}: value of a region and kind at a row."""
    aleatoric, epistemic = np.full((frames, 8), 0.2), np.full((frames, 8), 0.1)
    aleatoric[:, REGIONS.index("head")] = epistemic[:, REGIONS.index("head")] = 0.0
    for name, value in peaks.items():
        region, kind, row = name.split("_")
        {"aleatoric": aleatoric, "epistemic": epistemic}[kind][int(row), REGIONS.index(region)] = value
    shares = np.full((frames, 8, 4), 0.1)
    shares[:, :, SHARES.index("audio")] = 0.7
    shares[:, REGIONS.index("brows")] = (0.1, 0.2, 0.1, 0.6)
    return Trust(REGIONS, SHARES, np.arange(10, 10 + frames), aleatoric, epistemic, shares)


def test_the_worst_frames() -> None:
    found = trust(lips_epistemic_5=0.2, lips_epistemic_6=0.4, lips_epistemic_7=0.3, lips_epistemic_30=0.9, brows_epistemic_20=0.6)
    assert found.worst("epistemic", "lips") == [16, 40], "one of each stretch, at its highest"
    assert found.worst("epistemic") == [16, 30, 40] and found.worst("epistemic", "brows") == [30]
    assert found.worst("aleatoric", "lips") == [10], "nothing stands out: the highest there is"
    assert found.score("epistemic", "lips")[30] == pytest.approx(9.0) and found.score("total", "head").max() == 0
    with pytest.raises(KeyError):
        found.worst("doubt")
    with pytest.raises(KeyError):
        found.score("total", "ears")
    assert Trust(REGIONS, SHARES, *(np.zeros(shape) for shape in ((0,), (0, 8), (0, 8), (0, 8, 4)))).worst("total") == []


def test_expected_errors_where_variances_are_of_colour() -> None:
    found = trust(lips_epistemic_5=0.29)
    assert found.expected_errors("total") is None, "nobody knows"
    known = replace(found, color_variance=True)
    assert known.expected_errors("total")[5, REGIONS.index("lips")] == pytest.approx(0.7)
    assert known.expected_errors("aleatoric")[5, REGIONS.index("lips")] == pytest.approx(0.2**0.5)
    with pytest.raises(KeyError):
        known.expected_errors("doubt")


def test_a_gap_ends_a_stretch() -> None:
    found = trust(lips_epistemic_5=0.5, lips_epistemic_6=0.6)
    split = Trust(found.regions, found.views, np.where(found.frames > 15, found.frames + 5, found.frames), found.aleatoric, found.epistemic, found.shares)
    assert found.worst("epistemic", "lips") == [16] and split.worst("epistemic", "lips") == [15, 21]


def test_stepping_through_the_worst() -> None:
    assert [next_frame([16, 30, 40], here, 1) for here in (1, 16, 39, 40)] == [16, 30, 40, 16]
    assert [next_frame([16, 30, 40], here, -1) for here in (99, 40, 17, 16)] == [40, 30, 16, 40]
    assert next_frame([], 1, 1) is None


def test_what_the_panel_says() -> None:
    found = trust(lips_epistemic_6=0.2, brows_epistemic_6=0.35, jaw_aleatoric_6=0.32, nose_epistemic_6=0.1 * STANDS_OUT)
    found.shares[6, REGIONS.index("brows")] = (0.12, 0.24, 0.12, 0.52)
    found.shares[6, REGIONS.index("lips")] = (0.73, 0.09, 0.09, 0.09)
    found.shares[6, REGIONS.index("jaw")] = (0.68, 0.12, 0.1, 0.1)
    said = found.lines(16)
    assert len(said) == 3 and found.lines(17) == [] and found.lines(999) == []
    assert said[0].startswith("Brows: epistemic 3.5 times its usual; 52 % from emotion, usually 60 %: the emotion is unlike")
    assert said[1].startswith("Lips: epistemic twice its usual; 73 % from sound, usually 70 %: the speech is unlike")
    assert said[2].startswith("Jaw: aleatoric 1.6 times its usual; 12 % from expression") and "looked different" in said[2]
    assert trust(lips_epistemic_6=0.2).lines(16) == ["Lips: epistemic twice its usual; no single input stands out"]
    assert [times(x) for x in (1.5, 2.0, 3.0, 12.4)] == ["1.5 times", "twice", "3 times", "12 times"]


@given(st.integers(0, 3), st.floats(0.2, 0.8) | st.floats(1.25, 5.0))
@settings(deadline=None, max_examples=50)
def test_what_is_behind_it(view: int, factor: float) -> None:
    """One view's precision changes, whichever way and however much each had: it is named."""
    found = trust()
    precision = np.array([0.4, 0.2, 0.15, 0.25])
    found.shares[:] = precision
    changed = precision.copy()
    changed[view] *= factor
    found.shares[6, REGIONS.index("lips")] = changed / changed.sum()
    assert found.behind(6, "lips") == view and found.behind(7, "lips") is None
