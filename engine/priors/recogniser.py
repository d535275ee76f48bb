"""Judging mouths on real speech: pocketsphinx's phone times against lip opening. Needs the package pocketsphinx."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ..audio import Sound, read_sound

Phone = tuple[float, float, str]
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
CLOSED = frozenset("P B M".split())
_NUMBERS = {"42": "forty two", "1455": "fourteen fifty five"}
_WORDS = {"woodcutters": "W UH D K AH T ER Z", "gutenberg": "G UW T AH N B ER G"}


def align(sound: Sound, text: str | None = None) -> list[Phone]:
    """Phones (start, end in seconds, ARPAbet) of English speech; without a text the decoder's own words are aligned."""
    from pocketsphinx import Decoder

    raw = (sound.samples.clip(-1, 1) * 32767).astype("<i2").tobytes()

    def run(decoder: Decoder) -> None:
        decoder.start_utt()
        decoder.process_raw(raw, full_utt=True)
        decoder.end_utt()

    if text is None:
        decoder = Decoder(samprate=16000, loglevel="FATAL")
        run(decoder)
        text = decoder.hyp().hypstr if decoder.hyp() else ""
    decoder = Decoder(samprate=16000, loglevel="FATAL", bestpath=False)
    for digits, words in _NUMBERS.items():
        text = text.replace(digits, words)
    wanted = re.sub(r"[^a-z' ]", " ", text.lower()).split()
    for word, phones in _WORDS.items():
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, phones, True)
    wanted = [word for word in wanted if decoder.lookup_word(word) is not None]
    if not wanted:
        return []
    decoder.set_align_text(" ".join(wanted))
    run(decoder)
    decoder.set_alignment()
    run(decoder)
    return [
        (phone.start / 100, (phone.start + phone.duration) / 100, phone.name)
        for word in decoder.get_alignment() or ()
        for phone in word
    ]


def closure_pairs(phones: list[Phone]) -> list[tuple[float, float]]:
    """(middle of a p, b, m; middle of a vowel beside it), seconds."""
    pairs = []
    for first, second in zip(phones, phones[1:]):
        for lips, vowel in ((first, second), (second, first)):
            if lips[2] in CLOSED and vowel[2] in VOWELS:
                pairs.append(((lips[0] + lips[1]) / 2, (vowel[0] + vowel[1]) / 2))
    return pairs


def read_aloud(folder: Path) -> dict[str, tuple[Path, str | None]]:
    """The clips with known text, and the talk, of the shared speech data: name -> (file, text or None)."""
    lines = (folder / "read_aloud" / "transcripts_first_8.txt").read_text("utf-8").splitlines()
    found: dict[str, tuple[Path, str | None]] = {}
    for line in lines:
        name, text = line.split("|", 1)
        found[name] = folder / "read_aloud" / f"{name}.flac", text
    found["ted1"] = folder / "ted1.wav", None
    return found


def aligned_clips(folder: Path) -> dict[str, tuple[Sound, list[Phone]]]:
    """The evaluated clips with their phone times."""
    out = {}
    for name, (path, text) in read_aloud(folder).items():
        sound = read_sound(path)
        out[name] = sound, align(sound, text)
    return out


def judge(clips: dict[str, tuple[Sound, list[Phone]]], opening: Callable[[Sound, np.ndarray], np.ndarray]) -> dict[str, float]:
    """How well a mouth follows real speech.

    Args:
        clips: from `aligned_clips`.
        opening: lip opening [F] of a sound at times [F]; 1 about a wide vowel, 0 closed.

    Returns:
        order (share of p b m - vowel pairs with the lips nearer closed on the p b m), pairs, opening on vowels, on p b m
        and in silences of over 0.2 s.
    """
    pairs, vowels, closed, silent = [], [], [], []
    for sound, phones in clips.values():
        times = np.array(closure_pairs(phones)).reshape(-1, 2)
        values = opening(sound, times.reshape(-1)).reshape(-1, 2)
        pairs += (values[:, 0] < values[:, 1]).tolist()
        middle = lambda names: np.array([(a + b) / 2 for a, b, name in phones if name in names])  # noqa: E731
        vowels += opening(sound, middle(VOWELS)).tolist()
        closed += opening(sound, middle(CLOSED)).tolist()
        pauses = [(a + b) / 2 for a, b, name in phones if name == "SIL" and b - a > 0.2]
        silent += opening(sound, np.array(pauses)).tolist() if pauses else []
    mean = lambda values: float(np.mean(values)) if values else float("nan")  # noqa: E731
    return {
        "order": mean(pairs), "pairs": len(pairs), "vowels": mean(vowels), "p b m": mean(closed), "silence": mean(silent)
    }  # fmt: skip
