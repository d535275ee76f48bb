"""The deformation networks as trainable torch modules (paper sec 2.2 and 2.3).

Use, for one branch of an avatar that is being trained:

    net = BranchNetwork("face", NetworkSizes(field=(16, 32, 64), emotion_field=(16, 32), codebook=(16, 32)), logvar_bound=7)
    out = net(means, {"audio": [F,8,29,16], "exp": [F,1,64], "style": [F,1,64], "emotion": [F,1,128], "au": [F,6]},
              subset=rows, members=net.random_members())      # stage 1
    out = net(means, views, subset=rows)                      # stage 2: all members, exact fusion
    out.d_means  # [F,M,3]; add to the means. quats and scales: add to the raw ones, then normalise / softplus
    avatar.tensors |= net.to_tensors()                        # "face.net.*"; and avatar.meta.logvar_bound = 7

The names of the parameters are those of the avatar file.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..errors import UserError
from .fusion import fuse
from .parameters import CONV_STRIDE, HEADS, LEAK, MEANS_FACTOR, PLANES, VIEWS, NetworkSizes, check_network


@dataclass
class BranchOutput:
    """Motion of M Gaussians in F frames, and the views' statistics that it came from.

    Attributes:
        d_means: [F,M,3], units of the avatar.
        d_quats: [F,M,4] to be added to the raw quaternions; None for the mouth.
        d_scales: [F,M,3] to be added to the raw scales; None for the mouth.
        view_means, view_logvars: view -> [T,F,M,L] of the members evaluated (T = 1 in stage 1); log-variances bounded.
        audio_gate, au_gate: [M,C] and [M,6], the attention of each Gaussian to the audio's channels and the action units; None for the mouth.
    """

    d_means: Tensor
    d_quats: Tensor | None = None
    d_scales: Tensor | None = None
    view_means: dict[str, Tensor] = field(default_factory=dict)
    view_logvars: dict[str, Tensor] = field(default_factory=dict)
    audio_gate: Tensor | None = None
    au_gate: Tensor | None = None


def plane_sample(plane: Tensor, place: Tensor) -> Tensor:
    """A plane [C,H,W] read bilinearly at [N,2] (column, row) in -1..1, clamped at the border; the corners are cell centres -> [N,C]."""
    sample = F.grid_sample(plane[None], place[None, :, None], mode="bilinear", padding_mode="border", align_corners=True)
    return sample[0, :, :, 0].T


class PlaneField(nn.Module):
    """Multi-resolution plane field: bilinear, align_corners, clamped at the border; planes multiplied per level."""

    def __init__(self, levels: tuple[int, ...], channels: int, bound: float = 0.15) -> None:
        super().__init__()
        self.register_buffer("aabb", torch.tensor([[-bound] * 3, [bound] * 3]))
        self.levels = len(levels)
        for number, cells in enumerate(levels):
            level = nn.Module()
            for plane in PLANES:
                level.register_parameter(plane, nn.Parameter(torch.empty(channels, cells, cells).uniform_(0.1, 0.5)))
            self.add_module(str(number), level)

    def forward(self, means: Tensor) -> Tensor:
        """Feature [N, levels * channels] at positions [N,3]."""
        place = 2 * (means - self.aabb[0]) / (self.aabb[1] - self.aabb[0]) - 1
        found = []
        for number in range(self.levels):
            level, product = getattr(self, str(number)), None
            for plane, axes in PLANES.items():
                sample = plane_sample(getattr(level, plane), place[:, axes])
                product = sample if product is None else product * sample
            found.append(product)
        return torch.cat(found, -1)


class AudioNet(nn.Module):
    """Audio window -> one vector: strided convolutions per neighbouring frame, then temporal attention over them."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        if CONV_STRIDE ** len(sizes.audio_channels) != sizes.audio_steps:
            raise ValueError(f"{len(sizes.audio_channels)} convolutions of stride 2 do not reduce {sizes.audio_steps} steps to 1")
        widths = (sizes.audio_features, *sizes.audio_channels)
        self.conv = nn.ModuleList(nn.Conv1d(a, b, 3, CONV_STRIDE, 1) for a, b in zip(widths, widths[1:]))
        self.fc = nn.ModuleList(
            [nn.Linear(widths[-1], sizes.audio_hidden), nn.Linear(sizes.audio_hidden, sizes.audio_dim)]
        )
        self.attention = nn.Module()
        widths = (sizes.audio_dim, *sizes.attention_channels)
        self.attention.conv = nn.ModuleList(nn.Conv1d(a, b, 3, 1, 1) for a, b in zip(widths, widths[1:]))
        self.attention.fc = nn.Linear(sizes.audio_window, sizes.audio_window)

    def forward(self, audio: Tensor) -> Tensor:
        """[F, window, features, steps] -> [F, audio_dim]."""
        frames, window = audio.shape[:2]
        x = audio.flatten(0, 1)
        for conv in self.conv:
            x = F.leaky_relu(conv(x), LEAK)
        x = self.fc[1](F.leaky_relu(self.fc[0](x[..., 0]), LEAK)).reshape(frames, window, -1)
        weight = x.transpose(1, 2)
        for conv in self.attention.conv:
            weight = F.leaky_relu(conv(weight), LEAK)
        weight = self.attention.fc(weight[:, 0]).softmax(-1)
        return (weight[..., None] * x).sum(1)


class EmotionView(nn.Module):
    """f_emotion meets the space: per level, attention of the query over a code-book gates the plane feature (eq. 6)."""

    def __init__(self, sizes: NetworkSizes) -> None:
        super().__init__()
        self.query = nn.Linear(sizes.emotion_dim, sizes.emotion_channels)
        self.field = PlaneField(sizes.emotion_field, sizes.emotion_channels)
        # Rows of unit variance: with smaller ones every query attends alike and emotion has no gradient to begin with.
        self.codebook = nn.ParameterList(torch.randn(rows, sizes.emotion_channels) for rows in sizes.codebook)

    def gate(self, emotion: Tensor) -> Tensor:
        """[F, emotion_dim] -> what each channel of the emotion field is multiplied with, [F, levels * channels]."""
        query = self.query(emotion)
        found = [(query @ book.T / query.shape[-1] ** 0.5).softmax(-1) @ book for book in self.codebook]
        return torch.cat(found, -1)


class MemberLinear(nn.Module):
    """T Linear layers side by side."""

    def __init__(self, members: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = inputs**-0.5
        self.weight = nn.Parameter(torch.empty(members, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(members, outputs).uniform_(-bound, bound))


class UncertaintyNet(nn.Module):
    """T members of: Linear, ReLU, and two Linear for mean and log-variance (sec 2.3, eq. 8)."""

    def __init__(self, members: int, inputs: int, hidden: int, latent: int) -> None:
        super().__init__()
        self.fc1 = MemberLinear(members, inputs, hidden)
        self.mean = MemberLinear(members, hidden, latent)
        self.logvar = MemberLinear(members, hidden, latent)

    def forward(self, first: Tensor, chosen: slice) -> tuple[Tensor, Tensor]:
        """Pre-activation of the first layer [T, R, hidden] -> mean, log-variance [T, R, latent] of the chosen members."""
        weight = torch.cat([self.mean.weight[chosen], self.logvar.weight[chosen]], 1)
        bias = torch.cat([self.mean.bias[chosen], self.logvar.bias[chosen]], 1)
        both = torch.baddbmm(bias[:, None], first.relu(), weight.transpose(1, 2))
        return both.chunk(2, -1)


class BranchNetwork(nn.Module):
    """All networks of one branch: views, uncertainty nets, fusion, multi-head decoder.

    Args:
        branch: `face` or `mouth`.
        sizes: see `NetworkSizes`; new parameters are drawn from torch's global generator.
        logvar_bound: b of b * tanh(v / b) for the log-variances; None leaves them as they are. Stored with the avatar
            as `AvatarMeta.logvar_bound`.
        bound: half the edge of the cube in which the plane fields are defined, in units of the means.
    """

    def __init__(self, branch: str, sizes: NetworkSizes, logvar_bound: float | None = None, bound: float = 0.15) -> None:
        super().__init__()
        self.branch, self.sizes, self.logvar_bound = branch, sizes, logvar_bound
        self.audio = AudioNet(sizes)
        self.field = PlaneField(sizes.field, sizes.field_channels, bound)
        wide = sizes.position_dim
        if branch == "face":
            self.channel = _pair(wide, sizes.audio_dim, sizes.audio_dim, bias=False)
            self.au = nn.Module()
            self.au.fc = _pair(sizes.aus - 1, sizes.au_hidden, sizes.aus - 1, bias=False)
            self.au.attention = _pair(wide, sizes.au_hidden, sizes.aus, bias=False)
            self.emotion = EmotionView(sizes)
            self.emotion.field.aabb.copy_(self.field.aabb)
        self.fuse = nn.ModuleDict()
        for view, dim in sizes.view_dims(branch).items():
            inputs = dim if view == "emotion" else dim + wide
            self.fuse[view] = UncertaintyNet(sizes.members, inputs, sizes.hidden, sizes.latent)
        self.fuse["fc"] = nn.Linear(sizes.latent + wide, sizes.hidden)
        self.heads = nn.ModuleDict({h: _pair(sizes.hidden, sizes.hidden, width) for h, width in HEADS[branch].items()})

    @classmethod
    def from_tensors(
        cls,
        branch: str,
        tensors: Mapping[str, np.ndarray],
        logvar_bound: float | None = None,
        source: str = "the avatar",
        planes: bool = True,
    ) -> BranchNetwork:
        """Networks with the weights of an avatar's branch (names without `<branch>.net.`; see `branch_tensors`), float32 copies.

        Args:
            planes: False leaves both plane fields out, for use with samples of them (`samples.sample_fields`).

        Raises:
            UserError: a tensor is missing, has the wrong shape, or is not finite; or planes of a frozen avatar are wanted.
        """
        sizes = check_network(branch, tensors, source)
        if planes and sizes.samples is not None:
            raise UserError(
                f"{source}: its {branch} networks are frozen; the planes that training needs are not in it.",
                "Train from the avatar that it was frozen from.",
            )
        if not planes:
            sizes = replace(sizes, field=(0,) * len(sizes.field), emotion_field=(0,) * len(sizes.emotion_field))
        net = cls(branch, sizes, logvar_bound)
        if not planes:
            for owner in (net, net.emotion) if branch == "face" else (net,):
                del owner.field
        state = {name: torch.from_numpy(np.array(tensors[name], np.float32)) for name in net.state_dict()}
        net.load_state_dict(state, assign=True)
        return net

    def to_tensors(self) -> dict[str, np.ndarray]:
        """The weights as float32 arrays under the names of the avatar file, `<branch>.net.*`."""
        return {f"{self.branch}.net.{k}": v.detach().float().cpu().numpy().copy() for k, v in self.state_dict().items()}

    def random_members(self, generator: torch.Generator | None = None) -> dict[str, int]:
        """One random ensemble member for each view, as stage 1 of training wants it (sec 2.4)."""
        drawn = torch.randint(self.sizes.members, (len(VIEWS[self.branch]),), generator=generator).tolist()
        return dict(zip(VIEWS[self.branch], drawn))

    def forward(
        self,
        means: Tensor,
        views: Mapping[str, Tensor],
        subset: Tensor | None = None,
        members: int | Mapping[str, int] | None = None,
    ) -> BranchOutput:
        """Motion in F frames.

        Args:
            means: [N,3] Gaussians at rest, units of the avatar.
            views: view -> [F, shape of one frame], see `NetworkSizes.frame_shapes`; views that the branch does not have are ignored.
            subset: [M] indices of the Gaussians to move; None moves all.
            members: None uses all members with the exact fusion; an int, or one for each view, that member alone with its
                diagonal variance.
        """
        means = means if subset is None else means[subset]
        position = self.field(means)
        gates = self.gates(position) if self.branch == "face" else (None, None)
        statistics = self._statistics(means, position, gates, views, members)
        stacked = [torch.stack([pair[i].flatten(1, 2) for pair in statistics.values()]) for i in (0, 1)]
        fused = fuse(*stacked).reshape(-1, len(means), self.sizes.latent)
        state = self.fuse["fc"](torch.cat([fused, position.expand(len(fused), -1, -1)], -1))
        out = {name: head[1](head[0](state.relu()).relu()) for name, head in self.heads.items()}
        return BranchOutput(
            out["means"] * out["means"].new_tensor(MEANS_FACTOR[self.branch]),
            out.get("quats"),
            out.get("scales"),
            {view: pair[0] for view, pair in statistics.items()},
            {view: pair[1] for view, pair in statistics.items()},
            *gates,
        )

    def _statistics(
        self, means: Tensor, position: Tensor, gates: tuple[Tensor | None, Tensor | None], views: Mapping[str, Tensor],
        members: int | Mapping[str, int] | None,
    ) -> dict[str, tuple[Tensor, Tensor]]:  # fmt: skip
        frame = self._frame(means, gates, views)
        statistics: dict[str, tuple[Tensor, Tensor]] = {}
        for view in VIEWS[self.branch]:
            net: UncertaintyNet = self.fuse[view]
            number = members if members is None or isinstance(members, int) else members[view]
            chosen = slice(None) if number is None else slice(number, number + 1)
            weight, bias = net.fc1.weight[chosen].flatten(0, 1), net.fc1.bias[chosen].flatten()
            own = F.linear(frame[view], weight[:, : frame[view].shape[-1]], bias)  # [F, M or 1, T * hidden]
            if view != "emotion":
                own = own + F.linear(position, weight[:, -position.shape[-1] :])
            own = own.unflatten(-1, (-1, self.sizes.hidden)).movedim(2, 0)
            mean, logvar = net(own.flatten(1, 2), chosen)
            statistics[view] = mean.unflatten(1, own.shape[1:3]), self._bounded(logvar).unflatten(1, own.shape[1:3])
        return statistics

    def gates(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """What position features [M,64] of the face multiply the audio's channels [M,C] and the action units [M,6] with."""
        channel = self.channel[1](self.channel[0](position).relu())
        return channel, self.au.attention[1](self.au.attention[0](position).relu()).relu()

    def _frame(
        self, means: Tensor, gates: tuple[Tensor | None, Tensor | None], views: Mapping[str, Tensor]
    ) -> dict[str, Tensor]:
        """Each view before H is appended: [F, M, dim], or [F, 1, dim] where it is the same for every Gaussian."""
        audio = self.audio(views["audio"])[:, None]
        found = {"audio": audio, "exp": views["exp"].flatten(1)[:, None], "style": views["style"].flatten(1)[:, None]}
        if self.branch == "mouth":
            return found
        mixed = self.au.fc[1](self.au.fc[0](views["au"][:, :-1]).relu())
        au = torch.cat([mixed, views["au"][:, -1:]], -1)[:, None]
        found["audio"] = torch.cat([audio * gates[0], au * gates[1]], -1)
        found["emotion"] = self.emotion.gate(views["emotion"].flatten(1))[:, None] * self.emotion.field(means)
        return found

    def _bounded(self, logvar: Tensor) -> Tensor:
        return logvar if self.logvar_bound is None else self.logvar_bound * (logvar / self.logvar_bound).tanh()


def _pair(inputs: int, hidden: int, outputs: int, bias: bool = True) -> nn.ModuleList:
    return nn.ModuleList([nn.Linear(inputs, hidden, bias), nn.Linear(hidden, outputs, bias)])
