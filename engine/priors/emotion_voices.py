"""Synthetic voices in eight moods: what espeak-ng's settings and a filter can say of an emotion.

The rules are those that the literature agrees on (pitch, its range, speed, effort; for example Banse and Scherer 1996, Juslin and
Laukka 2003). What is learned from them carries over to people as far as arousal goes, no further: emotion_train's figures say how far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.signal import lfilter, resample_poly

from ..audio import RATE as SAMPLE_RATE
from ..audio import Sound
from ..avatar import EMOTIONS
from .corpus import ACCENTS, VARIANTS, as_sound
from .espeak import Espeak, Manner
from .sentences import ENGLISH, made_sentence

LONGEST = 6.0
"""Seconds that are kept of a sentence."""


@dataclass(frozen=True)
class Mood:
    """An emotion at full intensity against the same voice's neutral.

    Attributes:
        rate: factor on words a minute.
        pitch, range: added to espeak-ng's 0..99.
        effort: -1..1, from lax to pressed: the spectrum falls more or less steeply, syllables differ more or less in level.
    """

    rate: float
    pitch: int
    range: int
    effort: float


MOODS = {
    "neutral": Mood(1.0, 0, 0, 0.0), "happy": Mood(1.1, 22, 28, 0.4), "sad": Mood(0.78, -10, -25, -0.8),
    "angry": Mood(1.12, 14, 18, 1.0), "fear": Mood(1.22, 32, -6, 0.3), "disgusted": Mood(0.85, -8, 6, 0.2),
    "surprised": Mood(1.02, 30, 40, 0.3), "contempt": Mood(0.9, -6, -10, -0.1),
}  # fmt: skip


def emotional_speech(voices: int, sentences: int = 3, seed: int = 0) -> list[tuple[str, str, str, Callable[[], Sound]]]:
    """Sentences by many voices in every emotion, as `make_examples` takes them; the same seed gives the same.

    Args:
        voices: speakers, each of his own pitch, speed, size and room.
        sentences: of each emotion by each speaker; intensity is drawn from 0.5..1.

    Raises:
        UserError: espeak-ng is missing.
    """
    random, espeak, found = np.random.default_rng(seed), Espeak(), []
    for number in range(voices):
        voice = ACCENTS[random.integers(len(ACCENTS))] + VARIANTS[random.integers(len(VARIANTS))]
        manner = Manner(voice, int(np.clip(random.normal(165, 18), 120, 220)), 100, int(random.uniform(25, 62)), int(random.uniform(35, 60)))
        size, tilt = int(round(50 * np.exp(random.normal(0, 0.09)))), random.uniform(-0.5, 0.3)
        floor = 10 ** (-random.uniform(30, 70) / 20)
        for emotion in EMOTIONS:
            for _ in range(sentences):
                text = ENGLISH[random.integers(len(ENGLISH))] if random.random() < 0.4 else made_sentence(random)
                samples = speak(espeak, text, manner, emotion, random.uniform(0.5, 1.0), random)
                samples = resample_poly(samples, size, 50)
                samples = lfilter([1, tilt], [1], samples)
                samples = samples + random.normal(size=len(samples)) * floor * samples.std()
                samples *= 0.1 / (samples.std() + 1e-9)
                sound = as_sound(samples[: int(LONGEST * SAMPLE_RATE)])
                found.append((f"voice {number}, {emotion}", emotion, f"voice {number:03}", lambda sound=sound: sound))
    return found


def speak(espeak: Espeak, text: str, neutral: Manner, emotion: str, intensity: float, random: np.random.Generator) -> np.ndarray:
    """Samples [n] float64 at 16 kHz of a text in a mood; each sentence differs a little, as people's do."""
    mood = MOODS[emotion]
    wobble = random.normal(size=3)
    bounded = lambda value: int(np.clip(value, 0, 99))  # noqa: E731
    manner = Manner(
        neutral.voice,
        int(np.clip(neutral.rate * mood.rate**intensity * np.exp(0.06 * wobble[0]), 80, 400)),
        neutral.volume,
        bounded(neutral.pitch + intensity * mood.pitch + 4 * wobble[1]),
        bounded(neutral.range + intensity * mood.range + 6 * wobble[2]),
    )
    said = espeak.speak(text, manner)
    samples = resample_poly(said.samples.astype(np.float64), SAMPLE_RATE // 50, said.rate // 50)
    effort = intensity * mood.effort + 0.12 * random.normal()
    if effort > 0:
        samples = lfilter([1, -0.75 * min(effort, 1)], [1], samples)
    else:
        samples = lfilter([1], [1, 0.75 * max(effort, -1)], samples)
    # Effort also spreads the levels of syllables.
    level = np.sqrt(lfilter([0.002], [1, -0.998], samples**2)) + 1e-6
    return samples * (level / level.max()) ** (0.35 * np.clip(effort, -1, 1))
