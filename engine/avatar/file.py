"""One avatar, one file: Gaussians, networks, providers, emotions, provenance (docs/architecture.md, "Avatar file")."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from functools import cached_property
from pathlib import Path

import numpy as np

from ..errors import UserError
from ..files import file_hash
from .gaussians import Gaussians, join, normalise, sigmoid, softplus, turn
from .tensors import load_tensors, save_tensors

FORMAT_VERSION = 1
KEY = "ua3dtalk"
BRANCHES = ("face", "mouth")
EMOTIONS = ("neutral", "happy", "sad", "angry", "fear", "disgusted", "surprised", "contempt")
AU_NAMES = ("AU1", "AU4", "AU5", "AU6", "AU7", "AU45")
_AXES = {"X": (1, 0, 0), "Y": (0, 1, 0), "Z": (0, 0, 1)}


@dataclass
class View:
    """What one view of the networks was trained on: a provider's name, version, shape of a frame, and frames a second."""

    provider: str
    version: int
    dim: list[int]
    rate: float


@dataclass
class AvatarMeta:
    """An avatar's JSON metadata.

    Attributes:
        name: shown to users.
        metres_per_unit: length of one unit of `means`.
        up, front: the avatar's axes, one of +X -X +Y -Y +Z -Z; the face looks along `front`.
        composite: `layered` (all mouth splats behind all face splats, method's composite) or `sorted` (depth alone).
        emotions: vocabulary, in the order of `emotion.prototypes`.
        views: what feeds the networks; empty for a static avatar.
        au_names: order of the `au` view.
        provenance, consent, licence: text for users; who it is, from what it was made, what is allowed.
        created: ISO date.
        logvar_bound: if set, log-variances pass b * tanh(v / b).
        pixel_size: units that a pixel covered at the head in the pictures it was trained on (raster.conventions.EPS2D); 0: not known.
    """

    name: str
    metres_per_unit: float = 1.0
    up: str = "+Y"
    front: str = "+Z"
    composite: str = "sorted"
    emotions: list[str] = field(default_factory=lambda: list(EMOTIONS))
    views: dict[str, View] = field(default_factory=dict)
    au_names: list[str] = field(default_factory=lambda: list(AU_NAMES))
    provenance: str = ""
    consent: str = ""
    licence: str = ""
    created: str = ""
    logvar_bound: float | None = None
    pixel_size: float = 0.0

    @property
    def pixel_metres(self) -> float:
        """`pixel_size` in metres."""
        return self.pixel_size * self.metres_per_unit


@dataclass
class Avatar:
    """An avatar in memory: metadata and named tensors (read-only memory maps when loaded)."""

    meta: AvatarMeta
    tensors: dict[str, np.ndarray]
    path: Path | None = None

    @property
    def is_static(self) -> bool:
        """True where no network moves the Gaussians."""
        return not any(".net." in name for name in self.tensors)

    @property
    def branches(self) -> tuple[str, ...]:
        """The branches this avatar has, face first."""
        return tuple(branch for branch in BRANCHES if f"{branch}.means" in self.tensors)

    @cached_property
    def hash(self) -> str:
        """SHA-256 of the file (hexadecimal); of name and tensors where it is not on disk."""
        if self.path is not None:
            return file_hash(self.path)
        import hashlib

        digest = hashlib.sha256(_meta_json(self.meta).encode())
        for name in sorted(self.tensors):
            digest.update(name.encode() + np.ascontiguousarray(self.tensors[name]).tobytes())
        return digest.hexdigest()

    def count(self, branch: str) -> int:
        """Number of Gaussians of a branch."""
        return len(self.tensors[f"{branch}.means"]) if branch in self.branches else 0

    def moving(self, branch: str) -> np.ndarray:
        """Indices [M] int64 of the Gaussians of `branch` that the networks move."""
        if self.is_static or branch not in self.branches or not any(n.startswith(f"{branch}.net.") for n in self.tensors):
            return np.zeros(0, np.int64)
        stored = self.tensors.get(f"{branch}.moving")
        return np.arange(self.count(branch)) if stored is None else np.asarray(stored, np.int64)

    def gaussians(self, branch: str) -> Gaussians:
        """The branch at rest, activated, in avatar space."""
        get = lambda name: np.asarray(self.tensors[f"{branch}.{name}"], np.float32)  # noqa: E731
        return Gaussians(
            get("means"), normalise(get("quats")), softplus(get("scales")), sigmoid(get("opacities")), get("sh")
        )

    def body(self) -> np.ndarray:
        """Rows [B] int64 of the face's Gaussians that are neck and shoulders of a film; none where there are none, or nobody knows."""
        return np.asarray(self.tensors.get("face.body", ()), np.int64)

    def emotion_action_units(self) -> np.ndarray | None:
        """[8,6] float32: what each of EMOTIONS at full intensity brings of AU_NAMES (in 0..1, beside the face at rest); None: not known."""
        stored = self.tensors.get("emotion.action_units")
        if stored is None:
            return None
        rows = dict(zip(self.meta.emotions, np.asarray(stored, np.float32)))
        return np.stack([rows.get(name, np.zeros(len(AU_NAMES), np.float32)) for name in EMOTIONS])

    def variance_unit(self, branch: str) -> np.ndarray | None:
        """[N] float32, variance of colour (display, 0..1) for one of a Gaussian's fused state, and of one that stands still its own; None: unknown."""
        stored = self.tensors.get(f"{branch}.variance_unit")
        return None if stored is None else np.asarray(stored, np.float32)

    @property
    def knows_color_variance(self) -> bool:
        """True where variances are of colour: expected errors are their roots (`train/unit.py`)."""
        return all(self.variance_unit(branch) is not None for branch in self.branches)

    def still_variance(self) -> np.ndarray:
        """[N] float32 of `rest()`: variance of colour of what stands still; 0 where it moves or nothing is known."""
        found = []
        for branch in self.branches:
            unit = self.variance_unit(branch)
            found.append(np.zeros(self.count(branch), np.float32) if unit is None else unit.copy())
            found[-1][self.moving(branch)] = 0
        return np.concatenate(found)

    def rotation_to_blender(self) -> np.ndarray:
        """Rotation [3,3] from avatar axes to Blender's (Z up, the face looks along -Y)."""
        up, front = _axis(self.meta.up), _axis(self.meta.front)
        source = np.stack([np.cross(up, front), up, front])  # rows: left of the face, up, front
        target = np.array([[1.0, 0, 0], [0, 0, 1], [0, -1, 0]])
        return target.T @ source

    def to_blender(self, gaussians: Gaussians) -> Gaussians:
        """A set in avatar space turned to Blender's axes and metres."""
        return turn(gaussians, self.rotation_to_blender(), self.meta.metres_per_unit)

    def rest(self) -> tuple[Gaussians, np.ndarray]:
        """All branches at rest in Blender's frame, and the branch number [N] uint8 (0 face, 1 mouth)."""
        sets = [self.gaussians(branch) for branch in self.branches]
        number = [np.full(len(part), BRANCHES.index(name), np.uint8) for name, part in zip(self.branches, sets)]
        return self.to_blender(join(sets)), np.concatenate(number)

    def moving_rows(self) -> np.ndarray:
        """Rows [M] of `rest()` that the networks move: face first, then mouth."""
        start, rows = 0, []
        for branch in self.branches:
            rows.append(self.moving(branch) + start)
            start += self.count(branch)
        return np.concatenate(rows)

    @property
    def thumbnail(self) -> np.ndarray | None:
        """[H,W,4] uint8 sRGB, top row first, or None."""
        return self.tensors.get("thumbnail")


def _axis(text: str) -> np.ndarray:
    return (1 if text[0] == "+" else -1) * np.array(_AXES[text[1]], np.float64)


def _meta_json(meta: AvatarMeta) -> str:
    return json.dumps({"format_version": FORMAT_VERSION, **asdict(meta)}, ensure_ascii=False)


def save_avatar(avatar: Avatar, path: Path) -> None:
    """Write an avatar file in one step, checked before it is written.

    Raises:
        UserError: the avatar is not valid, or the file cannot be written.
    """
    _check(avatar, Path(path))
    save_tensors(Path(path), avatar.tensors, {KEY: _meta_json(avatar.meta)})


def load_avatar(path: Path) -> Avatar:
    """Open an avatar file; no code in it can run.

    Raises:
        UserError: missing, truncated, foreign or newer file, wrong shapes, NaN or infinite numbers.
    """
    path = Path(path)
    tensors, metadata = load_tensors(path)
    if KEY not in metadata:
        raise UserError(
            f"{path}: a safetensors file, but no UA-3DTalk avatar.",
            "Convert it first with `python -m engine import`.",
        )
    try:
        values = json.loads(metadata[KEY])
        version = values.pop("format_version")
        if not isinstance(version, int):
            raise TypeError("format_version")
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise UserError(f"{path}: its avatar metadata cannot be read.", "Get the file again from its source.") from error
    if version > FORMAT_VERSION:
        raise UserError(
            f"{path}: written in avatar format {version}; this version reads up to {FORMAT_VERSION}.",
            "Update the UA-3DTalk extension.",
        )
    try:
        known = {item.name for item in fields(AvatarMeta)}
        values = {name: value for name, value in values.items() if name in known}
        values["views"] = {
            str(name): View(str(v["provider"]), int(v["version"]), [int(d) for d in v["dim"]], float(v["rate"]))
            for name, v in values.get("views", {}).items()
        }
        meta = AvatarMeta(**values)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError) as error:
        raise UserError(f"{path}: its avatar metadata is incomplete ({error}).", "Get the file again.") from error
    avatar = Avatar(meta, tensors, path)
    _check(avatar, path)
    return avatar


def _check(avatar: Avatar, path: Path) -> None:
    def refuse(why: str) -> UserError:
        return UserError(f"{path}: {why}.", "The avatar was not loaded; get the file again or repair its source.")

    meta, tensors = avatar.meta, avatar.tensors
    for name in ("name", "up", "front", "composite", "provenance", "consent", "licence", "created"):
        if not isinstance(getattr(meta, name), str):
            raise refuse(f"metadata `{name}` is not text")
    if meta.up[:1] not in "+-" or meta.up[1:] not in _AXES or meta.front[:1] not in "+-" or meta.front[1:] not in _AXES:
        raise refuse(f"axes {meta.up!r}, {meta.front!r} are none of +X -X +Y -Y +Z -Z")
    if meta.up[1:] == meta.front[1:]:
        raise refuse("its up and front axes lie on one line")
    if meta.composite not in ("layered", "sorted"):
        raise refuse(f"composite {meta.composite!r} is neither 'layered' nor 'sorted'")
    number = meta.metres_per_unit
    if not isinstance(number, (int, float)) or not 0 < number < 1e6:
        raise refuse("metres_per_unit is not a positive number")
    bound = meta.logvar_bound
    if bound is not None and (not isinstance(bound, (int, float)) or not 0 < bound < 1e6):
        raise refuse("logvar_bound is not a positive number")
    size = meta.pixel_size
    if not isinstance(size, (int, float)) or not 0 <= size < 1e6:
        raise refuse("pixel_size is not a number of 0 or more")
    for name in ("emotions", "au_names"):
        value = getattr(meta, name)
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise refuse(f"metadata `{name}` is not a list of names")
    if "face.means" not in tensors:
        raise refuse("it has no face Gaussians (tensor `face.means`)")
    for branch in avatar.branches:
        n = len(tensors[f"{branch}.means"]) if tensors[f"{branch}.means"].ndim else -1
        for name, shape in {"means": (n, 3), "quats": (n, 4), "scales": (n, 3), "opacities": (n,), "sh": (n, -1, 3)}.items():
            tensor = tensors.get(f"{branch}.{name}")
            if tensor is None:
                raise refuse(f"tensor `{branch}.{name}` is missing")
            if tensor.ndim != len(shape) or any(want not in (-1, have) for want, have in zip(shape, tensor.shape)):
                raise refuse(f"tensor `{branch}.{name}` has shape {tensor.shape}, expected {shape}")
        if tensors[f"{branch}.sh"].shape[1] not in (1, 4, 9, 16):
            raise refuse(f"tensor `{branch}.sh` has {tensors[f'{branch}.sh'].shape[1]} coefficients, expected 1, 4, 9 or 16")
        moving = tensors.get(f"{branch}.moving")
        if moving is not None:
            if moving.ndim != 1 or moving.dtype.kind not in "iu":
                raise refuse(f"tensor `{branch}.moving` is not a list of indices")
            if len(moving) and (moving.min() < 0 or moving.max() >= n or len(np.unique(moving)) != len(moving)):
                raise refuse(f"tensor `{branch}.moving` names Gaussians that do not exist, or one twice")
        unit = tensors.get(f"{branch}.variance_unit")
        if unit is not None and (unit.shape != (n,) or unit.dtype.kind != "f" or not (unit >= 0).all()):
            raise refuse(f"tensor `{branch}.variance_unit` is not a list of {n} numbers of 0 or more")
    body = tensors.get("face.body")
    if body is not None:
        if body.ndim != 1 or body.dtype.kind not in "iu" or len(body) and (body.min() < 0 or body.max() >= avatar.count("face")):
            raise refuse("tensor `face.body` is not a list of Gaussians of the face")
        if np.isin(body, avatar.moving("face")).any():
            raise refuse("tensor `face.body` names Gaussians that move")
    prototypes = tensors.get("emotion.prototypes")
    if prototypes is not None and (prototypes.ndim != 2 or len(prototypes) != len(meta.emotions)):
        raise refuse("tensor `emotion.prototypes` does not fit the emotion vocabulary")
    brought = tensors.get("emotion.action_units")
    if brought is not None and (brought.shape != (len(meta.emotions), len(AU_NAMES)) or brought.dtype.kind != "f"):
        raise refuse("tensor `emotion.action_units` does not fit the emotion vocabulary and the action units")
    thumbnail = tensors.get("thumbnail")
    if thumbnail is not None and (thumbnail.ndim != 3 or thumbnail.shape[2] != 4 or thumbnail.dtype != np.uint8):
        raise refuse("tensor `thumbnail` is no [H,W,4] uint8 picture")
    for name, tensor in tensors.items():
        if tensor.dtype.kind == "f" and not np.isfinite(tensor).all():
            raise refuse(f"tensor `{name}` holds NaN or infinite numbers")
