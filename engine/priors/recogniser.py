"""Judging mouths on real speech: pocketsphinx's phone times against lip opening. Needs the package pocketsphinx.

Two measures: `coarticulated_opening` asks for the lips of a face model, which part on s, t, n as well; `plain_opening` for one constant a
phone, next to closed on consonants, as tables of 15 visemes have it.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import uniform_filter1d

from ..audio import Sound, read_sound
from ..errors import UserError
from ..views.content import VISEMES
from .espeak import Espeak, Manner
from .mouths import OPENINGS
from .visemes import ARPABET, articulate, segments

Phone = tuple[float, float, str]
LATE = 0.01
"""Seconds added to pocketsphinx's times: it counts its windows of 26 ms from their start. Half a window less half a step is 8 ms; against
espeak-ng's exact times it is 13 ms early; a whole frame lies between."""
VOWELS = frozenset("AA AE AH AO AW AY EH ER EY IH IY OW OY UH UW".split())
CLOSED = frozenset("P B M".split())
# Opening, phones, and visemes of this project for each of the 15 that Oculus named.
_PLAIN: dict[str, tuple[float, str, str]] = {
    "sil": (0.0, "SIL", "sil"), "PP": (0.0, "P B M", "mbp"), "FF": (0.1, "F V", "fv"), "TH": (0.2, "TH DH", "th"), "DD": (0.2, "T D", "lntd"),
    "kk": (0.2, "K G NG HH", "kg"), "CH": (0.2, "CH JH SH ZH", "shch"), "SS": (0.15, "S Z", "sz"), "nn": (0.2, "N L", ""),
    "RR": (0.3, "R ER", "r er"), "aa": (0.9, "AA AE AH AW AY", "aa ae ah"), "E": (0.7, "EH EY", "eh"), "ih": (0.6, "IH IY Y", "ih iy"),
    "oh": (0.8, "AO OW OY", "ao ow"), "ou": (0.5, "UW UH W", "uw w"),
}  # fmt: skip
_PLAIN_PHONES = {phone: opening for opening, phones, _ in _PLAIN.values() for phone in phones.split()}
PLAIN = np.array([next(opening for opening, _, names in _PLAIN.values() if viseme in names.split()) for viseme in VISEMES])
"""[20] opening of each viseme in the plain measure: `posteriors @ PLAIN` is an opening by it."""
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
    if text is None:
        decoder = _decoder()
        _run(decoder, sound)
        text = decoder.hyp().hypstr if decoder.hyp() else ""
    decoder = _decoder(bestpath=False)
    for digits, words in _NUMBERS.items():
        text = text.replace(digits, words)
    wanted = _words(decoder, text, language)
    if not wanted:
        return []
    decoder.set_align_text(" ".join(wanted))
    _run(decoder, sound)
    decoder.set_alignment()
    _run(decoder, sound)
    return [
        (phone.start / 100 + LATE, (phone.start + phone.duration) / 100 + LATE, phone.name)
        for word in decoder.get_alignment() or ()
        for phone in word
    ]


def decode(sound: Sound) -> list[Phone]:
    """What the recogniser takes for phones where it knows no words, nothing but which phones follow each other in English: a peer to be
    judged beside. As `align`, noises as SIL.

    Raises:
        UserError: pocketsphinx is not installed.
    """
    decoder = _decoder(phones=True)
    _run(decoder, sound)
    named = [(part.start_frame / 100 + LATE, (part.end_frame + 1) / 100 + LATE, part.word.strip("+")) for part in decoder.seg()]
    return [(start, end, name if name in ARPABET else "SIL") for start, end, name in named]


def _decoder(phones: bool = False, **options: Any) -> Any:
    """A decoder of words, or of phones. Raises UserError where pocketsphinx is not installed."""
    try:
        from pocketsphinx import Decoder, get_model_path
    except ImportError as error:
        raise UserError("Phone times of recordings need the package pocketsphinx.", "Install it: pip install pocketsphinx==5.1.1") from error
    if phones:
        model = Path(get_model_path()) / "en-us" / "en-us-phone.lm.bin"
        options |= {"lm": None, "allphone": str(model), "lw": 2.0, "beam": 1e-20, "pbeam": 1e-20}
    return Decoder(samprate=16000, loglevel="FATAL", **options)


def _run(decoder: Any, sound: Sound) -> None:
    decoder.start_utt()
    decoder.process_raw((sound.samples.clip(-1, 1) * 32767).astype("<i2").tobytes(), full_utt=True)
    decoder.end_utt()


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


def aligned_clips(folder: Path, known: bool = True) -> dict[str, tuple[Sound, list[Phone]]]:
    """The evaluated clips with their phone times, by their texts or (not `known`) by what the recogniser itself understands."""
    out = {}
    for name, (path, text) in read_aloud(folder).items():
        sound = read_sound(path)
        out[name] = sound, align(sound, text if known else None)
    return out


def coarticulated_opening(phones: list[Phone], count: int) -> np.ndarray:
    """[count] at 100 Hz: the lips' gap that phones ask for after co-articulation (`visemes.articulate`, `mouths.OPENINGS`)."""
    return articulate(segments(phones, ARPABET), count) @ OPENINGS


def plain_opening(phones: list[Phone], count: int) -> np.ndarray:
    """[count] at 100 Hz: a constant opening for each phone, averaged over 30 ms."""
    steps = np.zeros(count)
    for start, end, name in phones:
        steps[int(np.ceil(start * 100 - 1e-6)) : int(np.ceil(end * 100 - 1e-6))] = _PLAIN_PHONES.get(name, 0.0)
    return uniform_filter1d(steps, 3)


def opening_correlation(
    clips: dict[str, tuple[Sound, list[Phone]]], opening: Callable[[Sound, np.ndarray], np.ndarray],
    wanted: Callable[[list[Phone], int], np.ndarray] = coarticulated_opening,
) -> float:  # fmt: skip
    """Correlation of a mouth's opening with what the phones ask for, at every 10 ms from the first phone to the last.

    Args:
        clips, opening: as in `judge`.
        wanted: `coarticulated_opening` or `plain_opening`. Of the former's curve the latter gives .6: they are two ideas of opening.
    """
    pairs = []
    for sound, phones in clips.values():
        count = len(sound.samples) // 160 + 1
        first, last = round(phones[0][0] * 100), min(round(phones[-1][1] * 100), count)
        pairs.append(np.stack([opening(sound, np.arange(first, last) / 100), wanted(phones, count)[first:last]]))
    return float(np.corrcoef(np.concatenate(pairs, 1))[0, 1])


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
