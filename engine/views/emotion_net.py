"""Automatic emotion learned from labelled speech: the frozen emotion encoder (sec 2.2) as the provider `distilled`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from ..audio import Sound
from ..errors import UserError
from .analysis import RATE, analyse
from .emotion_features import FUNCTIONALS, WINDOW, Windows, windows
from .emotion_parts import Batch, EncoderShape, Member
from .emotion_wave import SpeechModel, find_speech_model, state_hash
from .track import EmotionTrack

PREFIX = "provider.emotion."
EMOTION_COUNT = 8
STEP = 0.2
"""Seconds from one window to the next; between them it is linear."""
STRIDE = 4  # frames of 10 ms in a row of the track
SPEECH_NEEDED = (0.3, 0.8)
"""Seconds of speech in a window: with less nothing is said, with more all that was learned."""
FURTHEST = 4.0  # deviations; statistics beyond are cut


@dataclass(frozen=True, eq=False)
class Heard:
    """What the encoder says of n windows.

    Attributes:
        embedding: [n,128] f_emotion.
        probabilities: [n,classes], calibrated.
        trust: [n] 0..1: enough speech, and of the kind that was learned from.
    """

    embedding: np.ndarray
    probabilities: np.ndarray
    trust: np.ndarray


class EmotionEncoder(nn.Module):
    """An ensemble whose embeddings stand side by side and make f_emotion, and what it needs to hear a sound.

    Buffers:
        mean, deviation: [115] of the statistics over what was learned from.
        precision: [115,115] inverse covariance of normalised statistics; `distances` [2]: mean squared distances from which on
            a sound is strange, and altogether strange.
        temperature: [] of the averaged probabilities.
        turn, shift: [128,128] and [128]: f_emotion = embedding @ turn + shift, which puts the emotions' means at right angles.
        mapping: [classes,8] the weights that each class stands for, in the order of EMOTIONS.
        speaker: [2,115] mean and deviation of the avatar's own speaker; zeros where nothing is known.
        file_seconds: [] seconds of speech at which a file's own statistics count as much as the others; 0: never.
        wave_digest: [32] SHA-256 of the pretrained waveform encoder, zeros where there is none.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        self.members = nn.ModuleList(Member(shape) for _ in range(shape.members))
        self.register_buffer("mean", torch.zeros(FUNCTIONALS))
        self.register_buffer("deviation", torch.ones(FUNCTIONALS))
        self.register_buffer("precision", torch.eye(FUNCTIONALS))
        self.register_buffer("distances", torch.tensor([3.0, 6.0]))
        self.register_buffer("temperature", torch.tensor(1.0))
        self.register_buffer("turn", torch.eye(shape.width))
        self.register_buffer("shift", torch.zeros(shape.width))
        self.register_buffer("mapping", torch.zeros(shape.classes, EMOTION_COUNT))
        self.register_buffer("speaker", torch.zeros(2, FUNCTIONALS))
        self.register_buffer("file_seconds", torch.tensor(0.0))
        self.register_buffer("wave_digest", torch.zeros(32, dtype=torch.uint8))

    def statistics(self, functionals: np.ndarray, speech: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Mean and deviation [115] that a file's windows are normalised by: the speaker's, else those learned from, and the
        file's own as far as `file_seconds` says.

        Args:
            functionals: [n,115] of the file; speech: [n] seconds in each window.
        """
        known = bool(self.speaker[1].any())
        mean, deviation = (part.numpy() for part in (self.speaker if known else (self.mean, self.deviation)))
        half, rows = float(self.file_seconds), functionals[speech > SPEECH_NEEDED[1]]
        if half > 0 and len(rows):
            seconds = float(speech.sum()) * STEP / (WINDOW / RATE)
            share = seconds / (seconds + half)
            own = rows.mean(0)
            variance = share * rows.var(0) + (1 - share) * deviation**2 + share * (1 - share) * (own - mean) ** 2
            mean, deviation = share * own + (1 - share) * mean, np.sqrt(variance)
        return mean, deviation

    def batch(self, found: Windows, mean: np.ndarray, deviation: np.ndarray, model: SpeechModel | None) -> Batch:
        """Windows as the nets see them."""
        normalised = torch.from_numpy(normalise(found.functionals, mean, deviation))
        if not self.shape.wave:
            return Batch(normalised)
        wave = torch.from_numpy(found.samples) if model is None else model.frames(found.samples)
        return Batch(normalised, torch.from_numpy(found.mel), torch.from_numpy(found.mfcc), wave)

    def forward(self, batch: Batch) -> tuple[torch.Tensor, torch.Tensor]:
        """The members' embeddings [B,128] within -1..1, logits [members,B,classes]."""
        found = [member(batch) for member in self.members]
        return torch.cat([embedding for embedding, _ in found], 1), torch.stack([logits for _, logits in found])

    def hear(self, batch: Batch, speech: np.ndarray) -> Heard:
        """What is said of windows with `speech` [n] seconds in them."""
        with torch.inference_mode():
            embedding, logits = self(batch)
            mean = torch.softmax(logits, 2).mean(0)
            probabilities = torch.softmax((mean + 1e-6).log() / self.temperature, 1)
            distance = ((batch.functionals @ self.precision) * batch.functionals).mean(1)
            near, far = self.distances
            trust = ((far - distance) / (far - near)).clip(0, 1).numpy() * enough(speech)
        return Heard((embedding @ self.turn + self.shift).numpy(), probabilities.numpy(), trust.astype(np.float32))


def normalise(functionals: np.ndarray, mean: np.ndarray, deviation: np.ndarray) -> np.ndarray:
    """[n,115] float32, within -4..4."""
    return ((functionals - mean) / (deviation + 1e-6)).clip(-FURTHEST, FURTHEST).astype(np.float32)


def enough(speech: np.ndarray) -> np.ndarray:
    """0..1: whether windows with so many seconds of speech can be judged."""
    low, high = SPEECH_NEEDED
    return ((speech - low) / (high - low)).clip(0, 1)


def encoder_state(encoder: EmotionEncoder) -> dict[str, np.ndarray]:
    """The tensors `provider.emotion.*` of an avatar."""
    return {PREFIX + name: value.numpy() for name, value in encoder.state_dict().items()}


def load_encoder(weights: Mapping[str, np.ndarray]) -> EmotionEncoder:
    """An encoder from tensors of which those under `provider.emotion.` are its own; frozen.

    Raises:
        UserError: they are missing or do not fit.
    """
    state = {
        name[len(PREFIX) :]: torch.from_numpy(np.array(value)) for name, value in weights.items() if name.startswith(PREFIX)
    }
    try:
        members = 1 + max(int(name.split(".")[1]) for name in state if name.startswith("members."))
        width, classes = members * state["members.0.classify.weight"].shape[1], state["members.0.classify.weight"].shape[0]
        pretrained = "members.0.attention.wave.weight" in state
        keys = state.get("members.0.attention.key.weight")
        wave = 0 if keys is None else state["members.0.attention.wave.weight"].shape[1] if pretrained else keys.shape[1]
        encoder = EmotionEncoder(EncoderShape(classes, members, width, wave, pretrained))
        encoder.load_state_dict(state)
    except (RuntimeError, ValueError, KeyError, IndexError) as error:
        raise UserError(
            "The avatar's learned provider `distilled` for view `emotion` lacks its weights, or they have other shapes.",
            "Get the avatar again from its source.",
        ) from error
    return encoder.eval().requires_grad_(False)


class Distilled:
    """`emotion` learned: weights [8], sum 1, and confidence: the probability that the strongest emotion is the right one,
    0 where there is too little speech or a sound like none that was learned from. Weights travel as `provider.emotion.*`."""

    view, name, version = "emotion", "distilled", 1
    shape, rate = (EMOTION_COUNT,), RATE / STRIDE

    def __init__(self, weights: Mapping[str, np.ndarray], model: SpeechModel | None = None) -> None:
        """Args:
            weights: the avatar's tensors.
            model: the pretrained waveform encoder, where one was trained with; None: looked up when it is needed.

        Raises:
            UserError: weights are missing or do not fit.
        """
        self.encoder = load_encoder(weights)
        self.weights = state_hash({name: np.asarray(value) for name, value in weights.items() if name.startswith(PREFIX)})
        self._model = model

    def track(self, sound: Sound) -> EmotionTrack:
        """The weights over the whole sound, 25 rows a second."""
        rows = np.arange(0, len(analyse(sound).level), STRIDE) / RATE
        times, heard = self._hear(sound)
        probabilities = heard.probabilities.astype(np.float64)
        trust = heard.trust[:, None]
        silence = np.eye(EMOTION_COUNT, dtype=np.float32)[0]
        weights = trust * (probabilities @ self.encoder.mapping.numpy()) + (1 - trust) * silence
        confidence = probabilities.max(1) * heard.trust
        weights = np.stack([np.interp(rows, times, column) for column in weights.T], axis=1)
        return EmotionTrack(
            weights.astype(np.float32),
            self.rate,
            sound.duration,
            silence,
            self.shape,
            confidences=np.interp(rows, times, confidence).astype(np.float32),
        )

    def embedding(self, sound: Sound, times: np.ndarray) -> np.ndarray:
        """f_emotion [F,128] float32 at `times` [F] seconds in the sound: what the networks are trained on (sec 2.2)."""
        known, heard = self._hear(sound)
        return np.stack([np.interp(times, known, column) for column in heard.embedding.T], axis=1).astype(np.float32)

    def _hear(self, sound: Sound) -> tuple[np.ndarray, Heard]:
        """Middles [n] of the windows, and what is heard in them."""
        middles = np.arange(0, len(analyse(sound).level) / RATE, STEP)
        starts = middles - WINDOW / RATE / 2
        found = list(windows(sound, starts))
        mean, deviation = self.encoder.statistics(
            np.concatenate([part.functionals for part in found]), np.concatenate([part.speech for part in found])
        )
        model = self._speech_model()
        parts = [
            self.encoder.hear(self.encoder.batch(part, mean, deviation, model), part.speech)
            for part in (windows(sound, starts, sequences=True) if self.encoder.shape.wave else found)
        ]
        return middles, Heard(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("embedding", "probabilities", "trust"))
        )

    def _speech_model(self) -> SpeechModel | None:
        if self.encoder.shape.pretrained and self._model is None:
            self._model = find_speech_model(self.encoder.wave_digest.numpy().tobytes().hex())
        return self._model
