"""The demo avatar's networks: `python -m character.train --person build/character/person.npz --face-model PATH --out AVATAR`.

Makes synthetic speech, trains the content provider, then both branches of UA-3DTalk's networks on the known 3D motion of the
person's splats, and writes the avatar. 40 to 60 minutes on one core; a second run goes on where the first stopped (`--work`). The shipped
avatar was made with `--recordings` LJ001-0009 to LJ001-0032 of LJ Speech; sentences 1 to 8 are kept for judging.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import numpy as np
import torch

from engine.deform.parameters import NetworkSizes
from engine.errors import UserError
from engine.priors.corpus import make_clips, recorded_clips
from engine.views.content import VISEMES, Content

from . import weights
from .face_model import FaceModel, FloatArray, load
from .motion import Actor, Performance, fit_motion, rest_means
from .person import SplatPerson, load_person
from .person_sampling import PARTS, join
from .speech_train import train_content
from .train_avatar import assemble, landmark_splats
from .train_branch import BranchTrainer, Plan, Stage, Target
from .train_data import Director, SpeechBank, make_prototypes, random_aus, random_emotions

CONTENT_CLIPS, CONTENT_STEPS = 450, 500
RECORDED_SHARE = 0.45  # of the content net's frames come from recordings, where there are any
MOTION_CLIPS = 400
FIT_FRAMES = 180
FACE = NetworkSizes(
    field=(16, 40, 104), field_channels=16, emotion_field=(8, 24), emotion_channels=64, codebook=(8, 24)
)  # fmt: skip
MOUTH = NetworkSizes(field=(12, 24, 48), field_channels=16)


def plans(scale: float) -> dict[str, Plan]:
    """How long each branch trains; `scale` shortens it for trials."""
    steps = lambda count: max(20, int(count * scale))  # noqa: E731
    return {
        "mouth": Plan(
            MOUTH,
            (Stage(steps(3000), 16, 160, 2e-3, 1e-2, False), Stage(steps(250), 8, 64, 3e-4, 1e-3, True)),
            gap_weight=0.0,
        ),
        "face": Plan(
            FACE,
            (Stage(steps(14000), 16, 230, 2e-3, 1e-2, False), Stage(steps(700), 8, 96, 4e-4, 1e-3, True)),
        ),
    }


def openings(model: FaceModel) -> FloatArray:
    """Lip opening [20] of the visemes, 0 closed, 1 as wide as `aa`."""
    actor = Actor(model)
    rows = np.array([[weights.VISEMES[name].get(c, 0.0) for c in actor.names] for name in VISEMES])
    gaps = np.maximum(actor.gap(rows), 0)
    return (gaps / gaps[VISEMES.index("aa")]).clip(0, 1).astype(np.float32)


def _content(work: Path, model: FaceModel, recordings: list[Path], scale: float) -> dict[str, np.ndarray]:
    path = work / "content.npz"
    if not path.exists():
        clips = make_clips(max(60, int(CONTENT_CLIPS * scale)), seed=1)
        real = recorded_clips(recordings, copies=4, seed=3)
        if real:
            length = lambda some: sum(clip.sound.duration for clip in some)  # noqa: E731
            times = RECORDED_SHARE / (1 - RECORDED_SHARE) * length(clips) / length(real)
            clips += real * max(1, round(times))
        found = train_content(clips, openings(model), max(200, int(CONTENT_STEPS * scale)), report=_say)
        np.savez(work / "content.part.npz", **found)
        (work / "content.part.npz").replace(path)
    with np.load(path, allow_pickle=False) as stored:
        return dict(stored)


def _target(work: Path, model: FaceModel, person: SplatPerson, actor: Actor, branch: str, version: int) -> Target:
    """Motion basis of a branch's moving splats; fitted once for a version of the binding."""
    random = np.random.default_rng(5)
    articulation = random.dirichlet(np.full(len(VISEMES), 0.12), FIT_FRAMES).astype(np.float32)
    performance = Performance(
        articulation, random.uniform(0.65, 1.12, FIT_FRAMES).astype(np.float32),
        random_emotions(random, FIT_FRAMES), random_aus(random, FIT_FRAMES),
    )  # fmt: skip
    coefficients = actor.coefficients(performance)
    path = work / f"basis_{branch}_v{version}.npz"
    binding = person.splats.binding.subset(person.moving)
    if not path.exists():
        began = time.time()
        fitted = fit_motion(model, binding, actor, coefficients)
        np.savez(path, basis=fitted.basis)
        _say(f"{branch}: motion of {len(person.moving)} splats, linear to {1000 * fitted.error:.3f} mm, {time.time() - began:.0f} s")
    with np.load(path, allow_pickle=False) as stored:
        basis = stored["basis"]
    offsets = (coefficients - actor.at_rest())[:60]
    reach = np.sqrt(max_square(offsets, basis))
    travel = lambda shapes: sum(np.linalg.norm(basis[actor.names.index(name), :, :3], axis=1) for name in shapes)  # noqa: E731
    fine = (travel(("eyeBlink_L", "eyeBlink_R")) > 0.001) | (travel(("mouthPress_L", "mouthPress_R", "mouthRollUpper")) > 0.003)
    return Target.of(rest_means(binding), basis, reach, fine, [])


def max_square(offsets: FloatArray, basis: FloatArray) -> FloatArray:
    """[M] largest squared distance (m2) from rest."""
    return np.max([np.square(np.tensordot(row, basis[:, :, :3], 1)).sum(1) for row in offsets], axis=0)


def main(arguments: list[str] | None = None) -> None:
    """The command."""
    parser = argparse.ArgumentParser(prog="python -m character.train", description=__doc__.split("\n", 1)[0])
    parser.add_argument("--person", type=Path, required=True, help="person.npz, from python -m character.person")
    parser.add_argument("--face-model", type=Path, required=True, help="ICT-FaceKit: its folder, or the packed .npz")
    parser.add_argument("--out", type=Path, required=True, help="the avatar file to write")
    parser.add_argument("--work", type=Path, default=Path("build/character/train"), help="checkpoints; a second run goes on from them")
    parser.add_argument(
        "--recordings", type=Path, nargs="*", default=[], help="sound files of a real English voice that may be used (LJ Speech)"
    )
    parser.add_argument("--scale", type=float, default=1.0, help="share of the full training, for trials")
    parser.add_argument("--threads", type=int, default=1)
    given = parser.parse_args(arguments)
    torch.set_num_threads(given.threads)
    given.work.mkdir(parents=True, exist_ok=True)

    people = bag_with_face(load_person(given.person))
    with np.load(given.person, allow_pickle=False) as stored:
        seed, composite, thumbnail = int(stored["identity_seed"]), str(stored["composite"]), stored["thumbnail"]
        version = int(stored["binding_version"])
    model = load(given.face_model, None if seed < 0 else seed)
    notice = _notice(given.face_model)
    actor = Actor(model)
    content = _content(given.work, model, given.recordings, given.scale)
    made = {}
    targets = {branch: _target(given.work, model, person, actor, branch, version) for branch, person in people.items()}
    landmarks = landmark_splats(model, people["face"], targets["face"].basis.numpy(), actor.names)
    ids = {name: torch.from_numpy(rows) for name, rows in landmarks.items()}
    targets["face"].pairs = [(ids["lip_upper"], ids["lip_lower"]), (ids["lid_upper"], ids["lid_lower"])]
    prototypes = make_prototypes()
    bank = SpeechBank.of(make_clips(max(40, int(MOTION_CLIPS * min(1, 2 * given.scale))), seed=2), Content(content))
    _say(f"speech for motion: {len(bank.usable) / 6000:.0f} min")
    for number, (branch, plan) in enumerate(plans(given.scale).items()):
        # The inside of the mouth sees no emotion and no action units (method, "mouth branch"): it learns speech alone.
        director = Director(bank, actor, prototypes, seed=100 + number, expressive=branch == "face")
        checkpoint = given.work / f"{branch}_v{version}.pt"
        made[branch] = BranchTrainer(branch, plan, targets[branch], director, checkpoint, seed=number).run(_say)
    avatar = assemble(
        given.out, people, made, content, prototypes, landmarks, thumbnail, composite, notice, recordings=len(given.recordings)
    )
    _say(f"{given.out}: {given.out.stat().st_size / 1e6:.1f} MB, {avatar.count('face')} + {avatar.count('mouth')} splats")


def bag_with_face(people: dict[str, SplatPerson]) -> dict[str, SplatPerson]:
    """The mouth's lining goes to the face branch: it hangs on the lips, which follow the emotions, and the mouth branch knows none."""
    face, mouth = people["face"], people["mouth"]
    is_bag = mouth.splats.part == PARTS.index("bag")
    moves = np.zeros(len(is_bag), bool)
    moves[mouth.moving] = True
    added = len(face.splats.part) + np.flatnonzero(moves[is_bag])
    return {
        "face": SplatPerson(
            join([face.splats, mouth.splats.subset(is_bag)]),
            np.concatenate([face.sh, mouth.sh[is_bag]]),
            np.concatenate([face.moving, added]).astype(np.int32),
        ),
        "mouth": SplatPerson(
            mouth.splats.subset(~is_bag), mouth.sh[~is_bag], np.flatnonzero(moves[~is_bag]).astype(np.int32)
        ),
    }


def _notice(face_model: Path) -> str:
    folder = face_model if face_model.is_dir() else face_model.parent
    for place in (folder / "LICENSE", folder.parent / "LICENSE"):
        if place.is_file():
            return place.read_text("utf-8")
    raise UserError(f"{folder} has no LICENSE.", "Keep the face model's licence beside it: the avatar must carry its notice.")


def _say(text: str) -> None:
    print(time.strftime("%H:%M:%S"), text, flush=True)


if __name__ == "__main__":
    main()
