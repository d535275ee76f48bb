"""Emotion distillation, second step: one person's face teaches the encoder (eq. 5, cross-entropy + L2 to the expression feature)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F

from ..audio import RATE as SAMPLE_RATE
from ..audio import Sound, read_sound
from ..avatar import EMOTIONS
from ..dataset import FaceData, Frame
from ..errors import UserError
from ..views.emotion_features import WINDOW, Windows, windows
from ..views.emotion_net import SPEECH_NEEDED, EmotionEncoder
from ..views.emotion_parts import Batch
from ..views.emotion_wave import SpeechModel
from .emotion_measure import best_temperature
from .emotion_speech import Examples, Progress, make_examples
from .emotion_train import EmotionSettings, Material, forget_prototypes, place_prototypes

EVERY = 0.2
"""Seconds from one window to the next."""
AVERAGED = 1.0
"""Seconds over which an expression is averaged: what is left is the mood, not the phones."""
EPOCHS, RATE = 30, 1e-3
_LEAST = 8  # windows


@dataclass(eq=False)
class PersonWindows:
    """n windows of a person's sound.

    Attributes:
        windows: what is heard.
        emotion: [n,8] weights times intensity where the data says so, else None.
        expression: [n,C] averaged over a second: coefficients where the data has them, else action units.
    """

    windows: Windows
    emotion: np.ndarray | None
    expression: np.ndarray


def person_windows(data: FaceData, sound: Sound, split: str, sequences: bool = False) -> PersonWindows:
    """The windows of one split in which there is speech; empty where there is none."""
    labels = data.labels
    values = labels.expression if labels is not None and labels.expression.shape[1] else np.column_stack([*data.au_table.values()])
    frames = _one_take_each(data.splits.get(split, []), None if labels is None else labels.camera)
    step, near = max(1, round(EVERY * data.fps)), AVERAGED / 2
    middles = frames[::step]
    times = np.array([frame.time for frame in frames])
    numbers = np.array([frame.number for frame in frames], int)
    expression = np.array([values[numbers[np.abs(times - frame.time) <= near]].mean(0) for frame in middles]).reshape(-1, values.shape[1])
    rows = np.array([frame.number for frame in middles], int)
    parts = list(windows(sound, np.array([frame.time for frame in middles]) - WINDOW / 200, sequences))
    if not parts:
        raise UserError(f"{data.folder}: the split `{split}` has no pictures.", "Prepare the video again.")
    found = Windows.joined(parts)
    heard = found.speech > SPEECH_NEEDED[1]
    emotion = None if data.emotion is None else data.emotion[rows][heard]
    return PersonWindows(found.rows(heard), emotion, expression[heard].astype(np.float32))


def _one_take_each(frames: list[Frame], camera: np.ndarray | None) -> list[Frame]:
    """The frames in time, each time once (several cameras may have seen it)."""
    seen = {round(frame.time, 4): frame for frame in reversed(frames)}
    return [seen[time] for time in sorted(seen)]


def labelled_takes(data: FaceData, sequences: bool = False, copies: int = 0) -> Examples | None:
    """The takes of a labelled data set's training split as recordings to learn from: of emotions shown at half intensity or
    more, and neutral; None where its emotions are not known. Without numbered takes, stretches of one strongest emotion."""
    labels, emotion_of = data.labels, data.emotion
    if emotion_of is None:
        return None
    sound = read_sound(data.sound)
    frames = _one_take_each(data.splits["train"], None if labels is None else labels.camera)
    numbers = [frame.number for frame in frames]
    named = np.where(emotion_of[numbers, 1:].max(1) > 0.15, emotion_of[numbers, 1:].argmax(1), -1)
    take_of = np.cumsum(np.diff(named, prepend=named[:1]) != 0) if labels is None else labels.take[numbers]
    takes: dict[int, list[Frame]] = {}
    for frame, take in zip(frames, take_of):
        takes.setdefault(int(take), []).append(frame)
    found = []
    for number, part in sorted(takes.items()):
        shown = emotion_of[[frame.number for frame in part]].max(0)  # it swells and fades
        strongest = int(shown[1:].argmax()) + 1
        if 0.15 < shown[strongest] < 0.5:
            continue  # neither one thing nor the other
        emotion = EMOTIONS[strongest] if shown[strongest] >= 0.5 else "neutral"
        start, stop = (int(time * SAMPLE_RATE) for time in (part[0].time, part[-1].time + 1 / data.fps))
        cut = Sound(sound.samples[start:stop], SAMPLE_RATE, (stop - start) / SAMPLE_RATE, "", SAMPLE_RATE, 1)
        found.append((f"take {number}", emotion, str(data.info.get("name") or data.folder.name), lambda cut=cut: cut))
    return make_examples(found, sequences, copies=copies)


def distil_person(
    encoder: EmotionEncoder,
    classes: tuple[str, ...],
    data: FaceData,
    settings: EmotionSettings = EmotionSettings(),
    general: Examples | None = None,
    model: SpeechModel | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Eq. 5 on one person's data set; the encoder is changed in place, and frozen again.

    The label of a window is what the data says; where it says nothing, what the encoder said of it before. Where the person is
    heard in several emotions, his own statistics go into the encoder.

    Args:
        classes: what the encoder tells apart.
        general: labelled speech that it must not forget.

    Returns:
        windows, held_out: numbers of windows; expression_explained: share of the expression's variance that f_emotion explains
        linearly on the held-out split, `before` and `after`; right: held-out windows whose emotion is named, `before` and
        `after`, where the data has labels; own_statistics: whether the person's went in.

    Raises:
        UserError: the person hardly speaks.
    """
    sound = read_sound(data.sound)
    train = person_windows(data, sound, "train", bool(encoder.shape.wave))
    held = person_windows(data, sound, "val", bool(encoder.shape.wave))
    if len(train.expression) < _LEAST or len(held.expression) < 2:
        raise UserError(f"{data.folder}: too little speech to learn from.", "Give a sound with more speech, in the training and in the val split.")
    own = train.emotion is not None and len(np.unique(_target(train.emotion, classes).argmax(1))) > 1
    if own:
        functionals = train.windows.functionals
        encoder.speaker.copy_(torch.from_numpy(np.stack([functionals.mean(0), functionals.std(0)])))
    statistics = encoder.statistics(train.windows.functionals, np.zeros(len(train.expression)))
    batches = [encoder.batch(part.windows, *statistics, model) for part in (train, held)]
    mean, deviation = train.expression.mean(0), train.expression.std(0) + 1e-4
    expressions = [torch.from_numpy(((part.expression - mean) / deviation).clip(-5, 5)) for part in (train, held)]
    targets = [_targets(encoder, part, batch, classes) for part, batch in zip((train, held), batches)]
    before = _judge(encoder, batches, expressions, targets, held.emotion is not None)
    _fit(encoder, batches[0], targets[0], expressions[0], settings, general, model, progress)
    after = _judge(encoder, batches, expressions, targets, held.emotion is not None)
    if held.emotion is not None and len(held.emotion) >= 30:
        with torch.inference_mode():
            logits = encoder(batches[1])[1].mean(0).numpy()
        hottest = max(float(encoder.temperature), best_temperature(logits, targets[1].argmax(1).numpy()))
        encoder.temperature.fill_(hottest)  # never surer than it was on voices it did not learn from
    report = {"windows": len(train.expression), "held_out": len(held.expression), "own_statistics": own}
    return report | {name: {"before": before[name], "after": after[name]} for name in before}


def _target(emotion: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    """[n,classes] shares, sum 1, of weights [n,8]; what the encoder has no class for goes to neutral, or is spread."""
    found = np.zeros((len(emotion), len(classes)), np.float32)
    for column, name in enumerate(EMOTIONS[1:], 1):
        if name in classes:
            found[:, classes.index(name)] = emotion[:, column].clip(0, 1)
    rest = (1 - found.sum(1)).clip(0)
    if "neutral" in classes:
        found[:, classes.index("neutral")] += rest
    else:
        found += rest[:, None] / len(classes)
    return found / found.sum(1, keepdims=True)


def _targets(encoder: EmotionEncoder, part: PersonWindows, batch: Batch, classes: tuple[str, ...]) -> torch.Tensor:
    if part.emotion is not None:
        return torch.from_numpy(_target(part.emotion, classes))
    return torch.from_numpy(encoder.hear(batch, part.windows.speech).probabilities)


def _fit(
    encoder: EmotionEncoder,
    batch: Batch,
    target: torch.Tensor,
    expression: torch.Tensor,
    settings: EmotionSettings,
    general: Examples | None,
    model: SpeechModel | None,
    progress: Progress | None,
) -> None:
    torch.manual_seed(settings.seed)
    material = None if general is None else Material(general, model, bool(encoder.shape.wave))
    head = nn.Linear(encoder.shape.width, expression.shape[1])
    trained = [*encoder.members.parameters(), *head.parameters()]
    encoder.members.requires_grad_(True).train()
    steps = EPOCHS * -(-len(expression) // settings.batch)
    optimiser = torch.optim.AdamW(trained, RATE, weight_decay=settings.decay)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, steps)
    for epoch in range(EPOCHS):
        if progress is not None:
            progress(epoch, EPOCHS, "learning from the face")
        for part in torch.randperm(len(expression)).split(settings.batch):
            seen = batch.rows(part)
            seen.functionals = seen.functionals + settings.noise * torch.randn(seen.functionals.shape)
            embedding, logits = encoder(seen)
            loss = sum(F.cross_entropy(one, target[part], label_smoothing=settings.smoothing) for one in logits) / len(logits)
            loss = loss + settings.expression * F.mse_loss(head(embedding), expression[part])
            if material is not None:
                drawn = torch.randint(2 * material.count, (settings.batch,))
                others = material.rows(drawn)
                others.functionals = others.functionals + settings.noise * torch.randn(others.functionals.shape)
                label = material.label[drawn % material.count]
                logits = encoder(others)[1]
                loss = loss + sum(F.cross_entropy(one, label, label_smoothing=settings.smoothing) for one in logits) / len(logits)
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()
    encoder.eval().requires_grad_(False)


def _judge(
    encoder: EmotionEncoder, batches: list[Batch], expressions: list[torch.Tensor], targets: list[torch.Tensor], labelled: bool
) -> dict[str, float]:
    """On the held-out windows (second of each list): see `distil_person`."""
    with torch.inference_mode():
        (known, _), (asked, logits) = encoder(batches[0]), encoder(batches[1])
    ones = [torch.cat([part, torch.ones(len(part), 1)], 1).double() for part in (known, asked)]
    ridge = ones[0].T @ ones[0] + 0.1 * len(known) * torch.eye(ones[0].shape[1], dtype=torch.float64)
    said = ones[1] @ torch.linalg.solve(ridge, ones[0].T @ expressions[0].double())
    truth = expressions[1].double()
    explained = 1 - ((said - truth) ** 2).sum() / ((truth - expressions[0].double().mean(0)) ** 2).sum()
    found = {"expression_explained": round(float(explained), 3)}
    if labelled:
        mean = torch.softmax(logits, 2).mean(0)
        found["right"] = round(float((mean.argmax(1) == targets[1].argmax(1)).float().mean()), 3)
    return found


def person_prototypes(
    encoder: EmotionEncoder, data: FaceData, model: SpeechModel | None = None
) -> tuple[np.ndarray, list[bool], float] | None:
    """Prototypes [8,128] of a person's labelled data, which of them were heard, and how far intensity is a straight line:
    the share of the variance among the means of f_emotion at each emotion's quarters of intensity that
    p_neutral + sum_e x_e (p_e - p_neutral) explains.

    None where the data has no labels, or emotions of one kind alone.
    """
    sound = read_sound(data.sound)
    part = person_windows(data, sound, "train", bool(encoder.shape.wave))
    heard = [] if part.emotion is None else [column for column in range(1, len(EMOTIONS)) if (part.emotion[:, column] > 0.25).any()]
    if part.emotion is None or not heard:
        return None
    forget_prototypes(encoder)
    statistics = encoder.statistics(part.windows.functionals, np.zeros(len(part.expression)))
    embedding = encoder.hear(encoder.batch(part.windows, *statistics, model), part.windows.speech).embedding.astype(np.float64)
    weights = np.concatenate([np.ones((len(embedding), 1)), part.emotion[:, heard]], axis=1)
    fitted = np.linalg.lstsq(weights, embedding, rcond=None)[0]
    means = {"neutral": fitted[0]} | {EMOTIONS[column]: fitted[0] + row for column, row in zip(heard, fitted[1:])}
    cells, count = np.unique(np.round(4 * part.emotion), axis=0, return_inverse=True, return_counts=True)[1:]
    cells = cells.reshape(-1)
    average = lambda values: np.stack([np.bincount(cells, column) for column in values.T], axis=1) / count[:, None]  # noqa: E731
    found, line = average(embedding), average(weights @ fitted)
    spread = (count[:, None] * (found - embedding.mean(0)) ** 2).sum()
    straight = 1 - float((count[:, None] * (found - line) ** 2).sum() / (spread + 1e-12))
    return *place_prototypes(encoder, means), straight
