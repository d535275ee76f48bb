"""Training the content provider (engine/views/content.py) on synthetic speech: minutes on one core."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import torch
import torch.nn.functional as F

from engine.priors.corpus import Clip
from engine.priors.visemes import articulate, labels
from engine.views.analysis import MELS, analyse
from engine.views.content import PREFIX, VISEMES, ContentNet, content_inputs

COUNT = len(VISEMES)
CROP = 160  # frames
BATCH = 24
NOISE, TILT = 0.4, 0.3  # deviations of what is added to the normalised spectrum: a floor, and another voice or microphone
POSTERIOR, ARTICULATION, OPENING = 0.5, 1.0, 10.0  # weights of the losses


def frames_of(clip: Clip, openings: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Inputs [43,F], viseme numbers [F], articulation weights [F,20] and lip opening [F] in 0..1 of a clip."""
    inputs = content_inputs(analyse(clip.sound))
    count = inputs.shape[1]
    weights = articulate(clip.parts, count)
    return inputs, labels(clip.parts, count), weights, (weights @ openings).clip(0, 1)


def train_content(
    clips: list[Clip],
    openings: np.ndarray,
    steps: int = 500,
    seed: int = 0,
    report: Callable[[str], None] = print,
) -> dict[str, np.ndarray]:
    """Train the content net.

    Args:
        clips: sounds with their visemes.
        openings: [20] lip opening of each viseme, 0..1.
        steps: few on purpose. With 2,600 the net knew espeak-ng's voices better and real ones worse.

    Returns:
        the weights under the names of the avatar file, `provider.exp.*`.
    """
    torch.manual_seed(seed)
    random = np.random.default_rng(seed)
    data = [frames_of(clip, openings) for clip in clips]
    data = [item for item in data if item[0].shape[1] >= CROP]
    inputs = np.concatenate([item[0] for item in data], 1)
    numbers, weights, opening = (np.concatenate([item[i] for item in data]) for i in (1, 2, 3))
    starts = np.cumsum([0] + [item[0].shape[1] for item in data])
    lengths = np.diff(starts)
    report(f"content: {len(data)} clips, {inputs.shape[1] / 6000:.1f} min")
    net = ContentNet()
    optimiser = torch.optim.AdamW(net.parameters(), 2e-3, weight_decay=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, 2e-3, total_steps=steps)
    began = time.time()
    for step in range(steps):
        chosen = random.choice(len(data), BATCH, p=lengths / lengths.sum())
        begin = starts[chosen] + (random.random(BATCH) * (lengths[chosen] - CROP + 1)).astype(int)
        rows = begin[:, None] + np.arange(CROP)
        x = torch.from_numpy(inputs[:, rows].transpose(1, 0, 2).copy())
        x[:, :MELS] += NOISE * torch.rand(BATCH, 1, 1) * torch.randn(BATCH, MELS, CROP)
        x[:, :MELS] += TILT * F.interpolate(torch.randn(BATCH, 1, 6), MELS, mode="linear", align_corners=True).transpose(1, 2)
        for _ in range(2):  # masked bands
            low = int(random.integers(0, 34))
            x[:, low : low + int(random.integers(1, 7))] = 0
        out = net(x)
        target = torch.from_numpy(weights[rows]).transpose(1, 2)
        loss = (
            POSTERIOR * F.cross_entropy(out[:, :COUNT], torch.from_numpy(numbers[rows]), label_smoothing=0.02)
            - ARTICULATION * (target * out[:, COUNT : 2 * COUNT].log_softmax(1)).sum(1).mean()
            + OPENING * (out[:, 2 * COUNT].sigmoid() - torch.from_numpy(opening[rows])).square().mean()
        )
        optimiser.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if (step + 1) % 100 == 0:
            right = (out[:, :COUNT].argmax(1) == torch.from_numpy(numbers[rows])).float().mean()
            report(f"content: step {step + 1}/{steps} loss {loss:.3f} visemes right {right:.2f} {time.time() - began:.0f} s")
    return {PREFIX + name: value.numpy().copy() for name, value in net.state_dict().items()}
