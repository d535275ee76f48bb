"""The method written down plainly, one frame at a time: what the faster paths are held against.

Paper: arXiv 2601.19112, sec 2.2 and 2.3. It shares no arithmetic with `networks.py` and `fast.py`, keeps the full
48x48 covariances and inverts every one of them. Use float64 where log-variances go below about -12: the inverses
lose float32's digits there.
"""

from __future__ import annotations

from typing import Mapping, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from .doubt import GAIN, PART
from .parameters import CONV_STRIDE, LEAK, MEANS_FACTOR, PLANES, VIEWS


class ReferenceMotion(NamedTuple):
    """One frame's motion of N Gaussians of a branch.

    Attributes:
        d_means: [N,3], units of the avatar.
        d_quats: [N,4] for the raw quaternions; None for the mouth.
        d_scales: [N,3] for the raw scales; None for the mouth.
        aleatoric, epistemic: [N] the diagonal summary, see `state_uncertainty`.
        shares: [N,V] how much each of the branch's views (VIEWS) has in the fused state, the same way; sum 1.
    """

    d_means: np.ndarray
    d_quats: np.ndarray | None
    d_scales: np.ndarray | None
    aleatoric: np.ndarray
    epistemic: np.ndarray
    shares: np.ndarray


def deform(
    branch: str,
    means: np.ndarray,
    network: Mapping[str, np.ndarray],
    views: Mapping[str, np.ndarray],
    logvar_bound: float | None = None,
    dtype: torch.dtype = torch.float64,
    known: Mapping[str, np.ndarray] | None = None,
) -> ReferenceMotion:
    """Motion of every Gaussian of a branch in one frame.

    Args:
        branch: `face` or `mouth`.
        means: [N,3] Gaussians at rest.
        network: the branch's tensors, names without `<branch>.net.`.
        views: one frame: audio [8,29,16], exp [1,64], style [1,64]; for the face emotion [1,128] and au [6].
        logvar_bound: b of b * tanh(v / b), or None.
        dtype: float32 or float64, used throughout.
        known: the avatar's `doubt.*` tensors (ours; `doubt.py` has the formulas), other names are ignored; None: none.
    """
    net = {name: torch.as_tensor(np.array(tensor), dtype=dtype) for name, tensor in network.items()}
    frame = {name: torch.as_tensor(np.array(view), dtype=dtype) for name, view in views.items()}
    place = torch.as_tensor(np.array(means), dtype=dtype)
    doubt = dict.fromkeys(VIEWS[branch], 1.0)
    for view in VIEWS[branch]:
        if known is not None and f"doubt.{view}.mean" in known:
            parts = {x: torch.as_tensor(np.array(known[f"doubt.{view}.{x}"]), dtype=dtype) for x in ("mean", "scale", "basis", "values", "rest")}
            frame[view], doubt[view] = doubted(parts, frame[view])

    if branch == "face":
        frame["au"], left = measured(known, frame["au"], frame["emotion"])
        doubt["audio"] += GAIN * PART * left  # action units are part of it

    position = plane_field(net, "field", place)  # H [N,64]
    inputs = view_inputs(branch, net, frame, place, position)
    states = []
    for view in VIEWS[branch]:
        mean, aleatoric, epistemic = total_covariance(*members(net, view, inputs[view], logvar_bound))
        states.append((mean, aleatoric, epistemic + (doubt[view] - 1) * aleatoric))  # what was never seen is epistemic
    fused = fuse([mean for mean, _, _ in states], [aleatoric + epistemic for _, aleatoric, epistemic in states])
    aleatoric, epistemic, shares = state_uncertainty(
        [aleatoric.diagonal(dim1=1, dim2=2) for _, aleatoric, _ in states],
        [epistemic.diagonal(dim1=1, dim2=2) for _, _, epistemic in states],
    )

    # Multi-head decoder (sec 2.3): the state meets the position once more, then one small net for each attribute.
    state = linear(net, "fuse.fc", torch.cat([fused, position], 1))
    d_means = head(net, "means", state) * torch.tensor(MEANS_FACTOR[branch], dtype=dtype)
    d_quats = head(net, "quats", state).numpy() if branch == "face" else None
    d_scales = head(net, "scales", state).numpy() if branch == "face" else None
    return ReferenceMotion(d_means.numpy(), d_quats, d_scales, aleatoric.numpy(), epistemic.numpy(), shares.numpy())


def doubted(known: Mapping[str, Tensor], frame: Tensor) -> tuple[Tensor, float]:
    """A view's frame [W, ...] as it most probably was without its noise, and what its aleatoric variance is multiplied with.

    The film's covariance of z = (x - mean) / scale is C = B^T diag(l) B + r (I - B^T B); with noise n in every direction the
    posterior mean is C (C + n I)^-1 z, and trace(C - C (C + n I)^-1 C) of trace(C) stays unknown.
    """
    z = ((frame.flatten(1) - known["mean"]) / known["scale"]).T  # [D,W]
    basis, count, size = known["basis"], *known["basis"].shape
    one = torch.eye(size, dtype=z.dtype)
    beside = one - basis.T @ basis
    noise = ((beside @ z).square().sum(0).mean() / (size - count) - known["rest"][0]).clamp(min=0)
    film = basis.T @ torch.diag(known["values"]) @ basis + known["rest"][0] * beside
    keeps = film @ torch.linalg.inv(film + noise * one) if noise > 0 else one
    left = (film - keeps @ film).trace() / film.trace()
    return ((keeps @ z).T * known["scale"] + known["mean"]).view_as(frame), float(1 + GAIN * left)


def measured(known: Mapping[str, np.ndarray] | None, units: Tensor, emotion: Tensor) -> tuple[Tensor, float]:
    """Action units [A] with those that are NaN as they most probably are, and how much stays unknown of them, 0..1."""
    gone, units = units.isnan(), units.clone()
    if not gone.any():
        return units, 0.0
    if known is None or "doubt.au.mean" not in known:
        units[gone] = 0
        return units, 0.0
    part = lambda name: torch.as_tensor(np.array(known[f"doubt.{name}"]), dtype=units.dtype)  # noqa: E731
    usual, film = part("au.mean"), part("au.covariance")
    if part("au.slope").shape[1]:
        usual = usual + part("au.slope") @ part("emotion.basis") @ ((emotion.flatten() - part("emotion.mean")) / part("emotion.scale"))
    here = ~gone
    gain = film[gone][:, here] @ torch.linalg.inv(film[here][:, here])
    stays = film[gone][:, gone] - gain @ film[here][:, gone]
    units[gone] = (usual[gone] + gain @ (units[here] - usual[here])).clamp(0, 1)
    return units, float(stays.trace() / film.trace())


def linear(net: Mapping[str, Tensor], name: str, x: Tensor) -> Tensor:
    """x W^T + b, the bias where there is one."""
    y = x @ net[f"{name}.weight"].T
    return y + net[f"{name}.bias"] if f"{name}.bias" in net else y


def head(net: Mapping[str, Tensor], name: str, state: Tensor) -> Tensor:
    """ReLU, Linear, ReLU, Linear."""
    return linear(net, f"heads.{name}.1", linear(net, f"heads.{name}.0", state.relu()).relu())


def plane_field(net: Mapping[str, Tensor], name: str, means: Tensor) -> Tensor:
    """Position feature [N, levels * channels]: three planes read bilinearly and multiplied, the levels side by side.

    Frozen networks hold just this feature at their Gaussians.
    """
    if f"{name}.samples" in net:
        return net[f"{name}.samples"]
    low, high = net[f"{name}.aabb"]
    unit = (2 * (means - low) / (high - low) - 1).clamp(-1, 1)
    levels, features = 0, []
    while f"{name}.{levels}.xy" in net:
        product = 1.0
        for plane, (across, down) in PLANES.items():
            product = product * bilinear(net[f"{name}.{levels}.{plane}"], unit[:, across], unit[:, down])
        features.append(product)
        levels += 1
    return torch.cat(features, 1)


def bilinear(plane: Tensor, across: Tensor, down: Tensor) -> Tensor:
    """A plane [C,H,W] at [N] coordinates in -1..1, whose corners are the centres of the outermost cells -> [N,C]."""
    _, height, width = plane.shape
    x, y = (across + 1) / 2 * (width - 1), (down + 1) / 2 * (height - 1)
    x0, y0 = x.floor().long().clamp(0, max(width - 2, 0)), y.floor().long().clamp(0, max(height - 2, 0))
    x1, y1 = (x0 + 1).clamp(max=width - 1), (y0 + 1).clamp(max=height - 1)
    fx, fy = x - x0, y - y0
    top = plane[:, y0, x0] * (1 - fx) + plane[:, y0, x1] * fx
    bottom = plane[:, y1, x0] * (1 - fx) + plane[:, y1, x1] * fx
    return (top * (1 - fy) + bottom * fy).T


def audio_vector(net: Mapping[str, Tensor], audio: Tensor) -> Tensor:
    """Audio window [8,29,16] -> [1,32]: each neighbouring frame convolved down to a vector, then weighted over time."""
    x, layer = audio, 0
    while f"audio.conv.{layer}.weight" in net:
        x = F.conv1d(x, net[f"audio.conv.{layer}.weight"], net[f"audio.conv.{layer}.bias"], CONV_STRIDE, 1)
        x, layer = F.leaky_relu(x, LEAK), layer + 1
    x = linear(net, "audio.fc.1", F.leaky_relu(linear(net, "audio.fc.0", x[:, :, 0]), LEAK))  # [8,32]
    weight, layer = x.T[None], 0
    while f"audio.attention.conv.{layer}.weight" in net:
        weight = F.conv1d(
            weight, net[f"audio.attention.conv.{layer}.weight"], net[f"audio.attention.conv.{layer}.bias"], 1, 1
        )
        weight, layer = F.leaky_relu(weight, LEAK), layer + 1
    weight = linear(net, "audio.attention.fc", weight[0]).softmax(1)  # [1,8]
    return weight @ x


def view_inputs(
    branch: str, net: Mapping[str, Tensor], frame: Mapping[str, Tensor], means: Tensor, position: Tensor
) -> dict[str, Tensor]:
    """What each view's uncertainty nets see for every Gaussian (sec 2.3): the view beside H, f_emotion alone."""
    count = len(means)
    audio = audio_vector(net, frame["audio"]).expand(count, -1)
    if branch == "face":
        attention = linear(net, "channel.1", linear(net, "channel.0", position).relu())
        au = frame["au"][None]
        au = torch.cat([linear(net, "au.fc.1", linear(net, "au.fc.0", au[:, :-1]).relu()), au[:, -1:]], 1)
        au = au * linear(net, "au.attention.1", linear(net, "au.attention.0", position).relu()).relu()
        audio = torch.cat([audio * attention, au], 1)
    inputs = {
        "audio": torch.cat([audio, position], 1),
        "exp": torch.cat([frame["exp"].expand(count, -1), position], 1),
        "style": torch.cat([frame["style"].expand(count, -1), position], 1),
    }
    if branch == "face":
        inputs["emotion"] = emotion_view(net, frame["emotion"], means)
    return inputs


def emotion_view(net: Mapping[str, Tensor], emotion: Tensor, means: Tensor) -> Tensor:
    """Eq. 6: for each level, attention of f_emotion over a code-book, Hadamard product with the plane feature."""
    query = linear(net, "emotion.query", emotion)  # [1,64]
    found, level = [], 0
    while f"emotion.codebook.{level}" in net:
        book = net[f"emotion.codebook.{level}"]
        found.append((query @ book.T / query.shape[1] ** 0.5).softmax(1) @ book)
        level += 1
    return torch.cat(found, 1) * plane_field(net, "emotion.field", means)


def members(net: Mapping[str, Tensor], view: str, x: Tensor, bound: float | None) -> tuple[Tensor, Tensor]:
    """Eq. 8: means [T,N,L] and log-variances [T,N,L] of the T ensemble members of a view."""
    means, logvars = [], []
    for t in range(len(net[f"fuse.{view}.fc1.weight"])):
        one = {name: net[f"fuse.{view}.{name}"][t] for name in
               ("fc1.weight", "fc1.bias", "mean.weight", "mean.bias", "logvar.weight", "logvar.bias")}  # fmt: skip
        hidden = linear(one, "fc1", x).relu()
        means.append(linear(one, "mean", hidden))
        logvars.append(linear(one, "logvar", hidden))
    logvar = torch.stack(logvars)
    return torch.stack(means), logvar if bound is None else bound * (logvar / bound).tanh()


def total_covariance(means: Tensor, logvars: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Eq. 9 to 11: mean [N,L], aleatoric [N,L,L] and epistemic [N,L,L] covariance of a view; their sum is the total.

    Where the paper and its code differ: the aleatoric term is averaged over the members (eq. 11, not eq. 9), the
    epistemic one divided by T-1. With one member there is no epistemic term.
    """
    mean = means.mean(0)
    apart = (means - mean).permute(1, 0, 2)  # [N,T,L]
    epistemic = apart.transpose(1, 2) @ apart / max(len(means) - 1, 1)
    return mean, torch.diag_embed(logvars.exp().mean(0)), epistemic


def fuse(means: list[Tensor], covariances: list[Tensor]) -> Tensor:
    """Eq. 12: (sum_v P_v)^-1 sum_v P_v m_v with P_v the inverse total covariance -> [N,L]."""
    precisions = [torch.linalg.inv(covariance) for covariance in covariances]
    total = torch.linalg.inv(sum(precisions))
    return (total @ sum(p @ m[:, :, None] for p, m in zip(precisions, means)))[:, :, 0]


def state_uncertainty(aleatoric: list[Tensor], epistemic: list[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """Aleatoric and epistemic variance [N] of the fused state and each view's share [N,V] in it, from the diagonals [N,L] of the
    views' covariances.

    Exact where the covariances are diagonal: the fused state is sum_v A_v x_v with A_v = p_v / sum_u p_u and
    p_v = 1 / (aleatoric_v + epistemic_v); its variance is averaged over the channels, and so are the A_v, the shares.
    """
    precisions = [1 / (a + e) for a, e in zip(aleatoric, epistemic)]
    shares = [p / sum(precisions) for p in precisions]
    mean = lambda parts: sum(share**2 * part for share, part in zip(shares, parts)).mean(1)  # noqa: E731
    return mean(aleatoric), mean(epistemic), torch.stack([share.mean(1) for share in shares], 1)
