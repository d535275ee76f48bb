"""Views: shapes, silence, odd sounds, and that an avatar gets the providers it was trained with or none."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch

from ua3dtalk.engine.audio import Sound
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.views import build_providers
from ua3dtalk.engine.views import analysis as analysis_module
from ua3dtalk.engine.views.content import ContentNet, silence_features

META = {
    "audio": {"provider": "mel", "version": 1, "dim": [8, 29, 16], "rate": 100.0},
    "exp": {"provider": "content", "version": 1, "dim": [1, 64], "rate": 100.0},
    "style": {"provider": "prosody", "version": 1, "dim": [1, 64], "rate": 25.0},
    "emotion": {"provider": "arousal", "version": 1, "dim": [8], "rate": 25.0},
}
PLAIN = {**META, "exp": {"provider": "mfcc", "version": 1, "dim": [1, 64], "rate": 100.0}}


def weights() -> dict[str, np.ndarray]:
    torch.manual_seed(0)
    return {f"provider.exp.{name}": value.numpy() for name, value in ContentNet().state_dict().items()}


def sound(samples: np.ndarray) -> Sound:
    samples = np.pad(samples.astype(np.float32), (0, max(0, 1600 - len(samples))))
    return Sound(samples, 16000, len(samples) / 16000, "0" * 64, 16000, 1)


def babble(seconds: float, seed: int = 0, level: float = 0.1) -> np.ndarray:
    """A buzzing, syllable-like test sound."""
    rng, time = np.random.default_rng(seed), np.arange(int(seconds * 16000)) / 16000
    pitch = 120 + 20 * np.sin(2 * np.pi * 0.7 * time + seed)
    buzz = sum(np.sin(2 * np.pi * k * np.cumsum(pitch) / 16000) / k for k in range(1, 20))
    return level * buzz * np.clip(np.sin(2 * np.pi * 4 * time), 0, 1) + 1e-4 * rng.normal(size=len(time))


@pytest.mark.parametrize("meta", [META, PLAIN])
def test_shapes_and_the_silence_round_a_sound(meta: dict) -> None:
    heard = sound(babble(2.0))
    times = np.array([np.nan, -0.001, 0.0, 1.03, 2.0, 2.001, np.inf, -np.inf])
    zero = sound(np.zeros(8000))
    for view, provider in build_providers(meta, weights()).items():
        assert (provider.view, provider.name) == (view, meta[view]["provider"])
        track = provider.track(heard)
        values = track.at(times)
        assert values.shape == (8, *meta[view]["dim"]) and values.dtype == np.float32 and np.isfinite(values).all()
        silence = values[0]
        np.testing.assert_array_equal(values[-1], silence)
        np.testing.assert_array_equal(values[-2], silence)
        if view != "audio":  # a window also sees the sound beside it
            np.testing.assert_array_equal(values[[1, 5]], [silence, silence])
        assert np.abs(values[3] - silence).max() > 0.01
        np.testing.assert_allclose(provider.track(zero).at(np.array([0.25]))[0], silence, atol=1e-5)
        assert provider.track(zero).at(np.zeros(0)).shape == (0, *meta[view]["dim"])


def test_neighbours_of_the_window_are_a_25th_apart() -> None:
    track = build_providers(META, weights())["audio"].track(sound(babble(3.0)))
    one, next_one = track.at(np.array([1.5, 1.5 + 1 / 25]))
    np.testing.assert_allclose(one[1:], next_one[:-1], atol=1e-4)
    # the middle of neighbour 4's window is t itself
    row = track.features[150]
    np.testing.assert_allclose(track.at(np.array([1.5 - 0.01]))[0][4, :, 8], row, atol=1e-4)


def test_digital_silence_inside_speech_is_silence() -> None:
    samples = babble(4.0)
    samples[24000:40000] = 0
    for view, provider in build_providers(META, weights()).items():
        if view in ("exp", "emotion"):
            values = provider.track(sound(samples)).at(np.array([0.6, 2.0]))
            silence = provider.track(sound(samples)).at(np.array([np.nan]))[0]
            if view == "exp":
                np.testing.assert_allclose(values[1], silence, atol=1e-3)
                assert np.abs(values[0] - silence).max() > 0.1
            else:
                assert values[1, 0] > 0.9


@pytest.mark.parametrize("seconds", [0.0001, 0.01, 0.0333, 0.7])
def test_short_sounds(seconds: float) -> None:
    for provider in build_providers(META, weights()).values():
        assert np.isfinite(provider.track(sound(babble(seconds))).at(np.linspace(0, seconds, 5))).all()


def test_features_do_not_follow_the_volume() -> None:
    loud, quiet = sound(babble(3.0, level=0.2)), sound(babble(3.0, level=0.05))
    provider = build_providers(META, weights())["exp"]
    times = np.arange(0.1, 2.9, 0.04)
    assert np.abs(provider.track(loud).at(times) - provider.track(quiet).at(times)).max() < 0.12


@pytest.mark.parametrize("meta", [META, PLAIN])
@pytest.mark.parametrize("piece", [37, 100, 256])
def test_features_do_not_follow_the_pieces(monkeypatch: pytest.MonkeyPatch, meta: dict, piece: int) -> None:
    samples = babble(5.0)
    samples[30000:38000] = 0
    whole = {view: provider.track(sound(samples)) for view, provider in build_providers(meta, weights()).items()}
    monkeypatch.setattr(analysis_module, "PIECE", piece)
    for view, provider in build_providers(meta, weights()).items():
        np.testing.assert_allclose(provider.track(sound(samples)).features, whole[view].features, atol=2e-5, err_msg=view)


def test_noise_and_full_scale_stay_finite() -> None:
    rng = np.random.default_rng(1)
    square = np.sign(np.sin(np.arange(16000)))
    click = np.zeros(16000)
    click[8000] = 1
    for samples in (rng.normal(0, 0.3, 16000), square, np.ones(16000), click, 1e-6 * rng.normal(size=16000)):
        for provider in build_providers(META, weights()).values():
            assert np.isfinite(provider.track(sound(samples)).at(np.arange(0, 1, 0.04))).all()


def test_automatic_emotion_is_mild_and_says_how_sure_it_is() -> None:
    calm, excited = babble(6.0, level=0.03), babble(6.0, level=0.3)
    time = np.arange(len(calm)) / 16000
    provider = build_providers(META, weights())["emotion"]
    track = provider.track(sound(np.where((time % 6) < 3, calm, excited)))
    weights_ = track.at(np.arange(0, 6, 0.1))
    np.testing.assert_allclose(weights_.sum(1), 1, atol=1e-5)
    assert (weights_ >= -1e-6).all() and weights_[:, 0].min() >= 0.5
    lively = weights_[:, 1] + weights_[:, 3] + weights_[:, 6]
    assert lively[40:].mean() > lively[:20].mean() + 0.1  # the loud half is the excited one
    confidence = track.confidence_at(np.array([1.0, np.nan, 99.0]))
    assert 0 < confidence[0] <= 0.5 and not confidence[1:].any()


@pytest.mark.parametrize(
    "view,change",
    [
        ("exp", {"provider": "wav2vec2"}),
        ("exp", {"version": 2}),
        ("exp", {"dim": [1, 32]}),
        ("audio", {"rate": 50.0}),
        ("audio", {"provider": "prosody"}),
        ("gaze", {"provider": "mel"}),
    ],
)
def test_an_avatar_refuses_what_it_was_not_trained_with(view: str, change: dict) -> None:
    meta = copy.deepcopy(META)
    meta.setdefault(view, dict(meta["audio"])).update(change)
    with pytest.raises(UserError, match=f"`{view}`") as caught:
        build_providers(meta, weights())
    assert "\n" not in str(caught.value) and caught.value.remedy


def test_a_learned_provider_without_its_weights_is_refused() -> None:
    some = weights()
    some.pop("provider.exp.first.weight")
    for given in ({}, some):
        with pytest.raises(UserError, match="weights"):
            build_providers(META, given)
