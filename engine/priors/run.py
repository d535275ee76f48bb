"""The whole of prior extraction (sec 2.1): voices, recordings and filmed faces -> lip expert, style encoder, FuseNet, with figures."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from ..dataset import read_data
from ..errors import UserError
from ..files import write_error
from .corpus import VARIANTS, make_clips, recorded_clips
from .judging import mouth_lead, probe, sync_accuracy
from .lessons import Lesson, lesson_of_data, lessons_of_clips
from .lip_training import CROP, LipSettings, Report, train_lips
from .speech_file import SHIPPED, SpeechPriors, load_speech, save_speech
from .tone_training import Rows, ToneSettings, reconstruction_error, tone_rows, train_tone

UNHEARD = ("+f4", "+m6", "+Annie", "+Gene", "+quincy", "+Mario")
"""Voices that are kept for judging."""
CLEAR = 6.0
"""Clearness (`judging.mouth_lead`) from which a film is shifted by what the sync discriminator says."""


@dataclass(frozen=True)
class PriorSettings:
    """What is learned from, and how.

    Attributes:
        clips: synthetic ones, of about 7 s (0: none). judged: of as many sentences by known and as many by unknown voices it is judged.
        copies: of each recording, all but one warped and spoilt.
        films: times each data set folder counts.
        seed: of the clips.
    """

    clips: int = 420
    judged: int = 50
    copies: int = 20
    films: int = 1
    seed: int = 11
    lips: LipSettings = field(default_factory=LipSettings)
    tone: ToneSettings = field(default_factory=ToneSettings)


def train_priors(
    data: Sequence[Path], out: Path, settings: PriorSettings = PriorSettings(), recordings: Sequence[Path] = (), texts: Path | None = None,
    report: Report | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Train and write speech priors.

    Args:
        data: data set folders; their `train` pictures are learned from, `val` judged.
        recordings: English speech; its phones come from pocketsphinx.
        texts: what they say: a table `name|text` as LJ Speech's metadata.csv; of more columns the last counts.

    Returns:
        what was learned from, and the figures.

    Raises:
        UserError: nothing to learn from; espeak-ng or pocketsphinx missing; data that cannot be read; the file cannot be written.
    """
    if not (settings.clips or recordings or data):
        raise UserError("There is nothing to learn from.", "Give data set folders or --recordings, or leave --clips above 0.")
    if out.parent.exists() and not out.parent.is_dir():
        raise write_error(out, NotADirectoryError(20, "Not a directory"))
    films = [read_data(folder) for folder in data]
    known = _texts(texts)
    say = report or (lambda done, total, text: None)
    say(0, 4, "making voices")
    heard = tuple(name for name in VARIANTS if name not in UNHEARD)
    synthetic = lessons_of_clips(make_clips(settings.clips, settings.seed, variants=heard)) if settings.clips else []
    say(1, 4, "aligning recordings")
    real = lessons_of_clips(recorded_clips(recordings, settings.copies, settings.seed, known))
    if recordings and not real:
        raise UserError("None of the recordings could be aligned.", "Give clear English speech of a sentence or two each, and its text.")
    say(2, 4, "reading data set folders")
    filmed = [_in_time(film) for film in films]
    real += [lesson for lesson, _ in filmed] * settings.films
    if not any(lesson.inputs.shape[1] >= CROP for lesson in [*synthetic, *real]):
        raise UserError(f"No sound is as long as {CROP / 100:.1f} s.", "Give longer sounds.")
    say(3, 4, "learning")
    lips, mouth = train_lips(synthetic, real, settings.lips, report)
    fusing = [lesson for lesson in [*synthetic, *(lesson for lesson, _ in filmed)]]
    if not fusing:
        raise UserError("No face is known to any of the sounds, and FuseNet needs some.", "Leave --clips above 0, or give a data set folder.")
    rows = Rows.of(lips, fusing)
    tone, fused = train_tone(rows, settings.tone, report)
    _, fused_alone = train_tone(rows, replace(settings.tone, tone=False), report)

    def judge(lessons: Sequence[Lesson]) -> dict[str, Any]:
        some = Rows.of(lips, lessons, rows.names)
        return {
            "eq4": round(reconstruction_error(tone, fused, some), 3),
            "eq4_without_tone": round(reconstruction_error(None, fused_alone, some), 3),
            "sync": {name: round(float(value), 3) for name, value in sync_accuracy(lips, mouth, lessons).items()},
        }

    figures: dict[str, Any] = {}
    if settings.clips and settings.judged:
        plain = {"others": 0.0, "spoilt": 0.0, "noises": 0.0}
        told = {
            "unheard_sentences": lessons_of_clips(make_clips(settings.judged, settings.seed + 1, variants=heard, **plain)),
            "unheard_voices": lessons_of_clips(make_clips(settings.judged, settings.seed + 2, variants=UNHEARD, **plain)),
        }
        figures = {name: judge(lessons) for name, lessons in told.items()}
        figures["probes"] = _probes(Rows.of(lips, told["unheard_voices"]), tone)
    for film, (lesson, lead) in zip(films, filmed):
        figures[str(film.folder.name)] = {"mouth_ahead_s": lead} | {
            split: judge([lesson_of_data(film, split, lead)]) for split in ("train", "val") if film.splits.get(split)
        }
    minutes = lambda some: sum(lesson.inputs.shape[1] for lesson in some) / 6000  # noqa: E731
    told_of = [f"{minutes(synthetic):.0f} min of sentences of this project's own by {len(heard)} voices of espeak-ng"] if synthetic else []
    if recordings:
        told_of.append(f"{len(real) - len(filmed) * settings.films} copies, warped and spoilt, of {len(recordings)} recordings")
    told_of += [f"the data set {film.info.get('name') or film.folder.name}" for film in films]
    priors = SpeechPriors.of(lips, mouth, tone, fused, "; ".join(told_of) + ".", figures)
    save_speech(priors, out)
    return {"out": str(out), "trained_on": priors.about["trained_on"], "figures": figures}


def _in_time(film: Any) -> tuple[Lesson, float]:
    """A filmed face's lesson, and the seconds by which its mouth is ahead of the sound; known faces are in time."""
    plain = lesson_of_data(film)
    if film.labels is not None or not SHIPPED.exists():
        return plain, 0.0
    shipped = load_speech()
    lead, clear = mouth_lead(shipped.providers()[0].net, shipped.mouth(), plain)
    return (plain, 0.0) if clear < CLEAR or not lead else (lesson_of_data(film, lead=lead), lead)


def _probes(rows: Rows, tone: Any) -> dict[str, float]:
    """Shares right of linear classifiers of speaker and viseme, learned on every second clip of voices that were never heard."""
    some = (rows.share > 0.5) & (rows.viseme > 0)
    first, style = (rows.lesson % 2 == 0)[some], tone_rows(tone, rows)[some]
    found = {}
    for name, label in (("speaker", rows.voice[some]), ("viseme", rows.viseme[some])):
        found |= {f"{name}_from_tone": round(probe(style, label, first), 3), f"{name}_from_exp": round(probe(rows.exp[some], label, first), 3)}
        found[f"{name}_chance"] = round(1 / len(np.unique(label)), 3)
    return found


def _texts(path: Path | None) -> dict[str, str]:
    if path is None:
        return {}
    try:
        with open(path, encoding="utf-8", newline="") as handle:
            rows = [row for row in csv.reader(handle, delimiter="|", quoting=csv.QUOTE_NONE) if row]
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read as a table of texts.", "Give a text file (UTF-8) of lines `name|text`.") from error
    if any(len(row) < 2 for row in rows):
        raise UserError(f"{path}: a line has no text.", "Each line is `name|text`, the name that of the sound file without its suffix.")
    return {row[0]: row[-1] for row in rows}
