"""Does the avatar know what it does not know? Spoilt views, strangers' voices, feelings it never saw, errors where it was sure."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable, Mapping

import numpy as np

from ..avatar import EMOTIONS, save_avatar
from ..bake.baker import emotion_vectors
from ..dataset import FaceData, Frame
from ..deform.fast import Motion
from ..deform.parameters import VIEWS
from . import landmarks as lm
from .emotion import Sentence
from .measures import auroc, calibration, psnr, sparsification
from .pictures import PictureResult, drawn_frames
from .subject import Subject

Progress = Callable[[int, int, str], None]
Views = dict[str, np.ndarray]
NOISE = (20.0, 10.0, 0.0)
"""Signal to noise of a spoilt view, dB."""
BEYOND = (1.25, 1.5, 2.0)
"""Intensities past what a slider gives and what an avatar is trained on."""
GAUSSIANS = 256
SIZE = 128
"""px of pictures where no data set gives a camera."""
PIXELS = 200_000
"""That calibration and sparsification look at, at most."""


@dataclass
class Performance:
    """F frames that an avatar can be asked for: what `Subject.views` takes, part after part."""

    parts: list[dict[str, Any]]

    def views(self, subject: Subject, **other: Any) -> Views:
        """What its networks get, [F,..] each; `other` in the place of what the parts say."""
        each = [subject.views(**(part | other)) for part in self.parts]
        return {name: np.concatenate([one[name] for one in each]) for name in each[0]}


def of_sentences(sentences: list[Sentence], intensity: float | None = None, seed: int = 0) -> Performance:
    """Sentences under one emotion after the other, from frame to frame, at one intensity (None: any up to 1), with brows and blinks."""
    random, parts, start = np.random.default_rng(seed), [], 0
    for sentence in sentences:
        count = len(sentence.times)
        emotion = np.eye(len(EMOTIONS))[1 + (start + np.arange(count)) % (len(EMOTIONS) - 1)]
        emotion *= random.uniform(0, 1, (count, 1)) if intensity is None else intensity
        au = random.uniform(0, 1, (count, 6)) * (random.random((count, 6)) < 0.4)
        parts.append({"sound": sentence.sound, "times": sentence.times, "emotion": emotion, "au": au})
        start += count
    return Performance(parts)


def of_frames(data: FaceData, frames: list[Frame]) -> Performance:
    """What a data set's frames are known to be."""
    return Performance([{"sound": data.sound, **lm.view_of(data, frames)}])


STRANGER, LEFT_OUT = "a stranger's", "left out"
UNKNOWN = "% not measured"
GAPS = (33, 67, 100)
"""Shares of the action units that drop out, %."""


def spoilt(subject: Subject, views: Views, view: str, case: str, seed: int = 0, others: Mapping[str, Views] | None = None) -> Views:
    """The views with one of them spoilt.

    Args:
        case: `<n>% not measured`: so many of its numbers are NaN, which action units may be; `<n> dB`: Gaussian noise beside which the view's own changes have that level; `another moment's`: taken from half the performance
            away; `clean`: as they are; any of `others`, which has the views to take it from, over and over.
    """
    values = views[view]
    if others is not None and case in others:
        return views | {view: np.resize(others[case][view], values.shape)}
    if case == "clean":
        return views
    if case.endswith(UNKNOWN):  # the same ones and more with each step
        chance = np.random.default_rng(seed).uniform(size=values.shape)
        return views | {view: np.where(chance < float(case.removesuffix(UNKNOWN)) / 100, np.nan, values).astype(np.float32)}
    if case == "another moment's":
        return views | {view: np.roll(values, len(values) // 2, 0)}
    # The emotion may stand still over a whole shot: its signal is what tells the emotions apart.
    spread = (emotion_vectors(subject.head, np.eye(len(EMOTIONS)))[:, None] if view == "emotion" else values).std(0)
    noise = np.random.default_rng(seed).normal(size=values.shape) * np.maximum(spread, 0.1 * spread.mean())
    return views | {view: (values + 10 ** (-float(case.removesuffix(" dB")) / 20) * noise).astype(np.float32)}


CASES: dict[str, tuple[str, ...]] = {
    **{view: ("clean", *(f"{level:g} dB" for level in NOISE)) for view in VIEWS["face"]}, "au": ("clean", *(f"{share}{UNKNOWN}" for share in GAPS), LEFT_OUT)
}  # fmt: skip
CASES["style"] += ("another moment's",)
WEIGHED = {view: "audio" if view == "au" else view for view in CASES}
"""The fused view whose weight is looked at; action units are part of the audio view."""


def judge_spoilt_views(
    subject: Subject, performance: Performance, data: FaceData | None = None, frames: list[Frame] | None = None,
    baseline: Subject | None = None, strange: Performance | None = None, pictures: int = 24,
    progress: Progress = lambda done, total, text: None,
) -> dict[str, Any]:  # fmt: skip
    """One view spoilt at a time: what weight does it keep in the fusion, and what becomes of the picture?

    Args:
        data, frames: the performance is these frames of a data set, and pictures are held against its truth; without, against the
            avatar's own unspoilt portrait.
        baseline: an avatar without the fusion (concatenation), spoilt the same way.
        strange: of people that were not trained on; their style takes the place of the avatar's in one more case. Action units that are
            left out are those of a bake in which none is keyed: what goes with the emotion, where the avatar knows it; not measured: it is told so.
        pictures: how many are drawn in each case.

    Returns:
        view -> case -> `weight` of the view over the face and `weight, mouth`; `motion, <who>`: RMS change of the face's motion over the
        motion's own RMS; `psnr, <who>` dB; against a truth `loses, <who>`, the dB that this costs, and `loses ±, <who>`, the
        standard error of that mean over the pictures. <who> is `fusion`, `equal weights` (the same networks, every view weighing
        the same) or `baseline`. Beside the cases, `weight falls with the noise`.
    """
    spoilt_by = CASES if strange is None else CASES | {"style": (*CASES["style"], STRANGER)}
    result: dict[str, Any] = {view: {case: {} for case in cases} for view, cases in spoilt_by.items()}
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "equal.safetensors"
        save_avatar(subject.equal_weights(), path)
        judged = {"fusion": subject, "equal weights": Subject(path, subject.device, subject.threads)}
        if baseline is not None:
            judged["baseline"] = baseline
        done, total = 0, len(judged) * sum(map(len, spoilt_by.values()))
        for who, one in judged.items():
            views = performance.views(one)
            others = {LEFT_OUT: performance.views(one, au=None, measured=False)} | ({} if strange is None else {STRANGER: strange.views(one)})
            drawn = np.unique(np.linspace(0, len(views["audio"]) - 1, pictures).astype(int))
            truth = _truth(data, [frames[i] for i in drawn]) if data is not None and frames is not None else None
            moving = one.avatar.moving("face")
            deformer = one.crop(np.sort(np.random.default_rng(0).choice(moving, min(GAUSSIANS, len(moving)), replace=False)))
            clean = deformer.motion(views).face.d_means
            own = _pictures(one, {name: value[drawn] for name, value in views.items()}, data, frames, drawn)[0]
            unspoilt = None if truth is None else np.array([psnr(a, b) for a, b in zip(own, truth)])
            for view, cases in spoilt_by.items():
                for case in cases:
                    entry, changed = result[view][case], spoilt(one, views, view, case, others=others)
                    moved = deformer.motion(changed).face
                    seen, motion = _pictures(one, {name: value[drawn] for name, value in changed.items()}, data, frames, drawn)
                    if who == "fusion":
                        entry["weight"] = float(moved.shares[..., VIEWS["face"].index(WEIGHED[view])].mean())
                        if motion.mouth is not None and view in VIEWS["mouth"]:
                            entry["weight, mouth"] = float(motion.mouth.shares[..., VIEWS["mouth"].index(view)].mean())
                    entry[f"motion, {who}"] = float(np.sqrt(np.mean((moved.d_means - clean) ** 2) / np.mean(clean**2)))
                    if truth is not None or case != "clean":
                        each = np.array([psnr(a, b) for a, b in zip(seen, own if truth is None else truth)])
                        entry[f"psnr, {who}"] = float(each.mean())
                    if truth is not None and case != "clean":
                        lost = unspoilt - each
                        entry[f"loses, {who}"] = float(lost.mean())
                        entry[f"loses ±, {who}"] = float(lost.std(ddof=1) / np.sqrt(len(lost))) if len(lost) > 1 else float("nan")
                    done += 1
                    progress(done, total, f"{who}: {view} {case}")
    for view in CASES:
        weights = [result[view][case]["weight"] for case in CASES[view] if case == "clean" or case.endswith((" dB", UNKNOWN))]
        result[view]["weight falls with the noise"] = bool(np.all(np.diff(weights) < 0))
    return result


def _truth(data: FaceData, frames: list[Frame]) -> list[np.ndarray]:
    return [data.picture(frame) / np.float32(255) for frame in frames]


def _pictures(
    subject: Subject, views: Views, data: FaceData | None, frames: list[Frame] | None, rows: np.ndarray
) -> tuple[list[np.ndarray], Motion]:
    """A performance drawn before the data's cameras and backgrounds, else as portraits on grey; and the motion."""
    motion = subject.deformer.motion(views)
    found = []
    for place, row in enumerate(rows):
        if data is not None and frames is not None:
            drawn = subject.draw(motion, place, frames[row].viewmat, data.K, data.width, data.height, body=False)
            found.append(drawn.over(data.behind(frames[row]) / np.float32(255)))
        else:
            found.append(subject.draw(motion, place, *subject.portrait(SIZE), SIZE, SIZE).over(np.float32(0.5)))
    return found, motion


def judge_strangers(subject: Subject, seen: Performance, unseen: dict[str, Performance]) -> dict[str, Any]:
    """Is the avatar less sure of what it was not trained on?

    Returns:
        name -> `auroc` of the epistemic variance (mean over the face's moving Gaussians of a frame) for unseen frames against seen ones,
        the same of the aleatoric one, and the ratio of the mean epistemic variances.
    """
    moving = subject.avatar.moving("face")
    deformer = subject.crop(np.sort(np.random.default_rng(0).choice(moving, min(GAUSSIANS, len(moving)), replace=False)))

    def variances(performance: Performance) -> tuple[np.ndarray, np.ndarray]:
        moved = deformer.motion(performance.views(subject)).face
        return moved.epistemic.mean(1), moved.aleatoric.mean(1)

    known, found = variances(seen), {}
    for name, performance in unseen.items():
        strange = variances(performance)
        found[name] = {
            "frames": len(strange[0]), "auroc": auroc(known[0], strange[0]), "auroc of the aleatoric": auroc(known[1], strange[1]),
            "epistemic, times the seen": float(strange[0].mean() / known[0].mean()),
        }  # fmt: skip
    return found


def judge_errors(subject: Subject, data: FaceData, result: PictureResult, frames: int = 24) -> dict[str, Any]:
    """Are pixels wrong where the avatar says that it is unsure?

    Colour errors of the head's pixels on held-out frames against the total variance drawn there. A fusion knows no unit of variance
    (method, trap 4): where the avatar has no `variance_unit`, one for all is fitted on some training frames.

    Returns:
        `calibration` (measures.calibration) and `sparsification` of pixels and of whole frames (measures.sparsification).
    """
    factor = 1.0 if subject.avatar.knows_color_variance else _fitted_unit(subject, data, frames)
    if factor is None or not len(result.error):
        return {}
    some = np.random.default_rng(0).permutation(len(result.error))[:PIXELS]
    return {
        "calibration": calibration(result.error[some], result.variance[some], factor),
        "sparsification, pixels": sparsification(np.abs(result.error[some]), result.variance[some]),
        "sparsification, frames": sparsification(result.frame_error, result.frame_variance),
    }  # fmt: skip


def _fitted_unit(subject: Subject, data: FaceData, count: int) -> float | None:
    """Variance of colour for one that is drawn, on some training frames; None where nothing of the head moves there."""
    train = data.splits["train"]
    errors, variances = [], []
    for frame, drawn, picture, truth in drawn_frames(subject, data, [train[i] for i in np.unique(np.linspace(0, len(train) - 1, count).astype(int))]):
        total = drawn.aleatoric + drawn.epistemic
        moves = data.masks(frame).head & (total > 0)
        errors.append((picture - truth).mean(-1)[moves])
        variances.append(total[moves])
    error, variance = np.concatenate(errors), np.concatenate(variances)
    return float(np.mean(error**2 / variance)) if len(error) else None
