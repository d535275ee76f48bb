"""Labelled speech: a folder per emotion, or a table file,label[,speaker], read into windows to learn from."""

from __future__ import annotations

import csv
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from ..audio import Sound, read_sound
from ..avatar import EMOTIONS
from ..errors import UserError
from ..views.emotion_features import Windows, clip_starts, windows
from ..views.emotion_net import SPEECH_NEEDED
from .corpus import spoil, as_sound

ALIASES = {
    "neutral": ("neutral", "calm", "normal"),
    "happy": ("happy", "happiness", "joy", "joyful"),
    "sad": ("sad", "sadness"),
    "angry": ("angry", "anger"),
    "fear": ("fear", "fearful", "afraid", "anxiety"),
    "disgusted": ("disgusted", "disgust"),
    "surprised": ("surprised", "surprise"),
    "contempt": ("contempt", "contemptuous"),
    "bored": ("bored", "boredom"),
}
"""Labels that are understood, upper case or lower. Boredom is learned as a class of its own, and moves a face as neutral does."""
SOUNDS = (".wav", ".flac", ".ogg", ".opus", ".mp3", ".aiff", ".aif")
FEWEST = 6
"""Recordings of an emotion under which it cannot be learned."""
_SHOWN = 3

Progress = Callable[[int, int, str], None]
"""(done, of how many, what)"""


@dataclass(frozen=True)
class Recording:
    """One emotion in one file; `speaker` "" where it is not known."""

    path: Path
    emotion: str
    speaker: str = ""


@dataclass(eq=False)
class Examples:
    """n windows to learn from.

    Attributes:
        windows: what is heard in them.
        label: [n] index into `classes`.
        speaker, clip: [n] numbers; speaker -1 where it is not known.
        copy: [n] 0: as recorded; others: the same as if recorded in another room, with other noise.
        classes: emotions by name, in the order of EMOTIONS, `bored` last.
        speakers: their names.
        left_out: recordings without enough speech in them.
    """

    windows: Windows
    label: np.ndarray
    speaker: np.ndarray
    clip: np.ndarray
    copy: np.ndarray
    classes: tuple[str, ...]
    speakers: tuple[str, ...]
    left_out: list[str] = field(default_factory=list)

    def rows(self, which: np.ndarray) -> Examples:
        """Some of the windows; classes and speakers keep their numbers."""
        return Examples(
            self.windows.rows(which), self.label[which], self.speaker[which], self.clip[which], self.copy[which], self.classes, self.speakers
        )

    @staticmethod
    def joined(parts: Sequence[Examples]) -> Examples:
        """All of several: recordings and speakers are numbered anew."""
        classes = _ordered({name for part in parts for name in part.classes})
        speakers = tuple(sorted({name for part in parts for name in part.speakers}))
        label, speaker, clip, clips = [], [], [], 0
        copy = np.concatenate([part.copy for part in parts])
        for part in parts:
            label.append(np.array([classes.index(name) for name in part.classes])[part.label])
            own = np.array([*(speakers.index(name) for name in part.speakers), -1])
            speaker.append(own[part.speaker])
            clip.append(part.clip + clips)
            clips += int(part.clip.max()) + 1
        joined = Windows.joined([part.windows for part in parts])
        left_out = [name for part in parts for name in part.left_out]
        return Examples(joined, *map(np.concatenate, (label, speaker, clip)), copy, classes, speakers, left_out)

    def mapping(self) -> np.ndarray:
        """[classes,8] the weights that each class stands for."""
        rows = np.zeros((len(self.classes), len(EMOTIONS)), np.float32)
        for row, name in zip(rows, self.classes):
            row[EMOTIONS.index(name) if name in EMOTIONS else 0] = 1
        return rows

    def sessions(self) -> list[tuple[np.ndarray, tuple[np.ndarray, np.ndarray]]]:
        """Rows [n] bool, mean and deviation [115] of each speaker in each room who is heard in more than one emotion, and enough."""
        found = []
        for speaker in np.unique(self.speaker[self.speaker >= 0]):
            for copy in np.unique(self.copy):
                rows = (self.speaker == speaker) & (self.copy == copy)
                if rows.sum() >= 12 and len(np.unique(self.label[rows])) > 1:
                    own = self.windows.functionals[rows]
                    found.append((rows, (own.mean(0), own.std(0))))
        return found


def label_of(text: str) -> str | None:
    """The emotion that a label means, or None."""
    text = text.strip().lower()
    return next((name for name, words in ALIASES.items() if text in words), None)


def _ordered(names: set[str]) -> tuple[str, ...]:
    """As in EMOTIONS, others last."""
    return tuple(name for name in (*EMOTIONS, *(name for name in ALIASES if name not in EMOTIONS)) if name in names)


def list_speech(sources: Sequence[Path]) -> list[Recording]:
    """The recordings that folders and tables name.

    A folder holds one folder for each emotion, in it sound files or one folder for each speaker. A table (.csv) has lines
    file,label or file,label,speaker; files are looked for beside it; a first line that says so is skipped.

    Raises:
        UserError: no such source, a label that is not known, a file that a table names and that is not there, or no recordings.
    """
    found: list[Recording] = []
    for source in map(Path, sources):
        if source.is_dir():
            found += _folder(source)
        elif source.suffix.lower() == ".csv":
            found += _table(source)
        elif source.exists():
            raise UserError(f"{source}: neither a folder nor a .csv table.", "Give a folder with one folder per emotion, or a table file,label[,speaker].")
        else:
            raise UserError(f"{source}: no such folder or table.", "Check the path.")
    return found


def _folder(source: Path) -> list[Recording]:
    found, strange = [], []
    for folder in sorted(path for path in source.iterdir() if path.is_dir() and not path.name.startswith(".")):
        emotion = label_of(folder.name)
        if emotion is None:
            strange.append(folder.name)
            continue
        for path in sorted(folder.rglob("*")):
            if path.suffix.lower() in SOUNDS and path.is_file():
                inside = path.relative_to(folder).parts
                found.append(Recording(path, emotion, inside[0] if len(inside) > 1 else ""))
    if strange:
        raise UserError(f"{source}: no emotion that is known: {', '.join(strange[:_SHOWN])}{_more(strange)}.", _known())
    if not found:
        raise UserError(f"{source}: no sound files in folders named after emotions.", _known())
    return found


def _table(source: Path) -> list[Recording]:
    try:
        with source.open(newline="", encoding="utf-8-sig") as file:
            rows = [[part.strip() for part in row] for row in csv.reader(file) if any(part.strip() for part in row)]
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{source}: cannot be read as a table.", "Give lines file,label or file,label,speaker in UTF-8.") from error
    if rows and len(rows[0]) >= 2 and rows[0][1].lower() in ("label", "emotion"):
        rows = rows[1:]
    found, strange, missing = [], [], []
    for number, row in enumerate(rows, 1):
        if len(row) not in (2, 3):
            raise UserError(f"{source}: entry {number} has {len(row)} columns.", "Give lines file,label or file,label,speaker.")
        emotion, path = label_of(row[1]), source.parent / row[0]
        if emotion is None:
            strange.append(row[1])
        elif not path.is_file():
            missing.append(row[0])
        else:
            found.append(Recording(path, emotion, row[2] if len(row) == 3 else ""))
    if strange:
        names = sorted(set(strange))
        raise UserError(f"{source}: no emotion that is known: {', '.join(names[:_SHOWN])}{_more(names)}.", _known())
    if missing:
        raise UserError(f"{source}: {len(missing)} files are not there: {', '.join(missing[:_SHOWN])}{_more(missing)}.", "Paths are relative to the table.")
    if not found:
        raise UserError(f"{source}: the table is empty.", "Give lines file,label or file,label,speaker.")
    return found


def _more(names: Sequence[str]) -> str:
    return f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""


def _known() -> str:
    return f"Known are {', '.join(ALIASES)}."


def read_examples(
    recordings: Sequence[Recording], sequences: bool = False, progress: Progress | None = None, copies: int = 0
) -> Examples:
    """Read the recordings into windows; see `make_examples`.

    Raises:
        UserError: fewer than two emotions, too few recordings of one, an unreadable file, or speech in none of them.
    """
    check_enough(Counter(r.emotion for r in recordings))
    sounds = ((str(r.path), r.emotion, r.speaker, lambda path=r.path: read_sound(path)) for r in recordings)
    return make_examples(list(sounds), sequences, progress, copies)


def check_enough(counts: Counter[str]) -> None:
    """Raises UserError where so many recordings of each emotion cannot be learned from."""
    if len(counts) < 2:
        raise UserError(f"All recordings are {next(iter(counts), 'missing')}.", "Emotions are learned by their difference: give at least two, neutral among them.")
    few = [f"{name} ({count})" for name, count in counts.items() if count < FEWEST]
    if few:
        raise UserError(f"Too few recordings of {', '.join(few)}.", f"Give at least {FEWEST} of each emotion; some dozens by several speakers make it useful.")


def make_examples(
    sounds: Sequence[tuple[str, str, str, Callable[[], Sound]]], sequences: bool = False, progress: Progress | None = None, copies: int = 0
) -> Examples:
    """Examples from sounds: (name, emotion, speaker or "", what gives the sound).

    Args:
        copies: of each sound in other rooms, with other noise and another microphone; a speaker's are all in the same one.

    Raises:
        UserError: an unreadable sound, or too little speech in all of them.
    """
    classes = _ordered({emotion for _, emotion, _, _ in sounds})
    speakers = tuple(sorted({speaker for _, _, speaker, _ in sounds if speaker}))
    parts: list[Windows] = []
    rows: list[tuple[int, int, int, int]] = []
    left_out: list[str] = []
    for number, (name, emotion, speaker, read) in enumerate(sounds):
        if progress is not None:
            progress(number, len(sounds), "listening to recordings")
        sound = read()
        who = speakers.index(speaker) if speaker else -1
        heard, kept = sound, 0
        for copy in range(copies + 1):
            if copy:
                room = np.random.default_rng([copy, who + 1 if speaker else number])
                heard = as_sound(spoil(sound.samples, room, []))
            for part in windows(heard, clip_starts(heard.duration), sequences):
                part = part.rows(part.speech > SPEECH_NEEDED[1])
                kept += len(part.speech)
                parts.append(part)
                rows += [(classes.index(emotion), who, number, copy)] * len(part.speech)
        if not kept:
            left_out.append(name)
    if not rows:
        raise UserError("None of the recordings has a second of speech in it.", "Give recordings of sentences.")
    found = Examples(Windows.joined(parts), *np.array(rows).T, classes, speakers, left_out)
    check_enough(Counter({name: len(np.unique(found.clip[found.label == i])) for i, name in enumerate(classes)}))
    return found
