"""A synthetic person as a data set: `python -m character.synthetic --face-model F --out DIR [--identity 6 --seconds 60 --cameras 2]`.

An identity of the face model, with colours of its own, speaks with an espeak-ng voice under eight emotions; Blender (Cycles, 2 bounces, denoised) renders it from
several cameras, 25 frames a second. What is known exactly is written too: classes, teeth, landmarks, coefficients, action units, phones,
visemes, emotions, cameras, depth. The head is fixed and its small movement is the camera's, so shoulders move with it.

Splits: `train`; `val`, sentences that are not trained on; `val_intensity`, the highest strength of one emotion, in sentences of its own;
`val_camera`, moments of `train` from a camera that is in no other split.

A run that was stopped goes on where it was. DIR/.work holds what Blender made of frames that are not whole yet, and is removed at the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import soundfile
from PIL import Image

from engine.dataset import DataWriter, Labels
from engine.errors import UserError
from engine.files import atomic_path, atomic_write

from .face_model import DEFAULT_IDENTITY_SEED, FaceModel, load, to_avatar
from .look import Look, Person, View, blender_command, blender_environment, blender_matrix, scene_arrays
from .look_parts import SKIN
from .look_strands import Strands
from .motion import Actor
from .person_binding import bind_points
from .synthetic_aus import action_units
from .synthetic_passes import NECK, SCALP, Pieces, pieces, read_exr
from .synthetic_script import FPS, VOICES, Script, head_motion, write_script

BACKGROUND = (178, 190, 184)
CAMERAS = ((0.0, 0.0), (24.0, 2.0), (-16.0, -5.0), (38.0, 4.0), (10.0, 12.0))
"""Yaw and pitch in degrees of the cameras trained on."""
HELD_CAMERA = (-27.0, 6.0)
VERSION = 3
"""Goes up when the same settings give other pictures: a set is not to be half of each."""
FINE_SIZE = 160
"""px: in pictures up to this size every other hair, half as thick again, looks the same and saves a fifth of the time."""


@dataclass(frozen=True)
class Settings:
    """What decides the set; another one in the same folder is refused.

    identity: seed of the face. seconds of sound. cameras trained on, 1 to 5. held_frames: pictures of `val_camera`. size px. samples
    a pixel. voice of espeak-ng; "": by identity. held_emotion: see `val_intensity`. seed of sentences, emotions and movement.
    span: m that the picture covers at the head.
    """

    identity: int = DEFAULT_IDENTITY_SEED
    seconds: float = 60.0
    cameras: int = 2
    held_frames: int = 75
    size: int = 128
    samples: int = 8
    voice: str = ""
    held_emotion: str = "angry"
    seed: int = 0
    span: float = 0.34

    def __post_init__(self) -> None:
        if not 1 <= self.cameras <= len(CAMERAS):
            raise UserError(f"{self.cameras} cameras cannot be had.", f"Give 1 to {len(CAMERAS)}.")
        if self.seconds <= 0 or self.size < 16 or self.samples < 1 or self.held_frames < 0:
            raise UserError("Seconds, size, samples and held-out frames must be positive, the size at least 16.", "Give other numbers.")

    def view(self, camera: int) -> View:
        """A camera before the head moves; number `cameras` is the held-out one."""
        yaw, pitch = CAMERAS[camera] if camera < self.cameras else HELD_CAMERA
        return View(f"camera_{camera}", yaw=yaw, pitch=pitch, target=(0.0, -0.016, 0.0), span=self.span, size=self.size)

    @property
    def speaker(self) -> str:
        """The voice."""
        return self.voice or VOICES[self.identity % len(VOICES)]


SKINS = ((0.66, 0.355, 0.225), (0.50, 0.25, 0.145), (0.36, 0.17, 0.095))
HAIRS = ((0.070, 0.034, 0.016), (0.012, 0.009, 0.007), (0.20, 0.115, 0.05), (0.17, 0.055, 0.018))
IRISES = ((0.060, 0.085, 0.050), (0.06, 0.028, 0.012), (0.05, 0.09, 0.14))
SWEATERS = ((0.030, 0.105, 0.150), (0.16, 0.035, 0.03), (0.19, 0.17, 0.13), (0.045, 0.085, 0.045))
LIPS = (0.50, 0.16, 0.15)


def look_of(identity: int) -> Look:
    """Colours by identity; the demo person's are its own."""
    if identity == DEFAULT_IDENTITY_SEED:
        return Look()
    random = np.random.default_rng([identity, 2])
    skin, hair, iris, sweater = (np.array(table[random.integers(len(table))]) for table in (SKINS, HAIRS, IRISES, SWEATERS))
    skin = skin * random.uniform(0.9, 1.08)
    colours = {
        "skin": skin, "blush": skin * (1.04, 0.66, 0.74), "lips": 0.3 * skin + 0.7 * np.array(LIPS), "hair": hair, "brows": 0.65 * hair,
        "iris": iris, "iris_inner": 0.5 * iris + (0.08, 0.035, 0.01), "sweater": sweater,
    }  # fmt: skip
    return Look(**{name: tuple(float(v) for v in value) for name, value in colours.items()}, freckles=float(random.uniform(0, 0.6)))


@dataclass
class Plan:
    """Every picture of the set, by id: `row` [P] frame of the script, `camera` [P], `viewmats` [P,4,4]; and the splits' ids."""

    row: np.ndarray
    camera: np.ndarray
    viewmats: np.ndarray
    splits: dict[str, list[int]]


def make_plan(settings: Settings, script: Script) -> Plan:
    """One picture a frame of the script by its take's camera, then those of the held-out camera: runs of a second, spread over `train`."""
    frames, splits = len(script.take), script.splits()
    train = splits["train"]
    runs = -(-settings.held_frames // FPS)
    starts = np.linspace(0, max(len(train) - FPS, 0), runs + 2)[1:-1].astype(int)
    held = [train[k] for start in starts for k in range(start, min(start + FPS, len(train)))][: settings.held_frames]
    row = np.concatenate([np.arange(frames), np.array(held, np.int64)])
    camera = np.concatenate([np.array([script.takes[t].camera for t in script.take]), np.full(len(held), settings.cameras)])
    bases = np.stack([settings.view(c).viewmat for c in range(settings.cameras + 1)]).astype(np.float64)
    viewmats = bases[camera] @ head_motion(frames, settings.seed)[row]
    splits["val_camera"] = list(range(frames, frames + len(held)))
    return Plan(row, camera.astype(np.int32), viewmats, {name: ids for name, ids in splits.items() if ids})


def head_regions(person: Person) -> np.ndarray:
    """[T] of the drawn triangles: NECK below the jaw's line, SCALP under the hair, 0 elsewhere."""
    parts, model = person.parts, person.model
    drawn = np.flatnonzero(parts.triangle_labels >= 0)
    centre = model.mean_vertices[model.triangles[drawn]].mean(axis=1)
    # The jaw's height by azimuth round the neck, from the chin to where it turns up to the ear; from there on to the nape.
    jaw = model.mean_vertices[model.landmarks[8:14]]
    azimuth = np.degrees(np.arctan2(np.abs(centre[:, 0]), centre[:, 2]))
    line = np.interp(azimuth, [*np.degrees(np.arctan2(jaw[:, 0], jaw[:, 2])), 85, 180], [*(jaw[:, 1] - 0.8), -4.2, -5.2])
    skin = parts.triangle_labels[drawn] == SKIN
    region = np.where(skin & (centre[:, 1] < line), NECK, 0)
    return np.where(skin & (parts.scalp[model.triangles[drawn]].mean(axis=1) > 0.5), SCALP, region).astype(np.int32)


def landmarks(model: FaceModel, vertices: np.ndarray, viewmat: np.ndarray, view: View) -> np.ndarray:
    """[68,2] px of posed vertices [V,3] (avatar space)."""
    points = vertices[model.landmarks] @ viewmat[:3, :3].T + viewmat[:3, 3]
    pixels = points @ view.K.T
    return pixels[:, :2] / pixels[:, 2:]


def write_job(
    folder: Path, person: Person, face_model: Path, settings: Settings, plan: Plan, coefficients: np.ndarray, names: Sequence[str],
    frames: list[int],
) -> None:  # fmt: skip
    """What synthetic_render reads."""

    def bound(strands: Strands, name: str) -> dict[str, np.ndarray]:
        triangles = person.model.triangles[strands.triangle.ravel()]
        bary = np.full((len(triangles), 3), 1 / 3)
        offsets = bind_points(to_avatar(strands.points.reshape(-1, 3)), person.rest, triangles, bary)
        return {f"{name}_triangles": triangles, f"{name}_offsets": offsets}

    arrays = scene_arrays(person) | bound(person.brows, "brows") | bound(person.lashes, "lashes")
    if settings.size <= FINE_SIZE:
        thin = arrays["hair_points"][::2], 1.5 * arrays["hair_radius"][::2]
        arrays |= dict(zip(("hair_points", "hair_radius"), thin))
    arrays |= {"head_region": head_regions(person), "coefficients": coefficients, "coefficient_names": np.array(names)}
    job = {
        "face_model": str(face_model.resolve()), "identity": settings.identity, "look": asdict(person.look), "samples": settings.samples,
        "size": settings.size, "focal": settings.view(0).focal, "rows": plan.row.tolist(), "frames": frames,
        "matrices": [blender_matrix(viewmat).tolist() for viewmat in plan.viewmats],
    }  # fmt: skip
    with atomic_path(folder / "scene.npz") as part, open(part, "wb") as file:
        np.savez(file, **arrays)
    with atomic_write(folder / "job.json") as file:
        file.write(json.dumps(job).encode())


def read_pieces(work: Path, number: int, background: np.ndarray) -> Pieces:
    """What Blender made of a frame."""
    channels = read_exr(work / f"{number}.exr")
    index, depth = (next(v for name, v in channels.items() if name.endswith(end)) for end in ("Material Index.X", "Depth.Z"))
    with Image.open(work / f"{number}.png") as rgba, Image.open(work / f"{number}.torso.png") as torso:
        return pieces(np.asarray(rgba.convert("RGBA")), np.asarray(torso.convert("RGBA")), index, depth, background)


def make(
    face_model: Path, out: Path, settings: Settings, blender_python: Path, most: int = 0, threads: int = 1, progress: Callable[[str], None] = print
) -> bool:
    """Make the data set `out`, or go on with it. True when it is whole; most: stop after so many more pictures (0: at the end).

    Raises:
        UserError: no face model, no voice, no Blender, a folder that holds another set, a disk that is full.
    """
    model = load(face_model, settings.identity)
    work = out / ".work"
    _claim(out / "synthetic.json", settings, model)
    if (out / "transforms_train.json").exists() and not work.exists():
        return True
    if not (work / "script.npz").exists():
        write_script(settings.seconds, settings.cameras, settings.seed, settings.speaker, settings.held_emotion).save(work / "script.npz")
    script = Script.load(work / "script.npz")
    plan, actor, person = make_plan(settings, script), Actor(model), Person(model, look_of(settings.identity))
    coefficients = actor.coefficients(script.performance)
    background = np.full((settings.size, settings.size, 3), BACKGROUND, np.uint8)
    half = settings.size / 2
    writer = DataWriter(out, settings.size, settings.size, settings.view(0).focal, half, half, FPS)
    views = [settings.view(c) for c in range(settings.cameras + 1)]

    def camera_to_world(number: int) -> np.ndarray:
        return np.linalg.inv(plan.viewmats[number]) @ np.diag([1.0, -1.0, -1.0, 1.0])

    def keep(number: int) -> None:
        made, row = read_pieces(work, number, background), plan.row[number]
        vertices = model.pose({name: float(value) for name, value in zip(actor.names, coefficients[row]) if value})
        points = landmarks(model, vertices, plan.viewmats[number], views[plan.camera[number]])
        writer.add(number, int(row), camera_to_world(number), made.picture, made.parsing, made.torso, points, made.teeth, made.depth)
        for name in (f"{number}.png", f"{number}.exr", f"{number}.torso.png"):
            (work / name).unlink()

    todo = []
    for number in range(len(plan.row)):
        writer.place(number, int(plan.row[number]), camera_to_world(number))
        if writer.has(number):
            continue
        if all((work / name).exists() for name in (f"{number}.png", f"{number}.exr", f"{number}.torso.png")):
            keep(number)
        else:
            todo.append(number)
    if todo:
        progress(f"{len(todo)} of {len(plan.row)} pictures are to be rendered")
        now = todo[: most or None]
        write_job(work, person, face_model, settings, plan, coefficients, actor.names, now)
        _render(work, blender_python, threads, keep, len(now), progress)
        if len(now) < len(todo):
            return False
    sound = work / "aud.wav"
    soundfile.write(sound, script.samples, 16000, subtype="PCM_16")
    gap = actor.gap(coefficients)
    units = action_units(coefficients, actor.names, gap)
    labels = Labels(
        *(values[plan.row] for values in (script.performance.emotion, script.take, script.phoneme, script.viseme, coefficients)),
        np.array(actor.names), plan.camera,
    )  # fmt: skip
    writer.finish(plan.splits, {name: values[plan.row] for name, values in units.items()}, background, sound, labels, _info(settings, script, model))
    shutil.rmtree(work)
    return True


def _render(
    work: Path, blender_python: Path, threads: int, keep: Callable[[int], None], count: int, progress: Callable[[str], None]
) -> None:
    command = [*blender_command(blender_python), "-m", "character.synthetic_render", str(work.resolve()), "--threads", str(threads)]
    root = Path(__file__).resolve().parents[1]
    done = 0
    with open(work / "blender.log", "w", encoding="utf-8") as log, subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=log, text=True, encoding="utf-8", errors="replace", cwd=root, env=blender_environment()
    ) as process:
        try:
            for line in process.stdout:
                kind, _, number = line.strip().partition(" ")
                if kind == "frame" and number.isdigit():
                    keep(int(number))
                    done += 1
                    if done % 50 == 0 or done == count:
                        progress(f"{done} of {count} pictures")
        except BaseException:
            process.terminate()
            raise
    if process.returncode or done < count:
        raise UserError(
            f"Blender ended with code {process.returncode} after {done} of {count} pictures.",
            f"See {work / 'blender.log'}; run the command again to go on.",
        )


def _claim(path: Path, settings: Settings, model: FaceModel) -> None:
    """The folder is for these settings and this face: say so in it, or refuse."""
    face = hashlib.sha256(model.vertices.tobytes()).hexdigest()[:16]
    mine = {"version": VERSION, "settings": asdict(settings), "voice": settings.speaker, "face": face}
    if path.exists():
        try:
            there = json.loads(path.read_text("utf-8"))
        except ValueError:
            there = None
        if there != mine:
            raise UserError(f"{path.parent} holds a set with other settings.", "Give another --out, or the same settings to go on.")
        return
    with atomic_write(path) as file:
        file.write(json.dumps(mine, indent=1).encode())


def _info(settings: Settings, script: Script, model: FaceModel) -> dict:
    return {
        "name": f"synthetic {settings.identity}", "metres_per_unit": 1.0, "settings": asdict(settings), "voice": settings.speaker,
        "provenance": f"Rendered from the face model ICT-FaceKit Light ({model.source}, University of Southern California); voice: espeak-ng.",
        "consent": "No person is shown or heard.", "licence": "MIT notice of ICT-FaceKit Light applies",
        "mean_colour": [value / 255 for value in BACKGROUND], "depth_of_nothing": 0.0,
        "takes": [asdict(take) for take in script.takes],
    }  # fmt: skip


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.synthetic", description="Make a data set of a synthetic person.")
    parser.add_argument("--face-model", type=Path, required=True, help="ict_facekit.npz, or the FaceXModel folder of ICT-FaceKit")
    parser.add_argument("--out", type=Path, required=True, help="the data set folder; a run that was stopped goes on")
    parser.add_argument("--blender-python", type=Path, default=Path(".venv/blender"), help="a Python, or its environment, that has bpy")
    for name, value in asdict(Settings()).items():
        parser.add_argument("--" + name.replace("_", "-"), type=type(value), default=value)
    parser.add_argument("--most", type=int, default=0, help="stop after so many more pictures; 0: at the end")
    parser.add_argument("--threads", type=int, default=1, help="of Blender")
    given = vars(parser.parse_args())
    face_model, out, blender, most, threads = (given.pop(name) for name in ("face_model", "out", "blender_python", "most", "threads"))
    try:
        make(face_model, out, Settings(**given), blender, most, threads)
    except UserError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
