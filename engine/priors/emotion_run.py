"""The whole of emotion distillation: labelled speech, a person's face, his voice -> an emotion prior, and an avatar that hears with it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..audio import read_sound
from ..avatar import EMOTIONS, load_avatar, save_avatar
from ..dataset import FaceData, read_data
from ..errors import UserError
from ..views.emotion_features import Windows, clip_starts, windows
from ..views.emotion_net import SPEECH_NEEDED, EmotionEncoder
from ..views.emotion_wave import SpeechModel, load_speech_model
from .emotion_file import EmotionPrior, load_prior, make_prior, save_prior, with_prior
from .emotion_person import distil_person, labelled_takes, person_prototypes
from .emotion_speech import Examples, Progress, list_speech, make_examples, read_examples
from .emotion_train import EmotionSettings, leave_one_speaker_out, prototypes, scores, train_encoder
from .emotion_voices import emotional_speech

_VOICE_WINDOWS = 12


def train_emotion(
    data: Sequence[Path],
    out: Path | None,
    settings: EmotionSettings = EmotionSettings(),
    face: Path | None = None,
    prior: Path | None = None,
    voice: Sequence[Path] = (),
    speech_model: Path | None = None,
    measure: bool = False,
    avatar: Path | None = None,
    avatar_out: Path | None = None,
    synthetic: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Train, or take a trained one, and write what was asked for; see the command line's help.

    Args:
        synthetic: espeak-ng voices to learn from as well.

    Returns:
        a report: what was learned from, figures, and the files written.

    Raises:
        UserError: nothing to learn from, data that cannot be used, files that cannot be read or written.
    """
    _check(bool(data) or synthetic > 0, out, prior, measure, avatar, avatar_out)
    model = None if speech_model is None else load_speech_model(speech_model)
    report: dict[str, Any] = {}
    examples: Examples | None = None
    person = None if face is None else read_data(face)
    if data or synthetic:
        examples = _examples(data, synthetic, settings, model is not None, progress)
        report |= _told(examples, synthetic)
        if measure:
            report["left_out"] = leave_one_speaker_out(examples, settings, model, progress)
            if out is None and avatar is None:
                return report
        trained = train_encoder(examples, settings, model, progress)
        encoder, classes = trained.encoder, examples.classes
        places, heard = prototypes(encoder, examples, model)
        found = {"": trained.unknown} | ({"_with_their_statistics": trained.known} if examples.sessions() else {})
        kind = "unknown_speakers" if trained.by_speaker else "other_recordings"
        report |= scores(examples, {kind + name: values for name, values in found.items()})
        about = {"classes": list(classes), "heard": heard, "trained_on": report["trained_on"]}
    else:
        assert prior is not None
        begun = load_prior(prior)
        encoder, classes, places = begun.encoder(), tuple(begun.about["classes"]), begun.prototypes
        about = {name: begun.about.get(name) for name in ("classes", "heard", "trained_on")}
        _fits(encoder, model)
    if person is not None:
        about, places = _learn_person(encoder, classes, person, settings, examples, model, report, about, places, progress)
    if voice:
        report["voice_windows"] = _learn_voice(encoder, voice)
    made = make_prior(encoder, places, about | {"scores": {key: _short(value) for key, value in report.items()}})
    return report | _write(made, out, avatar, avatar_out)


def _check(data: bool, out: Path | None, prior: Path | None, measure: bool, avatar: Path | None, avatar_out: Path | None) -> None:
    if data == (prior is not None):
        raise UserError("Nothing to learn from." if not data else "Both labelled speech and a prior are given.", "Give labelled speech, or --prior FILE.")
    if measure and not data:
        raise UserError("There is no labelled speech to measure on.", "Give labelled speech by several speakers.")
    if (avatar is None) != (avatar_out is None):
        raise UserError("--avatar and --avatar-out go together.", "Name the avatar and the file to write.")
    if out is None and avatar is None and not measure:
        raise UserError("No file to write is named.", "Give --out FILE.")


def _examples(data: Sequence[Path], synthetic: int, settings: EmotionSettings, pretrained: bool, progress: Progress | None) -> Examples:
    sequences = settings.sequences or pretrained
    faces = [Path(source) for source in data if (Path(source) / "transforms_train.json").exists()]
    speech = [Path(source) for source in data if Path(source) not in faces]
    parts = [read_examples(list_speech(speech), sequences, progress, settings.copies)] if speech else []
    for source in faces:
        found = labelled_takes(read_data(source), sequences, settings.copies)
        if found is None:
            raise UserError(f"{source}: the data set does not say what emotions it shows (emotions.json or labels.npz).", "Use it as --face, beside labelled speech or --prior.")
        parts.append(found)
    if synthetic:
        parts.append(make_examples(emotional_speech(synthetic, seed=settings.seed), sequences, progress, settings.copies))
    return Examples.joined(parts)


def _told(examples: Examples, synthetic: int) -> dict[str, Any]:
    counts = {name: len(np.unique(examples.clip[examples.label == i])) for i, name in enumerate(examples.classes)}
    listed = ", ".join(f"{name} {count}" for name, count in counts.items())
    voices = f"{len(examples.speakers)} speakers" if examples.speakers else "speakers not named"
    voices += f", {synthetic} of them espeak-ng voices" if synthetic else ""
    told: dict[str, Any] = {"trained_on": f"{sum(counts.values())} recordings ({listed}), {voices}"}
    if examples.left_out:
        told["too_little_speech"] = examples.left_out
    return told


def _fits(encoder: EmotionEncoder, model: SpeechModel | None) -> None:
    wanted = encoder.wave_digest.numpy().tobytes().hex() if encoder.shape.pretrained else None
    if (None if model is None else model.digest) != wanted:
        raise UserError(
            "The prior was trained with another speech model." if model else "The prior was trained with a pretrained speech model.",
            "Give the one it was trained with as --speech-model." if wanted else "Leave out --speech-model: the prior needs none.",
        )


def _learn_person(
    encoder: EmotionEncoder,
    classes: tuple[str, ...],
    person: FaceData,
    settings: EmotionSettings,
    examples: Examples | None,
    model: SpeechModel | None,
    report: dict[str, Any],
    about: dict[str, Any],
    places: np.ndarray,
    progress: Progress | None,
) -> tuple[dict[str, Any], np.ndarray]:
    """Eq. 5, and the prototypes after it: the person's own where he is labelled, else those of the speech once more."""
    report["face"] = distil_person(encoder, classes, person, settings, examples, model, progress)
    own = person_prototypes(encoder, person, model)
    if own is not None:
        places, heard, straight = own
        report["face"]["intensity_on_a_line"] = round(straight, 3)
        about = about | {"heard": heard}
    elif examples is not None:
        places, _ = prototypes(encoder, examples, model)
    name = person.info.get("name") or person.folder.name
    return about | {"trained_on": f"{about['trained_on']}; the face of {name}"}, places


def _learn_voice(encoder: EmotionEncoder, files: Sequence[Path]) -> int:
    """The speaker's own statistics, of recordings in many moods; returns their number of windows."""
    parts = []
    for file in files:
        sound = read_sound(Path(file))
        parts += windows(sound, clip_starts(sound.duration))
    found = Windows.joined(parts)
    found = found.rows(found.speech > SPEECH_NEEDED[1])
    if len(found.speech) < _VOICE_WINDOWS:
        raise UserError(f"The voice is heard in {len(found.speech)} windows of two seconds only.", f"Give at least {_VOICE_WINDOWS}, in many moods.")
    encoder.speaker.copy_(torch.from_numpy(np.stack([found.functionals.mean(0), found.functionals.std(0)])))
    return len(found.speech)


def _short(value: Any) -> Any:
    """Without the long tables."""
    return {key: part for key, part in value.items() if key not in ("confusion", "reliability")} if isinstance(value, dict) else value


def _write(found: EmotionPrior, out: Path | None, avatar: Path | None, avatar_out: Path | None) -> dict[str, Any]:
    written: dict[str, Any] = {}
    if avatar is not None and avatar_out is not None:
        save_avatar(with_prior(load_avatar(avatar), found), avatar_out)
        written["avatar"] = str(avatar_out)
    if out is not None:
        save_prior(found, out)
        written["out"] = str(out)
    heard = [name for name, yes in zip(EMOTIONS, found.about["heard"]) if yes]
    return written | {"prototypes_heard": heard}
