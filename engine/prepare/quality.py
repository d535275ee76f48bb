"""What a prepared video is worth: figures, and a note on everything that a user would want to put right."""

from __future__ import annotations

import wave
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter1d
from scipy.signal import butter, sosfiltfilt

from .action_units import head_plane, measures
from .pose import HeadPoses
from .shape import HeadShape
from .tracking import Shot, Track
from .video import FPS, VideoInfo

FINE = 100  # Hz: the rate that sound and mouth are compared at
FARTHEST = 0.5  # s
# The face's sharpness (see Track) is 0.34 to 0.84 in three videos; a blur of 1 px makes 0.15 to 0.53 of it, one of 2 px 0.08 to 0.26.
BLURRED, SOFT = 0.6, 0.15  # share of the video's own sharpness; all of it is soft
DARK_FACE, BRIGHT_FACE, CLIPPED = 0.15, 0.85, 0.10
STILL = 8.0  # degrees of yaw between the 5th and 95th percentile: less tells little of the head's sides
OFF = 0.06  # s
BAND = (500.0, 1200.0)  # Hz: what an open jaw makes loud, and hissing and humming do not
# Jaws open before the vowel is at its loudest: 110 ms in a studio recording in time (MEAD), at a correlation of 0.83.
LEAD = 0.11
CLEAR, SYLLABLES = 0.3, 5.0  # correlation from which the offset is believed; independent moments a second: three deviations of chance in short sounds
ERROR = 0.015  # of the face's height
SHORT = 30.0  # s


@dataclass(frozen=True, eq=False)
class Quality:
    """Figures by name, notes in plain lines, and pictures (numbers) worth a look by reason.

    Attributes:
        opening: [F] how far the jaw is open, over the eyes' width. loudness: [F] the sound's, 0..1.
    """

    figures: dict[str, Any]
    notes: tuple[str, ...]
    blurred: np.ndarray
    opening: np.ndarray
    loudness: np.ndarray


def judge(
    part: Track, landmarks: np.ndarray, shape: HeadShape, poses: HeadPoses, units: dict[str, np.ndarray], sound: Path, info: VideoInfo, shot: Shot,
    scale: float, free: float,
) -> Quality:  # fmt: skip
    """Measure.

    Args:
        part: the track of the shot. landmarks: [F,478,3] px in the data set's pictures. units: of `action_units`.
        sound: the data set's WAV file. scale: px of the pictures a px of the video. free: share of the background that was seen.
    """
    seen = part.seen
    faces = landmarks[seen][..., :2]
    height = float(np.median(np.linalg.norm(faces[:, 10] - faces[:, 152], axis=-1)))
    error = float(np.sqrt(np.mean(poses.error[seen] ** 2)))
    angles = np.quantile(poses.angles[seen], [0.05, 0.95], axis=0)
    usual = float(np.nanmedian(part.sharpness))
    blurred = np.flatnonzero(seen & (part.sharpness < BLURRED * usual))
    opening, loudness = _opening(landmarks, seen, shape, poses), loudness_of(sound, len(part))
    offset, agreement = sound_offset(opening, sound)
    shut = units["AU45"] > 1.5
    blinks = int(np.sum(shut[1:] & ~shut[:-1]))
    light, clipped = float(np.nanmedian(part.light)), float(np.nanmedian(part.clipped))
    minutes = len(part) / FPS / 60
    silent = bool(loudness.max(initial=0) <= 0)
    figures = {
        "seconds": round(len(part) / FPS, 2), "tracked": f"{int(seen.sum())} of {len(part)}", "focal_px": round(shape.focal, 1),
        "distance_m": round(shape.distance, 2), "face_px": round(height, 1), "reprojection_px": round(error, 3),
        "reprojection_worst_px": round(float(np.nanmax(poses.error)), 3), "reprojection_of_face": round(error / height, 5),
        "yaw": _range(angles[:, 0]), "pitch": _range(angles[:, 1]), "roll": _range(angles[:, 2]), "blurred": len(blurred),
        "sharpness": round(usual, 3), "light": round(light, 3), "clipped": round(clipped, 3), "blinks_a_minute": round(blinks / minutes, 1),
        "sound_offset_ms": None if offset is None else round(1000 * offset), "sound_agreement": round(agreement, 2),
        "background_seen": round(free, 2), "video_rate": round(info.rate, 3), "video_rate_varies": info.variable, "video_rotation": info.rotation,
    }  # fmt: skip
    notes = list(shot.notes)
    if info.variable:
        notes.append("The video's rate varies: pictures were taken by their times, 25 a second.")
    elif abs(info.rate - FPS) > 0.05:
        notes.append(f"The video has {info.rate:.2f} pictures a second: the nearest one was taken 25 times a second.")
    if info.rotation:
        notes.append(f"The video is stored turned by {info.rotation} degrees: its pictures were set upright.")
    if len(part) / FPS < SHORT:
        notes.append(f"Only {len(part) / FPS:.0f} s: a minute or more teaches the mouth many more sounds.")
    if error > ERROR * height:
        notes.append(f"The head's pose explains the landmarks to {error / height:.1%} of the face's height only: look at the overlays.")
    if len(blurred) > 0.05 * len(part):
        notes.append(f"{len(blurred)} pictures are blurred.")
    if usual < SOFT:
        notes.append(f"The whole video is soft (sharpness {usual:.2f}): the avatar will be no sharper.")
    if not DARK_FACE < light < BRIGHT_FACE:
        notes.append(f"The face is too {'dark' if light <= DARK_FACE else 'bright'} (mean {light:.0%} of full).")
    if clipped > CLIPPED:
        notes.append(f"{clipped:.0%} of the face is black or white without detail.")
    if angles[1, 0] - angles[0, 0] < STILL:
        notes.append(f"The head turns by {angles[1, 0] - angles[0, 0]:.0f} degrees from side to side only: the avatar is to be seen from the front.")
    if silent:
        notes.append("The sound is silent from end to end.")
    elif offset is not None and abs(offset) > OFF:
        notes.append(
            f"The mouth is {abs(offset) * 1000:.0f} ms {'ahead of' if offset < 0 else 'behind'} the sound (correlation {agreement:.2f}): "
            f"if it looks so, prepare again with --sound-shift {offset * 1000:.0f}."
        )
    elif offset is None:
        notes.append(f"Mouth and loudness agree too little (correlation {agreement:.2f}) to tell whether the sound is in time: is it this person's voice?")
    if free < 0.2:
        notes.append("Little of the background was seen: behind the person it is guessed.")
    return Quality(figures, tuple(notes), blurred, opening, loudness)


def sound_offset(opening: np.ndarray, sound: Path) -> tuple[float | None, float]:
    """How much later the jaw opens than it would if the sound were in time.

    Jaw and loudness of an open mouth are compared at 100 Hz without what changes slower than about a second, over half a
    second both ways; what jaws are ahead by nature is taken off.

    Args:
        opening: [F] at 25 a second, from the beginning of `sound`.

    Returns:
        Seconds (negative: the mouth is ahead of the sound), None where they do not agree clearly; the correlation there.
    """
    loud = _envelope(sound, BAND)
    times = np.arange(len(loud)) / FINE
    mouth = np.interp(times, np.arange(len(opening)) / FPS, opening)
    loud, mouth = _lively(loud), _lively(mouth)
    reach = int(FARTHEST * FINE)
    if len(loud) < 4 * reach or loud.std() < 1e-9 or mouth.std() < 1e-9:
        return None, 0.0
    best, agreement, nature = 0, -1.0, round(LEAD * FINE)
    for lag in range(-reach - nature, reach - nature + 1):
        a, b = mouth[max(lag, 0) : len(mouth) + min(lag, 0)], loud[max(-lag, 0) : len(loud) - max(lag, 0)]
        found = float(np.corrcoef(a, b)[0, 1])
        if found > agreement:
            best, agreement = lag, found
    clear = max(CLEAR, 3 / np.sqrt(SYLLABLES * len(loud) / FINE))
    return ((best + nature) / FINE if agreement >= clear and abs(best + nature) < reach else None), agreement


def loudness_of(sound: Path, count: int) -> np.ndarray:
    """[count] loudness at 25 a second, 0..1."""
    loud = _envelope(sound)
    values = np.interp(np.arange(count) / FPS, np.arange(len(loud)) / FINE, loud)
    return values / max(float(values.max(initial=0)), 1e-9)


def _envelope(sound: Path, band: tuple[float, float] | None = None) -> np.ndarray:
    """Loudness at 100 Hz: the square root of the amplitude's root mean square, which ears come near to."""
    with wave.open(str(sound)) as file:
        rate, samples = file.getframerate(), np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768
    if band is not None and len(samples) > 100:
        samples = sosfiltfilt(butter(4, band, "bandpass", fs=rate, output="sos"), samples)
    step = rate // FINE
    blocks = samples[: len(samples) // step * step].reshape(-1, step)
    power = gaussian_filter1d((blocks**2).mean(1), 2.0) if len(blocks) else np.zeros(1)
    return np.sqrt(np.sqrt(power.clip(0)))


def _lively(values: np.ndarray) -> np.ndarray:
    return gaussian_filter1d(values, 3.0) - gaussian_filter1d(values, 25.0)


def _opening(landmarks: np.ndarray, seen: np.ndarray, shape: HeadShape, poses: HeadPoses) -> np.ndarray:
    filled = np.where(seen[:, None, None], landmarks[:, :468, :2], 0.0)
    chin = measures(head_plane(filled, shape, poses))["chin"]
    steps = np.arange(len(seen))
    return np.interp(steps, steps[seen], chin[seen].max() - chin[seen])


def _range(values: np.ndarray) -> str:
    return f"{values[0]:.1f} to {values[1]:.1f}"
