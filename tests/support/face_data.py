"""A data set of a small Gaussian head that speaks, made in seconds: `make_face_data(folder)`.

The head is drawn by `engine.raster`; its mouth opens as loudly as the sound, which is made here too, its corners follow the emotion, its
brows and lids the action units. So all that a data set can say about a frame is known exactly.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
import torch
from ua3dtalk.engine.avatar import EMOTIONS
from ua3dtalk.engine.dataset import DataWriter, Labels
from ua3dtalk.engine.raster import rasterization
from ua3dtalk.engine.views.content import VISEMES

FPS = 25
TAKE = 20
"""Frames of a take, which has one emotion."""
HELD_OUT = 4
"""Last frames of each take, split `val`."""
FEELINGS = (("neutral", 1.0), ("happy", 1.0), ("happy", 0.5), ("surprised", 1.0))
"""Emotion and intensity of the takes, in turn."""
EXPRESSIONS = ("jawOpen", "mouthSmile", "browInnerUp", "eyeBlink")

_RADII = np.array([0.065, 0.085, 0.07])
_MOUTH, _WIDE = -0.035, 0.022  # height and half width of the mouth
_DISTANCE, _SEEN = 0.8, 0.235  # of the camera; height of the picture at the head
_CLASSES = {"face": (0, 0, 255), "hair": (0, 0, 0), "mouth": (100, 100, 100)}


@dataclass
class Head:
    """N Gaussians at rest: means [N,3], scales [N], colours [N,3], kind [N] (0 face, 1 hair, 2 inside of the mouth, 3 teeth)."""

    means: np.ndarray
    scales: np.ndarray
    colors: np.ndarray
    kind: np.ndarray
    lid: np.ndarray
    brow: np.ndarray
    lower: np.ndarray


@dataclass
class Play:
    """What F frames do: coefficients [F,4] (EXPRESSIONS), emotion [F,8], take [F], phoneme [F], viseme [F], yaw and pitch [F,2] radians."""

    coefficients: np.ndarray
    emotion: np.ndarray
    take: np.ndarray
    phoneme: np.ndarray
    viseme: np.ndarray
    pose: np.ndarray


def make_face_data(folder: Path, frames: int = 40, size: int = 64, seed: int = 0, labels: bool = True, depth: bool = True) -> Path:
    """Write the data set and return its folder.

    Args:
        frames: a multiple of TAKE; the last HELD_OUT of each take are split `val`.
        size: px, width and height.
        labels, depth: write `labels.npz` and `depth/`.
    """
    random = np.random.default_rng(seed)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    opening, sound, phoneme = _speech(frames, random)
    soundfile.write(folder / "spoken.wav", sound, 16000)
    play, head = _play(opening, phoneme, random), make_head(random)
    focal = size * _DISTANCE / _SEEN
    torso, background = _torso(size), _background(size)
    writer = DataWriter(folder, size, size, focal, size / 2, size / 2, FPS)
    for frame in range(frames):
        camera = camera_to_world(*play.pose[frame])
        means = moved(head, head.means, play.coefficients[frame])
        picture, kind, seen = draw(head, means, camera, focal, size, _over(torso, background))
        teeth = kind == 3
        parsing = np.full((size, size, 3), 255, np.uint8)
        parsing[torso[..., 3] > 127] = (255, 0, 0)
        parsing[(torso[..., 3] > 127) & _neck(size)] = (0, 255, 0)
        # Real parsings take teeth for face; the tooth mask puts that right.
        for number, colour in enumerate((*_CLASSES.values(), _CLASSES["face"])):
            parsing[kind == number] = colour
        points = landmarks(head, play.coefficients[frame])
        places = points @ view(camera)[:3, :3].T + view(camera)[:3, 3]
        places = places[:, :2] / places[:, 2:] * focal + size / 2
        writer.add(frame, frame, camera, picture, parsing, torso, places.astype(np.float32), teeth, seen if depth else None)
    number = np.arange(frames)
    held = number % TAKE >= TAKE - HELD_OUT
    splits = {"train": number[~held].tolist(), "val": number[held].tolist()}
    known = Labels(
        emotion=play.emotion, take=play.take, phoneme=play.phoneme, viseme=play.viseme, expression=play.coefficients,
        expression_names=np.array(EXPRESSIONS), camera=np.zeros(frames, np.int64),
    )  # fmt: skip
    writer.finish(
        splits, _action_units(play), background, folder / "spoken.wav", known if labels else None,
        {"name": "Test head", "metres_per_unit": 1.0, "provenance": "drawn by a test", "consent": "nobody", "licence": "none"},
    )  # fmt: skip
    return folder


def make_head(random: np.random.Generator, count: int = 4200) -> Head:
    """The head at rest: mouth shut, eyes open."""
    number = np.arange(count) + 0.5
    height, turn = 1 - 2 * number / count, np.pi * (1 + 5**0.5) * number
    ring = np.sqrt(1 - height**2)
    sphere = np.stack([ring * np.cos(turn), height, ring * np.sin(turn)], 1)
    skin = sphere * _RADII
    front = skin[:, 2] > -0.015  # an open mouth must not show the back of the head
    sphere, skin, count = sphere[front], skin[front], int(front.sum())
    hair = skin[:, 1] > 0.048
    shade = 0.85 + 0.15 * sphere[:, 2:] + 0.05 * random.normal(size=(count, 1))
    tint = np.where(hair[:, None], [0.22, 0.13, 0.08], np.array([0.82, 0.6, 0.48]) * shade)
    sets = [(skin, 0.0027, tint, np.where(hair, 1, 0), "")]
    for side in (-1, 1):
        ball = _disc(0.0075, 60) + [side * 0.026, 0.015]
        pupil = np.linalg.norm(ball - [side * 0.026, 0.015], axis=1) < 0.0035
        sets.append((_onto(ball, 0.001), 0.0014, np.where(pupil[:, None], [0.1, 0.12, 0.2], [0.95, 0.95, 0.93]), 0, ""))
        # Lids wait above the eye, behind the skin, and come down before it.
        sets.append((_onto(_disc(0.0085, 70) + [side * 0.026, 0.032], -0.006), 0.0016, [0.7, 0.48, 0.38], 0, "lid"))
        brow = np.stack([side * np.linspace(0.013, 0.038, 30), 0.031 + 0.003 * np.sin(np.linspace(0, np.pi, 30))], 1)
        sets.append((_onto(brow, 0.0015), 0.0018, [0.16, 0.1, 0.07], 0, "brow"))
    across = np.linspace(-_WIDE, _WIDE, 60)
    for side in (-1, 1):
        for row in range(3):
            lip = np.stack([across, _MOUTH + side * (0.0008 + 0.0018 * row) * np.cos(across / _WIDE * 1.4)], 1)
            sets.append((_onto(lip, 0.0012), 0.0014, [0.7, 0.22, 0.24], 0, ""))
    inside = _disc(1.0, 300) * [0.021, 0.022] + [0, _MOUTH - 0.011]
    sets.append((_onto(inside, -0.016), 0.002, [0.28, 0.05, 0.06], 2, ""))
    for height, kind in ((_MOUTH - 0.0015, ""), (_MOUTH - 0.0045, "lower")):
        row = np.stack([np.linspace(-0.016, 0.016, 40), np.full(40, height)], 1)
        sets.append((_onto(row, -0.011), 0.0013, [0.93, 0.9, 0.84], 3, kind))
    parts = [len(part[0]) for part in sets]
    colors = [np.broadcast_to(part[2], (len(part[0]), 3)) for part in sets]
    names = np.repeat([part[4] for part in sets], parts)
    kind = np.concatenate([np.broadcast_to(part[3], n) for part, n in zip(sets, parts)])
    return Head(
        np.concatenate([part[0] for part in sets]), np.repeat([part[1] for part in sets], parts),
        np.concatenate(colors), kind, names == "lid", names == "brow", names == "lower",
    )  # fmt: skip


def moved(head: Head, points: np.ndarray, coefficients: np.ndarray) -> np.ndarray:
    """The head's Gaussians [N,3] under coefficients [4] (EXPRESSIONS)."""
    jaw, smile, raised, blink = coefficients
    out = points + _skin_motion(points, jaw, smile) * (head.kind < 2)[:, None]
    out[:, 1] += 0.009 * raised * head.brow
    out[:, 1] -= 0.017 * blink * head.lid
    out[:, 2] += 0.010 * min(1.0, 4 * blink) * head.lid
    out[:, 1] -= 0.02 * jaw * head.lower
    return out


def landmarks(head: Head, coefficients: np.ndarray) -> np.ndarray:
    """68 points [68,3] in the usual order, moved like the skin."""
    half = np.linspace(-1, 1, 17) * np.pi / 2
    places = [np.stack([0.06 * np.sin(half), 0.015 - 0.085 * np.cos(half)], 1)]  # jaw 0-16
    for side in (-1, 1):
        places.append(np.stack([np.sort(side * np.linspace(0.013, 0.038, 5)), np.full(5, 0.032)], 1))  # brows 17-26
    places.append(np.stack([np.zeros(4), np.linspace(0.015, -0.01, 4)], 1))
    places.append(np.stack([np.linspace(-0.01, 0.01, 5), np.full(5, -0.015)], 1))  # nose 27-35
    for side in (-1, 1):
        angle = np.pi - np.arange(6) * np.pi / 3
        places.append(np.stack([side * 0.026 + 0.008 * np.cos(angle), 0.015 + 0.0065 * np.sin(angle)], 1))  # eyes 36-47
    for count, wide, tall in ((12, _WIDE, 0.0045), (8, 0.9 * _WIDE, 0.0006)):
        angle = np.pi - np.arange(count) * 2 * np.pi / count
        places.append(np.stack([wide * np.cos(angle), _MOUTH + tall * np.sin(angle)], 1))  # mouth 48-67
    points = _onto(np.concatenate(places), 0.001)
    jaw, smile, raised, blink = coefficients
    out = points + _skin_motion(points, jaw, smile)
    out[17:27, 1] += 0.009 * raised
    for upper in (37, 38, 43, 44):
        out[upper, 1] -= 0.011 * blink
    return out


def camera_to_world(yaw: float, pitch: float) -> np.ndarray:
    """[4,4], OpenGL's axes: y up, looks along -z at the head's middle."""
    c, s = np.cos, np.sin
    across = np.array([[c(yaw), 0, s(yaw)], [0, 1, 0], [-s(yaw), 0, c(yaw)]])
    down = np.array([[1, 0, 0], [0, c(pitch), -s(pitch)], [0, s(pitch), c(pitch)]])
    out = np.eye(4)
    out[:3, :3] = across @ down
    out[:3, 3] = out[:3, :3] @ [0, 0, _DISTANCE]
    return out


def view(camera: np.ndarray) -> np.ndarray:
    """World to camera [4,4]: x right, y down, z forward."""
    return np.diag([1.0, -1.0, -1.0, 1.0]) @ np.linalg.inv(camera)


def draw(
    head: Head, means: np.ndarray, camera: np.ndarray, focal: float, size: int, behind: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Picture [H,W,3] uint8, what each pixel shows [H,W] (-1: no head) and depth [H,W] in metres (0: no head)."""
    tensor = lambda value: torch.from_numpy(np.ascontiguousarray(value, np.float32))  # noqa: E731
    K = tensor([[[focal, 0, size / 2], [0, focal, size / 2], [0, 0, 1]]])
    count = len(means)
    found = rasterization(
        tensor(means), tensor([1, 0, 0, 0]).expand(count, 4), tensor(head.scales)[:, None].expand(count, 3), torch.full((count,), 0.95),
        tensor(view(camera))[None], K, size, size, sh=tensor((head.colors - 0.5) / 0.28209479)[:, None],
        features=torch.nn.functional.one_hot(torch.from_numpy(head.kind).long(), 4).float(),
        branch=torch.from_numpy((head.kind > 1).astype(np.uint8)), composite="layered", threads=1,
    )  # fmt: skip
    alpha = found.alphas[0].numpy()
    picture = 255 * found.colors[0].numpy() + (1 - alpha[..., None]) * behind
    kind = np.where(alpha > 0.5, found.features[0].numpy().argmax(-1), -1)
    return picture.round().clip(0, 255).astype(np.uint8), kind, np.where(alpha > 0.5, found.depth[0].numpy(), 0).astype(np.float32)


def _skin_motion(points: np.ndarray, jaw: float, smile: float) -> np.ndarray:
    out, (x, y) = np.zeros_like(points), points[:, :2].T
    front = points[:, 2] > 0
    middle = np.cos(np.clip(x / _WIDE, -1, 1) * np.pi / 2)
    below = _MOUTH - y
    out[:, 1] -= 0.026 * jaw * front * middle * (below > 0) * np.exp(-((below / 0.04) ** 2))
    out[:, 1] += 0.007 * jaw * front * middle * (below <= 0) * np.exp(-((below / 0.012) ** 2))
    for side in (-1, 1):
        near = front * np.exp(-((x - side * _WIDE) ** 2 + (y - _MOUTH) ** 2) / 0.014**2)
        out[:, 1] += 0.008 * smile * near
        out[:, 0] += side * 0.004 * smile * near
    return out


def _disc(radius: float, count: int) -> np.ndarray:
    number = np.arange(count) + 0.5
    angle, far = np.pi * (1 + 5**0.5) * number, radius * np.sqrt(number / count)
    return np.stack([far * np.cos(angle), far * np.sin(angle)], 1)


def _onto(places: np.ndarray, lift: float) -> np.ndarray:
    """Points (x, y) [N,2] on the head's front [N,3], lifted off it."""
    x, y = places.T
    z = _RADII[2] * np.sqrt(np.maximum(1 - (x / _RADII[0]) ** 2 - (y / _RADII[1]) ** 2, 0.02))
    return np.stack([x, y, z + lift], 1)


def _speech(frames: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Opening [F] 0..1, samples at 16 kHz, phoneme [F]: syllables of a shut and an open part, a little silence at each take's ends."""
    count = frames * 16000 // FPS
    opening, phoneme = np.zeros(frames), np.full(frames, "sil", dtype="<U4")
    for take in range(0, frames, TAKE):
        at = take + 1
        while at + 5 <= take + TAKE:
            loud = random.uniform(0.45, 1.0)
            phoneme[at : at + 2] = "m"
            phoneme[at + 2 : at + 5] = "aa"
            opening[at : at + 5] += loud * np.array([0.05, 0.0, 0.7, 1.0, 0.6])
            at += 5 + int(random.integers(0, 2))
    time = np.arange(count) / 16000
    envelope = np.interp(time * FPS, np.arange(frames), opening)
    pitch = 2 * np.pi * np.cumsum(120 * (1 + 0.1 * np.sin(3 * time))) / 16000
    voice = sum(np.sin(k * pitch) * (1 / k + 0.6 * np.exp(-(((120 * k - 700) / 200) ** 2))) for k in range(1, 25))
    hum = 0.05 * np.sin(pitch) * np.interp(time * FPS, np.arange(frames), phoneme != "sil")
    return opening.clip(0, 1), (0.12 * envelope * voice + hum + 1e-4 * random.normal(size=count)).clip(-1, 1), phoneme


def _play(opening: np.ndarray, phoneme: np.ndarray, random: np.random.Generator) -> Play:
    frames = len(opening)
    number = np.arange(frames)
    emotion, take = np.zeros((frames, len(EMOTIONS)), np.float32), number // TAKE
    for part in range(-(-frames // TAKE)):
        name, intensity = FEELINGS[part % len(FEELINGS)]
        emotion[take == part, EMOTIONS.index(name)] = intensity
    blink = np.maximum.reduce([np.exp(-(((number - at) / 1.2) ** 2)) for at in range(8, frames + 1, 17)])
    smile = emotion[:, EMOTIONS.index("happy")]
    raised = (0.5 + 0.5 * np.sin(number / 5)) * 0.6 + 0.4 * emotion[:, EMOTIONS.index("surprised")]
    pose = np.stack([0.14 * np.sin(number / 9), 0.06 * np.sin(number / 6 + 1)], 1) + 0.01 * random.normal(size=(frames, 2))
    viseme = np.array([VISEMES.index({"m": "mbp"}.get(str(p), str(p))) for p in phoneme])
    return Play(np.stack([opening, smile, raised, blink], 1).astype(np.float32), emotion, take, phoneme, viseme, pose)


def _action_units(play: Play) -> dict[str, np.ndarray]:
    """OpenFace's intensities, 0..5."""
    jaw, smile, raised, blink = play.coefficients.T
    found = {f"AU{n:02d}": np.zeros(len(jaw), np.float32) for n in (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)}
    return found | {"AU01": 5 * raised, "AU12": 5 * smile, "AU25": 5 * jaw, "AU26": 4 * jaw, "AU45": 2 * blink}


def _background(size: int) -> np.ndarray:
    ramp = np.linspace(0, 1, size)
    return np.stack(np.broadcast_arrays(70 + 60 * ramp[:, None], 110 + 30 * ramp[None], 150 + 0 * ramp[None]), -1).astype(np.uint8)


def _neck(size: int) -> np.ndarray:
    return np.broadcast_to((np.arange(size) < 0.88 * size)[:, None], (size, size))


def _torso(size: int) -> np.ndarray:
    """RGBA [H,W,4] uint8: a neck on shoulders."""
    y, x = (np.mgrid[:size, :size] + 0.5) / size
    neck = (np.abs(x - 0.5) < 0.13) & (y > 0.7)
    shoulders = y > 0.88 + 0.25 * (x - 0.5) ** 2
    out = np.zeros((size, size, 4), np.uint8)
    out[neck] = (190, 140, 112, 255)
    out[shoulders] = (60, 70, 120, 255)
    return out


def _over(front: np.ndarray, back: np.ndarray) -> np.ndarray:
    alpha = front[..., 3:] / 255
    return front[..., :3] * alpha + back * (1 - alpha)
