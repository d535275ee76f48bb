"""`python -m engine train emotion`."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any


def add(command: Any) -> None:
    """Add the command; `command(name, run, text)` gives its parser."""
    sub = command("emotion", _run, "labelled speech, and faces -> what hears emotion in a voice")
    sub.add_argument(
        "data", type=Path, nargs="*", metavar="DATA",
        help="a folder with one folder of sounds per emotion (EMOTION/[SPEAKER/]FILE), a table file,label[,speaker] (.csv), or a "
        "labelled data set folder",
    )  # fmt: skip
    sub.add_argument("--synthetic", type=int, default=0, metavar="VOICES", help="also learn from so many espeak-ng voices in eight moods (40)")
    sub.add_argument("--out", type=Path, help="emotion prior to write (.safetensors)")
    sub.add_argument("--face", type=Path, metavar="FOLDER", help="data set folder of one person, whose expressions teach the encoder (eq. 5)")
    sub.add_argument("--prior", type=Path, metavar="FILE", help="begin with this emotion prior, not with labelled speech")
    sub.add_argument("--voice", type=Path, nargs="+", metavar="FILE", help="recordings of the avatar's speaker in many moods: emotion is heard against them")
    sub.add_argument("--file-seconds", type=float, default=0.0, metavar="S", help="seconds of speech at which a sound's own average weighs as much as all that was learned from (0: never)")
    sub.add_argument("--sequences", action="store_true", help="attention over the waveform beside the statistics: for thousands of recordings")
    sub.add_argument("--speech-model", type=Path, metavar="FILE", help="weights of torchaudio's wav2vec 2.0 or HuBERT on this disk, as waveform encoder")
    sub.add_argument("--measure", action="store_true", help="leave each speaker out in turn and report how well he is heard (as many trainings as speakers)")
    sub.add_argument("--avatar", type=Path, metavar="FILE", help="avatar that shall hear with it")
    sub.add_argument("--avatar-out", type=Path, metavar="FILE", help="that avatar, written anew")
    sub.add_argument("--rooms", type=int, default=3, metavar="N", help="copies of each recording in other rooms, with other noise, to learn from as well (3)")
    sub.add_argument("--epochs", type=int, default=40)
    sub.add_argument("--seed", type=int, default=0)


def _run(options: argparse.Namespace) -> dict[str, Any]:
    from ..cli import Printer
    from .emotion_run import train_emotion
    from .emotion_train import EmotionSettings

    settings = EmotionSettings(
        sequences=options.sequences, epochs=options.epochs, seed=options.seed, file_seconds=options.file_seconds,
        copies=options.rooms,
    )
    return train_emotion(
        options.data, options.out, settings, options.face, options.prior, options.voice or (), options.speech_model, options.measure,
        options.avatar, options.avatar_out, options.synthetic, Printer(options.json),
    )  # fmt: skip
