"""How well automatic emotion carries over to people: `python -m character.evaluate_emotion --speech DIR [--prior FILE | --leave-out]`.

Acted German speech (folder `emodb`; letter 6 of a name is the emotion, letters 1 and 2 the speaker) is played one speaker after
the other, his sentences in a drawn order as one recording, and each sentence judged in its middle second: is what is heard livelier
in anger, joy and fear than in sadness, boredom and neutral speech, does the strongest weight beside neutral name the emotion,
and is the confidence higher where it does. Then the acted English sentences of the folder. For measuring only.
"""

from __future__ import annotations

import argparse
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from engine.audio import RATE, Sound, read_sound
from engine.avatar import EMOTIONS
from engine.priors.corpus import as_sound
from engine.priors.emotion_file import load_prior
from engine.priors.emotion_measure import auroc
from engine.priors.emotion_speech import make_examples
from engine.priors.emotion_train import EmotionSettings, train_encoder
from engine.views import Provider
from engine.views.emotion import Arousal
from engine.views.emotion_net import Distilled, encoder_state

LETTERS = {"W": "angry", "L": "bored", "E": "disgusted", "A": "fear", "F": "happy", "T": "sad", "N": "neutral"}
LIVELY, CALM = ("angry", "happy", "fear"), ("sad", "bored", "neutral")
_HIGH = [EMOTIONS.index(name) for name in ("happy", "angry", "fear", "surprised")]
_LOW = [EMOTIONS.index(name) for name in ("sad", "disgusted", "contempt")]
_PAUSE = 0.4
_ACTED = {"angry1.wav": "angry", "happy.wav": "happy", "sad.wav": "sad"}


def streams(folder: Path, sentences: int, one_mood: bool, seed: int) -> Iterator[tuple[str, Sound, list[tuple[float, str]]]]:
    """Speakers and recordings of theirs, with the middles and emotions of their sentences.

    Args:
        sentences: in a recording; 0: all of the speaker's.
        one_mood: a recording holds sentences of one emotion alone.
    """
    speakers: dict[str, list[Path]] = defaultdict(list)
    for path in sorted(folder.glob("*.flac")):
        speakers[path.name[:2] + (path.name[5] if one_mood else "")].append(path)
    random = np.random.default_rng(seed)
    for name, paths in speakers.items():
        order = [paths[i] for i in random.permutation(len(paths))]
        size = sentences or len(order)
        for start in range(0, len(order), size):
            pieces, said, at = [], [], 0
            for path in order[start : start + size]:
                samples = read_sound(path).samples
                said.append(((at + len(samples) / 2) / RATE, LETTERS[path.name[5]]))
                pieces += [samples, np.zeros(int(_PAUSE * RATE), np.float32)]
                at += len(samples) + len(pieces[-1])
            yield name[:2], as_sound(np.concatenate(pieces)), said


def left_out(folder: Path) -> dict[str, Provider]:
    """For each speaker a provider that learned from the others."""
    paths = sorted(folder.glob("*.flac"))
    examples = make_examples([(p.name, LETTERS[p.name[5]], p.name[:2], lambda p=p: read_sound(p)) for p in paths], copies=EmotionSettings().copies)
    found: dict[str, Provider] = {}
    for number, speaker in enumerate(examples.speakers):
        encoder = train_encoder(examples.rows(examples.speaker != number)).encoder
        found[speaker] = Distilled(encoder_state(encoder))
    return found


def judge(providers: Mapping[str, Provider], folder: Path, sentences: int, one_mood: bool = False, seed: int = 0) -> dict[str, Any]:
    """Figures over all speakers' recordings of so many sentences, each heard by the provider for him."""
    weights, confidence, meant = [], [], []
    for speaker, sound, said in streams(folder, sentences, one_mood, seed):
        track = providers[speaker].track(sound)
        for middle, emotion in said:
            times = middle + np.linspace(-0.5, 0.5, 6)
            weights.append(track.at(times).mean(0))
            confidence.append(float(track.confidence_at(times).mean()))
            meant.append(emotion)
    found, sure, names = np.array(weights), np.array(confidence), np.array(meant)
    lively = found[:, _HIGH].sum(1) - found[:, _LOW].sum(1)
    high, known = np.isin(names, LIVELY), np.isin(names, LIVELY + CALM)
    named = np.array([EMOTIONS[1 + int(row[1:].argmax())] for row in found])
    felt = ~np.isin(names, ["neutral", "bored"])
    right = named == names
    rate = auroc(sure[felt], right[felt])
    return {
        "arousal_auroc": round(auroc(lively[known], high[known]) or 0.0, 3),
        "named": round(float(right[felt].mean()), 3),
        "weight_of_the_right_one": round(float(np.mean([row[EMOTIONS.index(name)] for row, name in zip(found[felt], names[felt])])), 3),
        "neutral_weight_felt_and_not": [round(float(found[felt, 0].mean()), 3), round(float(found[~felt, 0].mean()), 3)],
        "confidence_auroc": None if rate is None else round(rate, 3),
    }


def acted(provider: Provider, folder: Path) -> dict[str, str]:
    """What is heard in the acted English sentences, each a file of its own, and all in one file."""
    found, pieces, at, spans = {}, [], 0.0, {}
    for name in _ACTED:
        if not (folder / name).exists():
            continue
        sound = read_sound(folder / name)
        found[name] = _heard(provider.track(sound), 0.5, sound.duration - 0.5)
        pieces.append(sound.samples)
        spans[name] = (at + 0.5, at + sound.duration - 0.5)
        at += len(sound.samples) / RATE
    if pieces:
        track = provider.track(as_sound(np.concatenate(pieces)))
        found |= {f"{name} beside the others": _heard(track, *span) for name, span in spans.items()}
    return found


def _heard(track: Any, start: float, stop: float) -> str:
    times = np.arange(start, stop, 0.04)
    mean = track.at(times).mean(0)
    top = np.argsort(-mean)[:3]
    return ", ".join(f"{EMOTIONS[i]} {mean[i]:.2f}" for i in top) + f"; confidence {track.confidence_at(times).mean():.2f}"


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.evaluate_emotion")
    parser.add_argument("--speech", type=Path, required=True, help="folder with emodb/ and acted sentences")
    parser.add_argument("--prior", type=Path, help="emotion prior (else the provider without weights)")
    parser.add_argument("--sentences", type=int, nargs="+", default=[0, 5], help="in a recording of one speaker (0: all)")
    parser.add_argument("--leave-out", action="store_true", help="train here, on all speakers but the one who is heard")
    parser.add_argument("--one-mood", action="store_true", help="recordings of one emotion each, where a recording's own average misleads")
    parser.add_argument("--file-seconds", type=float, nargs="+", default=[0.0], help="weights of a recording's own average to try (0: none)")
    given = parser.parse_args()
    torch.set_num_threads(1)
    folder = given.speech / "emodb"
    if given.leave_out:
        providers = left_out(folder)
    else:
        provider: Provider = Arousal() if given.prior is None else Distilled(load_prior(given.prior).tensors)
        providers = defaultdict(lambda: provider)
    for seconds in given.file_seconds:
        for one in providers.values() if given.leave_out else [provider]:
            if isinstance(one, Distilled):
                one.encoder.file_seconds.fill_(seconds)
        print(json.dumps({"file_seconds": seconds} | {f"{n or 'all'} sentences": judge(providers, folder, n, given.one_mood) for n in given.sentences}))
    if not given.leave_out:
        print(json.dumps(acted(provider, given.speech), indent=1))


if __name__ == "__main__":
    main()
