"""From a bound person and trained networks to the avatar file."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import numpy as np

from engine.avatar import EMOTIONS, Avatar, AvatarMeta, View, save_avatar
from engine.avatar.gaussians import softplus_inverse
from engine.deform.networks import BranchNetwork
from engine.views.builtin import MelWindow, Prosody
from engine.views.content import Content
from engine.views.emotion import Arousal

from .face_model import FaceModel, FloatArray
from .motion import rest_means
from .person import SplatPerson
from .person_sampling import PARTS
from .train_branch import LOGVAR_BOUND

NAME = "Demo person"
PIXEL_SIZE = 3e-4
"""m; its splats were fitted to pictures of 0.26 (mouth) to 0.69 mm a pixel (`look.training_views`), most of the face at 0.36."""
PROVENANCE = """A synthetic person made by this project's own code (folder character/).
Shape and expressions: ICT-FaceKit Light (USC Institute for Creative Technologies, ICT-VGL/ICT-FaceKit), MIT licence, notice below; \
identity offsets drawn at random. Skin, hair, brows, eyes, teeth and clothes are our own.
Speech it was trained on: sentences of our own, spoken by espeak-ng (its phoneme times give the mouth shapes){recordings}.

{notice}"""
RECORDINGS = "; and, for the net that hears the content, {count} recordings of LJ Speech (public domain), aligned by pocketsphinx"
CONSENT = "Synthetic person; no real person's likeness."
LICENCE = "GPL-3.0-or-later; the face model's MIT notice is in the provenance."


def landmark_splats(model: FaceModel, person: SplatPerson, basis: FloatArray, names: tuple[str, ...]) -> dict[str, np.ndarray]:
    """Named splats of the face branch, as rows of its moving splats: lip_upper, lip_lower (inner lips, middle), lid_upper, lid_lower,
    brow.

    Lips and lids touch, so the nearest splat may lie on the other one: what the jaw or the blink moves tells them apart.
    """
    splats = person.splats.subset(person.moving)
    means = rest_means(splats.binding)
    skin = splats.part == PARTS.index("skin")
    travel = lambda shape: np.linalg.norm(sum(basis[names.index(n), :, :3] for n in shape), axis=1)  # noqa: E731
    jaw, blink = travel(("jawOpen",)), travel(("eyeBlink_L", "eyeBlink_R"))
    lip, lid = jaw > 0.6 * jaw.max(), blink > 0.5 * blink.max()
    found = {}
    for name, numbers, mask, each in (
        ("lip_upper", (61, 62, 63), ~lip, 4), ("lip_lower", (67, 66, 65), lip, 4),
        ("lid_upper", (37, 38, 43, 44), lid, 4), ("lid_lower", (41, 40, 47, 46), ~lid, 4),
        ("brow", range(17, 27), np.ones(len(means), bool), 2),
    ):  # fmt: skip
        allowed = np.flatnonzero(skin & mask)
        ids: list[int] = []
        for point in model.rest[model.landmarks[list(numbers)]]:
            distance = np.linalg.norm(means[allowed] - point, axis=1)
            ids += [int(i) for i in allowed[np.argsort(distance)] if int(i) not in ids][:each]
        found[name] = np.array(ids, np.int64)
    return found


def assemble(
    path: Path,
    people: dict[str, SplatPerson],
    nets: dict[str, BranchNetwork],
    content: dict[str, np.ndarray],
    prototypes: FloatArray,
    landmarks: dict[str, np.ndarray],
    thumbnail: np.ndarray,
    composite: str,
    notice: str,
    recordings: int = 0,
) -> Avatar:
    """Write the avatar file and return the avatar.

    Args:
        landmarks: from `landmark_splats`.
        notice: licence text of the face model.
        recordings: how many recordings of LJ Speech the content net heard.
    """
    half = np.float16
    tensors: dict[str, np.ndarray] = {"emotion.prototypes": prototypes, "thumbnail": thumbnail}
    tensors |= {name: value.astype(half) for name, value in content.items()}
    for branch, person in people.items():
        b, opacities = person.splats.binding, np.clip(person.splats.opacities, 1e-4, 1 - 1e-4)
        tensors |= {
            f"{branch}.means": rest_means(b).astype(np.float32),
            f"{branch}.quats": b.quats.astype(half),
            f"{branch}.scales": softplus_inverse(b.scales).astype(half),
            f"{branch}.opacities": np.log(opacities / (1 - opacities)).astype(half),
            f"{branch}.sh": person.sh.astype(half),
            f"{branch}.moving": person.moving.astype(np.int32),
        }
        tensors |= {
            name: value if name.endswith("aabb") else value.astype(half) for name, value in nets[branch].to_tensors().items()
        }
    tensors |= {f"landmarks.{name}": people["face"].moving[ids].astype(np.int32) for name, ids in landmarks.items()}
    kinds = (MelWindow, Content, Prosody, Arousal)
    meta = AvatarMeta(
        name=NAME,
        composite=composite,
        emotions=list(EMOTIONS),
        views={kind.view: View(kind.name, kind.version, list(kind.shape), float(kind.rate)) for kind in kinds},
        provenance=PROVENANCE.format(
            notice=notice.strip(), recordings=RECORDINGS.format(count=recordings) if recordings else ""
        ),
        consent=CONSENT,
        licence=LICENCE,
        created=date.today().isoformat(),
        logvar_bound=LOGVAR_BOUND,
        pixel_size=PIXEL_SIZE,
    )
    avatar = Avatar(meta, tensors)
    save_avatar(avatar, path)
    return avatar
