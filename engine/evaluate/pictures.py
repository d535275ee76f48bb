"""A data set's held-out frames drawn through the real path, beside the truth."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Callable, Iterator

import numpy as np
import torch

from ..dataset import FaceData, Frame
from ..deform.fast import Motion
from ..errors import UserError
from ..priors.run import CLEAR
from ..train.losses import ssim
from ..train.perceptual import Lpips
from ..views.content import MBP, VISEMES
from . import landmarks as lm
from .detected import Detector
from .measures import (
    LOWER_AUS, UPPER_AUS, action_unit_error, aperture_lag, frechet_distance, landmark_distance, psnr,
)  # fmt: skip
from .subject import Drawn, Subject
from .sync import judge_lead, judge_syncnet
from .syncnet import Syncnet

Progress = Callable[[int, int, str], None]
BATCH = 8
OPEN_VOWELS = tuple(VISEMES.index(name) for name in ("aa", "ae", "ah", "ao", "eh"))


@dataclass
class PictureResult:
    """What held-out frames show.

    Attributes:
        figures: by name, for the table; those of `still` are of the same head at rest.
        notes: how they were come by.
        opening, true_opening: [F] of the lips over the frames `times` [F] seconds, in the head's units.
        error: [P] mean colour error of some head pixels; variance: [P] their predicted variance; frame_error, frame_variance: their means
            in each drawn frame.
        sheet: rows of pictures [H,W,3] uint8: truth, prediction, four times their difference, and four times the error that the avatar
            expects (where its variances have no unit, from the least to the most).
    """

    figures: dict[str, Any]
    notes: list[str]
    times: np.ndarray
    opening: np.ndarray
    true_opening: np.ndarray
    error: np.ndarray
    variance: np.ndarray
    frame_error: np.ndarray
    frame_variance: np.ndarray
    sheet: list[list[np.ndarray]] = field(default_factory=list)


def moved_frames(subject: Subject, data: FaceData, frames: list[Frame]) -> Iterator[tuple[Frame, Motion, int]]:
    """Each frame, a motion, and which of the motion's frames it is."""
    for start in range(0, len(frames), BATCH):
        some = frames[start : start + BATCH]
        motion = subject.deformer.motion(subject.views(data.sound, **lm.view_of(data, some)))
        yield from ((frame, motion, place) for place, frame in enumerate(some))


def drawn_frames(subject: Subject, data: FaceData, frames: list[Frame]) -> Iterator[tuple[Frame, Drawn, np.ndarray, np.ndarray]]:
    """Each frame, as it is drawn, its picture over the data's own background, and the truth, in 0..1."""
    for frame, motion, place in moved_frames(subject, data, frames):
        yield frame, *_head(subject, data, frame, motion, place)


def _head(subject: Subject, data: FaceData, frame: Frame, motion: Motion, place: int) -> tuple[Drawn, np.ndarray, np.ndarray]:
    """What `drawn_frames` gives of a frame."""
    drawn = subject.draw(motion, place, frame.viewmat, data.K, data.width, data.height, body=False)
    return drawn, drawn.over(data.behind(frame) / np.float32(255)), data.picture(frame) / np.float32(255)


def drawn_still(subject: Subject, data: FaceData, frame: Frame) -> np.ndarray:
    """The head at rest before a frame's camera and background, in 0..1."""
    return subject.draw(None, 0, frame.viewmat, data.K, data.width, data.height, body=False).over(data.behind(frame) / np.float32(255))


def judge_pictures(
    subject: Subject, data: FaceData, split: str, every: int = 1, rows: int = 6, lpips: Lpips | None = None, syncnet: Syncnet | None = None,
    detector: Detector | None = None, progress: Progress = lambda done, total, text: None,
) -> PictureResult:  # fmt: skip
    """Hold an avatar's pictures, mouth and expression against a split that it was not trained on.

    Args:
        every: pictures are drawn of every n-th frame; mouths and expressions are followed in all.
        rows: of the contact sheet.
        lpips: the perceptual distance, where its weights are given; syncnet: Sync-C and Sync-D, of all frames.
        detector: finds landmarks in what is drawn and in the truth.

    Raises:
        UserError: there is no such split, it is empty, or SyncNet cannot judge it.
    """
    frames = held_out(data, split)
    some, parts = frames[::every], lm.pieces(data, frames)
    found: dict[str, list[float]] = {name: [] for name in ("psnr", "psnr head", "ssim", "psnr still", "psnr head still", "ssim still")}
    shown = set(np.unique(np.linspace(0, len(some) - 1, rows).astype(int)).tolist())
    errors, variances, sheet = [], [], []
    for number, (frame, motion, place) in enumerate(moved_frames(subject, data, some)):
        drawn, picture, truth = _head(subject, data, frame, motion, place)
        masks = data.masks(frame)
        at_rest = drawn_still(subject, data, frame)
        head = masks.head if masks.head.any() else np.ones_like(masks.head)
        if detector is not None:
            goes_on = number > 0 and every == 1 and bool(parts[number] == parts[number - 1])
            detector.look(picture, at_rest, truth, goes_on)
        for name, seen in (("", picture), (" still", at_rest)):
            found[f"psnr{name}"].append(psnr(seen, truth))
            found[f"psnr head{name}"].append(psnr(seen, truth, head))
            pair = [torch.from_numpy(np.ascontiguousarray(x, np.float32)) for x in (seen, truth)]
            found[f"ssim{name}"].append(float(ssim(*pair)))
            if lpips is not None:
                with torch.no_grad():
                    found.setdefault(f"lpips{name}", []).append(float(lpips(*pair)))
        if len(subject.avatar.body()):
            whole = subject.draw(motion, place, frame.viewmat, data.K, data.width, data.height)
            found.setdefault("psnr with its body", []).append(psnr(whole.over(data.background / np.float32(255)), truth))
        total = drawn.aleatoric + drawn.epistemic
        moves = head & (total > 0)
        apart = (picture - truth).mean(-1)
        errors.append(apart[moves])
        variances.append(total[moves])
        if number in shown:
            spread = 4 * np.sqrt(total) if subject.avatar.knows_color_variance else total
            sheet.append([truth, picture, np.clip(4 * np.abs(picture - truth), 0, 1), spread[..., None].repeat(3, 2)])
        progress(number + 1, len(some), f"picture {frame.number}")
    low, high = 0.0, 1.0
    if not subject.avatar.knows_color_variance and any(map(len, variances)):
        low, high = np.quantile(np.concatenate(variances), (0.01, 0.99))
    sheet = [[_bytes(x) for x in (*row[:3], (row[3] - low) / max(high - low, 1e-30))] for row in sheet]
    figures: dict[str, Any] = {"frames drawn": len(some), "frames followed": len(frames)}
    figures |= {name: float(np.mean(values)) for name, values in found.items()}
    if detector is not None:
        figures |= detector.figures()
    tracker = lm.Tracker(subject, data)
    followed, notes, (opening, true_opening) = _follow(tracker, data, split, frames)
    if syncnet is not None:
        in_sync, told = judge_syncnet(
            syncnet, data, frames, tracker, lambda part: (_bytes(picture) for _, _, picture, _ in drawn_frames(subject, data, part)),
            lambda part: (_bytes(drawn_still(subject, data, frame)) for frame in part), progress,
        )  # fmt: skip
        followed, notes = followed | in_sync, notes + told
    frame_error, frame_variance = (np.array([np.mean(np.abs(x)) for x in values if len(x)]) for values in (errors, variances))
    return PictureResult(
        figures | followed, notes, np.array([frame.time for frame in frames]), opening, true_opening, np.concatenate(errors),
        np.concatenate(variances), frame_error, frame_variance, sheet,
    )  # fmt: skip


def held_out(data: FaceData, split: str) -> list[Frame]:
    """The frames of a split in the order of the sound. Raises UserError where it is not there or empty."""
    if not data.splits.get(split):
        raise UserError(f"{data.folder} has no frames in split `{split}`.", f"It has {', '.join(data.splits)}.")
    camera = np.zeros(max(f.number for f in data.splits[split]) + 1, int) if data.labels is None else data.labels.camera
    return sorted(data.splits[split], key=lambda frame: (camera[frame.number], frame.time))


def _follow(
    tracker: lm.Tracker, data: FaceData, split: str, frames: list[Frame]
) -> tuple[dict[str, Any], list[str], tuple[np.ndarray, np.ndarray]]:
    """All that needs landmarks."""
    train = data.splits["train"]
    truth = data.landmarks[[frame.number for frame in frames]]
    known = np.isfinite(truth).all((1, 2))
    if not known.any():
        nothing = np.full(len(frames), np.nan)
        return {}, ["no landmarks in this split: mouths were not followed"], (nothing, nothing)
    frames, truth = [f for f, k in zip(frames, known) if k], truth[known]
    numbers = np.array([frame.number for frame in frames])
    seen, still = tracker.landmarks(frames), tracker.landmarks(frames, still=True)
    sides = {"": tracker.frontal(seen, frames), " still": tracker.frontal(still, frames)}
    true_places = tracker.frontal(truth, frames)
    figures: dict[str, Any] = {
        "lmd": float(landmark_distance(seen, truth).mean()), "lmd still": float(landmark_distance(still, truth).mean())
    }  # fmt: skip
    read_aus, (read, what) = lm.action_units(data, tracker, train), lm.expression(data, tracker, train)
    true_aus = {name: values[numbers] for name, values in data.au_table.items()}
    true_coefficients = read(true_places)
    for side, places in ({" of the true landmarks": true_places} | sides).items():
        units = read_aus(places)
        figures[f"aue upper{side}"] = action_unit_error(units, true_aus, UPPER_AUS)
        figures[f"aue lower{side}"] = action_unit_error(units, true_aus, LOWER_AUS)
        if places is not true_places:
            figures[f"frechet distance of expression{side}"] = frechet_distance(read(places), true_coefficients)
    opening, true_opening = lm.aperture(sides[""]), lm.aperture(true_places)
    lag, peak = aperture_lag(opening, true_opening, lm.pieces(data, frames), data.fps)
    figures |= {"lip lag (ms)": 1000 * lag, "lip correlation": peak, "lip travel": float(opening.std() / max(true_opening.std(), 1e-30))}
    by_id = {side: np.full_like(data.landmarks, np.nan) for side in ("", " still")}
    for side, places in zip(by_id, (seen, still)):
        by_id[side][numbers] = places
    figures |= judge_lead(data, split, by_id | {" of the true landmarks": data.landmarks})
    notes = [
        f"Predicted landmarks: {lm.SOURCE}.",
        f"Action units: read off landmarks by ridge regression learned on the training frames ({', '.join(units)}); what the true landmarks"
        " give stands beside, no prediction can be expected to do better.",
        f"Expression coefficients: {what}; this is not E-FID.",
        "Lag by the shipped sync discriminator: of the landmarks' mouth against the sound, without the truth; clearness in deviations of the other"
        f" shifts, below {CLEAR:g} the lag says little.",
    ]  # fmt: skip
    if data.labels is None:
        notes.append("Closure recall: the data has no phoneme labels.")
    else:
        figures |= closures(opening, true_opening, data.labels.viseme[numbers], lm.pieces(data, frames), tracker.closed_below())
    full = np.full((2, len(known)), np.nan)
    full[:, known] = opening, true_opening
    return figures, notes, (full[0], full[1])


def closures(opening: np.ndarray, truth: np.ndarray, viseme: np.ndarray, parts: np.ndarray, limit: float) -> dict[str, Any]:
    """Do lips close where they are to?

    Args:
        opening, truth: [F]; viseme: [F] index; parts: [F] uninterrupted pieces; limit: opening below which lips are closed.

    Returns:
        closure recall (of the p b m that the true lips close on, the share that these close on, a frame to either side allowed), their
        count, and the share of open vowels with open true lips on which these are open too.
    """
    recalled, opened = [], []
    edges = np.flatnonzero((np.diff(viseme) != 0) | (np.diff(parts) != 0)) + 1
    for rows in np.split(np.arange(len(viseme)), edges):
        if viseme[rows[0]] == MBP:
            around = np.arange(max(rows[0] - 1, 0), min(rows[-1] + 2, len(viseme)))
            around = around[parts[around] == parts[rows[0]]]
            if truth[around].min() < limit:
                recalled.append(opening[around].min() < limit)
        elif viseme[rows[0]] in OPEN_VOWELS and truth[rows].max() > limit:
            opened.append(opening[rows].max() > limit)
    mean = lambda values: float(np.mean(values)) if values else float("nan")  # noqa: E731
    return {"closure recall": mean(recalled), "closures": len(recalled), "open vowels open": mean(opened)}


def _bytes(picture: np.ndarray) -> np.ndarray:
    return np.rint(np.clip(picture, 0, 1) * 255).astype(np.uint8)
