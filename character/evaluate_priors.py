"""Judging what hears the mouth on speech it never saw: `python -m character.evaluate_priors --data DIR [--avatar A] [--priors P ...] [--films FOLDER ...]`.

DIR holds speech/ (the shared test data). English: pocketsphinx's phone times of nine clips; the known texts of German actors are aligned
with its English phones; synthetic speech in five languages that nothing was trained on has known times. Films: data set folders, mouth
opening from landmarks. Two measures (engine.priors.recogniser): the lips' gap that f_exp says, against what the phones ask for after
co-articulation; and the plain one, each viseme's constant opening from f_exp's posteriors, against each phone's, where English phones come
from what the recogniser itself understood. Its decoding of the same sounds into phones, without words, is judged beside by both.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from scipy.signal import resample_poly

from engine.audio import Sound, read_sound
from engine.avatar import load_avatar
from engine.dataset import read_data
from engine.priors.corpus import as_sound
from engine.priors.espeak import Espeak, Manner
from engine.priors.judging import mouth_lead, probe
from engine.priors.lessons import lesson_of_data
from engine.priors.mouths import OPENINGS
from engine.priors.recogniser import (
    PLAIN, Phone, align, aligned_clips, coarticulated_opening, decode, judge, opening_correlation, plain_opening,
)  # fmt: skip
from engine.priors.speech_file import SHIPPED, load_speech
from engine.priors.visemes import articulate, segments
from engine.views import Provider, build_providers
from engine.views.builtin import Prosody

Clips = dict[str, tuple[Sound, list[Phone]]]
Opening = Callable[[Sound, np.ndarray], np.ndarray]
OPENING = 60  # of f_exp


class Known(dict):
    """What a function says of a sound, asked once."""

    def __init__(self, ask: Callable[[Sound], Any]) -> None:
        super().__init__()
        self.ask = ask

    def __missing__(self, sound: Sound) -> Any:
        self[sound] = self.ask(sound)
        return self[sound]


ACTED = ("angry1", "happy", "sad")
# EmoDB's sentences that fit into two seconds, by the letters 3 to 5 of a file's name.
GERMAN = {
    "a01": "Der Lappen liegt auf dem Eisschrank.", "a02": "Das will sie am Mittwoch abgeben.",
    "a04": "Heute abend könnte ich es ihm sagen.", "a07": "In sieben Stunden wird es soweit sein.",
}  # fmt: skip
EACH = 6  # files of a German speaker
UNHEARD = ("+f4", "+m6", "+Gene")
LANGUAGES = {
    "da": ("Min mor bager brød om morgenen.", "Vi bor i et lille hus ved havet."),
    "el": ("Το πρωί πίνω καφέ με τη μητέρα μου.", "Το μπλε βιβλίο είναι πάνω στο τραπέζι."),
    "id": ("Ibu saya membeli apel dan buku baru di pasar.", "Besok pagi kami pergi ke rumah teman."),
    "hr": ("Moja baka peče kruh i pije mlijeko.", "Sutra putujemo brodom prema plavom moru."),
    "eo": ("Mia patrino aĉetis panon kaj pomojn.", "La blua birdo flugas super la monto."),
}
LEADS = np.arange(-0.32, 0.33, 0.04)


def openings_of(provider: Provider) -> tuple[Opening, Opening]:
    """Of f_exp, as `judge` asks for it: the lips' gap, and the plain opening of the viseme posteriors."""
    rows = Known(lambda sound: provider.track(sound))
    return (
        lambda sound, times: rows[sound].at(np.asarray(times))[:, 0, OPENING],
        lambda sound, times: rows[sound].at(np.asarray(times))[:, 0, : len(PLAIN)] @ PLAIN,
    )


def decoded_openings() -> tuple[Opening, Opening]:
    """The same two of the recogniser's own phones."""
    phones = Known(decode)

    def of(curve: Callable[[list[Phone], int], np.ndarray]) -> Opening:
        curves = Known(lambda sound: curve(phones[sound], len(sound.samples) // 160 + 1))
        return lambda sound, times: np.interp(times, np.arange(len(curves[sound])) / 100, curves[sound])

    return of(coarticulated_opening), of(plain_opening)


def german_clips(folder: Path) -> Clips:
    """Acted German with its phones: files whose sentence ends before the file does, some of each speaker."""
    found: Clips = {}
    for path in sorted(folder.glob("*.flac")):
        text = GERMAN.get(path.stem[2:5])
        if text is None or sum(name[:2] == path.stem[:2] for name in found) >= EACH:
            continue
        sound = read_sound(path)
        if np.abs(sound.samples[-800:]).max() > 0.003:
            continue
        try:
            phones = align(sound, text, "de")
        except RuntimeError:
            continue
        if phones:
            found[path.stem] = sound, phones
    return found


def known_languages(opening: Opening, spoken: list[tuple[Sound, list]]) -> float:
    """Correlation with the co-articulated opening at every 10 ms."""
    pairs = []
    for sound, parts in spoken:
        count = len(sound.samples) // 160 + 1
        pairs.append(np.stack([opening(sound, np.arange(count) / 100), articulate(parts, count) @ OPENINGS]))
    return float(np.corrcoef(np.concatenate(pairs, 1))[0, 1])


def spoken_languages() -> list[tuple[Sound, list]]:
    """Sentences in LANGUAGES by voices that the shipped priors never heard, with their visemes."""
    espeak, out = Espeak(), []
    for language, texts in LANGUAGES.items():
        for voice in UNHEARD:
            for text in texts:
                said = espeak.speak(text, Manner(language + voice))
                out.append((as_sound(resample_poly(said.samples, 320, said.rate // 50)), segments(said.phones)))
    return out


def film_line(folder: Path, opening: Opening) -> str:
    """Correlation with the landmarks' opening of all pictures, at the best shift; that shift; what loudness alone reaches."""
    data = read_data(folder)
    sound, found = read_sound(data.sound), []
    for lead in LEADS:
        lesson = lesson_of_data(data, lead=float(lead))
        rows = np.isfinite(lesson.opening)
        seen = lesson.opening[rows]
        found.append([np.corrcoef(track[rows], seen)[0, 1] for track in (opening(sound, np.arange(len(rows)) / 100), lesson.level)])
    best = np.argmax(found, 0)
    return f"opening {found[best[0]][0]:.3f} (mouth ahead by {LEADS[best[0]]:.2f} s), loudness alone {found[best[1]][1]:.3f}"


def speakers(sounds: dict[str, Sound], mean: Callable[[Sound], np.ndarray]) -> float:
    """Share right of a linear classifier of EmoDB's speakers from the mean of a view over a file, every second file learned from."""
    names = sorted(sounds)
    rows = np.stack([mean(sounds[name]) for name in names])
    return probe(rows, np.array([name[:2] for name in names]), np.arange(len(names)) % 2 == 0)


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.evaluate_priors")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--avatar", type=Path, help="avatar whose provider of f_exp is judged beside them")
    parser.add_argument("--priors", type=Path, nargs="*", default=[SHIPPED])
    parser.add_argument("--films", type=Path, nargs="*", default=[])
    given = parser.parse_args()
    torch.set_num_threads(1)
    speech = given.data / "speech"
    clips, understood = aligned_clips(speech), aligned_clips(speech, known=False)
    acted: Clips = {}
    for name in ACTED:
        sound = read_sound(speech / f"{name}.wav")
        acted[name] = sound, align(sound)
    german, spoken = german_clips(speech / "emodb"), spoken_languages()
    read = lambda some: {name: clip for name, clip in some.items() if name != "ted1"}  # noqa: E731
    groups = {
        "nine clips": (clips, understood), "read aloud": (read(clips), read(understood)), "ted1": ({"ted1": clips["ted1"]},) * 2,
        "acted": (acted, acted), "German": (german, german),
    }  # fmt: skip
    providers: dict[str, Provider] = {}
    if given.avatar is not None:
        avatar = load_avatar(given.avatar)
        providers[given.avatar.stem] = build_providers({name: vars(view) for name, view in avatar.meta.views.items()}, avatar.tensors)["exp"]
    loaded = {path.stem: load_speech(path) for path in given.priors}
    providers |= {name: priors.providers()[0] for name, priors in loaded.items()}
    judged = {name: openings_of(provider) for name, provider in providers.items()} | {"recogniser": decoded_openings()}
    for name, (gap, plain) in judged.items():
        for group, (one, other) in groups.items():
            for measure, part, opening, wanted in (("lips", one, gap, coarticulated_opening), ("plain", other, plain, plain_opening)):
                found = judge(part, opening)
                print(
                    f"{name}, {group}, {measure}: correlation {opening_correlation(part, opening, wanted):.3f}, order {found['order']:.3f} of "
                    f"{found['pairs']}, p b m {found['p b m']:.3f}, vowels {found['vowels']:.3f}, silence {found['silence']:.3f}",
                    flush=True,
                )
        if name in providers:
            print(f"{name}, {len(LANGUAGES)} synthetic languages never trained on: correlation {known_languages(gap, spoken):.3f}")
            for film in given.films:
                print(f"{name}, {film.name}: {film_line(film, gap)}", flush=True)
    sounds = {path.stem: read_sound(path) for path in sorted((speech / "emodb").glob("*.flac"))[::2]}
    for name, priors in loaded.items():
        exp, tone = priors.providers()
        for view in (exp, tone, Prosody()):
            right = speakers(sounds, lambda sound: view.track(sound).features.mean(0))
            print(f"{name}: real speakers told apart from the mean of `{view.name}`: {right:.2f} of {len(sounds)} files", flush=True)
        for film in given.films:
            lead, clear = mouth_lead(exp.net, priors.mouth(), lesson_of_data(read_data(film)))
            print(f"{name}, {film.name}: the sync discriminator has the mouth ahead by {lead:.2f} s ({clear:.1f} deviations)")


if __name__ == "__main__":
    main()
