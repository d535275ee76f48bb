"""Emotion distillation, first step: the encoder learns to tell emotions apart (sec 2.2, the cross-entropy of eq. 5).

Each net of the ensemble learns without a part of the speakers. What it says of those gives the temperature of the
confidence, and how well emotions of unknown speakers are told apart, without a recording set aside.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch.nn import functional as F

from ..avatar import EMOTIONS
from ..errors import UserError
from ..views.emotion_net import EmotionEncoder, Heard, normalise
from ..views.emotion_parts import Batch, EncoderShape, Member
from ..views.emotion_wave import SpeechModel, digest_tensor
from .emotion_measure import best_temperature, score
from .emotion_speech import Examples, Progress


LENGTH = 4.0
"""Of an emotion's way from neutral in f_emotion."""


@dataclass(frozen=True)
class EmotionSettings:
    """How the encoder is trained; the values were chosen on acted speech, by leaving speakers out.

    Attributes:
        sequences: attention over the waveform's frames with CNN and LSTM as keys (sec 2.2) beside the statistics. On some
            hundreds of recordings it makes the encoder worse; it is meant for thousands, or for a pretrained waveform encoder.
        members: nets of the ensemble (4).
        width: of f_emotion (128, method's table of shapes).
        epochs, batch, rate, decay: AdamW, one cycle.
        noise: deviation of the noise on the normalised statistics.
        smoothing: of the labels.
        expression: weight of the expression's L2 in eq. 5.
        copies: of each recording as if made in other rooms, with other noise and another microphone, to learn from as well (3).
        file_seconds: seconds of speech at which a file's own statistics weigh as much as the others; 0: never.
        seed: of everything that is drawn.
    """

    sequences: bool = False
    members: int = 4
    width: int = 128
    epochs: int = 40
    batch: int = 64
    rate: float = 3e-3
    decay: float = 1e-2
    noise: float = 0.6
    smoothing: float = 0.1
    expression: float = 1.0
    copies: int = 3
    file_seconds: float = 0.0
    seed: int = 0


@dataclass(eq=False)
class Trained:
    """An encoder, and what its nets say of the windows they did not learn from: [n,classes] probabilities, normalised by what was
    learned from (`unknown`) and by the speaker's own statistics (`known`; rows of speakers without such are as in `unknown`)."""

    encoder: EmotionEncoder
    unknown: np.ndarray
    known: np.ndarray
    by_speaker: bool


class Material:
    """Windows as the nets take them in training: each once normalised by all, once by its speaker."""

    def __init__(self, examples: Examples, model: SpeechModel | None, sequences: bool) -> None:
        found = examples.windows
        self.mean, self.deviation = found.functionals.mean(0), found.functionals.std(0)
        plain = normalise(found.functionals, self.mean, self.deviation)
        own = plain.copy()
        for rows, statistics in examples.sessions():
            own[rows] = normalise(found.functionals[rows], *statistics)
        self.count = len(plain)
        self.functionals = torch.from_numpy(np.concatenate([plain, own]))
        self.label = torch.from_numpy(examples.label)
        self.mel = self.mfcc = self.wave = None
        if sequences:
            self.mel, self.mfcc = torch.from_numpy(found.mel), torch.from_numpy(found.mfcc)
            self.wave = torch.from_numpy(found.samples) if model is None else model.frames(found.samples)

    def rows(self, index: torch.Tensor) -> Batch:
        """Rows 0..2n-1: those from n on are normalised by the speaker."""
        window = index % self.count
        more = (None if part is None else part[window] for part in (self.mel, self.mfcc, self.wave))
        return Batch(self.functionals[index], *more)


def train_encoder(
    examples: Examples, settings: EmotionSettings = EmotionSettings(), model: SpeechModel | None = None, progress: Progress | None = None
) -> Trained:
    """Train the ensemble; the same settings and examples give the same encoder on the same machine.

    Args:
        model: pretrained waveform encoder; with it `sequences` is on.
    """
    sequences = settings.sequences or model is not None
    wave = 0 if not sequences else 32 if model is None else model.width
    torch.manual_seed(settings.seed)
    encoder = EmotionEncoder(EncoderShape(len(examples.classes), settings.members, settings.width, wave, model is not None))
    material = Material(examples, model, sequences)
    groups, by_speaker = held_out(examples, settings)
    n, classes = material.count, len(examples.classes)
    logits = torch.zeros(2 * n, classes)
    for number, member in enumerate(encoder.members):
        if progress is not None:
            progress(number, settings.members, "learning to tell emotions apart")
        mine = torch.from_numpy(np.flatnonzero(groups != number))
        fit(member, material, torch.cat([mine, mine + n]), settings, settings.seed * 1000 + number)
        other = torch.from_numpy(np.flatnonzero(groups == number))
        other = torch.cat([other, other + n])
        with torch.inference_mode():
            for part in other.split(256):
                logits[part] = member(material.rows(part))[1]
    encoder.eval().requires_grad_(False)
    encoder.mean.copy_(torch.from_numpy(material.mean))
    encoder.deviation.copy_(torch.from_numpy(material.deviation))
    encoder.mapping.copy_(torch.from_numpy(examples.mapping()))
    encoder.file_seconds.fill_(settings.file_seconds)
    if model is not None:
        encoder.wave_digest.copy_(torch.from_numpy(digest_tensor(model.digest).copy()))
    encoder.temperature.fill_(best_temperature(logits.numpy(), np.tile(examples.label, 2)))
    _learn_distance(encoder, material.functionals)
    probabilities = torch.softmax(logits / encoder.temperature, 1).numpy()
    return Trained(encoder, probabilities[:n], probabilities[n:], by_speaker)


def held_out(examples: Examples, settings: EmotionSettings) -> tuple[np.ndarray, bool]:
    """The net [n] that does not learn from a window, and whether whole speakers were left out.

    With fewer known speakers than nets it is recordings that are left out, evenly among the emotions; what is measured then
    says nothing about unknown speakers.
    """
    speakers, counts = np.unique(examples.speaker, return_counts=True)
    group = np.zeros(len(examples.label), np.int64)
    if -1 not in speakers and len(speakers) >= settings.members:
        for place, which in enumerate(np.argsort(-counts, kind="stable")):
            group[examples.speaker == speakers[which]] = place % settings.members
        return group, True
    random = np.random.default_rng(settings.seed)
    for label in range(len(examples.classes)):
        clips = random.permutation(np.unique(examples.clip[examples.label == label]))
        for place, clip in enumerate(clips):
            group[examples.clip == clip] = place % settings.members
    return group, False


def fit(member: Member, material: Material, rows: torch.Tensor, settings: EmotionSettings, seed: int) -> None:
    """Train one net on rows of the material: cross-entropy, rarer emotions weighing more."""
    torch.manual_seed(seed)
    labels = material.label[rows % material.count]
    counts = torch.bincount(labels, minlength=member.classify.out_features).clamp(min=1).float()
    weight = (counts.mean() / counts).sqrt()
    steps = settings.epochs * -(-len(rows) // settings.batch)
    optimiser = torch.optim.AdamW(member.parameters(), settings.rate, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, settings.rate, steps)
    member.train().requires_grad_(True)
    for _ in range(settings.epochs):
        for part in torch.randperm(len(rows)).split(settings.batch):
            batch = material.rows(rows[part])
            batch.functionals = batch.functionals + settings.noise * torch.randn(batch.functionals.shape)
            loss = F.cross_entropy(member(batch)[1], labels[part], weight, label_smoothing=settings.smoothing)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    member.eval().requires_grad_(False)


def _learn_distance(encoder: EmotionEncoder, functionals: torch.Tensor) -> None:
    """How far from what was learned from a sound may be. Distances within it are smaller than those of new sounds: hence the room."""
    covariance = torch.cov(functionals.T)
    encoder.precision.copy_(torch.linalg.inv(0.8 * covariance + 0.2 * torch.eye(len(covariance))))
    distance = ((functionals @ encoder.precision) * functionals).mean(1)
    usual = torch.quantile(distance[:: max(1, len(distance) // 100_000)], 0.99)
    encoder.distances.copy_(torch.stack([1.5 * usual, 3.0 * usual]))


def hear_examples(
    encoder: EmotionEncoder, examples: Examples, statistics: tuple[np.ndarray, np.ndarray], model: SpeechModel | None = None
) -> Heard:
    """What the encoder says of examples, normalised by given statistics."""
    parts = []
    for start in range(0, len(examples.label), 256):
        found = examples.windows.rows(np.arange(start, min(start + 256, len(examples.label))))
        parts.append(encoder.hear(encoder.batch(found, *statistics, model), found.speech))
    return Heard(*(np.concatenate([getattr(part, name) for part in parts]) for name in ("embedding", "probabilities", "trust")))


def leave_one_speaker_out(
    examples: Examples, settings: EmotionSettings = EmotionSettings(), model: SpeechModel | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """The whole of the training without each speaker in turn, and how well he is heard: `unknown` as a voice of which nothing is
    known, `known` with the statistics of his own recordings (their emotions unknown).

    Raises:
        UserError: fewer than three speakers are named.
    """
    speakers = np.unique(examples.speaker)
    if -1 in speakers or len(speakers) < 3:
        raise UserError("Speakers cannot be left out: fewer than three are named.", "Name them: EMOTION/SPEAKER/FILE, or a table file,label,speaker.")
    found = {kind: np.zeros((len(examples.label), len(examples.classes))) for kind in ("unknown", "known")}
    for number, speaker in enumerate(speakers):
        if progress is not None:
            progress(number, len(speakers), "leaving speakers out")
        rows = examples.speaker == speaker
        encoder = train_encoder(examples.rows(~rows), settings, model).encoder
        plain = (encoder.mean.numpy(), encoder.deviation.numpy())
        for values in found.values():
            values[rows] = hear_examples(encoder, examples.rows(rows), plain, model).probabilities
        for own, statistics in examples.sessions():
            if (own & rows).any():
                found["known"][own] = hear_examples(encoder, examples.rows(own), statistics, model).probabilities
    return scores(examples, found)


def scores(examples: Examples, probabilities: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Figures (`score`) of some probabilities [n,classes] by name: over the recordings as they are, and as `<name>_elsewhere` over
    their copies in other rooms, where there are any; each copy counts as a recording of its own."""
    found, clip = {}, examples.clip * (examples.copy.max() + 1) + examples.copy
    for name, values in probabilities.items():
        for place, rows in (("", examples.copy == 0), ("_elsewhere", examples.copy > 0)):
            if rows.any():
                found[name + place] = score(values[rows], examples.label[rows], clip[rows], examples.classes)
    return found


def prototypes(encoder: EmotionEncoder, examples: Examples, model: SpeechModel | None = None) -> tuple[np.ndarray, list[bool]]:
    """Emotion prototypes [8,128] of labelled speech, and which of them were heard; see `place_prototypes`."""
    forget_prototypes(encoder)
    plain = (encoder.mean.numpy(), encoder.deviation.numpy())
    parts = [(hear_examples(encoder, examples, plain, model).embedding, examples.label)]
    for rows, statistics in examples.sessions():
        own = examples.rows(rows)
        parts.append((hear_examples(encoder, own, statistics, model).embedding, own.label))
    embedding, label = (np.concatenate(part) for part in zip(*parts))
    return place_prototypes(encoder, {name: embedding[label == i].mean(0) for i, name in enumerate(examples.classes)})


def forget_prototypes(encoder: EmotionEncoder) -> None:
    """f_emotion is the members' embeddings again."""
    encoder.turn.copy_(torch.eye(encoder.shape.width))
    encoder.shift.zero_()


def place_prototypes(encoder: EmotionEncoder, means: dict[str, np.ndarray]) -> tuple[np.ndarray, list[bool]]:
    """Turn f_emotion so that the emotions' means are at right angles, all of one length: these are the prototypes.

    As they come, anger and joy lie close together, as they do in the voice, and a slider of one would move the face like the
    other's. The turn is linear; f_emotion says neither more nor less by it.

    Args:
        means: mean embedding [128] of each emotion that was heard, by name. Without neutral the mean of all stands for it.

    Returns:
        prototypes [8,128] float32 in the order of EMOTIONS, and [8] which of them were heard. One that was not gets a direction
        of its own: an avatar can learn it from labelled pictures, no voice will call it up.
    """
    width = encoder.shape.width
    neutral = means.get("neutral", np.mean(list(means.values()), axis=0)).astype(np.float64)
    names = [name for name in EMOTIONS[1:] if name in means]
    offsets = np.array([means[name] - neutral for name in names]).reshape(-1, width)
    left, size, right = np.linalg.svd(offsets, full_matrices=False)
    angles = LENGTH * left @ right  # the nearest rows at right angles
    inverse = right.T @ np.diag(1 / np.maximum(size, 1e-3 * size.max(initial=1e-9))) @ left.T
    rest = np.eye(width) - right.T @ right
    turn = inverse @ angles + LENGTH / max(float(np.linalg.norm(offsets, axis=1).mean()), 1e-6) * rest
    random = np.random.default_rng(8)
    basis = right.T
    found = {"neutral": np.zeros(width)} | dict(zip(names, angles))
    heard = [name in means for name in EMOTIONS]
    for name in EMOTIONS:
        if name in names:
            continue
        free = rest @ (neutral if name == "neutral" else random.normal(size=width))
        free -= basis @ (basis.T @ free)
        free /= np.linalg.norm(free)
        basis = np.concatenate([basis, free[:, None]], axis=1)
        found[name] = LENGTH * free
    # All are offsets from neutral by now, but neutral itself.
    place = found.pop("neutral")
    rows = [place if name == "neutral" else place + found[name] for name in EMOTIONS]
    encoder.turn.copy_(torch.from_numpy(turn))
    encoder.shift.copy_(torch.from_numpy(place - neutral @ turn))
    return np.array(rows, np.float32), heard
