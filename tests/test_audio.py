"""Any sound file has a defined answer: samples at 16 kHz, or one clear line."""

from __future__ import annotations

import hashlib
from math import gcd
from pathlib import Path

import numpy as np
import pytest
import soundfile
from scipy.signal import resample_poly

from ua3dtalk.engine.audio import read_sound
from ua3dtalk.engine.audio import sound as sound_module
from ua3dtalk.engine.errors import UserError

RNG = np.random.default_rng(3)


def write(path: Path, samples: np.ndarray, rate: int = 16000, **options: str) -> Path:
    soundfile.write(path, samples, rate, **options)
    return path


@pytest.mark.parametrize("rate", [8000, 16000, 11027, 22050, 44100, 48000, 96000])
@pytest.mark.parametrize("seconds", [0.01, 1.37])
def test_blocks_resample_like_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, rate: int, seconds: float) -> None:
    monkeypatch.setattr(sound_module, "BLOCK_SECONDS", 0.2)  # many seams
    source = RNG.normal(0.1, 0.1, (int(rate * seconds), 2)).astype(np.float32)
    path = write(tmp_path / "a.wav", source, rate, subtype="FLOAT")
    sound = read_sound(path)
    common = gcd(rate, 16000)
    whole = resample_poly(source.mean(1), 16000 // common, rate // common)
    assert len(sound.samples) == max(len(whole), 1600)
    np.testing.assert_allclose(sound.samples[: len(whole)], whole, atol=3e-6)
    assert not sound.samples[len(whole) :].any()
    assert sound.samples.dtype == np.float32 and sound.rate == 16000
    assert sound.duration == pytest.approx(len(source) / rate)
    assert (sound.source_rate, sound.channels) == (rate, 2)
    assert sound.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.mark.parametrize("name,options", [("a.flac", {}), ("a.ogg", {}), ("a.wav", {"subtype": "ULAW"}), ("a.aiff", {}), ("a.mp3", {})])
def test_formats(tmp_path: Path, name: str, options: dict) -> None:
    time = np.arange(24000) / 24000
    path = write(tmp_path / name, 0.3 * np.sin(2 * np.pi * 440 * time), 24000, **options)
    sound = read_sound(path)
    spectrum = np.abs(np.fft.rfft(sound.samples))
    assert spectrum.argmax() * 16000 / len(sound.samples) == pytest.approx(440, abs=2)
    assert 0.9 < sound.duration < 1.2


def test_eight_channels(tmp_path: Path) -> None:
    source = RNG.normal(0.2, 0.1, (4000, 8))
    sound = read_sound(write(tmp_path / "a.wav", source, 16000, subtype="FLOAT"))
    np.testing.assert_allclose(sound.samples, source.mean(1), atol=1e-6)


def test_nan_becomes_silence_with_a_warning(tmp_path: Path) -> None:
    source = RNG.normal(0, 0.1, 8000).astype(np.float32)
    source[100:200], source[300] = np.nan, np.inf
    sound = read_sound(write(tmp_path / "a.wav", source, subtype="FLOAT"))
    assert np.isfinite(sound.samples).all() and not sound.samples[100:200].any()
    assert len(sound.warnings) == 1 and "101 samples" in sound.warnings[0]


def test_cancelling_channels_are_heard(tmp_path: Path) -> None:
    left = RNG.normal(0, 0.1, 8000)
    sound = read_sound(write(tmp_path / "a.wav", np.stack([left, -left], 1)))
    assert sound.samples.std() > 0.05 and "cancel" in sound.warnings[0]


def test_integers_written_as_floats_are_scaled(tmp_path: Path) -> None:
    sound = read_sound(write(tmp_path / "a.wav", RNG.normal(0, 9000, 8000), subtype="FLOAT"))
    assert np.abs(sound.samples).max() == pytest.approx(1) and "scaled" in sound.warnings[0]


def test_what_is_no_sound_is_named(tmp_path: Path) -> None:
    empty, text, silent = tmp_path / "empty.wav", tmp_path / "text.wav", tmp_path / "none.wav"
    empty.write_bytes(b"")
    text.write_text("no sound at all, but long enough for a header to be looked for in it")
    write(silent, np.zeros((0, 2)))
    for path in (empty, text, silent, tmp_path / "missing.wav", tmp_path):
        with pytest.raises(UserError) as caught:
            read_sound(path)
        assert str(path) in caught.value.message and caught.value.remedy


def test_truncated_file_never_crashes(tmp_path: Path) -> None:
    whole = write(tmp_path / "a.flac", RNG.normal(0, 0.1, 40000)).read_bytes()
    part = tmp_path / "part.flac"
    for length in (1, 3, 20, 41, 90, 5000, len(whole) // 2, len(whole) - 1):
        part.write_bytes(whole[:length])
        try:
            sound = read_sound(part)
        except UserError as error:
            assert str(part) in error.message
        else:
            assert np.isfinite(sound.samples).all()
