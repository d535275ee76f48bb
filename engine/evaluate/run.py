"""One evaluation: which parts are asked for, with what, and in which order."""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Callable

import numpy as np
import torch

from ..dataset import FaceData, read_data
from ..errors import UserError
from ..train.perceptual import Lpips
from .detected import Detector, detector
from .emotion import Sentence, judge_emotion, sentences_of_data, sentences_of_sounds
from .pictures import PictureResult, held_out, judge_pictures
from .report import write_report
from .subject import Subject
from .sync import films
from .syncnet import Syncnet
from .uncertainty import BEYOND, Performance, judge_errors, judge_spoilt_views, judge_strangers, of_frames, of_sentences

Progress = Callable[[int, int, str], None]
SECTIONS = ("pictures", "emotion", "uncertainty")
SEEN_FRAMES = 160
"""Frames that stand for what an avatar has seen, and for each kind of thing that it has not."""


@dataclass(frozen=True)
class EvaluateSettings:
    """What to measure.

    Attributes:
        split: of the data set, not trained on.
        sections: some of SECTIONS; `pictures` needs a data set.
        sounds: held-out sentences where there is no data set; transcripts: their words by file name without suffix, where known.
        strangers: sounds of speakers that were not trained on.
        beside: further avatars for the table, by name: ablations.
        baseline: an avatar without the fusion, to be spoilt the same way.
        every: pictures of every n-th frame.
        frames: of each sentence, under every emotion at every intensity.
        spoilt_pictures: pictures drawn in each case of a spoilt view.
        lpips: weights of AlexNet and of LPIPS (`train.perceptual.Lpips`). syncnet: those of SyncNet (`syncnet.Syncnet`).
        landmark_python: a Python that has mediapipe; where it is None and mediapipe is not installed, nothing is looked for in pictures.
        device, threads: where networks run.
    """

    split: str = "val"
    sections: tuple[str, ...] = SECTIONS
    sounds: tuple[Path, ...] = ()
    transcripts: dict[str, str] = field(default_factory=dict)
    strangers: tuple[Path, ...] = ()
    beside: dict[str, Path] = field(default_factory=dict)
    baseline: Path | None = None
    every: int = 1
    frames: int = 12
    spoilt_pictures: int = 24
    lpips: tuple[Path, Path] | None = None
    syncnet: Path | None = None
    landmark_python: Path | None = None
    device: str = "auto"
    threads: int | None = None


def run_evaluation(
    avatar: Path, data_folder: Path | None, out: Path | None = None, settings: EvaluateSettings = EvaluateSettings(),
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:  # fmt: skip
    """Judge an avatar.

    Args:
        avatar: the file.
        data_folder: the data set that it was trained on, or another of the same person; None: emotion and uncertainty alone, on sounds.
        out: folder for `evaluation.md`, `evaluation.json`, `sheet.png` and curves; None writes nothing.

    Returns:
        section -> figures, as in `evaluation.json`.

    Raises:
        UserError: files that are no avatar, data set or sound; a section that cannot be measured with what is given.
    """
    data, lpips, syncnet = prepared(data_folder, settings)
    subject = Subject(avatar, settings.device, settings.threads)
    others = {name: Subject(path, settings.device, settings.threads) for name, path in settings.beside.items()}
    result: dict[str, Any] = {
        "avatar": subject.avatar.meta.name, "file": Path(avatar).name, "gaussians": len(subject.means) + subject.avatar.count("mouth"),
        "data": None if data is None else data.folder.name, "split": None if data is None else settings.split,
    }  # fmt: skip
    pictures: PictureResult | None = None
    if "pictures" in settings.sections and data is not None:
        eyes, note = detector(settings.landmark_python)
        with eyes if eyes is not None else nullcontext():
            judge = partial(judge_pictures, data=data, split=settings.split, every=settings.every, lpips=lpips, syncnet=syncnet, detector=eyes)
            pictures = judge(subject, progress=progress)
            result["pictures"] = {subject_name(avatar): pictures.figures}
            for name, other in others.items():
                result["pictures"][name] = judge(other, rows=0, progress=progress).figures
        result["notes"] = [*pictures.notes, note]
    if "emotion" in settings.sections:
        sentences = _sentences(data, settings)
        judged = {subject_name(avatar): subject} | others
        result["emotion"] = {name: judge_emotion(one, sentences, data, progress) for name, one in judged.items() if one.feels}
        result["without emotions"] = [name for name, one in judged.items() if not one.feels]
    if "uncertainty" in settings.sections:
        result["uncertainty"] = _uncertainty(subject, data, pictures, settings, progress)
    if out is not None:
        result["files"] = write_report(result, Path(out), pictures)
    return result


def prepared(data_folder: Path | None, settings: EvaluateSettings) -> tuple[FaceData | None, Lpips | None, Syncnet | None]:
    """What is needed beside avatars, opened before the work begins.

    Raises:
        UserError: see `run_evaluation`.
    """
    unknown = set(settings.sections) - set(SECTIONS)
    if unknown:
        raise UserError(f"There is no section {', '.join(sorted(unknown))}.", f"Choose of {', '.join(SECTIONS)}.")
    data = None if data_folder is None else read_data(data_folder)
    if data is None and not settings.sounds:
        raise UserError("There is nothing to judge the avatar on.", "Give a data set folder, or held-out speech with --sounds.")
    frames = [] if data is None else held_out(data, settings.split)
    if data is None and settings.sections == ("pictures",):
        raise UserError("Pictures are held against a data set, and there is none.", "Name the data set folder after the avatar.")
    if settings.landmark_python is not None:
        with Detector(settings.landmark_python):
            pass  # what is wrong with it is told before the work
    if settings.lpips is None and settings.syncnet is None:
        return data, None, None
    if data is None or "pictures" not in settings.sections:
        raise UserError("LPIPS and SyncNet judge pictures, and none are asked for.", "Give a data set folder, and `pictures` among the sections.")
    if settings.syncnet is not None:
        films(data, frames)
    device = torch.device("cuda" if settings.device != "cpu" and torch.cuda.is_available() else "cpu")
    lpips = None if settings.lpips is None else Lpips(*settings.lpips, torch.device("cpu"))
    return data, lpips, None if settings.syncnet is None else Syncnet.load(settings.syncnet, device)


def subject_name(avatar: Path) -> str:
    """Its column in the table."""
    return Path(avatar).stem


def _sentences(data: FaceData | None, settings: EvaluateSettings) -> list[Sentence]:
    if settings.sounds:
        return sentences_of_sounds(list(settings.sounds), settings.frames, settings.transcripts)
    assert data is not None
    return sentences_of_data(data, settings.split, settings.frames)


def _uncertainty(
    subject: Subject, data: FaceData | None, pictures: PictureResult | None, settings: EvaluateSettings, progress: Progress
) -> dict[str, Any]:
    baseline = None if settings.baseline is None else Subject(settings.baseline, settings.device, settings.threads)
    strangers = of_sentences(_speech(settings.strangers, settings.frames)) if settings.strangers else None
    if data is not None:
        frames = _some(held_out(data, settings.split), SEEN_FRAMES // 2)
        found = judge_spoilt_views(subject, of_frames(data, frames), data, frames, baseline, strangers, settings.spoilt_pictures, progress)
        seen = of_frames(data, _some(data.splits["train"], SEEN_FRAMES))
        unseen = {
            f"split {name}": of_frames(data, _some(split, SEEN_FRAMES)) for name, split in data.splits.items() if name != "train" and split
        }  # fmt: skip
        sentences = sentences_of_data(data, settings.split, settings.frames)
        strange_seen = of_sentences(sentences)
    else:
        sentences = _speech(settings.sounds, settings.frames)
        strange_seen = of_sentences(sentences)
        found = judge_spoilt_views(subject, strange_seen, None, None, baseline, strangers, settings.spoilt_pictures, progress)
        seen, unseen = strange_seen, {}
    result: dict[str, Any] = {"spoilt views": found}
    # Feelings past the slider's end and strangers' voices are held against the same speech under feelings that were seen.
    beyond: dict[str, Performance] = {"intensity 1": of_sentences(sentences, 1.0)}
    beyond |= {f"intensity {level:g}": of_sentences(sentences, level) for level in BEYOND}
    if strangers is not None:
        beyond["other speakers"] = strangers
    result["unseen"] = judge_strangers(subject, strange_seen, beyond)
    if unseen:
        result["unseen"] |= judge_strangers(subject, seen, unseen)
    if data is not None and pictures is not None:
        result |= judge_errors(subject, data, pictures)
    return result


def _speech(paths: tuple[Path, ...], frames: int) -> list[Sentence]:
    from ..audio import read_sound

    return [Sentence(path, np.linspace(0.15, max(read_sound(path).duration - 0.15, 0.2), frames), []) for path in paths]


def _some(items: list[Any], count: int) -> list[Any]:
    return [items[i] for i in np.unique(np.linspace(0, len(items) - 1, min(count, len(items))).astype(int))]


def load_transcripts(path: Path) -> dict[str, str]:
    """Lines `name|text` -> text by name. Raises UserError where it cannot be read."""
    try:
        lines = Path(path).read_text("utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"Cannot read {path}: {error}.", "Give a text file with a line `name|text` for each sound.") from error
    return dict(line.split("|", 1) for line in lines if "|" in line)

