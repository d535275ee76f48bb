"""Voices that are made here: a buzz with syllables in three moods, by speakers of their own pitch."""

from __future__ import annotations

import numpy as np
from scipy.signal import lfilter
from ua3dtalk.engine.audio import Sound
from ua3dtalk.engine.priors.emotion_speech import Examples, make_examples

RATE = 16000
MOODS = {"neutral": (1.0, 0.5, 4.0), "happy": (1.45, 0.35, 5.0), "sad": (0.85, 0.85, 2.6)}
"""Pitch factor, how steeply the spectrum falls, syllables a second."""


def as_sound(samples: np.ndarray) -> Sound:
    return Sound(np.asarray(samples, np.float32), RATE, len(samples) / RATE, "0" * 64, RATE, 1)


def say(mood: str, speaker: int, number: int, seconds: float = 2.4) -> np.ndarray:
    """A buzz with syllables, in a mood, by a speaker of his own pitch."""
    random = np.random.default_rng([speaker, number, *mood.encode()])
    factor, fall, speed = MOODS[mood]
    time = np.arange(int(seconds * RATE)) / RATE
    pitch = (105 + 18 * speaker) * factor * np.exp(0.05 * random.normal())
    pitch = pitch * (1 + 0.12 * np.sin(2 * np.pi * 0.6 * time + random.uniform(0, 6)))
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    buzz = sum(np.sin(k * phase) / k**0.5 for k in range(1, 24))
    syllables = np.clip(np.sin(2 * np.pi * speed * time * np.exp(0.1 * random.normal()) + random.uniform(0, 6)) + 0.4, 0, 1)
    samples = lfilter([1], [1, -fall], buzz * syllables) + 0.003 * random.normal(size=len(time))
    return 0.1 * samples / samples.std()


def planted(sequences: bool = False, speakers: int = 4, sentences: int = 6) -> Examples:
    """Examples of all moods by some speakers."""
    sounds = [
        (f"{mood} {speaker} {number}", mood, f"speaker {speaker}", say(mood, speaker, number))
        for speaker in range(speakers) for mood in MOODS for number in range(sentences)
    ]  # fmt: skip
    return make_examples([(name, mood, who, lambda x=x: as_sound(x)) for name, mood, who, x in sounds], sequences)
