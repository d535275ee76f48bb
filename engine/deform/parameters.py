"""Names, shapes and checks of the network tensors of an avatar file (`<branch>.net.*`). Standard library and numpy alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Mapping

import numpy as np

from ..errors import UserError

VIEWS: dict[str, tuple[str, ...]] = {"face": ("audio", "exp", "style", "emotion"), "mouth": ("audio", "exp", "style")}
"""The uncertain views of each branch, in the order in which their channels are stacked (sec 2.3; the mouth has no emotion)."""

PLANES: dict[str, tuple[int, int]] = {"xy": (0, 1), "xz": (0, 2), "yz": (1, 2)}
"""Plane name -> the two coordinates it is read at; the first runs along the plane's last axis (columns)."""

HEADS: dict[str, dict[str, int]] = {"face": {"means": 3, "quats": 4, "scales": 3}, "mouth": {"means": 3}}
"""Decoder heads of each branch and their width."""

MEANS_FACTOR: dict[str, tuple[float, float, float]] = {"face": (0.01, 0.01, 0.01), "mouth": (0.002, 0.01, 0.002)}
"""What the output of the `means` head is multiplied with; the inside of the mouth moves mostly up and down."""

CONV_STRIDE = 2
"""Stride of the audio net's convolutions over time (kernel 3, padding 1)."""

SAMPLES = "samples"
"""Frozen networks hold `field.samples` and `emotion.field.samples` [M, width of the field] instead of planes."""

LEAK = 0.02
"""Slope of the audio nets' LeakyReLU below 0."""


@dataclass(frozen=True)
class NetworkSizes:
    """Every size of one branch's networks; the defaults are the paper's.

    Attributes:
        members: T, the ensemble members of each view.
        audio_window, audio_features, audio_steps: one frame of the audio view, [8, 29, 16].
        audio_channels: outputs of the strided convolutions; together they must reduce `audio_steps` to 1.
        audio_dim: width of the audio vector (and of the hidden layer of its channel attention).
        attention_channels: outputs of the temporal attention's convolutions; the last is 1.
        exp_dim, style_dim, emotion_dim: widths of f_exp, f_tone, f_emotion.
        aus: action units; the last one (AU45, blink) passes unmixed.
        au_hidden: hidden width of both action unit nets.
        hidden: hidden width of the uncertainty nets, the fused state and the heads.
        latent: width of a view's Gaussian state.
        field, field_channels: cells of each level of the position field's planes, and their channels.
        emotion_field, emotion_channels: the same for the emotion field; also the width of the query and the code-books.
        codebook: rows of each level's code-book; as many entries as `emotion_field`.
        samples: M, where the networks are frozen (`freeze.freeze`): both fields are known at the M moving Gaussians alone,
            `field` and `emotion_field` are made of zeros; None where the planes are there.
    """

    members: int = 10
    audio_window: int = 8
    audio_features: int = 29
    audio_steps: int = 16
    audio_channels: tuple[int, ...] = (32, 32, 64, 64)
    audio_hidden: int = 64
    audio_dim: int = 32
    attention_channels: tuple[int, ...] = (16, 8, 4, 2, 1)
    exp_dim: int = 64
    style_dim: int = 64
    emotion_dim: int = 128
    aus: int = 6
    au_hidden: int = 16
    hidden: int = 64
    latent: int = 48
    field: tuple[int, ...] = (64, 128, 256, 512)
    field_channels: int = 16
    emotion_field: tuple[int, ...] = (64, 128, 256)
    emotion_channels: int = 64
    codebook: tuple[int, ...] = (64, 128, 256)
    samples: int | None = None

    @property
    def position_dim(self) -> int:
        """Width of the position feature H."""
        return self.field_channels * len(self.field)

    def view_dims(self, branch: str) -> dict[str, int]:
        """Width of each view before H is appended (emotion: its whole input)."""
        dims = {
            "audio": self.audio_dim + (self.aus if branch == "face" else 0),
            "exp": self.exp_dim,
            "style": self.style_dim,
            "emotion": self.emotion_channels * len(self.emotion_field),
        }
        return {view: dims[view] for view in VIEWS[branch]}

    def frame_shapes(self, branch: str) -> dict[str, tuple[int, ...]]:
        """Shape of one frame of every input of a branch: audio, exp, style, and for the face emotion and au."""
        shapes: dict[str, tuple[int, ...]] = {
            "audio": (self.audio_window, self.audio_features, self.audio_steps),
            "exp": (1, self.exp_dim),
            "style": (1, self.style_dim),
        }
        if branch == "face":
            shapes |= {"emotion": (1, self.emotion_dim), "au": (self.aus,)}
        return shapes


def shapes(branch: str, sizes: NetworkSizes) -> dict[str, tuple[int, ...]]:
    """Name (without `<branch>.net.`) -> shape of every network tensor of a branch."""
    s, found = sizes, {}

    def linear(name: str, inputs: int, outputs: int, bias: bool = True, members: int | None = None) -> None:
        lead = () if members is None else (members,)
        found[f"{name}.weight"] = (*lead, outputs, inputs)
        if bias:
            found[f"{name}.bias"] = (*lead, outputs)

    def convolutions(name: str, inputs: int, outputs: tuple[int, ...]) -> None:
        for number, width in enumerate(outputs):
            found[f"{name}.{number}.weight"] = (width, inputs, 3)
            found[f"{name}.{number}.bias"] = (width,)
            inputs = width

    def planes(name: str, levels: tuple[int, ...], channels: int) -> None:
        if s.samples is not None:
            found[f"{name}.{SAMPLES}"] = (s.samples, channels * len(levels))
            return
        found[f"{name}.aabb"] = (2, 3)
        for number, cells in enumerate(levels):
            found.update({f"{name}.{number}.{plane}": (channels, cells, cells) for plane in PLANES})

    convolutions("audio.conv", s.audio_features, s.audio_channels)
    linear("audio.fc.0", s.audio_channels[-1], s.audio_hidden)
    linear("audio.fc.1", s.audio_hidden, s.audio_dim)
    convolutions("audio.attention.conv", s.audio_dim, s.attention_channels)
    linear("audio.attention.fc", s.audio_window, s.audio_window)
    planes("field", s.field, s.field_channels)
    if branch == "face":
        linear("channel.0", s.position_dim, s.audio_dim, bias=False)
        linear("channel.1", s.audio_dim, s.audio_dim, bias=False)
        linear("au.fc.0", s.aus - 1, s.au_hidden, bias=False)
        linear("au.fc.1", s.au_hidden, s.aus - 1, bias=False)
        linear("au.attention.0", s.position_dim, s.au_hidden, bias=False)
        linear("au.attention.1", s.au_hidden, s.aus, bias=False)
        linear("emotion.query", s.emotion_dim, s.emotion_channels)
        planes("emotion.field", s.emotion_field, s.emotion_channels)
        for number, rows in enumerate(s.codebook):
            found[f"emotion.codebook.{number}"] = (rows, s.emotion_channels)
    for view, dim in s.view_dims(branch).items():
        inputs = dim if view == "emotion" else dim + s.position_dim
        linear(f"fuse.{view}.fc1", inputs, s.hidden, members=s.members)
        linear(f"fuse.{view}.mean", s.hidden, s.latent, members=s.members)
        linear(f"fuse.{view}.logvar", s.hidden, s.latent, members=s.members)
    linear("fuse.fc", s.latent + s.position_dim, s.hidden)
    for head, width in HEADS[branch].items():
        linear(f"heads.{head}.0", s.hidden, s.hidden)
        linear(f"heads.{head}.1", s.hidden, width)
    return found


def read_sizes(branch: str, tensors: Mapping[str, np.ndarray], source: str = "the avatar") -> NetworkSizes:
    """Read every size off a branch's network tensors.

    Args:
        tensors: arrays by name, without `<branch>.net.`.
        source: what to name in an error, usually the file.

    Raises:
        UserError: a tensor that a size is read from is missing or has the wrong number of dimensions.
    """

    def shape(name: str, dimensions: int) -> tuple[int, ...]:
        if name not in tensors:
            raise _refuse(source, f"network tensor `{branch}.net.{name}` is missing")
        found = tuple(np.shape(tensors[name]))
        if len(found) != dimensions:
            raise _refuse(source, f"network tensor `{branch}.net.{name}` has shape {found}, not {dimensions} dimensions")
        return found

    def series(pattern: str, dimensions: int) -> list[tuple[int, ...]]:
        found = [shape(pattern.format(0), dimensions)]
        while pattern.format(len(found)) in tensors:
            found.append(shape(pattern.format(len(found)), dimensions))
        return found

    face = branch == "face"
    conv = series("audio.conv.{}.weight", 3)
    samples = None
    if f"field.{SAMPLES}" in tensors:
        samples, position = shape(f"field.{SAMPLES}", 2)
        field = [(position, 0)]
        emotion = [(item[1], 0) for item in series("emotion.codebook.{}", 2)] if face else []
    else:
        field = series("field.{}.xy", 3)
        emotion = series("emotion.field.{}.xy", 3) if face else []
        position = field[0][0] * len(field)
    members, hidden, exp_inputs = shape("fuse.exp.fc1.weight", 3)
    default = NetworkSizes()
    return NetworkSizes(
        members=members,
        audio_window=shape("audio.attention.fc.weight", 2)[1],
        audio_features=conv[0][1],
        audio_steps=CONV_STRIDE ** len(conv),
        audio_channels=tuple(item[0] for item in conv),
        audio_hidden=shape("audio.fc.0.weight", 2)[0],
        audio_dim=shape("audio.fc.1.weight", 2)[0],
        attention_channels=tuple(item[0] for item in series("audio.attention.conv.{}.weight", 3)),
        exp_dim=exp_inputs - position,
        style_dim=shape("fuse.style.fc1.weight", 3)[2] - position,
        emotion_dim=shape("emotion.query.weight", 2)[1] if face else default.emotion_dim,
        aus=shape("au.attention.1.weight", 2)[0] if face else default.aus,
        au_hidden=shape("au.fc.0.weight", 2)[0] if face else default.au_hidden,
        hidden=hidden,
        latent=shape("fuse.exp.mean.weight", 3)[1],
        field=tuple(item[1] for item in field),
        field_channels=field[0][0],
        emotion_field=tuple(item[1] for item in emotion) or default.emotion_field,
        emotion_channels=emotion[0][0] if face else default.emotion_channels,
        codebook=tuple(item[0] for item in series("emotion.codebook.{}", 2)) if face else default.codebook,
        samples=samples,
    )


def branch_tensors(tensors: Mapping[str, np.ndarray], branch: str) -> dict[str, np.ndarray]:
    """The network tensors of one branch out of an avatar's, their names without `<branch>.net.`; {} where it has none."""
    lead = f"{branch}.net."
    return {name[len(lead) :]: tensor for name, tensor in tensors.items() if name.startswith(lead)}


def check_network(branch: str, tensors: Mapping[str, np.ndarray], source: str = "the avatar") -> NetworkSizes:
    """Check a branch's network tensors, with planes or frozen, and read their sizes.

    Raises:
        UserError: naming the first tensor that is missing, has the wrong shape, or holds NaN or infinite numbers.
    """
    sizes = read_sizes(branch, tensors, source)
    for name, expected in shapes(branch, sizes).items():
        full = f"`{branch}.net.{name}`"
        if name not in tensors:
            raise _refuse(source, f"network tensor {full} is missing")
        tensor = np.asarray(tensors[name])
        widths = expected[1:] if name.endswith(SAMPLES) else expected  # no Gaussian may move, but no layer is empty
        if tensor.shape != expected or min(widths, default=1) < 1:
            raise _refuse(source, f"network tensor {full} has shape {tensor.shape}, expected {expected}")
        if tensor.dtype.kind != "f" or not np.isfinite(tensor).all():
            raise _refuse(source, f"network tensor {full} holds something else than finite floating-point numbers")
        if name.endswith("aabb") and not (tensor[0] != tensor[1]).all():
            raise _refuse(source, f"network tensor {full} is a box without volume")
    if branch == "face" and len(sizes.codebook) != len(sizes.emotion_field):
        raise _refuse(source, f"its emotion field has {len(sizes.emotion_field)} levels but {len(sizes.codebook)} code-books")
    return sizes


def check_views(
    views: Mapping[str, np.ndarray], frame_shapes: Mapping[str, tuple[int, ...]], source: str = "the features"
) -> dict[str, np.ndarray]:
    """The views that are needed, each float32 [F, shape of one frame], one frame made a batch of one.

    Args:
        views: view -> [F, ...] or [...]; others are ignored.
        frame_shapes: view -> shape of one frame, see `NetworkSizes.frame_shapes`.
        source: what to name in an error, usually the file.

    Raises:
        UserError: a view is missing, of the wrong shape, not finite (but for `au`, where NaN is what was not measured), or as long as no other.
    """
    found: dict[str, np.ndarray] = {}
    for name, shape in frame_shapes.items():
        if name not in views:
            raise UserError(f"{source}: view `{name}` is missing.", f"This avatar needs {', '.join(frame_shapes)}.")
        view = np.asarray(views[name])
        view = view[None] if view.shape == shape else view
        if view.shape[1:] != shape or view.ndim != len(shape) + 1 or not len(view):
            raise UserError(
                f"{source}: view `{name}` has shape {np.shape(views[name])}, expected (frames, {', '.join(map(str, shape))}).",
                "Use features of the kind that the avatar was trained with.",
            )
        finite = np.isfinite(view) if view.dtype.kind in "fiu" else np.zeros(1, bool)
        if not (finite | np.isnan(view) if name == "au" and view.dtype.kind == "f" else finite).all():  # action units may be unknown
            raise UserError(f"{source}: view `{name}` holds something else than finite numbers.", "Extract the features again.")
        found[name] = np.ascontiguousarray(view, np.float32)
    lengths = {name: len(view) for name, view in found.items()}
    if len(set(lengths.values())) > 1:
        raise UserError(f"{source}: its views have different numbers of frames ({lengths}).", "Give one entry a frame in each.")
    return found


def _refuse(source: str, why: str) -> UserError:
    return UserError(f"{source}: {why}.", "Get the file again from its source, or import it again.")
