"""Reading sound files in bounded memory: decode, mix down and resample block by block."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil, gcd
from pathlib import Path

import numpy as np
import soundfile
from scipy.signal import firwin, resample_poly

from ..errors import UserError
from ..files import file_hash

RATE = 16000
SHORTEST = RATE // 10  # samples; shorter sounds are padded with silence to this length
LOUDEST = 8.0  # a float file beyond this is taken for integers written as floats, and scaled down
RATES = 1000, 768_000  # of files; what is computed grows with a rate beyond, and no recorder goes there
BEYOND = 1e30  # sums of such samples are no number any more; taken as infinite
CANCELLED = 0.05  # mono power under this share of the channels' power: they cancel, one channel is taken
BLOCK_SECONDS = 20
CONVERT = "Convert it to WAV or FLAC first, for example: ffmpeg -i INPUT -vn sound.wav"


@dataclass(frozen=True, eq=False)
class Sound:
    """A sound as the views see it.

    Attributes:
        samples: [n] float32, mono, 16 kHz, finite, within about -1..1; at least 0.1 s (padded with silence).
        rate: 16000.
        duration: seconds of sound in the file (without the padding).
        sha256: hexadecimal SHA-256 of the file's bytes.
        source_rate, channels: of the file.
        warnings: what was repaired in it, one line each.
    """

    samples: np.ndarray
    rate: int
    duration: float
    sha256: str
    source_rate: int
    channels: int
    warnings: tuple[str, ...] = ()


def read_sound(path: Path) -> Sound:
    """Read any file that libsndfile reads: WAV, FLAC, Ogg, Opus, AIFF, MP3 and more, any rate, any channels.

    Channels are averaged; where they cancel each other the first one is taken. NaN and infinite samples become 0,
    with a warning. Memory: 64 kB a second of sound (230 MB an hour) and one block of 20 s of the source.

    Raises:
        UserError: no such file, a folder, unreadable, no sound format, or no samples in it.
    """
    path = Path(path)
    if path.is_dir():
        raise UserError(f"{path} is a folder, not a sound file.", "Choose a sound file in it.")
    digest = file_hash(path)
    try:
        samples, info, repaired, cancels = _decode(path, None)
        if cancels:
            samples, info, repaired, _ = _decode(path, 0)
    except (soundfile.SoundFileError, RuntimeError) as error:
        reason = getattr(error, "error_string", "") or "no sound format that can be read"
        raise UserError(f"{path}: cannot be read as sound ({reason.strip().rstrip('.')}).", CONVERT) from error
    if not info.frames:
        raise UserError(f"{path}: holds no sound (0 samples).", "Choose a file with sound in it.")
    warnings = []
    if repaired:
        warnings.append(f"{repaired} samples were NaN or infinite and are taken as silence.")
    if cancels:
        warnings.append("The channels cancel each other when mixed; the first channel is used.")
    peak = float(max(samples.max(initial=0.0), -samples.min(initial=0.0)))
    if peak > LOUDEST:
        samples /= np.float32(peak)
        warnings.append(f"Samples reach {peak:.3g} where 1 is full scale; the sound is scaled down.")
    duration = info.frames / info.rate
    if len(samples) < SHORTEST:
        samples = np.pad(samples, (0, SHORTEST - len(samples)))
    return Sound(samples, RATE, duration, digest, info.rate, info.channels, tuple(warnings))


@dataclass
class _Info:
    rate: int
    channels: int
    frames: int


def _decode(path: Path, channel: int | None) -> tuple[np.ndarray, _Info, int, bool]:
    """Samples at 16 kHz of one channel or of the mean, what the file is, samples repaired, whether channels cancel."""
    repaired, mixed, apart = 0, 0.0, 0.0
    with soundfile.SoundFile(path) as file:
        info = _Info(file.samplerate, file.channels, 0)
        if not RATES[0] <= file.samplerate <= RATES[1]:
            raise UserError(f"{path}: {file.samplerate} samples a second, where {RATES[0]} to {RATES[1]} are read; its header is damaged.", CONVERT)
        resampler = _Resampler(file.samplerate)

        def blocks() -> Iterator[np.ndarray]:
            nonlocal repaired, mixed, apart
            while len(block := file.read(resampler.block, dtype="float32", always_2d=True)):
                bad = ~(np.abs(block) < BEYOND)  # NaN, too
                if bad.any():
                    repaired += int(bad.sum())
                    block[bad] = 0.0
                info.frames += len(block)
                mono = block.mean(1) if channel is None else block[:, channel]
                mixed += float(np.square(mono, dtype=np.float64).sum())
                apart += float(np.square(block, dtype=np.float64).sum()) / block.shape[1]
                yield mono

        # What is allocated first; a header may speak of far more samples than the file has.
        samples = resampler.run(blocks(), min(file.frames, 64 * path.stat().st_size))
    return samples, info, repaired, channel is None and info.channels > 1 and mixed < CANCELLED * apart


class _Resampler:
    """`scipy.signal.resample_poly` over a stream: each block with enough of its neighbours to be exact."""

    def __init__(self, rate: int) -> None:
        common = gcd(rate, RATE)
        self.up, self.down = RATE // common, rate // common
        reach = 10 * max(self.up, self.down)
        self.same = self.up == self.down
        self.filter = None if self.same else firwin(2 * reach + 1, 1 / max(self.up, self.down), window=("kaiser", 5.0))
        # Context and block are whole numbers of `down` input samples, so that output samples fall on block edges.
        self.context = self.down * ceil((reach / self.up + 1) / self.down)
        self.block = self.down * max(1, round(BLOCK_SECONDS * rate / self.down))

    def run(self, blocks: Iterator[np.ndarray], frames: int) -> np.ndarray:
        """Concatenate the blocks at 16 kHz; `frames` (input samples, may be wrong) sizes the first allocation."""
        room = max(0, min(frames, 1 << 34)) + self.context + 2 * self.down  # the last block is padded
        out, filled, seen = np.zeros(room * self.up // self.down, np.float32), 0, 0
        waiting = np.zeros(self.context, np.float32)  # context, then what is not resampled yet
        last = False
        while not last:
            block = next(blocks, None)
            last = block is None
            if block is not None:
                seen += len(block)
            tail = np.zeros(self.context + self.down, np.float32) if block is None else block
            waiting = np.concatenate([waiting, tail])
            ready = (len(waiting) - 2 * self.context) // self.down * self.down
            if ready <= 0:
                continue
            piece = waiting[: ready + 2 * self.context]
            if not self.same:
                start = self.context * self.up // self.down
                piece = resample_poly(piece, self.up, self.down, window=self.filter)
                piece = piece[start : start + ready * self.up // self.down]
            else:
                piece = piece[self.context : self.context + ready]
            if filled + len(piece) > len(out):
                out = np.concatenate([out[:filled], np.zeros(max(len(piece), filled // 2), np.float32)])
            out[filled : filled + len(piece)] = piece
            filled += len(piece)
            waiting = waiting[ready:]
        return out[: min(filled, ceil(seen * self.up / self.down))]
