"""From what was trained to the avatar file."""

from __future__ import annotations

import datetime
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch
from scipy.optimize import nnls

from ..avatar import AU_NAMES, EMOTIONS, Avatar, AvatarMeta, save_avatar
from ..dataset import Frame
from ..deform.doubt import Known, KnownUnits
from ..deform.parameters import VIEWS, branch_tensors, read_sizes
from .material import Material
from .named import calm, named_splats, pixel_size
from .splats import Splats
from .trainer import Trainer

BROUGHT = 0.05
"""Of an action unit, what an emotion brings at least."""
THUMBNAIL = 256
"""Pixels at most."""


def save(trainer: Trainer, path: Path, units: Mapping[str, np.ndarray], created: str | None = None) -> Avatar:
    """Write the avatar, deaf to the views that it was trained without; `units` as `variance_units` gives them. Raises UserError where it cannot be."""
    material, scene, info = trainer.material, trainer.scene, trainer.material.data.info
    # What the networks say to an emotion that they never met is anything: it stays neutral.
    shown = np.array([name in material.emotions() for name in EMOTIONS])
    prototypes = np.where(shown[:, None], material.sources.prototypes, material.sources.prototypes[0])
    tensors: dict[str, np.ndarray] = {"emotion.prototypes": prototypes} | material.sources.tensors
    for branch in scene.branches:
        parts = [branch] + (["body"] if branch == "face" and "body" in scene.splats else [])  # the body is the face's last rows
        arrays = [_gaussians(scene.splats[part], trainer.config.sh_degree) | {"variance_unit": units[part]} for part in parts]
        tensors |= {f"{branch}.{name}": np.concatenate([one[name] for one in arrays]) for name in arrays[0]}
        tensors |= silenced(scene.nets[branch].to_tensors(), branch, trainer.config.without)
        moving = scene.splats[branch].moving
        if len(parts) > 1 or not moving.all():
            tensors[f"{branch}.moving"] = moving.nonzero()[:, 0].cpu().numpy().astype(np.int32)
        if len(parts) > 1:
            tensors["face.body"] = np.arange(len(moving), len(moving) + len(scene.splats["body"]), dtype=np.int32)
    brought = None if {"emotion", "au"} & set(trainer.config.without) else emotion_action_units(material)
    if brought is not None:
        tensors["emotion.action_units"] = brought
    if trainer.config.doubt:
        known = {view: Known.of_film(material.film(view)) for view in VIEWS["face"]}
        tensors |= {name: value for view, one in known.items() if one is not None for name, value in one.tensors(view).items()}
        tensors |= KnownUnits.of_film(material.film("au"), known["emotion"], material.film("emotion")).tensors()
    frame = calm(material)
    tensors |= {f"landmarks.{name}": rows for name, rows in named_splats(scene, frame).items()}
    tensors["thumbnail"] = _thumbnail(trainer, frame)
    meta = AvatarMeta(
        name=str(info.get("name") or material.data.folder.name),
        metres_per_unit=float(info.get("metres_per_unit", 1.0)),
        composite="layered",
        emotions=list(EMOTIONS),
        views={view: found for view, found in material.sources.views.items()},
        provenance=provenance(trainer),
        consent=str(info.get("consent", "")),
        licence=str(info.get("licence", "")),
        created=created or datetime.date.today().isoformat(),
        logvar_bound=trainer.config.logvar_bound,
        pixel_size=pixel_size(scene),
    )
    avatar = Avatar(meta, tensors)
    save_avatar(avatar, path)
    return avatar


def _gaussians(splats: Splats, degree: int) -> dict[str, np.ndarray]:
    """Raw values under their names in the avatar file."""
    values = {name: splats.parameters[name] for name in ("means", "quats", "scales", "opacities")} | {"sh": splats.sh(degree)}
    return {name: np.ascontiguousarray(value.detach().cpu().numpy(), np.float32) for name, value in values.items()}


def emotion_action_units(material: Material) -> np.ndarray | None:
    """[8,6] float32: what each of EMOTIONS at full intensity brings of the action units in the film, beside the face at rest; None where nothing is
    known of its emotions.

    A film shows emotions with their brows and lids. On a timeline an emotion is one slider, and without what goes with it the face would be asked
    for what its networks never saw. Least squares with no number below 0; what is less than BROUGHT is noise.
    """
    seen = [EMOTIONS.index(name) for name in material.emotions() if name != "neutral"]
    if not seen:
        return None
    numbers = [frame.number for frame in material.train]
    weights = material.data.emotion[numbers][:, seen].astype(np.float64)
    known = np.concatenate([np.ones((len(weights), 1)), weights], 1)
    found = np.zeros((len(EMOTIONS), len(AU_NAMES)), np.float32)
    for column, values in enumerate(material.data.aus[numbers].T):
        found[seen, column] = nnls(known, values.astype(np.float64))[0][1:]
    return np.where(found < BROUGHT, 0, found)


def silenced(tensors: dict[str, np.ndarray], branch: str, views: Sequence[str]) -> dict[str, np.ndarray]:
    """Network tensors of a branch that take some views (audio, exp, style, emotion, au) for zeros, as they had them in training.

    Args:
        tensors: `<branch>.net.*`; left as they are.
    """
    sizes = read_sizes(branch, branch_tensors(tensors, branch))
    columns = {"exp": ("exp", 0, sizes.exp_dim), "style": ("style", 0, sizes.style_dim)}
    if branch == "face":
        columns["au"] = ("audio", sizes.audio_dim, sizes.audio_dim + sizes.aus)  # they stand behind the audio
    found = dict(tensors)
    for view in views:
        if view in columns:
            name, low, high = columns[view]
            weight = found[f"{branch}.net.fuse.{name}.fc1.weight"].copy()
            weight[..., low:high] = 0  # what is behind belongs to the place
            found[f"{branch}.net.fuse.{name}.fc1.weight"] = weight
        elif view == "audio" or branch == "face" and view == "emotion":
            name = f"{branch}.net.{'audio.conv.0' if view == 'audio' else 'emotion.query'}.weight"
            found[name] = np.zeros_like(found[name])
    return found


def provenance(trainer: Trainer) -> str:
    """What an avatar says about its making."""
    material, config = trainer.material, trainer.config
    lines = [str(material.data.info.get("provenance", "")).strip()]
    body = f" + {config.body.steps}" if "body" in trainer.scene.splats else ""
    starts = ", ".join(f"{branch}: {kind}" for branch, kind in trainer.starts.items())
    lines.append(
        f"Trained on {len(material.train)} pictures of {material.size[0]} x {material.size[1]} ({config.preset}; {config.mouth.steps} + "
        f"{config.face.steps} + {config.agree_steps} + {config.fuse_steps}{body} steps; Gaussians began at {starts}); {material.sources.origin}."
    )
    if "mouth" not in trainer.scene.splats:
        lines.append("No picture shows the inside of the mouth: there is none.")
    emotions = material.emotions()
    if not emotions:
        lines.append("The data names no emotion: the emotion sliders do nothing.")
    else:
        seen = ", ".join(f"{name} up to {top:g}" for name, top in emotions.items())
        unseen = [name for name in EMOTIONS[1:] if name not in emotions]
        lines.append(f"Emotions in the data: {seen}." + (f" Never trained: {', '.join(unseen)}; these do nothing." if unseen else ""))
    if config.without:
        lines.append(f"Views left out: {', '.join(config.without)}.")
    return "\n".join(line for line in lines if line)


@torch.no_grad()
def _thumbnail(trainer: Trainer, frame: Frame) -> np.ndarray:
    """The head alone [h,w,4] uint8."""
    material, scene = trainer.material, trainer.scene
    outs = {branch: scene.motion(branch, frame) for branch in scene.branches}
    black = torch.zeros(3, device=material.device)
    drawn = scene.draw_head(frame, outs, trainer.config.sh_degree, black, body=True)
    alpha = drawn.alphas[0][..., None].clamp(0, 1)
    picture = torch.cat([drawn.colors[0] / alpha.clamp(min=1e-3), alpha], -1).clamp(0, 1)
    step = max(1, -(-max(material.size) // THUMBNAIL))
    return np.ascontiguousarray((255 * picture[::step, ::step]).round().byte().cpu().numpy())
