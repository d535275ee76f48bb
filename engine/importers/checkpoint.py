"""The authors' checkpoint (`chkpnt_fuse_latest.pth`) -> avatar.

The file is a pickle of (face Gaussians, face networks, mouth Gaussians, mouth networks). It is read with
`weights_only=True`: a pickle that wants anything but tensors, numbers and plain containers is refused before it runs.
TalkingGaussian, from which UA-3DTalk descends, lays its checkpoints out the same way: its Gaussians are ours, its networks are
others (hashed planes, one decoder without members or variances) and are left out.
"""

from __future__ import annotations

import datetime
import re
import zipfile
from pathlib import Path
from typing import Any, Mapping

import numpy as np
import torch

from ..avatar import BRANCHES, Avatar, AvatarMeta, View
from ..deform.parameters import PLANES, NetworkSizes, check_network, shapes
from ..errors import UserError

GAUSSIAN_FIELDS = 13
"""Entries of one branch's Gaussians: SH degree, means, SH dc, SH rest, identity, scales, quats, opacity, training state."""

VIEW_RATE = 25.0
"""Frames a second of the authors' features."""

VIEW_PROVIDERS = {
    "audio": "authors/deepspeech",
    "exp": "authors/f_exp",
    "style": "authors/f_tone",
    "emotion": "authors/f_emotion",
    "au": "authors/openface",
}
"""The authors' own extractors, none of which is built in: such an avatar is driven by features from a file."""

STILL = "Imported from the checkpoint {}: its networks are not UA-3DTalk's (no `fuse_net`) and do not fit them, so it does not talk."
"""Provenance of a talking head of the same family whose Gaussians alone could be taken."""

_VIEW_OF_NET = {"audio": "audio", "content": "exp", "style": "style", "emotion": "emotion"}
_LAYER = {"fc1": "fc1", "fc_mu": "mean", "fc_var": "logvar"}
_HEAD = {"xyz": "means", "rotation": "quats", "scale": "scales"}
_RENAMES: list[tuple[str, Any]] = [
    (r"audio_net\.encoder_conv\.(\d+)\.", lambda m: f"audio.conv.{int(m[1]) // 2}."),
    (r"audio_net\.encoder_fc1\.(\d+)\.", lambda m: f"audio.fc.{int(m[1]) // 2}."),
    (r"audio_att_net\.attentionConvNet\.(\d+)\.", lambda m: f"audio.attention.conv.{int(m[1]) // 2}."),
    (r"audio_att_net\.attentionNet\.0\.", "audio.attention.fc."),
    (r"emotion_encoder\.xyz_encoder\.", "emotion.field."),
    (r"emotion_encoder\.codebook\.", "emotion.codebook."),
    (r"emotion_encoder\.emotion_fc1\.", "emotion.query."),
    (r"xyz_encoder\.", "field."),
    (r"exp_encode_net\.net\.", "au.fc."),
    (r"eye_att_net\.net\.", "au.attention."),
    (r"aud_ch_att_net\.net\.", "channel."),
    (r"fuse_net\.fc\.", "fuse.fc."),
    (r"(xyz|rotation|scale)_decoder\.(\d+)\.", lambda m: f"heads.{_HEAD[m[1]]}.{int(m[2]) // 2}."),
]
_MEMBER = re.compile(r"fuse_net\.(audio|content|style|emotion)_net\.(\d+)\.(fc1|fc_mu|fc_var)\.(weight|bias)")
_GRID = re.compile(r"(.*field)\.grids\.(\d+)\.([012])")


def import_checkpoint(
    path: Path, name: str = "", metres_per_unit: float = 1.0, up: str = "+Y", front: str = "+Z"
) -> Avatar:
    """Read the authors' `chkpnt_fuse_latest.pth`; every size is read off the tensors.

    Args:
        path: the checkpoint.
        name: the avatar's name; the file's folder or own name if empty.
        metres_per_unit: length of one unit of the means.
        up, front: axes of the means. The face trackers of this family look along +Z with Y up.

    Returns:
        An avatar that is composited `layered`, without emotion prototypes (the file holds none): its emotion vocabulary
        is empty and its views name the authors' own features. Of a checkpoint whose networks are not UA-3DTalk's, the
        Gaussians alone: a static avatar, which its provenance says.

    Raises:
        UserError: not such a checkpoint (told apart: other checkpoints of the family), damaged, or of wrong shapes.
    """
    path = Path(path)
    face, face_net, mouth, mouth_net = _parts(_load(path), path)
    talks = any(str(key).startswith("fuse_net.") for key in face_net)
    tensors: dict[str, np.ndarray] = {}
    sizes: dict[str, NetworkSizes] = {}
    for branch, gaussians, state in ((BRANCHES[0], face, face_net), (BRANCHES[1], mouth, mouth_net)):
        tensors |= {f"{branch}.{key}": value for key, value in _gaussians(gaussians, branch, path).items()}
        if not talks:
            continue
        network = network_tensors(state, branch, path)
        sizes[branch] = check_network(branch, network, str(path))
        tensors |= {f"{branch}.net.{key}": network[key] for key in shapes(branch, sizes[branch])}
    views: dict[str, View] = {}
    if talks:
        frame, mouth_frame = sizes["face"].frame_shapes("face"), sizes["mouth"].frame_shapes("mouth")
        if any(frame[view] != shape for view, shape in mouth_frame.items()):
            raise _refuse(path, "its face and mouth networks take features of different sizes")
        views = {view: View(VIEW_PROVIDERS[view], 1, list(shape), VIEW_RATE) for view, shape in frame.items()}
    meta = AvatarMeta(
        name=name or path.stem,
        metres_per_unit=metres_per_unit,
        up=up,
        front=front,
        composite="layered",
        emotions=[],
        views=views,
        provenance=f"Imported from the UA-3DTalk checkpoint {path.name}." if talks else STILL.format(path.name),
        created=datetime.date.today().isoformat(),
    )
    return Avatar(meta, tensors)


def network_tensors(state: Mapping[str, Any], branch: str, path: Path) -> dict[str, np.ndarray]:
    """The authors' state dict of one branch under the names of the avatar file, ensemble members stacked.

    Raises:
        UserError: an entry is no tensor, or an ensemble has a gap.
    """
    found: dict[str, np.ndarray] = {}
    ensembles: dict[str, dict[int, np.ndarray]] = {}
    for key, value in state.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise _refuse(path, f"entry {key!r} of its {branch} networks is no tensor")
        array = _array(value, path)
        if match := _MEMBER.fullmatch(key):
            target = f"fuse.{_VIEW_OF_NET[match[1]]}.{_LAYER[match[3]]}.{match[4]}"
            ensembles.setdefault(target, {})[int(match[2])] = array
            continue
        target = key
        for pattern, new in _RENAMES:
            target, hits = re.subn(f"^{pattern}", new, target)
            if hits:
                break
        if match := _GRID.fullmatch(target):
            target = f"{match[1]}.{match[2]}.{list(PLANES)[int(match[3])]}"
            array = array[0] if array.ndim == 4 and len(array) == 1 else array
        found[target] = array
    for target, rows in ensembles.items():
        if sorted(rows) != list(range(len(rows))) or len({row.shape for row in rows.values()}) != 1:
            raise _refuse(path, f"the ensemble behind `{branch}.net.{target}` has a gap or members of different shapes")
        found[target] = np.stack([rows[number] for number in range(len(rows))])
    return found


def _load(path: Path) -> Any:
    # The extent among the Gaussians' fields is often a numpy number; rebuilding one runs nothing.
    scalar = np.float64(0).__reduce__()[0]
    numbers: list[Any] = [(scalar, "numpy.core.multiarray.scalar"), (scalar, "numpy._core.multiarray.scalar"), np.dtype]
    numbers += [type(np.dtype(kind)) for kind in (np.float32, np.float64, np.int64)]
    try:
        _check_packing(path)
        with torch.serialization.safe_globals(numbers):
            return torch.load(path, map_location="cpu", weights_only=True)
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path and its permissions.") from error
    except UserError:
        raise
    except Exception as error:  # torch names no base class for what a damaged or hostile file raises
        if "weights only" in str(error).lower():
            raise _refuse(path, "it is damaged, or holds more than tensors and numbers, which would have to run code") from error
        raise _refuse(path, "it is damaged, cut short, or no PyTorch file") from error


def _check_packing(path: Path) -> None:
    """Refuse an archive that unpacks to far more than it is: PyTorch stores its tensors as they are."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            unpacked = sum(item.file_size for item in archive.infolist())
        if unpacked > 2 * path.stat().st_size:
            raise _refuse(path, "it unpacks to more than its size, which no checkpoint does")


def _parts(content: Any, path: Path) -> tuple[Any, Any, Any, Any]:
    """The four parts of the authors' last checkpoint, or a line that says what the file is instead."""

    def is_net(value: Any) -> bool:
        return isinstance(value, Mapping) and any(isinstance(item, torch.Tensor) for item in value.values())

    def is_set(value: Any) -> bool:
        return isinstance(value, (tuple, list)) and len(value) >= 12

    if isinstance(content, (tuple, list)):
        if len(content) == 4 and is_set(content[0]) and is_net(content[1]) and is_set(content[2]) and is_net(content[3]):
            return tuple(content)  # type: ignore[return-value]
        if len(content) in (2, 3, 4) and is_set(content[0]) and is_net(content[1]):
            raise _refuse(path, "the checkpoint of one branch alone, before face and mouth were fused")
        if len(content) == 2 and is_set(content[0]) and isinstance(content[1], int):
            raise _refuse(path, "a plain 3DGS training checkpoint; import its point_cloud.ply instead")
    if isinstance(content, Mapping):
        raise _refuse(path, "a dictionary of weights (of a single network?), not an avatar's checkpoint")
    raise _refuse(path, "not laid out as (face Gaussians, face networks, mouth Gaussians, mouth networks)")


def _gaussians(fields: Any, branch: str, path: Path) -> dict[str, np.ndarray]:
    if len(fields) != GAUSSIAN_FIELDS:
        raise _refuse(path, f"its {branch} Gaussians have {len(fields)} entries instead of {GAUSSIAN_FIELDS}")
    degree, means, dc, rest, _, scales, quats, opacities = fields[:8]
    given = {"means": means, "SH dc": dc, "SH rest": rest, "scales": scales, "quats": quats, "opacities": opacities}
    for label, value in given.items():
        if not isinstance(value, torch.Tensor):
            raise _refuse(path, f"the {label} of its {branch} Gaussians are no tensor")
    array = {label: _array(value, path) for label, value in given.items()}
    n = len(array["means"]) if array["means"].ndim else 0
    bands = array["SH rest"].shape[1] if array["SH rest"].ndim == 3 else -1
    wanted = {"means": (n, 3), "SH dc": (n, 1, 3), "SH rest": (n, bands, 3), "scales": (n, 3), "quats": (n, 4), "opacities": (n, 1)}
    for label, shape in wanted.items():
        if not n or array[label].shape != shape or bands not in (0, 3, 8, 15):
            raise _refuse(path, f"the {label} of its {branch} Gaussians have shape {array[label].shape}")
        if not np.isfinite(array[label]).all():
            raise _refuse(path, f"the {label} of its {branch} Gaussians hold NaN or infinite numbers")
    # Bands above the active degree were not trained yet and are not drawn.
    active = (degree + 1) ** 2 if isinstance(degree, int) and 0 <= degree <= 3 else bands + 1
    sh = np.concatenate([array["SH dc"], array["SH rest"]], 1)[:, :active]
    return {
        "means": array["means"],
        "quats": array["quats"],
        "scales": array["scales"],
        "opacities": array["opacities"][:, 0],
        "sh": np.ascontiguousarray(sh),
    }


def _array(tensor: torch.Tensor, path: Path) -> np.ndarray:
    # One that is sparse, or repeats its numbers, may be far larger than the file.
    if tensor.layout is not torch.strided or tensor.is_quantized or tensor.is_complex() or tensor.is_meta:
        raise _refuse(path, f"a tensor of kind {tensor.layout} {tensor.dtype} is among its weights")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise _refuse(path, f"a tensor of shape {tuple(tensor.shape)} is larger than what the file holds of it")
    return tensor.detach().to(torch.float32).contiguous().numpy()


def _refuse(path: Path, why: str) -> UserError:
    return UserError(f"{path}: {why}.", "Choose the chkpnt_fuse_latest.pth that UA-3DTalk's training wrote.")
