"""Judging mouths on real speech: pocketsphinx's phone times against lip opening. Needs the package pocketsphinx."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from ..audio import Sound, read_sound
from ..errors import UserError
from ..views.content import VISEMES
from .espeak import Espeak, Manner
from .mouths import OPENINGS
from .visemes import ARPABET, articulate, labels, segments

Phone = tuple[float, float, str]
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
CLOSED = frozenset("P B M".split())
_NUMBERS = {"42": "forty two", "1455": "fourteen fifty five"}
_WORDS = {"woodcutters": "W UH D K AH T ER Z", "gutenberg": "G UW T AH N B ER G"}


_IPA = {
    "aɪ": "AY", "aʊ": "AW", "ɔɪ": "OY", "ɔø": "OY", "eɪ": "EY", "oʊ": "OW", "əʊ": "OW", "tʃ": "CH", "dʒ": "JH", "ts": "T S", "pf": "P F",
    **dict.fromkeys("aɑ", "AA"), **dict.fromkeys("ɐəʌ", "AH"), "æ": "AE", **dict.fromkeys("ɔɒ", "AO"), **dict.fromkeys("eɛ", "EH"),
    **dict.fromkeys("ɜɚøœ", "ER"), **dict.fromkeys("ɪɨ", "IH"), "i": "IY", "o": "OW", **dict.fromkeys("uyʉ", "UW"), **dict.fromkeys("ʊʏ", "UH"),
    "p": "P", "b": "B", "m": "M", "f": "F", **dict.fromkeys("vʋ", "V"), "θ": "TH", "ð": "DH", "t": "T", "d": "D", "n": "N", "l": "L",
    **dict.fromkeys("sɕ", "S"), "z": "Z", "ʃ": "SH", "ʒ": "ZH", "k": "K", **dict.fromkeys("ɡg", "G"), "ŋ": "NG", **dict.fromkeys("xçhɦχ", "HH"),
    **dict.fromkeys("rɹʁɾɻ", "R"), "j": "Y", "w": "W",
}  # fmt: skip


def pronounce(word: str, espeak: Espeak, language: str = "en-us") -> str:
    """A word as ARPAbet, by espeak-ng's rules; phones that English lacks become their nearest. Empty where it has none."""
    phones: list[str] = []
    for *_, ipa in espeak.speak(word, Manner(language)).phones:
        at = 0
        while at < len(ipa):
            for length in (2, 1):
                if (found := _IPA.get(ipa[at : at + length])) is not None:
                    phones.append(found)
                    break
            at += length
    return " ".join(phones)


def align(sound: Sound, text: str | None = None, language: str = "") -> list[Phone]:
    """Phones (start, end in seconds, ARPAbet) of speech.

    Args:
        text: what is said; without it the decoder's own English words are aligned.
        language: of espeak-ng, "" for English: in another language all words are said by espeak-ng's rules, in English those that
            the dictionary lacks, where espeak-ng is installed; else they are left out.

    Raises:
        UserError: pocketsphinx is not installed.
        RuntimeError: no path through the file.
    """
    try:
        from pocketsphinx import Decoder
    except ImportError as error:
        raise UserError("Phone times of recordings need the package pocketsphinx.", "Install it: pip install pocketsphinx==5.1.1") from error

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
    wanted = _words(decoder, text, language)
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


def _words(decoder: Any, text: str, language: str) -> list[str]:
    """The words of a text that the decoder can align; those it lacks are added to it."""
    for word, phones in _WORDS.items():
        if decoder.lookup_word(word) is None:
            decoder.add_word(word, phones, True)
    wanted, espeak = [], None
    for number, word in enumerate(re.findall(r"[^\W\d_]+(?:'[^\W\d_]+)?", text.lower())):
        name = f"{word}__{number}" if language else word
        if decoder.lookup_word(name) is None:
            try:
                espeak = espeak or Espeak()
            except UserError:
                continue
            phones = pronounce(word, espeak, language or "en-us")
            if not phones:
                continue
            decoder.add_word(name, phones, True)
        wanted.append(name)
    return wanted


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


def opening_correlation(clips: dict[str, tuple[Sound, list[Phone]]], opening: Callable[[Sound, np.ndarray], np.ndarray]) -> dict[str, float]:
    """Correlation of a mouth's opening with what the phones ask for.

    Args:
        clips, opening: as in `judge`.

    Returns:
        `frames`: at every 10 ms from the first phone to the last, with the opening after co-articulation (`visemes.articulate`);
        `phones`: at the middle of each phone, with the table's opening of that phone alone; `step`: at every 10 ms, with the table.
        The table is `mouths.OPENINGS`; diphthongs and affricates count as two. The co-articulated opening itself reaches 1, .87, .86.
    """
    pairs: dict[str, list[np.ndarray]] = {"frames": [], "phones": [], "step": []}
    for sound, phones in clips.values():
        parts = segments(phones, ARPABET)
        count = len(sound.samples) // 160 + 1
        first, last = round(phones[0][0] * 100), min(round(phones[-1][1] * 100), count)
        found = opening(sound, np.arange(first, last) / 100)
        pairs["frames"].append(np.stack([found, (articulate(parts, count) @ OPENINGS)[first:last]]))
        pairs["step"].append(np.stack([found, OPENINGS[labels(parts, count)][first:last]]))
        middle = np.array([(start + end) / 2 for start, end, _ in parts])
        pairs["phones"].append(np.stack([opening(sound, middle), OPENINGS[[VISEMES.index(name) for *_, name in parts]]]))
    return {name: float(np.corrcoef(np.concatenate(values, 1))[0, 1]) for name, values in pairs.items()}


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
