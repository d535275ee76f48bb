"""A video as pictures at an even rate and as sound, by PyAV: time stamps, rotation and pixel shape are heeded."""

from __future__ import annotations

import wave
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import UserError
from ..files import atomic_path

FPS = 25.0
SOUND_RATE = 16000
UNEVEN = 0.2  # a step between pictures this share off the usual one is uneven
UNEVEN_SHARE = 0.01  # so many uneven steps make a rate variable


@dataclass(frozen=True)
class VideoInfo:
    """What a file holds.

    Attributes:
        width, height: px, upright and with square pixels.
        rotation: degrees by which the stored pictures are turned counter-clockwise to be upright (0, 90, 180, 270).
        pictures: how many are stored. rate: pictures a second, the median. variable: the time between them varies.
        start: time stamp of the first picture, s. duration: s from there to the end of the last.
        sound: it has a sound track.
    """

    width: int
    height: int
    rotation: int
    pictures: int
    rate: float
    variable: bool
    start: float
    duration: float
    sound: bool

    @property
    def count(self) -> int:
        """Pictures at 25 a second."""
        return max(1, int(self.duration * FPS + 0.5 - 1e-6))


def inspect(path: Path) -> VideoInfo:
    """What is in a video file.

    Raises:
        UserError: PyAV is not installed, no such file, not a video, or no picture in it can be read.
    """
    with _opened(path) as container:
        stream = _video_stream(container, path)
        first = next(iter(container.decode(stream)), None)
        if first is None:
            raise UserError(f"{path}: no picture in it can be read.", "Convert it first, for example: ffmpeg -i INPUT out.mp4")
        aspect = float(stream.sample_aspect_ratio or 1) or 1.0
        rotation = int(round(first.rotation / 90.0)) * 90 % 360
        width, height = max(1, round(first.width * aspect)), first.height
        sound = bool(container.streams.audio)
        guess = float(stream.guessed_rate or stream.average_rate or FPS)
    with _opened(path) as container:
        stream = _video_stream(container, path)
        # Time stamps lie in the packets: nothing is decoded for them.
        stamps = sorted({float(p.pts * p.time_base) for p in container.demux(stream) if p.pts is not None and p.size})
    if not stamps:
        raise UserError(f"{path}: its pictures have no times.", "Convert it first, for example: ffmpeg -i INPUT out.mp4")
    steps = np.diff(stamps)
    step = float(np.median(steps)) if len(steps) else 1 / guess
    variable = len(steps) > 0 and float(np.mean(np.abs(steps - step) > UNEVEN * step)) > UNEVEN_SHARE
    if rotation % 180:
        width, height = height, width
    return VideoInfo(
        width, height, rotation, len(stamps), 1 / step, variable, stamps[0], stamps[-1] - stamps[0] + step, sound
    )  # fmt: skip


def pictures(path: Path, info: VideoInfo, first: int = 0, count: int | None = None) -> Iterator[tuple[int, np.ndarray]]:
    """Pictures at 25 a second, upright: (number, [H,W,3] uint8); number k is the stored picture nearest in time to k / 25 s.

    Args:
        first, count: the range of numbers; without `count`, to the end.

    Raises:
        UserError: the file cannot be decoded.
    """
    last = info.count if count is None else min(info.count, first + count)
    number, held, held_time = first, None, 0.0
    with _opened(path) as container:
        stream = _video_stream(container, path)
        # One codec thread: the landmark process works at the same time.
        stream.codec_context.thread_count = 1
        for frame in container.decode(stream):
            if frame.pts is None:
                continue
            time = float(frame.pts * frame.time_base) - info.start
            if held is not None and time <= held_time:
                continue
            while held is not None and number < last and number / FPS <= (held_time + time) / 2:
                yield number, _upright(held, info)
                number += 1
            if number >= last:
                return
            held, held_time = frame, time
        while held is not None and number < last:
            yield number, _upright(held, info)
            number += 1


def write_sound(source: Path, info: VideoInfo | None, start: float, duration: float, out: Path, shift: float = 0.0) -> None:
    """Write [start, start + duration) s of a file's sound as a mono 16 kHz 16-bit WAV file of exactly that length.

    Args:
        source: a video or a sound file.
        info: of the video, whose first picture is time 0; None where `source` is another file, which begins at time 0 itself.
        shift: s by which the sound is moved later against the pictures.

    Raises:
        UserError: there is no sound in it, or it cannot be read.
    """
    import av

    zero = 0.0 if info is None else info.start
    wanted = round(duration * SOUND_RATE)
    samples = np.zeros(wanted, np.int16)
    with _opened(source) as container:
        if not container.streams.audio:
            raise UserError(f"{source}: has no sound.", "Give the speech by --sound FILE.")
        stream = container.streams.audio[0]
        resampler = av.AudioResampler(format="s16", layout="mono", rate=SOUND_RATE)
        begin: float | None = None
        done = 0
        for frame in _with_end(container.decode(stream)):
            if frame is not None and begin is None:
                begin = float(frame.pts * frame.time_base) if frame.pts is not None else 0.0
            for piece in resampler.resample(frame):
                block = piece.to_ndarray().reshape(-1)
                at = round(((begin or 0.0) - zero - start + shift) * SOUND_RATE) + done
                done += len(block)
                low, high = max(at, 0), min(at + len(block), wanted)
                if low < high:
                    samples[low:high] = block[low - at : high - at]
    with atomic_path(out) as temporary, wave.open(str(temporary), "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(SOUND_RATE)
        file.writeframes(samples.astype("<i2").tobytes())


def _with_end(frames: Iterator[Any]) -> Iterator[Any]:
    yield from frames
    yield None  # the resampler hands out what it still holds


def _upright(frame: Any, info: VideoInfo) -> np.ndarray:
    wide, high = (info.height, info.width) if info.rotation % 180 else (info.width, info.height)
    picture = frame.to_ndarray(format="rgb24", width=wide, height=high)
    return np.ascontiguousarray(np.rot90(picture, info.rotation // 90))


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    try:
        import av
        import av.error
    except ImportError as error:
        raise UserError("Reading videos needs PyAV.", "Install it: python -m pip install -r engine/requirements-train.txt") from error
    if not Path(path).is_file():
        raise UserError(f"{path}: no such file.", "Check the path.")
    try:
        with av.open(str(path)) as container:
            yield container
    except av.error.FFmpegError as error:
        reason = error.strerror or error
        raise UserError(f"{path}: cannot be read as a video ({reason}).", "Convert it first, for example: ffmpeg -i INPUT out.mp4") from error


def _video_stream(container: Any, path: Path) -> Any:
    if not container.streams.video:
        raise UserError(f"{path}: holds no pictures.", "Choose a video file.")
    return container.streams.video[0]
