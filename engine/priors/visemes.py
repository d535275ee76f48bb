"""Phones to visemes, and visemes to mouth tracks with co-articulation.

Dominance functions (after Cohen & Massaro's idea): every phone pulls the mouth towards its viseme, the stronger and the
wider the more its place of articulation is the lips; p, b, m close the lips whatever stands beside them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ..views.content import MBP, SIL, VISEMES

RATE = 100.0
Segment = tuple[float, float, str]

_PHONES: dict[str, str] = {
    **dict.fromkeys("aɑɐä", "aa"), "æ": "ae", **dict.fromkeys("əʌɵ", "ah"), **dict.fromkeys("ɔɒ", "ao"),
    **dict.fromkeys("eɛ", "eh"), **dict.fromkeys("ɜɚɝøœɘ", "er"), **dict.fromkeys("ɪɨɯᵻ", "ih"), **dict.fromkeys("ij", "iy"),
    **dict.fromkeys("oɤ", "ow"), **dict.fromkeys("uʊyʏʉ", "uw"), **dict.fromkeys("mbpɓ", "mbp"), **dict.fromkeys("fvɱⱱʋ", "fv"),
    **dict.fromkeys("θð", "th"), **dict.fromkeys("sz", "sz"), **dict.fromkeys("ʃʒɕʑʂʐç", "shch"),
    **dict.fromkeys("tdnlɾɫʎɲcɟɭɳʈɖłʟ", "lntd"), **dict.fromkeys("ɹɻr", "r"), **dict.fromkeys("wɥʍβɸ", "w"),
    **dict.fromkeys("kgɡŋxɣqχʁʀħʕ", "kg"), **dict.fromkeys("hɦʔ", ""),
}  # fmt: skip
VOWELS = frozenset({"aa", "ae", "ah", "ao", "eh", "er", "ih", "iy", "ow", "uw"})
# The glide that ends a diphthong is less extreme than the vowel of the same letter.
_GLIDE = {"iy": "ih", "aa": "ah"}

# ARPAbet, as pocketsphinx's acoustic model names its phones.
ARPABET: dict[str, tuple[str, ...]] = {
    "AA": ("aa",), "AE": ("ae",), "AH": ("ah",), "AO": ("ao",), "AW": ("aa", "uw"), "AY": ("aa", "ih"), "B": ("mbp",),
    "CH": ("lntd", "shch"), "D": ("lntd",), "DH": ("th",), "EH": ("eh",), "ER": ("er",), "EY": ("eh", "ih"), "F": ("fv",),
    "G": ("kg",), "HH": (), "IH": ("ih",), "IY": ("iy",), "JH": ("lntd", "shch"), "K": ("kg",), "L": ("lntd",), "M": ("mbp",),
    "N": ("lntd",), "NG": ("kg",), "OW": ("ow", "uw"), "OY": ("ao", "ih"), "P": ("mbp",), "R": ("r",), "S": ("sz",),
    "SH": ("shch",), "T": ("lntd",), "TH": ("th",), "UH": ("uw",), "UW": ("uw",), "V": ("fv",), "W": ("w",), "Y": ("iy",),
    "Z": ("sz",), "ZH": ("shch",), "SIL": ("sil",),
}  # fmt: skip


def ipa_visemes(ipa: str) -> tuple[str, ...]:
    """Visemes of one espeak-ng phone: one, two for a diphthong or affricate, none for h and the like, `sil` for a pause."""
    if not ipa:
        return ("sil",)
    found: list[str] = []
    for letter in ipa:
        viseme = _PHONES.get(letter)
        if viseme and (not found or found[-1] != viseme):
            if found and viseme in VOWELS and found[-1] in VOWELS:
                viseme = _GLIDE.get(viseme, viseme)
            found.append(viseme)
    return tuple(found[:2])


def segments(phones: list[tuple[float, float, str]], visemes: dict[str, tuple[str, ...]] | None = None) -> list[Segment]:
    """(start, end, viseme) without gaps: diphthongs are split, phones without a shape of their own join what follows,
    short pauses inside speech join what stands before."""
    out: list[Segment] = []
    carried: float | None = None
    for start, end, name in phones:
        if end <= start:
            continue
        start = start if carried is None else carried
        shapes = ipa_visemes(name) if visemes is None else visemes.get(name, ())
        carried = None
        if not shapes:
            carried = start
            continue
        if shapes == ("sil",) and out and out[-1][2] == "sil":
            out[-1] = (out[-1][0], end, "sil")
            continue
        if shapes == ("sil",) and end - start < 0.06 and out:
            out[-1] = (out[-1][0], end, out[-1][2])
            continue
        cut = start + 0.55 * (end - start)
        bounds = [start, end] if len(shapes) == 1 else [start, cut, end]
        out += [(a, b, shape) for a, b, shape in zip(bounds, bounds[1:], shapes)]
    if carried is not None and phones:
        out.append((carried, phones[-1][1], "sil"))
    return out


@dataclass(frozen=True)
class _Pull:
    """Strength of a viseme's pull and how far (seconds) it reaches beyond its segment's edges before and after."""

    strength: float
    before: float
    after: float


_PULLS: dict[str, _Pull] = {
    **{name: _Pull(1.0, 0.050, 0.050) for name in VOWELS},
    "aa": _Pull(1.2, 0.055, 0.055), "ao": _Pull(1.2, 0.065, 0.060), "ow": _Pull(1.4, 0.080, 0.060),
    "uw": _Pull(1.6, 0.090, 0.065), "ah": _Pull(0.7, 0.045, 0.045), "ih": _Pull(0.8, 0.045, 0.045), "iy": _Pull(1.2, 0.06, 0.055),
    "mbp": _Pull(2.0, 0.045, 0.045), "fv": _Pull(2.0, 0.045, 0.040), "w": _Pull(2.2, 0.090, 0.060),
    "shch": _Pull(1.6, 0.075, 0.055), "r": _Pull(1.0, 0.070, 0.050), "sz": _Pull(1.0, 0.040, 0.040),
    "th": _Pull(1.0, 0.040, 0.040), "lntd": _Pull(0.6, 0.035, 0.035), "kg": _Pull(0.4, 0.035, 0.035),
    "sil": _Pull(0.7, 0.050, 0.070),
}  # fmt: skip
CLOSED_AT_LEAST = 0.05  # seconds that lips stay closed on p b m, so that 25 frames a second show it
CLOSING, OPENING = 0.05, 0.06  # seconds
REST_AFTER = 0.12  # a pause this long closes the mouth fully


def articulate(parts: list[Segment], count: int) -> np.ndarray:
    """Articulation weights [count, 20] at 100 Hz, each row of sum 1: what share of each viseme the mouth shows."""
    time = np.arange(count) / RATE
    pulls = np.full((count, len(VISEMES)), 1e-6)
    pulls[:, SIL] = 1e-4
    for start, end, name in parts:
        pull = _PULLS[name]
        middle, half = (start + end) / 2, (end - start) / 2
        # Full strength in the inner half of the segment, falling outside it.
        reach = np.where(time < middle, pull.before, pull.after) + 0.35 * half
        distance = np.maximum(np.abs(time - middle) - 0.4 * half, 0) / reach
        pulls[:, VISEMES.index(name)] += pull.strength * np.exp(-2.0 * distance**1.5)
    weights = pulls / pulls.sum(1, keepdims=True)
    for start, end, name in parts:
        if name == "mbp":
            middle, hold = start + 0.45 * (end - start), max(CLOSED_AT_LEAST, 0.6 * (end - start))
            weights = _towards(weights, MBP, _hold(time, middle - hold / 2, middle + hold / 2, CLOSING, OPENING))
        elif name == "sil" and end - start > REST_AFTER:
            first, last = start <= 0.02, end >= time[-1] - 0.02
            begin, stop = (-1.0 if first else start + 0.08), (time[-1] + 1 if last else end - 0.06)
            weights = _towards(weights, SIL, _hold(time, begin, max(begin, stop), 0.08, 0.10))
    return weights.astype(np.float32)


def labels(parts: list[Segment], count: int) -> np.ndarray:
    """Viseme number [count] of each 10 ms."""
    out = np.full(count, SIL, np.int64)
    for start, end, name in parts:
        out[int(np.ceil(start * RATE - 1e-6)) : int(np.ceil(end * RATE - 1e-6))] = VISEMES.index(name)
    return out


def _hold(time: np.ndarray, start: float, stop: float, rise: float, fall: float) -> np.ndarray:
    x = np.minimum((time - start + rise) / rise, (stop + fall - time) / fall).clip(0, 1)
    return (x * x * (3 - 2 * x))[:, None]


def _towards(weights: np.ndarray, viseme: int, share: np.ndarray) -> np.ndarray:
    return weights * (1 - share) + np.eye(weights.shape[1])[viseme] * share
