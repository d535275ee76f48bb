"""What fuzzing found in the readers of files, held fast; what it found in the worker's channel is in test_worker_security.py."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import soundfile
from support.caches import random_cache

from ua3dtalk.engine.audio import read_sound
from ua3dtalk.engine.avatar.tensors import load_tensors, save_tensors
from ua3dtalk.engine.cache import CacheReader
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.shot import EmotionCurves, compose_shot, load_shot, save_shot


@pytest.mark.parametrize("name", ["avatar_hash", "sound_hash"])
def test_a_shot_whose_hash_is_no_text_that_can_be_written(tmp_path: Path, name: str) -> None:
    (tmp_path / "s.wav").write_bytes(b"")
    shot = compose_shot(tmp_path / "head.safetensors", "a" * 64, tmp_path / "s.wav", 1, EmotionCurves(), 25)
    save_shot(shot, tmp_path / "shot")
    assert load_shot(tmp_path / "shot").avatar_hash == "a" * 64
    tensors, ((key, about),) = (part if number == 0 else part.items() for number, part in enumerate(load_tensors(tmp_path / "shot")))
    for value in ("\ud800", "é", 3, None):
        save_tensors(tmp_path / "bad", tensors, {key: json.dumps(json.loads(about) | {name: value})})
        with pytest.raises(UserError, match="bad: not a whole shot file"):
            load_shot(tmp_path / "bad")


def wav(path: Path, samples: np.ndarray, rate: int = 16000) -> bytearray:
    soundfile.write(path, samples, rate, "FLOAT", format="WAV")
    return bytearray(path.read_bytes())


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_a_sound_of_an_impossible_rate_takes_no_memory(tmp_path: Path, rate: int) -> None:
    data = wav(tmp_path / "s.wav", np.zeros(4000))
    data[24:28] = struct.pack("<I", rate)
    (tmp_path / "s.wav").write_bytes(data)
    with pytest.raises(UserError, match="samples a second"):
        read_sound(tmp_path / "s.wav")


def test_a_header_that_speaks_of_more_sound_than_there_is(tmp_path: Path) -> None:
    """FLAC's count of samples is taken from its header: 2^36 - 1 of them here."""
    path = tmp_path / "s.flac"
    soundfile.write(path, 0.1 * np.ones(20000), 16000)
    data = bytearray(path.read_bytes())
    data[21] |= 0x0F
    data[22:26] = b"\xff" * 4
    path.write_bytes(data)
    assert soundfile.info(path).frames == 2**36 - 1
    try:
        assert len(read_sound(path).samples) <= 20000
    except UserError as error:
        assert str(path) in str(error)


def test_samples_beyond_all_measure_stay_numbers(tmp_path: Path) -> None:
    samples = np.full((4000, 2), 3e38, np.float32)
    samples[1::2] = 0.25
    wav(tmp_path / "s.wav", samples)
    sound = read_sound(tmp_path / "s.wav")
    assert np.isfinite(sound.samples).all() and "4000 samples" in sound.warnings[0]


def test_a_cache_whose_store_is_no_name_of_a_folder(tmp_path: Path) -> None:
    header = random_cache(tmp_path / "c", 1, 12) / "header.json"
    header.write_text(json.dumps(json.loads(header.read_text()) | {"store": "\ud800"}))
    with pytest.raises(UserError, match="store"):
        CacheReader(tmp_path / "c")
