"""Views: shapes, silence, odd sounds, and that an avatar gets the providers it was trained with or none."""

from __future__ import annotations

import copy
import os
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from ua3dtalk.engine.audio import Sound, read_sound
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.files import file_hash
from ua3dtalk.engine.views import Track, TrackStore, build_providers
from ua3dtalk.engine.views import store as store_module
from ua3dtalk.engine.views import analysis as analysis_module
from ua3dtalk.engine.views.content import ContentNet

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


def test_memory_grows_by_little_more_than_the_features() -> None:
    """Beside its samples an hour of sound (360,000 frames) takes less than 360 MB while it is worked on."""
    providers, peaks = build_providers(META, weights()), []
    for seconds in (60, 180):
        heard = sound(np.tile(babble(20.0), seconds // 20))
        tracemalloc.start()
        for provider in providers.values():
            provider.track(heard)
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert (peaks[1] - peaks[0]) / (120 * 100) < 1000


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


class TestStore:
    """Tracks on disk."""

    @pytest.fixture
    def file(self, tmp_path: Path) -> tuple[Path, str]:
        soundfile.write(tmp_path / "s.wav", babble(2.0), 16000)
        return tmp_path / "s.wav", file_hash(tmp_path / "s.wav")

    @staticmethod
    def same(a: dict[str, Track], b: dict[str, Track]) -> bool:
        times = np.array([np.nan, 0.0, 0.7, 1.99])
        return all(type(a[view]) is type(b[view]) and np.array_equal(a[view].at(times), b[view].at(times)) for view in META)

    def test_what_was_made_is_found_again(self, file: tuple[Path, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        providers = build_providers(META, weights())
        plain = {view: provider.track(read_sound(file[0])) for view, provider in providers.items()}
        store = TrackStore(tmp_path / "kept")
        assert self.same(store.tracks(providers, *file), plain)
        assert len(list((tmp_path / "kept").iterdir())) == 4
        monkeypatch.setattr(store_module, "read_sound", lambda path: pytest.fail("read again"))
        again = TrackStore(tmp_path / "kept").tracks(build_providers(META, weights()), *file)
        assert self.same(again, plain)
        confidence = plain["emotion"].confidence_at(np.array([0.5]))
        assert again["emotion"].confidence_at(np.array([0.5])) == confidence

    def test_other_weights_and_sounds_are_other_tracks(self, file: tuple[Path, str], tmp_path: Path) -> None:
        store, some = TrackStore(tmp_path / "kept"), weights()
        store.tracks(build_providers(META, some), *file)
        some["provider.exp.last.bias"] = some["provider.exp.last.bias"] + 1
        store.tracks(build_providers(META, some), *file)
        assert len(list((tmp_path / "kept").iterdir())) == 5
        soundfile.write(file[0], babble(2.0, seed=1), 16000)
        with pytest.raises(UserError, match="s.wav has changed"):
            store.tracks(build_providers(META, some), *file)
        store.tracks(build_providers(META, some), file[0], file_hash(file[0]))
        assert len(list((tmp_path / "kept").iterdir())) == 9

    def test_damaged_files_are_made_anew(self, file: tuple[Path, str], tmp_path: Path) -> None:
        providers, store = build_providers(META, weights()), TrackStore(tmp_path / "kept")
        plain = {view: provider.track(read_sound(file[0])) for view, provider in providers.items()}
        store.tracks(providers, *file)
        random = np.random.default_rng(0)
        for path in (tmp_path / "kept").iterdir():
            whole = path.read_bytes()
            places = random.integers(0, len(whole), 12)
            for spoilt in (b"", whole[:9], whole[:-1], *(whole[:at] + bytes([whole[at] ^ 4]) + whole[at + 1 :] for at in places)):
                path.write_bytes(spoilt)
                assert self.same(store.tracks(providers, *file), plain)
                assert path.read_bytes() == whole

    def test_the_folder_does_not_grow_for_ever(self, file: tuple[Path, str], tmp_path: Path) -> None:
        providers = build_providers(META, weights())
        TrackStore(tmp_path / "kept").tracks(providers, *file)
        size = sum(path.stat().st_size for path in (tmp_path / "kept").iterdir())
        old = tmp_path / "kept" / ".x.safetensors.y.part"
        old.write_bytes(b"left by a killed process")
        for path in (tmp_path / "kept").iterdir():
            os.utime(path, (1e9, 1e9))
        exp = {"exp": providers["exp"]}
        TrackStore(tmp_path / "kept").tracks(exp, *file)  # used now: it stays longest
        used = {path for path in (tmp_path / "kept").iterdir() if path.stat().st_mtime > 1e9}
        assert len(used) == 1
        soundfile.write(tmp_path / "t.wav", babble(2.0, seed=1), 16000)
        TrackStore(tmp_path / "kept", limit=2 * size - 1000).tracks(providers, tmp_path / "t.wav", file_hash(tmp_path / "t.wav"))
        left = set((tmp_path / "kept").iterdir())
        assert used < left and old not in left and 5 <= len(left) < 8

    def test_a_disk_that_refuses_costs_nothing_but_time(self, file: tuple[Path, str], tmp_path: Path) -> None:
        providers = build_providers(META, weights())
        (tmp_path / "kept").write_text("a file where the folder should be")
        plain = {view: provider.track(read_sound(file[0])) for view, provider in providers.items()}
        assert self.same(TrackStore(tmp_path / "kept").tracks(providers, *file), plain)
