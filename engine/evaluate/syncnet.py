"""SyncNet (Chung & Zisserman 2016, "Out of time") with weights of the user's: do these lips belong to this sound?

Layers, names, inputs and scores are those of its published evaluation, on which LSE-C and LSE-D (Prajwal et al. 2020) rest, so that the
weights file `syncnet_v2.model` fits.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy.fft import dct
from scipy.ndimage import median_filter
from torch import Tensor, nn

from ..train.weights import read_weights

FPS, RATE = 25, 16000
SIZE = 224
"""px of the pictures it sees."""
FRAMES = 5
"""Pictures of one embedding."""
CEPSTRA, COLUMNS = 13, 20
"""Of the sound of one embedding: coefficients, columns of 10 ms."""
REACH = 15
"""Frames by which the sound is shifted to either side."""
MARGIN, GREY, SMOOTH = 0.4, 110, 13
"""Of the crop: beside and below the face in halves of its size, what is beyond the picture, frames of the running median."""
FOREHEAD = 0.25
"""How far a face detector's box reaches above the brows, in distances from brow to chin (ours: landmarks end at the brows)."""
_BATCH = 16
_WANTED = "Sync-C wants syncnet_v2.model of `Out of time` (github.com/joonson/syncnet_python), not the expert that Wav2Lip was trained with."

# Outputs, kernel, stride, padding of each convolution; kernel, stride, padding of the pooling behind it.
_SOUND = (
    (64, (3, 3), (1, 1), (1, 1), ((1, 1), (1, 1), (0, 0))), (192, (3, 3), (1, 1), (1, 1), ((3, 3), (1, 2), (0, 0))),
    (384, (3, 3), (1, 1), (1, 1), None), (256, (3, 3), (1, 1), (1, 1), None), (256, (3, 3), (1, 1), (1, 1), ((3, 3), (2, 2), (0, 0))),
    (512, (5, 4), (1, 1), (0, 0), None),
)  # fmt: skip
_MOUTH = (
    (96, (5, 7, 7), (1, 2, 2), (0, 0, 0), ((1, 3, 3), (1, 2, 2), (0, 0, 0))),
    (256, (1, 5, 5), (1, 2, 2), (0, 1, 1), ((1, 3, 3), (1, 2, 2), (0, 1, 1))),
    (256, (1, 3, 3), (1, 1, 1), (0, 1, 1), None), (256, (1, 3, 3), (1, 1, 1), (0, 1, 1), None),
    (256, (1, 3, 3), (1, 1, 1), (0, 1, 1), ((1, 3, 3), (1, 2, 2), (0, 0, 0))), (512, (1, 6, 6), (1, 1, 1), (0, 0, 0), None),
)  # fmt: skip


class Syncnet(nn.Module):
    """The two networks with random weights; see `load`."""

    def __init__(self) -> None:
        super().__init__()
        self.netcnnaud, self.netfcaud = _convolutions(1, _SOUND, nn.Conv2d, nn.BatchNorm2d, nn.MaxPool2d), _last()
        self.netcnnlip, self.netfclip = _convolutions(3, _MOUTH, nn.Conv3d, nn.BatchNorm3d, nn.MaxPool3d), _last()
        self.eval()

    @classmethod
    def load(cls, path: Path, device: torch.device | str = "cpu") -> Syncnet:
        """With the weights of a file (`weights.read_weights`). Raises UserError where it does not hold them."""
        net = cls()
        shapes = {name: tuple(value.shape) for name, value in net.state_dict().items() if not name.endswith("num_batches_tracked")}
        net.load_state_dict(read_weights(path, shapes, _WANTED), strict=False)
        return net.to(device)

    @torch.inference_mode()
    def sound(self, samples: np.ndarray) -> Tensor:
        """Embeddings [W,1024], one a picture's time (25 a second), of samples [n] at 16 kHz in -1..1; each looks at 0.2 s."""
        features = cepstra(np.rint(np.asarray(samples, np.float64) * 32768).clip(-32768, 32767))
        step = RATE // FPS // 160
        windows = torch.from_numpy(features.T.astype(np.float32)).unfold(1, COLUMNS, step).movedim(1, 0)[:, None]
        windows = windows.to(self.netfcaud[0].weight.device)
        return torch.cat([self.netfcaud(self.netcnnaud(some).flatten(1)).cpu() for some in windows.split(_BATCH)])

    @torch.inference_mode()
    def mouth(self, pictures: Iterable[np.ndarray]) -> Tensor:
        """Embeddings [T-4,1024] of T crops [224,224,3] uint8 RGB in a row; they are asked for as they are needed."""
        found, waiting = [], []
        for picture in pictures:
            waiting.append(picture)
            if len(waiting) == _BATCH + FRAMES - 1:
                found.append(self._seen(waiting))
                waiting = waiting[_BATCH:]
        if len(waiting) >= FRAMES:
            found.append(self._seen(waiting))
        return torch.cat(found)

    def _seen(self, pictures: list[np.ndarray]) -> Tensor:
        """Only the first layer looks at more than one picture, so that a film of T gives what its T - 4 windows give."""
        film = torch.from_numpy(np.stack(pictures)[..., ::-1].copy()).to(self.netfclip[0].weight.device)  # BGR, 0..255
        hidden = self.netcnnlip(film.float().permute(3, 0, 1, 2)[None])
        return self.netfclip(hidden[0, :, :, 0, 0].T).cpu()


@dataclass(frozen=True)
class SyncScore:
    """Of one film: confidence (Sync-C, LSE-C: the more, the better in sync), distance (Sync-D, LSE-D: the less), and by how many seconds
    the mouth is late."""

    confidence: float
    distance: float
    late: float


def score(seen: Tensor, heard: Tensor) -> SyncScore:
    """Of embeddings [W,D] of mouth and sound. The distance of both is averaged over the film for every shift up to 15 frames to either side,
    embeddings beyond its ends being 0; confidence is the shifts' median less their least, distance their least."""
    count = min(len(seen), len(heard))
    padded = F.pad(heard[:count], (0, 0, REACH, REACH))
    mean = torch.stack([(seen[:count] - padded[shift : shift + count]).norm(dim=1).mean() for shift in range(2 * REACH + 1)])
    best = int(mean.argmin())
    return SyncScore(float(mean.median() - mean[best]), float(mean[best]), (REACH - best) / FPS)


def cepstra(samples: np.ndarray) -> np.ndarray:
    """MFCC [n,13] every 10 ms over 25 ms of samples at 16 kHz on a 16-bit scale: pre-emphasis .97, no window, 512 points, 26 mel filters up to
    8 kHz, orthonormal DCT, lifter 22, log energy in the place of the first."""
    samples = np.asarray(samples, np.float64)
    samples = np.concatenate([samples[:1], samples[1:] - 0.97 * samples[:-1]])
    length, step, points, filters = 400, 160, 512, 26
    count = 1 + max(0, -(-(len(samples) - length) // step))
    samples = np.pad(samples, (0, max(0, length + (count - 1) * step - len(samples))))
    frames = np.lib.stride_tricks.sliding_window_view(samples, length)[::step][:count]
    power = np.abs(np.fft.rfft(frames, points)) ** 2 / points
    least = np.finfo(np.float64).eps
    edges = 700 * (10 ** (np.linspace(0, np.log10(1 + RATE / 2 / 700), filters + 2)) - 1)
    low, middle, high = (np.floor((points + 1) * edges / RATE)[i : i + filters, None] for i in range(3))
    bins = np.arange(points // 2 + 1)
    bank = np.where(bins < middle, (bins - low) / np.maximum(middle - low, 1), (high - bins) / np.maximum(high - middle, 1)).clip(0)
    mel = power @ bank.T
    found = dct(np.log(np.where(mel == 0, least, mel)), norm="ortho")[:, :CEPSTRA] * (1 + 11 * np.sin(np.pi * np.arange(CEPSTRA) / 22))
    energy = power.sum(1)
    found[:, 0] = np.log(np.where(energy == 0, least, energy))
    return found


def face_boxes(landmarks: np.ndarray) -> np.ndarray:
    """(x, y, half of the longer side) [F,3] px of the face in pictures in a row, from landmarks [F,68,2] px, which may be NaN in some: as a
    detector of faces would have it, smoothed over time."""
    low, high = landmarks.min(1), landmarks.max(1)
    low[:, 1] -= FOREHEAD * (high[:, 1] - low[:, 1])
    boxes = np.column_stack([(low + high) / 2, (high - low).max(1) / 2]).astype(np.float64)
    known = np.isfinite(boxes).all(1)
    numbers = np.arange(len(boxes))
    boxes = np.column_stack([np.interp(numbers, numbers[known], column[known]) for column in boxes.T])
    return median_filter(boxes, size=(SMOOTH, 1), mode="nearest")


def face_crop(picture: np.ndarray, box: np.ndarray) -> np.ndarray:
    """[224,224,3] uint8 of a picture [H,W,3] uint8: the face with a margin beside and below it."""
    x, y, half = box
    side = max(round(2 * (1 + MARGIN) * half), 1)
    left, top = int(x - (1 + MARGIN) * half), int(y - half)
    found = np.full((side, side, 3), GREY, np.uint8)
    rows = slice(max(top, 0), max(min(top + side, picture.shape[0]), 0))
    columns = slice(max(left, 0), max(min(left + side, picture.shape[1]), 0))
    part = picture[rows, columns]
    found[rows.start - top : rows.start - top + part.shape[0], columns.start - left : columns.start - left + part.shape[1]] = part
    tensor = torch.from_numpy(found).permute(2, 0, 1)[None].float()
    return F.interpolate(tensor, (SIZE, SIZE), mode="bilinear", align_corners=False)[0].permute(1, 2, 0).round().byte().numpy()


def _convolutions(inputs: int, rows: tuple, convolution: type, norm: type, pooling: type) -> nn.Sequential:
    layers: list[nn.Module] = []
    for outputs, kernel, stride, padding, pool in rows:
        layers += [convolution(inputs, outputs, kernel, stride, padding), norm(outputs), nn.ReLU()]
        layers += [] if pool is None else [pooling(*pool)]
        inputs = outputs
    return nn.Sequential(*layers)


def _last() -> nn.Sequential:
    return nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 1024))
