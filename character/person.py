"""The demo person as 3D Gaussians: `python -m character.person --face-model PATH --out build/character/person.npz`.

Renders the person in Blender, puts splats on its surfaces and hair, and fits their colours to the renders. The file written holds,
for branch b in face, mouth: b_means, b_quats (wxyz, unit), b_scales (standard deviations, m), b_opacities (0..1), b_sh [N,K,3], b_part,
b_moving (ids of the splats that expressions move), b_tri [N,3], b_bary [N,3], b_offset [N,3] (see person_binding); and rest_vertices
[V,3], identity_seed, binding_version, composite, thumbnail [H,W,4] uint8.
"""

from __future__ import annotations

import argparse
import os
import sys
import zipfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from PIL import Image
from numpy.typing import NDArray

from engine.errors import UserError

from . import weights
from .face_model import DEFAULT_IDENTITY_SEED, FaceModel, FloatArray, load
from .colours import FitSettings, fit, over, picture_of, psnr
from .look import POSES, Person, View, held_out_views, render_views, training_views
from .person_binding import BINDING_VERSION, Binding, place_points
from .person_sampling import MOUTH, PARTS, Splats, join, sample

BRANCHES = ("face", "mouth")
MOVING_METRES = 1.5e-4
MOST_MOVING = {"face": 14000, "mouth": 2500}
COMPOSITE = "sorted"

# Display-referred colours of the parts before any picture is seen.
PLAIN_COLOURS = {
    "skin": (0.78, 0.60, 0.50), "eye": (0.72, 0.70, 0.68), "socket": (0.55, 0.35, 0.30), "brows": (0.22, 0.17, 0.14),
    "lashes": (0.12, 0.10, 0.09), "hair": (0.24, 0.18, 0.14), "sweater": (0.18, 0.36, 0.44), "bag": (0.35, 0.12, 0.11),
    "gums": (0.62, 0.30, 0.29), "teeth": (0.82, 0.79, 0.74), "catchlight": (1.0, 1.0, 1.0),
}


@dataclass
class SplatPerson:
    """What the file holds, for one branch: bound splats, their SH [N,K,3] and the ids of those that move."""

    splats: Splats
    sh: FloatArray
    moving: NDArray[np.int32]


def motion_poses() -> list[weights.Coefficients]:
    """Every viseme, emotion, blink and brow shape: what decides which splats move."""
    on_rest = [*weights.EMOTIONS.values(), weights.BLINK, *({name: 1.0} for name in weights.BROW_SHAPES)]
    return [*weights.VISEMES.values(), *(weights.combine((1.0, weights.NEUTRAL), (1.0, c)) for c in on_rest)]


def vertex_motion(model: FaceModel, rest: FloatArray) -> FloatArray:
    """[V] m: the farthest that any of `motion_poses` takes each vertex from rest."""
    motion = np.zeros(len(rest), np.float32)
    for coefficients in motion_poses():
        motion = np.maximum(motion, np.linalg.norm(model.pose(coefficients) - rest, axis=1))
    return motion


def split(splats: Splats, motion: FloatArray) -> dict[str, tuple[Splats, NDArray[np.int32]]]:
    """Branches with the ids of their moving splats: those past MOVING_METRES, at most MOST_MOVING, the farthest first."""
    is_mouth = np.isin(splats.part, [PARTS.index(name) for name in MOUTH])
    branches = {}
    for name, mask in (("face", ~is_mouth), ("mouth", is_mouth)):
        part = splats.subset(mask)
        reach = (motion[part.binding.tri] * part.binding.bary).sum(axis=1)
        order = np.argsort(-reach, kind="stable")[: MOST_MOVING[name]]
        branches[name] = part, np.sort(order[reach[order] > MOVING_METRES]).astype(np.int32)
    return branches


def save(path: Path, branches: dict[str, SplatPerson], model: FaceModel, thumbnail: NDArray[np.uint8]) -> None:
    """Write person.npz whole or not at all."""
    arrays: dict[str, NDArray] = {
        "rest_vertices": branches["face"].splats.binding.rest_vertices,
        "identity_seed": np.array(-1 if model.identity_seed is None else model.identity_seed),
        "binding_version": np.array(BINDING_VERSION),
        "composite": np.array(COMPOSITE),
        "thumbnail": thumbnail,
    }
    for name, branch in branches.items():
        b = branch.splats.binding
        arrays |= {
            f"{name}_means": place_points(b.offset, b.rest_vertices, b.tri, b.bary), f"{name}_quats": b.quats, f"{name}_scales": b.scales,
            f"{name}_opacities": branch.splats.opacities, f"{name}_sh": branch.sh.astype(np.float16),
            f"{name}_part": branch.splats.part, f"{name}_moving": branch.moving,
            f"{name}_tri": b.tri, f"{name}_bary": b.bary, f"{name}_offset": b.offset,
        }
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}.part.npz")
    np.savez_compressed(part, **arrays)
    os.replace(part, path)


def load_person(path: Path) -> dict[str, SplatPerson]:
    """Read person.npz back. Raises UserError when it is not one."""
    try:
        with np.load(path, allow_pickle=False) as z:
            rest = z["rest_vertices"]
            return {
                name: SplatPerson(
                    Splats(
                        Binding(*(z[f"{name}_{k}"] for k in ("tri", "bary", "offset", "quats", "scales")), rest),
                        z[f"{name}_opacities"], z[f"{name}_part"],
                    ),
                    z[f"{name}_sh"].astype(np.float32), z[f"{name}_moving"],
                )
                for name in BRANCHES
            }
    except (OSError, EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"{path} is no person file ({error})", remedy="make it with python -m character.person") from None


BACKGROUND = (0.50, 0.56, 0.61)
THUMBNAIL_VIEW = View("thumbnail", yaw=12.0, pitch=2.0, target=(0.0, -0.005, 0.0), span=0.34, size=256)


def make(model: FaceModel, build: Path, blender_python: Path, samples: int, threads: int, settings: FitSettings) -> tuple[
    dict[str, SplatPerson], NDArray[np.uint8]
]:
    """Splats with fitted colours for both branches, and a thumbnail. Renders and comparison pictures stay under `build`."""
    person = Person(model)
    motion = vertex_motion(model, person.rest)
    branches = split(sample(person, motion), motion)
    for name, (part, moving) in branches.items():
        print(f"{name}: {len(part.part)} splats, {len(moving)} move", flush=True)
    both = join([branches[name][0] for name in BRANCHES])

    views, held_out = training_views(), held_out_views()
    pictures = render_views(person, build / "views", views + held_out, blender_python, samples, threads)
    poses = {name: model.pose(POSES[name]) for name in {v.pose for v in views + held_out}}
    plain = np.array([PLAIN_COLOURS[name] for name in PARTS], np.float32)[both.part]
    fixed = both.part == PARTS.index("catchlight")
    sh = fit(both.binding, both.opacities, both.part, fixed, plain, views, pictures, poses.__getitem__, settings)

    compare(both, sh, views, held_out, pictures, poses, build / "pictures")
    thumbnail = picture_of(both.binding, both.opacities, sh, poses["neutral"], THUMBNAIL_VIEW, BACKGROUND)
    rgb = np.clip(thumbnail * 255 + 0.5, 0, 255).astype(np.uint8)
    ends = np.cumsum([0, *(len(branches[name][0].part) for name in BRANCHES)])
    made = {name: SplatPerson(*branches[name][:1], sh[a:b], branches[name][1]) for name, a, b in zip(BRANCHES, ends, ends[1:])}
    return made, np.concatenate([rgb, np.full((*rgb.shape[:2], 1), 255, np.uint8)], axis=2)


def compare(
    splats: Splats, sh: FloatArray, views: list[View], held_out: list[View], pictures: dict[str, FloatArray],
    poses: dict[str, FloatArray], folder: Path,
) -> None:
    """Print PSNR over the background for every view; save render and splats side by side for the held-out and some other views."""
    folder.mkdir(parents=True, exist_ok=True)
    values: dict[str, float] = {}
    for view in views + held_out:
        want = over(pictures[view.name], BACKGROUND)
        got = np.clip(picture_of(splats.binding, splats.opacities, sh, poses[view.pose], view, BACKGROUND), 0, 1)
        values[view.name] = psnr(got, want)
        side_by_side = (np.concatenate([want, got], axis=1) * 255 + 0.5).astype(np.uint8)
        Image.fromarray(side_by_side).save(folder / f"{view.name}.png")
    for name, group in (("training", views), ("held out", held_out)):
        print(f"{name}: mean PSNR {np.mean([values[v.name] for v in group]):.2f} dB", flush=True)
    print("  ".join(f"{name} {value:.1f}" for name, value in values.items()), flush=True)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m character.person", description=__doc__.splitlines()[0])
    parser.add_argument("--face-model", type=Path, required=True, help="ict_facekit.npz, or the FaceXModel folder of ICT-FaceKit")
    parser.add_argument("--out", type=Path, default=Path("build/character/person.npz"))
    parser.add_argument("--blender-python", type=Path, default=Path(".venv/blender"), help="environment with the bpy wheel")
    parser.add_argument("--identity", type=int, default=DEFAULT_IDENTITY_SEED, help="seed of the identity")
    parser.add_argument("--samples", type=int, default=16, help="Cycles samples a pixel")
    parser.add_argument("--threads", type=int, default=1, help="threads that Blender may use")
    parser.add_argument("--iterations", type=int, default=FitSettings.iterations, help="steps of the colour fit")
    options = parser.parse_args(arguments)
    try:
        model = load(options.face_model, options.identity)
        branches, thumbnail = make(
            model, options.out.parent, options.blender_python, options.samples, options.threads,
            FitSettings(iterations=options.iterations),
        )
        save(options.out, branches, model, thumbnail)
    except UserError as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{options.out}: {options.out.stat().st_size / 1e6:.1f} MB", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
