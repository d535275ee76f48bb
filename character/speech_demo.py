"""The demo's speech: `python -m character.speech_demo --out addon/assets/demo_speech.flac`. Three moods, spoken by espeak-ng."""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import butter, fftconvolve, sosfilt

from engine.priors.espeak import Espeak, Manner

VOICE = "en-us+m3"
# Text, manner (words a minute, volume, pitch, range), seconds of silence after it.
LINES: tuple[tuple[str, tuple[int, int, int, int], float], ...] = (
    ("Hello. I am made of small soft blobs of colour.", (165, 90, 42, 45), 0.30),
    ("And look, I can move! What a wonderful morning!", (175, 100, 58, 85), 0.30),
    ("But who broke my blue lamp? Stop blaming the puppy!", (182, 125, 38, 70), 0.30),
)


def demo_speech(espeak: Espeak, voice: str = VOICE) -> tuple[np.ndarray, int]:
    """Samples [n] float32 and their rate."""
    pieces = [np.zeros(int(0.3 * espeak.rate), np.float32)]
    for text, manner, pause in LINES:
        pieces += [espeak.speak(text, Manner(voice, *manner)).samples, np.zeros(int(pause * espeak.rate), np.float32)]
    samples = np.concatenate(pieces).astype(np.float64)
    # A small room and less of the synthesiser's buzz: nearer to a person before a microphone.
    random = np.random.default_rng(4)
    tail = random.normal(size=int(0.18 * espeak.rate)) * np.exp(-np.linspace(0, 7, int(0.18 * espeak.rate)))
    tail = sosfilt(butter(1, 3000, fs=espeak.rate, output="sos"), tail)
    wet = fftconvolve(samples, tail / np.sqrt((tail**2).sum()))[: len(samples)]
    samples = sosfilt(butter(1, [90, 6500], "bandpass", fs=espeak.rate, output="sos"), samples) + 0.10 * wet
    return (0.7 * samples / np.abs(samples).max()).astype(np.float32), espeak.rate


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.speech_demo")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    samples, rate = demo_speech(Espeak())
    given.out.parent.mkdir(parents=True, exist_ok=True)
    soundfile.write(given.out, samples, rate, subtype="PCM_16")
    print(f"{given.out}: {len(samples) / rate:.1f} s")


if __name__ == "__main__":
    main()
