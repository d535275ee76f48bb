"""Attention over the waveform's frames: with the small encoder, and with a pretrained one from disk."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from support.moods import as_sound, planted, say
from ua3dtalk.engine.errors import UserError
from ua3dtalk.engine.priors.emotion_file import make_prior
from ua3dtalk.engine.priors.emotion_measure import score
from ua3dtalk.engine.priors.emotion_train import EmotionSettings, prototypes, train_encoder
from ua3dtalk.engine.views.emotion_net import Distilled
from ua3dtalk.engine.views.emotion_wave import VARIABLE, load_speech_model
from ua3dtalk.engine.views.torchaudio_parts import transforms


def test_attention_over_the_waveform_learns_without_the_statistics() -> None:
    examples = planted(sequences=True, speakers=2, sentences=5)
    examples.windows.functionals[:] = 0
    examples.speaker[:] = -1
    settings = EmotionSettings(sequences=True, epochs=14, members=2)
    trained = train_encoder(examples, settings)
    assert not trained.by_speaker
    assert score(trained.unknown, examples.label, examples.clip, examples.classes)["right"] >= 0.7
    places, heard = prototypes(trained.encoder, examples)
    found = make_prior(trained.encoder, places, {"classes": list(examples.classes), "heard": heard})
    assert np.isfinite(Distilled(found.tensors).track(as_sound(say("sad", 0, 0))).features).all()


def small_speech_model(path: Path, modern: bool) -> torch.nn.Module:
    """wav2vec 2.0 as torchaudio builds it, small and with random weights, its state on disk."""
    transforms()
    import torchaudio

    torch.manual_seed(3)
    net = torchaudio.models.wav2vec2_model(
        "layer_norm" if modern else "group_norm", [(16, k, s) for k, s in ((10, 5), (3, 2), (3, 2), (3, 2), (3, 2), (2, 2), (2, 2))],
        modern, 64, 0.0, 16, 4, 2, 1, 0.0, 96, 0.0, 0.0, modern, 0.0, None,
    )  # fmt: skip
    torch.save(net.state_dict(), path)
    return net.eval()


@pytest.mark.parametrize("modern", [False, True])
def test_a_pretrained_encoder_is_read_from_disk(tmp_path: Path, modern: bool) -> None:
    net = small_speech_model(tmp_path / "model.pth", modern)
    model = load_speech_model(tmp_path / "model.pth")
    assert model.width == 64 and model.normalise is modern
    samples = say("neutral", 0, 0, 2.0).astype(np.float32)[None].repeat(2, 0)
    wave = torch.from_numpy(samples)
    if modern:
        wave = (wave - wave.mean(1, keepdim=True)) / (wave.var(1, unbiased=False, keepdim=True) + 1e-5).sqrt()
    with torch.inference_mode():
        want = net(wave)[0]
    got = model.frames(samples)
    np.testing.assert_allclose(got.numpy(), ((want[:, 0:-1:2] + want[:, 1::2]) / 2).numpy()[:, : got.shape[1]], atol=1e-4)


def test_training_with_a_pretrained_encoder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_speech_model(tmp_path / "model.pth", False)
    small_speech_model(tmp_path / "other.pth", True)
    model = load_speech_model(tmp_path / "model.pth")
    examples = planted(sequences=True, speakers=2, sentences=4)
    trained = train_encoder(examples, EmotionSettings(epochs=4, members=2), model)
    assert score(trained.unknown, examples.label, examples.clip, examples.classes)["right"] >= 0.6
    found = make_prior(trained.encoder, prototypes(trained.encoder, examples, model)[0], {"classes": list(examples.classes)})
    sound = as_sound(say("sad", 0, 3))
    want = Distilled(found.tensors, model).track(sound).features
    monkeypatch.delenv(VARIABLE, raising=False)
    with pytest.raises(UserError, match="not in the avatar"):
        Distilled(found.tensors).track(sound)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "other.pth"))
    with pytest.raises(UserError, match="not the speech model"):
        Distilled(found.tensors).track(sound)
    monkeypatch.setenv(VARIABLE, str(tmp_path / "model.pth"))
    np.testing.assert_allclose(Distilled(found.tensors).track(sound).features, want, atol=1e-6)


def test_other_weights_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "model.pth"
    with pytest.raises(UserError, match="Cannot read"):
        load_speech_model(path)
    for content in ({"wav2vec2.encoder.weight": torch.zeros(2)}, [1, 2], {"a": {"b": torch.zeros(1)}}, SimpleNamespace(code="runs")):
        torch.save(content, path)
        with pytest.raises(UserError, match="model.pth"):
            load_speech_model(path)
    path.write_bytes(b"no weights")
    with pytest.raises(UserError, match="read safely"):
        load_speech_model(path)
