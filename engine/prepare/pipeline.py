"""The way from a video to a data set folder, step by step; each step's result is kept until the end, so that a later run goes on."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from .. import __version__
from ..avatar import EMOTIONS
from ..dataset import EMOTION_FILES, DataWriter
from ..errors import UserError
from ..files import atomic_write, file_hash
from ..shot import load_emotion
from .action_units import action_units
from .landmarks import LANDMARKS_68, Tracker
from .masks import Colours, background_picture, learn_colours, over, parse, refine, torso_picture
from .pose import HeadPoses, fit_poses
from .quality import judge
from .report import write_report
from .shape import fit_shape
from .tracking import Progress, Shot, Track, choose_shot, track
from .video import FPS, VideoInfo, inspect, pictures, write_sound

WORK = ".prepare"
SAMPLES = 40  # pictures that colours and background are learned from
SMALLEST_FACE = 48  # px between chin and forehead in the data set's pictures


@dataclass(frozen=True)
class PrepareSettings:
    """How a video is prepared.

    Attributes:
        size: px, longest side of the pictures; smaller ones are never enlarged.
        whole: keep the whole picture instead of a square around the head.
        start, end: s, the part of the video that is used.
        sound: a sound file in place of the video's track. sound_shift: s by which the sound is moved later.
        largest_face: follow the face that is largest at first where there are two, instead of refusing.
        focal: px of the upright video, where it is known.
        name: who it is. landmark_python: a Python that has mediapipe.
        emotions: an emotion file (`engine.shot.load_emotion`) that says what the person shows, in seconds of the video.
    """

    size: int = 512
    whole: bool = False
    start: float = 0.0
    end: float | None = None
    sound: Path | None = None
    sound_shift: float = 0.0
    largest_face: bool = False
    focal: float | None = None
    name: str = ""
    landmark_python: Path | None = None
    emotions: Path | None = None


@dataclass(frozen=True)
class Window:
    """The part of a video's pictures that is kept: left, top, width, height in its px, and the size it gets."""

    left: int
    top: int
    width: int
    height: int
    out_width: int
    out_height: int

    @property
    def scale(self) -> float:
        return self.out_width / self.width

    def picture(self, picture: np.ndarray) -> np.ndarray:
        """[out_height,out_width,3] uint8."""
        part = picture[self.top : self.top + self.height, self.left : self.left + self.width]
        if self.scale == 1:
            return part
        return np.asarray(Image.fromarray(part).resize((self.out_width, self.out_height), Image.Resampling.LANCZOS))

    def points(self, points: np.ndarray) -> np.ndarray:
        """[...,3] landmarks in the window's px."""
        return ((points - np.array([self.left, self.top, 0])) * self.scale).astype(np.float32)


def prepare(video: Path, out: Path, settings: PrepareSettings | None = None, progress: Progress = lambda done, total, text: None) -> dict[str, Any]:
    """Make a data set folder of a video. A run that was killed is taken up where it stopped.

    Returns:
        What was made, in words and figures: folder, pictures, size, focal length, reprojection error, report, notes.

    Raises:
        UserError: there is no such video or none that can be used (no face, two faces, no sound, too short between its cuts),
            something is not installed, or OUT holds something else.
    """
    settings = settings or PrepareSettings()
    _check(settings)
    shown = None if settings.emotions is None else load_emotion(settings.emotions, FPS)
    video, out = Path(video), Path(out)
    info = inspect(video)
    if not info.sound and settings.sound is None:
        raise UserError(f"{video}: has no sound, and a talking head learns from its speech.", "Give the speech by --sound FILE.")
    first = round(settings.start * FPS)
    count = (info.count if settings.end is None else min(info.count, round(settings.end * FPS))) - first
    if count < 1:
        raise UserError(f"{video}: lasts {info.duration:.2f} s; nothing of it lies in the part that --start and --end choose.", "Check them.")
    work = out / WORK
    _claim(video, out, settings)
    with Tracker(settings.landmark_python) as tracker:
        found = track(video, info, tracker, work, first, count, progress)
        shot = choose_shot(video, found, first, settings.largest_face)
        part = found.part(shot.first - first, shot.last - first)
        window = choose_window(part, info, settings)
        landmarks = window.points(part.landmarks)
        progress(0, 1, "fitting pose and lens")
        centre = (window.out_width / 2, window.out_height / 2)
        shape = fit_shape(landmarks[part.seen], centre, settings.focal and settings.focal * window.scale)
        poses = fit_poses(landmarks, shape)
        units = action_units(landmarks, shape, poses)
        sound = work / "aud.wav"
        write_sound(
            settings.sound or video, None if settings.sound else info, shot.first / FPS, len(part) / FPS, sound, settings.sound_shift
        )  # fmt: skip
        progress(1, 1, "fitting pose and lens")
        colours, background, free = _learn(video, info, tracker, shot, window, landmarks, part.seen)
        writer = DataWriter(out, window.out_width, window.out_height, shape.focal, *centre, FPS)
        _write_pictures(writer, video, info, tracker, shot, window, landmarks, part.seen, poses, colours, background, progress)
    quality = judge(part, landmarks, shape, poses, units, sound, info, shot, window.scale, free)
    write_report(out, video, writer, landmarks, shape, poses, units, quality, background)
    notes = list(quality.notes)
    if shown is None:
        notes.append("Nothing says what emotions are shown: an avatar's emotion sliders would do nothing (--emotions, or emotions.json in the folder).")
    else:
        _write_emotions(out, shown.at(shot.first / FPS + np.arange(len(part)) / FPS))
    numbers = [int(k) for k in np.flatnonzero(part.seen)]
    split = max(1, len(numbers) * 10 // 11)  # the authors' split: the last eleventh is held out
    described = {
        "name": settings.name or video.stem, "metres_per_unit": 1.0,
        "provenance": f"{video.name}, {shot.first / FPS:.2f} to {shot.last / FPS:.2f} s, prepared by UA-3DTalk for Blender {__version__}",
        "consent": "", "licence": "", "mean_colour": [float(c) for c in background.reshape(-1, 3).mean(0).round(1)],
        "quality": quality.figures, "notes": notes,
    }  # fmt: skip
    writer.finish({"train": numbers[:split], "val": numbers[split:]}, units, background, sound, info=described)
    shutil.rmtree(work, ignore_errors=True)
    return {
        "out": str(out), "pictures": len(numbers), "train": split, "val": len(numbers) - split,
        "size": f"{window.out_width} x {window.out_height}", **quality.figures, "report": str(out / "report.html"), "notes": notes,
    }  # fmt: skip


def _write_emotions(out: Path, shown: dict[str, np.ndarray]) -> None:
    """`emotions.csv` of the data set: a line a picture, to be read and mended by hand."""
    rows: list[tuple[str, ...]] = [("time", *EMOTIONS, "intensity")]
    for k, (weights, intensity) in enumerate(zip(shown["keyed"], shown["intensity"])):
        rows.append((f"{k / FPS:.2f}", *(f"{value:.4g}" for value in (*weights, intensity))))
    with atomic_write(out / EMOTION_FILES[1]) as file:
        file.write("".join(",".join(row) + "\n" for row in rows).encode())


def choose_window(part: Track, info: VideoInfo, settings: PrepareSettings) -> Window:
    """A square that the head stays in, with room for hair and shoulders, or the whole picture; it stands still.

    Raises:
        UserError: the face is too small.
    """
    faces = part.landmarks[part.seen][..., :2]
    low, high = faces.min(1), faces.max(1)
    face = float(np.median(high[:, 1] - low[:, 1]))
    left, top, width, height = 0, 0, info.width, info.height
    if not settings.whole:
        # All places of the face, and about two faces more: a head with hair is 1.5 faces high.
        reach = np.quantile(high, 0.995, axis=0) - np.quantile(low, 0.005, axis=0)
        side = int(min(max(reach.max(), face) + 1.4 * face, info.width, info.height))
        side -= side % 2
        if side < min(info.width, info.height) or info.width != info.height:
            middle = (np.quantile(high, 0.995, axis=0) + np.quantile(low, 0.005, axis=0)) / 2
            left = int(np.clip(middle[0] - side / 2, 0, info.width - side))
            top = int(np.clip(middle[1] - side / 2, 0, info.height - side))
            width = height = side
    scale = min(1.0, settings.size / max(width, height))
    if face * scale < SMALLEST_FACE:
        raise UserError(
            f"The face is {face:.0f} px high in the video and {face * scale:.0f} px in the pictures.",
            f"At least {SMALLEST_FACE} px are needed: take a video with a larger face" + (", leave --whole out" if settings.whole else "") + ".",
        )
    return Window(left, top, width, height, max(1, round(width * scale)), max(1, round(height * scale)))


def _check(settings: PrepareSettings) -> None:
    if settings.size < 64:
        raise UserError(f"--size {settings.size}: too small for a face.", "Give at least 64, 512 is usual.")
    if not settings.start >= 0 or (settings.end is not None and not settings.end > settings.start):
        raise UserError(f"--start {settings.start:g} --end {settings.end}: not a part of a video.", "Give seconds, --end after --start.")
    if settings.focal is not None and not settings.focal > 0:
        raise UserError(f"--focal {settings.focal:g}: not a focal length.", "Give pixels of the video, or leave it out.")
    if settings.sound is not None and not settings.sound.is_file():
        raise UserError(f"{settings.sound}: no such file.", "Check --sound.")


def _claim(video: Path, out: Path, settings: PrepareSettings) -> None:
    """Hold that OUT is empty or belongs to this video with these settings.

    Raises:
        UserError: it does not.
    """
    key = hashlib.sha256(
        json.dumps(
            [1, file_hash(video), settings.sound and file_hash(settings.sound), asdict(replace(settings, sound=None, landmark_python=None, name="", emotions=None))]
        ).encode()
    ).hexdigest()  # fmt: skip
    claim = out / WORK / "video.json"
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file.", "Choose a folder that is new or empty.")
    if claim.is_file():
        try:
            same = json.loads(claim.read_text("utf-8"))["key"] == key
        except (OSError, ValueError, KeyError, TypeError):
            same = False
        if not same:
            raise UserError(f"{out} was begun with another video or other settings.", "Choose another folder, or delete it.")
        return
    if out.is_dir() and any(out.iterdir()):
        whole = (out / "transforms_train.json").is_file()
        raise UserError(f"{out} " + ("is a data set already." if whole else "is not empty."), "Choose another folder, or delete it.")
    with atomic_write(claim) as file:
        file.write(json.dumps({"key": key, "video": video.name}).encode())


def _learn(
    video: Path, info: VideoInfo, tracker: Tracker, shot: Shot, window: Window, landmarks: np.ndarray, seen: np.ndarray
) -> tuple[Colours, np.ndarray, float]:
    """Colours of the person, the background picture, and which share of it was seen."""
    numbers = np.flatnonzero(seen)
    wanted = set(numbers[np.linspace(0, len(numbers) - 1, min(SAMPLES, len(numbers))).astype(int)].tolist())
    samples = [
        (k, picture, refine(tracker.person(picture), picture, landmarks[k])) for k, picture in _windows(video, info, shot, window, wanted)
    ]
    colours = learn_colours((picture, alpha, landmarks[k]) for k, picture, alpha in samples)
    background, known = background_picture((picture, alpha) for _, picture, alpha in samples)
    return colours, background, float(known.mean())


def _write_pictures(
    writer: DataWriter, video: Path, info: VideoInfo, tracker: Tracker, shot: Shot, window: Window, landmarks: np.ndarray, seen: np.ndarray,
    poses: HeadPoses, colours: Colours, background: np.ndarray, progress: Progress,
) -> None:  # fmt: skip
    cameras = poses.camera_to_world
    wanted = set()
    for k in np.flatnonzero(seen).tolist():
        if writer.has(k):
            writer.place(k, k, cameras[k])
        else:
            wanted.add(k)
    done, total = int(seen.sum()) - len(wanted), int(seen.sum())
    for k, picture in _windows(video, info, shot, window, wanted):
        alpha = refine(tracker.person(picture), picture, landmarks[k])
        parsing = parse(picture, alpha, landmarks[k], colours)
        torso = torso_picture(picture, alpha, parsing, landmarks[k])
        points = landmarks[k][LANDMARKS_68, :2]
        writer.add(k, k, cameras[k], over(picture, alpha, background), parsing, torso, points, original=picture)
        done += 1
        progress(done, total, "pictures written")


def _windows(video: Path, info: VideoInfo, shot: Shot, window: Window, wanted: set[int]) -> Iterator[tuple[int, np.ndarray]]:
    """(number in the shot, picture in the window) of those wanted."""
    if not wanted:
        return
    for number, picture in pictures(video, info, shot.first, max(wanted) + 1):
        if number - shot.first in wanted:
            yield number - shot.first, np.ascontiguousarray(window.picture(picture))
