"""Inference: the motion of an avatar in many frames, with everything that never changes computed once.

The Gaussians' means at rest stand still, so both plane fields, both attention heads, the position part of each first
layer and of the last Linear are constants (paper sec 2.2, 2.3); they are computed when the `Deformer` is made and the
planes are let go. What is left runs in chunks of rows that fit the processor's cache, frame after frame within a
chunk, so that a view that is the same as in the frame before is not evaluated again. On the processor each chunk is
one thread's work from end to end: threads that wait for each other at every step stall where another program runs.
"""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Callable, Mapping

import numpy as np
import torch
from torch import Tensor

from ..avatar import Avatar
from ..avatar.gaussians import normalise, softplus
from ..errors import Cancelled, UserError
from .doubt import Doubt, known_units, known_views
from .fusion import diagonal_uncertainty, solve_rows
from .kernel import LANES, fuse_rows
from .networks import BranchNetwork
from .parameters import MEANS_FACTOR, VIEWS, branch_tensors, check_views
from .samples import sample_fields

CHUNK = {"cpu": 256, "cuda": 8192}
"""Gaussians at a time: what fits a processor's cache (a multiple of LANES); enough to fill a graphics card."""

FRAMES = {"cpu": 1, "cuda": 16}
"""Frames whose views are prepared at a time, always as many: a matrix product rounds differently in another batch, and a
frame must not depend on its neighbours. A card takes as long for one."""


@dataclass
class BranchMotion:
    """Motion of a branch's M moving Gaussians (`Avatar.moving`) in F frames, float32.

    Attributes:
        d_means: [F,M,3], units of the avatar.
        d_quats: [F,M,4] for the raw quaternions; None for the mouth.
        d_scales: [F,M,3] for the raw scales; None for the mouth.
        aleatoric, epistemic: [F,M] variances of the fused state, averaged over its channels, times the avatar's `variance_unit` where it has
            one; the total is their sum. A summary of the covariances' diagonals, exact where they are diagonal (`fusion.diagonal_uncertainty`).
        shares: [F,M,V] how much each of the branch's views (`parameters.VIEWS`) has in the fused state, the same way; sum 1.
    """

    d_means: np.ndarray
    d_quats: np.ndarray | None
    d_scales: np.ndarray | None
    aleatoric: np.ndarray
    epistemic: np.ndarray
    shares: np.ndarray


@dataclass
class Motion:
    """Motion of both branches; None for a branch without networks."""

    face: BranchMotion | None = None
    mouth: BranchMotion | None = None


class Deformer:
    """An avatar's networks, made ready. It keeps nothing of the avatar's tensors: the file may be written over or deleted.

    Args:
        avatar: with networks of at least one branch.
        device: `auto` (CUDA where there is one), `cpu`, `cuda`, `cuda:1` ...
        threads: on the CPU; None is one less than there are cores. torch itself is set to one thread for the process.

    Raises:
        UserError: no networks, damaged networks, or a device that is not there.
    """

    def __init__(self, avatar: Avatar, device: str = "auto", threads: int | None = None) -> None:
        if avatar.is_static:
            raise UserError(f"{_name(avatar)} has no networks: a static avatar does not move.", "Choose a trained avatar.")
        self._name = _name(avatar)
        self.device = _device(device)
        self.threads = max(1, threads if threads is not None else (os.cpu_count() or 2) - 1)
        if self.device.type == "cpu":
            torch.set_num_threads(1)
        self._branches: dict[str, Branch] = {}
        self._rest: dict[str, tuple[np.ndarray, ...]] = {}  # raw means, quats, scales [C,M] of what moves
        self._still: dict[str, tuple[np.ndarray, np.ndarray]] = {}  # its quats and scales, activated
        self._units: dict[str, np.ndarray] = {}  # what its variances are in colour [M]
        for branch in avatar.branches:
            tensors = branch_tensors(avatar.tensors, branch)
            if tensors:
                net = BranchNetwork.from_tensors(branch, tensors, avatar.meta.logvar_bound, _name(avatar), planes=False)
                rows = avatar.moving(branch)
                rest = (avatar.tensors[f"{branch}.{name}"] for name in ("means", "quats", "scales"))
                means, quats, scales = (np.asarray(tensor, np.float32)[rows] for tensor in rest)
                self._rest[branch] = tuple(np.ascontiguousarray(x.T) for x in (means, quats, scales))
                self._still[branch] = tuple(np.asfortranarray(x) for x in (normalise(quats), softplus(scales)))
                samples = sample_fields(branch, tensors, means, _name(avatar))
                self._branches[branch] = _branch(net, samples, self.device)
                unit = avatar.variance_unit(branch)
                if unit is not None:
                    self._units[branch] = unit[rows]
        known = known_views(avatar.tensors, self.frame_shapes, _name(avatar))
        units = known_units(avatar.tensors, self.frame_shapes["au"][0], known.get("emotion"), _name(avatar)) if "au" in self.frame_shapes else None
        self._doubt = Doubt(known, self.device, units)

    @property
    def frame_shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape of one frame of each view that `motion` needs."""
        return {k: v for branch, made in self._branches.items() for k, v in made.sizes.frame_shapes(branch).items()}

    def checked(self, views: Mapping[str, np.ndarray], source: str = "the features") -> dict[str, np.ndarray]:
        """The views that the networks need, each as float32 [F, shape of one frame].

        Raises:
            UserError: one is missing, has the wrong shape or length, or is not finite; `source` is named.
        """
        return check_views(views, self.frame_shapes, source)

    def motion(self, views: Mapping[str, np.ndarray], stopped: Callable[[], bool] | None = None) -> Motion:
        """Run the networks.

        Args:
            views: view -> [F, ...] or one frame [...]; audio [8,29,16], exp [1,64], style [1,64], and where there is a
                face emotion [1,128] and au [6] (sizes: `frame_shapes`), NaN where an action unit was not measured.
            stopped: asked before every frame of every chunk of Gaussians, from any of the threads; True ends the work.

        Raises:
            Cancelled: `stopped` said so.
            UserError: a view is missing, has the wrong shape, or is not finite; or the networks give no finite motion.
        """
        checked = self.checked(views)
        # Convolutions on a graphics card round to 11 bits unless they are told not to.
        with torch.inference_mode(), torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            frames = {name: torch.from_numpy(view).to(self.device) for name, view in checked.items()}
            frames, doubt = _in_batches(self._doubt, frames)
            try:
                found = {branch: made.motion(frames, doubt, self.threads, stopped) for branch, made in self._branches.items()}
            except ArithmeticError as error:
                raise UserError(f"{self._name}: {error}.", "Its weights are damaged, or its training diverged.") from error
        for branch, unit in self._units.items():
            found[branch].aleatoric *= unit
            found[branch].epistemic *= unit
        return Motion(**found)

    def moved(
        self, motion: Motion, strength: np.ndarray | None = None
    ) -> dict[str, tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """The moving Gaussians (`Avatar.moving`) of each branch with networks, activated, in avatar space.

        Args:
            strength: [F,M] float32, what each Gaussian's motion is multiplied with, M over all branches; None: 1.

        Returns:
            branch -> means [F,M,3], quats [F,M,4] of length 1, scales [F,M,3], float32; where nothing but the means
            moves (the mouth), quats and scales are read-only views of one frame. In memory they lie channel by channel, as
            in the cache.
        """
        found, start = {}, 0
        for branch, (means, quats, scales) in self._rest.items():
            moved: BranchMotion = getattr(motion, branch)
            shape = moved.d_means.shape[:2]
            d_means, d_quats, d_scales = moved.d_means, moved.d_quats, moved.d_scales
            if strength is not None:
                own = strength[:, start : start + shape[1], None]
                d_means, d_quats, d_scales = (None if delta is None else own * delta for delta in (d_means, d_quats, d_scales))
            start += shape[1]
            turned, sized = self._still[branch]
            if d_quats is not None and d_scales is not None:
                turned, sized = normalise(_added(quats, d_quats)), softplus(_added(scales, d_scales))
            found[branch] = (
                _added(means, d_means),
                np.broadcast_to(turned, (*shape, 4)),
                np.broadcast_to(sized, (*shape, 3)),
            )
        return found


class Branch:
    """The constants of a branch and the loop over chunks and frames.

    Kept for every moving Gaussian are the two fields alone, [M,64] and [M,192]; what follows from them is worked out at
    the head of a chunk, once for all frames: the first layers' part of it is 7 KB a Gaussian, and would have to come
    out of slow memory in every chunk.
    """

    def __init__(self, net: BranchNetwork, samples: Mapping[str, np.ndarray], device: torch.device) -> None:
        self.branch, self.net, self.sizes, self.bound = net.branch, net.to(device), net.sizes, net.logvar_bound
        self.fields = {name: torch.from_numpy(values).to(device) for name, values in samples.items()}
        self.position = self.fields["field.samples"]  # H [M,64]
        wide, latent = self.position.shape[1], self.sizes.latent
        self.chunk = CHUNK[device.type]
        with torch.inference_mode():
            self.bias: dict[str, Tensor] = {}  # of a view's first layers, [T * hidden]
            self.position_weight: dict[str, Tensor] = {}  # the part of their weight that meets H, [64, T * hidden]
            self.frame_weight: dict[str, Tensor] = {}  # the part that meets the frame, [dim, T * hidden]
            self.second: dict[str, tuple[Tensor, Tensor]] = {}  # weight [T, 2 L, hidden] and bias [T, 2 L, 1]
            for view in VIEWS[self.branch]:
                part = net.fuse[view]
                weight, self.bias[view] = part.fc1.weight.flatten(0, 1), part.fc1.bias.flatten()
                inputs = weight.shape[1]
                if view != "emotion":  # which enters alone
                    inputs -= wide
                    self.position_weight[view] = weight[:, inputs:].T.contiguous()
                self.frame_weight[view] = weight[:, :inputs].T.contiguous()
                both = [torch.cat([getattr(part.mean, x), getattr(part.logvar, x)], 1) for x in ("weight", "bias")]
                self.second[view] = both[0], both[1][:, :, None]
            weight = net.fuse["fc"].weight
            self.state_weight, self.state_position = weight[:, :latent].T.contiguous(), weight[:, latent:].T.contiguous()

    def motion(
        self, frames: Mapping[str, Tensor], doubt: Mapping[str, Tensor], threads: int, stopped: Callable[[], bool] | None
    ) -> BranchMotion:
        """All frames of all rows; `doubt`: as `Doubt` gives it."""
        (inputs,) = _in_batches(lambda frames: (self._inputs(frames),), frames)
        count, like = len(frames["exp"]), self.position
        doubts = torch.stack([doubt[view] if view in doubt else like.new_ones(count) for view in inputs], 1)  # [F,V]
        if self.branch == "face":
            doubts[:, list(inputs).index("audio")] += doubt["au"] - 1  # action units are part of it
        # Frame 0 is always evaluated, later ones where the view's input changed.
        fresh = {view: [True, *(x[1:] != x[:-1]).any(1).tolist()] for view, x in inputs.items()}
        widths = {name: head[1].out_features for name, head in self.net.heads.items()}
        out = {name: like.new_empty(count, len(like), width) for name, width in widths.items()}
        out |= {name: like.new_empty(count, len(like)) for name in ("aleatoric", "epistemic")}
        out["shares"] = like.new_empty(count, len(like), len(inputs))
        chunks = [slice(start, min(start + self.chunk, len(like))) for start in range(0, len(like), self.chunk)]
        if like.device.type == "cpu" and threads > 1:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(lambda rows: self._chunk(rows, inputs, fresh, doubts, out, stopped), chunks))
        else:
            for rows in chunks:
                self._chunk(rows, inputs, fresh, doubts, out, stopped)
        out["means"] *= like.new_tensor(MEANS_FACTOR[self.branch])
        host = {name: value.cpu().numpy() for name, value in out.items()}
        rest = (host[name] for name in ("aleatoric", "epistemic", "shares"))
        return BranchMotion(host["means"], host.get("quats"), host.get("scales"), *rest)

    @torch.inference_mode()  # a thread's own setting
    def _chunk(
        self,
        rows: slice,
        inputs: Mapping[str, Tensor],
        fresh: Mapping[str, list[bool]],
        doubts: Tensor,
        out: Mapping[str, Tensor],
        stopped: Callable[[], bool] | None,
    ) -> None:
        """All frames of some Gaussians."""
        first, gain, state = self._constants(rows)
        fuse = Fuse(len(inputs), self.sizes.members, self.sizes.latent, self.bound, state)
        for frame in range(len(fresh["exp"])):
            if stopped is not None and stopped():
                raise Cancelled()
            for number, (view, x) in enumerate(inputs.items()):
                if fresh[view][frame]:
                    self._members(view, x[frame], first[view], gain.get(view), fuse.both[number])
            fused, out["aleatoric"][frame, rows], out["epistemic"][frame, rows], out["shares"][frame, rows] = fuse(frame, doubts[frame])
            for name, value in self._decoded(state, fused).items():
                out[name][frame, rows] = value

    def _decoded(self, state: Tensor, fused: Tensor) -> dict[str, Tensor]:
        """What each head makes of the fused states [R, L]; `state` is the position's part of the last Linear."""
        hidden = torch.addmm(state, fused, self.state_weight).relu_()
        return {name: head[1](head[0](hidden).relu_()) for name, head in self.net.heads.items()}

    def _inputs(self, frames: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What each view brings into a frame [F, dim]; through the first layer's weight where no Gaussian gates it."""
        found = {"audio": self.net.audio(frames["audio"])}
        for view in ("exp", "style"):
            found[view] = frames[view].flatten(1) @ self.frame_weight[view]
        if self.branch == "face":
            au = frames["au"]
            mixed = self.net.au.fc[1](self.net.au.fc[0](au[:, :-1]).relu())
            found["audio"] = torch.cat([found["audio"], mixed, au[:, -1:]], 1)
            found["emotion"] = self.net.emotion.gate(frames["emotion"].flatten(1))
        else:
            found["audio"] = found["audio"] @ self.frame_weight["audio"]
        return {view: found[view] for view in VIEWS[self.branch]}

    def _constants(self, rows: slice) -> tuple[dict[str, Tensor], dict[str, Tensor], Tensor]:
        """What no frame changes for some Gaussians.

        Returns:
            the first layers' part of each view [R or 1, T * hidden]; what a view of the frame is multiplied with [R, dim],
            where it is; the part of the last Linear [R, hidden].
        """
        position, net = self.position[rows], self.net
        first = {view: torch.addmm(self.bias[view], position, weight) for view, weight in self.position_weight.items()}
        gain = {}
        if self.branch == "face":
            channel = net.channel[1](net.channel[0](position).relu())
            eyes = net.au.attention[1](net.au.attention[0](position).relu()).relu()
            gain = {"audio": torch.cat([channel, eyes], 1), "emotion": self.fields["emotion.field.samples"][rows]}
            first["emotion"] = self.bias["emotion"][None]
        return first, gain, torch.addmm(net.fuse["fc"].bias, position, self.state_position)

    def _members(self, view: str, x: Tensor, first: Tensor, gain: Tensor | None, out: Tensor) -> None:
        """Means and log-variances [T, 2 L, R] of a view's members into `out`."""
        if gain is not None:
            hidden = torch.addmm(first, gain * x, self.frame_weight[view]).relu_()
        else:
            hidden = (first + x).relu_()
        weight, bias = self.second[view]
        hidden = hidden.view(len(hidden), self.sizes.members, -1).permute(1, 2, 0)
        torch.baddbmm(bias, weight, hidden, out=out)


class Fuse:
    """Fusion of the R rows of a chunk: the compiled loop on the processor, torch elsewhere.

    Attributes:
        both: [V, T, 2 L, R] means and log-variances before their bound, to be filled.
    """

    def __init__(self, views: int, members: int, latent: int, bound: float | None, like: Tensor) -> None:
        self.bound, self.rows = bound, len(like)
        padded = -(-self.rows // LANES) * LANES
        self._both = like.new_empty(views, members, 2 * latent, padded)
        self._both[..., self.rows :] = 0
        self.both = self._both[..., : self.rows]
        self._out = [like.new_empty(latent, padded), *like.new_empty(2, padded), like.new_empty(views, padded)]
        self._good = torch.empty(padded, dtype=torch.uint8)

    def __call__(self, frame: int, doubt: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Fused mean [R, L], aleatoric [R], epistemic [R], shares [R, V]; rows that float32 spoils are solved again in float64.

        Args:
            doubt: [V] what the views' variances are multiplied with.
        """
        if self.both.device.type == "cpu":
            arrays = [x.numpy() for x in (self._both, *self._out, self._good)]
            fuse_rows(arrays[0], np.float32(self.bound or 0), doubt.numpy(), *arrays[1:])
            fused, shares = (x[:, : self.rows].T for x in (self._out[0], self._out[3]))
            aleatoric, epistemic = (x[: self.rows] for x in self._out[1:3])
            good = self._good[: self.rows] > 0
        else:
            fused, aleatoric, epistemic, shares, good = self._solve(slice(None), self.both.dtype, doubt)
        good = good & fused.isfinite().all(1) & aleatoric.isfinite() & epistemic.isfinite()
        bad = (~good).nonzero()[:, 0]
        if len(bad):
            fused[bad], aleatoric[bad], epistemic[bad], shares[bad] = self.exact(bad, frame, doubt)
        return fused, aleatoric, epistemic, shares

    def exact(self, rows: Tensor | slice, frame: int, doubt: Tensor) -> tuple[Tensor, ...]:
        """The same for some rows in float64, rounded.

        Raises:
            ArithmeticError: there is no finite result.
        """
        *again, whole = self._solve(rows, torch.float64, doubt)
        if not bool(whole.all() & all(value.isfinite().all() for value in again)):
            raise ArithmeticError(f"its networks give no finite motion in frame {frame} of this batch")
        like = self.both.dtype
        return tuple(value.clamp(max=torch.finfo(like).max).to(like) for value in again)

    def _solve(self, rows: Tensor | slice, dtype: torch.dtype, doubt: Tensor) -> tuple[Tensor, ...]:
        """The same for some rows with torch, and which of them are good [R]."""
        means, logvars = self.both[..., rows].to(dtype).transpose(2, 3).chunk(2, -1)
        if self.bound is not None:
            logvars = self.bound * (logvars / self.bound).tanh()
        doubt = doubt.to(dtype)
        solved = solve_rows(means, logvars, doubt)
        return solved.mean, *diagonal_uncertainty(solved.variance, solved.contrasts, doubt), solved.good


def _in_batches(work: Callable[[dict[str, Tensor]], tuple[dict[str, Tensor], ...]], frames: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], ...]:
    """What `work` makes of frames [F, ...], FRAMES at a time, the last ones filled up."""
    count, size = len(frames["exp"]), FRAMES[frames["exp"].device.type]
    spare = -count % size
    filled = {name: torch.cat([x, x[-1:].expand(spare, *x.shape[1:])]) if spare else x for name, x in frames.items()}
    each = [work({k: x[f : f + size] for k, x in filled.items()}) for f in range(0, count, size)]
    return tuple({name: torch.cat([part[name] for part in parts])[:count] for name in parts[0]} for parts in zip(*each))


def _added(rest: np.ndarray, delta: np.ndarray) -> np.ndarray:
    """rest [C,M] plus what moves it [F,M,C]: [F,M,C], channel by channel in memory, where what follows runs along the Gaussians."""
    return np.add(rest, delta.swapaxes(1, 2), order="C").swapaxes(1, 2)


def _branch(net: BranchNetwork, samples: Mapping[str, np.ndarray], device: torch.device) -> Branch:
    """With the Triton kernels where they are there and take the network's sizes. Triton comes with torch for CUDA on Linux."""
    if device.type == "cuda" and find_spec("triton") is not None:
        from .triton_rows import PackedBranch, takes

        if takes(len(VIEWS[net.branch]), net.sizes.members, net.sizes.latent, device):
            return PackedBranch(net, samples, device)
    return Branch(net, samples, device)


def _device(wish: str) -> torch.device:
    if wish == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wish)
    except RuntimeError as error:
        raise UserError(f"Unknown device {wish!r}.", "Use auto, cpu or cuda.") from error
    if device.type not in CHUNK or device.type == "cuda" and (device.index or 0) >= torch.cuda.device_count():
        raise UserError(f"Device {wish!r} is not there.", "Use auto or cpu; `python -m engine doctor` lists the devices.")
    return device


def _name(avatar: Avatar) -> str:
    return str(avatar.path or avatar.meta.name)
