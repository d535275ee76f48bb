"""Every number of the training, with where it comes from. Standard library alone.

Sources: "paper" is arXiv 2601.19112 (sec 2.4, and what its authors' code sets where the text is silent); "3DGS" is Kerbl et al. 2023;
"gsplat" its DefaultStrategy; "ours" was found by trying on a synthetic person at 128 x 128 pixels.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

from ..errors import UserError


@dataclass(frozen=True)
class BranchPlan:
    """How long one branch trains and how many Gaussians it has.

    Attributes:
        steps: pictures in all (paper: 50,000).
        static_until: before this step nothing moves (paper: 3,000).
        ensemble_from: from this step on all members and the whole fusion; between the two one random member of each view with its
            diagonal variance (paper: 15,000; much later costs .1 dB, for a member then sees a T-th of the pictures).
        points: Gaussians to begin with (paper: 2,000 for the face).
        most: where it stops growing; 0: nowhere (paper).
    """

    steps: int
    static_until: int
    ensemble_from: int
    points: int
    most: int


@dataclass(frozen=True)
class TrainConfig:
    """All settings. The defaults are for a processor: 128 x 128 pixels in under an hour on two cores.

    Attributes:
        mouth, face: see BranchPlan.
        agree_steps: steps in which a view's members learn to agree on the film, see `agree` (paper: none; ours). agree_rate: Adam's, falling to 0
            (ours).
        doubt: the avatar gets to know what its views are in the film, and later trusts a view less that has anything beside it, see
            `deform.doubt` (paper: no; ours).
        fuse_steps: both together, geometry and motion kept; SH and opacity of the face and SH of the mouth train (paper: 10,000).
        body: neck and shoulders as far as the pictures show them, which stand still: a bust instead of a mask. They come last, alone, and change nothing
            of the head; 0 steps: none (paper: none, its head is drawn over the film's own; ours).
        seed: of everything random (ours).

        members: T, ensemble members of each view (paper: 10; ours: 4, a third of the work).
        field, field_channels: cells of the position field's planes and their channels (paper: 64, 128, 256, 512; 16).
        emotion_field, emotion_channels, codebook: the same for the emotion field, and rows of its code-books (paper: 64, 128, 256; 64; the
            same).
        logvar_bound: log-variances pass b tanh(v / b); without it one of our runs went NaN (ours).
        still_hair: what lies in the hair when the static phase ends is not moved by the networks: a third less work (paper: no).
        swapped: share of the pictures whose style view is another moment's. Otherwise the manner of the voice tells the emotion, and f_emotion,
            the slider's, stays unused (paper: none; ours).
        blinks: share of the face's moving steps that take a picture with closed lids (AU45 over .3), where there are some: a film has one in
            twenty, and of a real one's few thousand steps lids learned nothing (paper: none; ours).
        meetings: share of the other moving steps of the face, where the data names emotions, that take a picture whose lips meet between two
            openings: p, b, m under each emotion are some pictures of a film, and a smile else stays open on them (paper: none; ours).
        without: views that stay zero in training, for ablations (ours).

        start: where Gaussians begin: `random` in a cube of +-0.1 (paper); `depth`: on the surface that the data's depth gives; `hull`:
            where the masks allow it, a face on the usual front of a head; `auto`: depth where the data has it, else hull (ours).
        means_rate, means_rate_end: learning rate of the means, exponential between the two over a branch's steps (3DGS: 1.6e-4, 1.6e-6 times
            the extent).
        quats_rate, scales_rate, opacities_rate, sh_rate: 3DGS (scales are through a softplus here, which is exp for what is small).
        sh_rest_rate: of the higher SH coefficients (3DGS: a twentieth of sh_rate).
        planes_rate, networks_rate: AdamW (paper: 5e-3, 5e-4; ours for a tenth of its steps: 1.5e-2, 3e-3).
        audio_attention: factor on the rate of the audio's temporal attention (paper).
        networks_end: share of these rates at a branch's end, exponential (paper).
        sh_degree, sh_every: degree of the SH; steps after which it grows by one (paper: 2, 1,000).

        grow_every, grow_from, grow_before_end: steps between refinements, the first, and how long before the end they stop (paper: 100, 500,
            1,000).
        grow_gradient: mean norm of a Gaussian's gradient in the picture (of -1..1) above which it is doubled (paper: 5e-4).
        extent: size of the scene in units, which the next two are shares of (ours: the cube's edge).
        grow_scale: larger ones are split, smaller ones cloned (gsplat: .01).
        prune_scale: larger ones go, once opacities were reset (gsplat: .1). prune_opacity: less go (gsplat: .005).
        reset_every: steps after which opacities are set back; 0: never (gsplat: 3,000; ours: never: in a static scene it removes floaters,
            but faces have masks for that).

        background: RGB behind a branch in training (paper: green, kept). recoloured: share of the pictures that have another even colour there:
            else Gaussians of the background's colour hide where no picture tells, and show from a side that no camera saw (paper: none; ours).
        dssim: weight of 1 - SSIM beside L1 (paper's code: .2; its text says .5).
        rest, details: of a face that did not begin on a `depth`, for with a real video's poses lips else hardly begin to move (paper: none; ours).
            rest: share of its moving steps, from the first, in which the Gaussians' own values rest: where they follow each picture, they leave the
            motion nothing to learn from. details: weight of L1 in the boxes of lips and eyes, beside the whole picture's.
        details_on_depth: the same for a face that began on a `depth`, in its moving steps: its lips shut better (paper: none; ours).
        lip_seal: of the lips' opening (smooth L1, px) under another picture's emotion against the one without, where lips meet and the data names
            emotions, see `seal` (paper: none; ours).
        motion: of the mean of |motion| (paper). alpha: of alpha against the mask (paper). lining: of what the
            mouth's alpha lacks to 1 in a ring round the visible mouth, behind the lips: where they open wider than in the film, the background
            would show (paper: none; ours). attention: of audio and AU attention where there must
            be none: hair for both, the box of the lips for AUs (paper: 1e-4; ours: 0, for in some thousand steps it closes the AUs' attention
            everywhere, from .5 to .01, before blinks are learned). attention_from: share of the face's moving steps before which it does
            not count: motion begins at none, so at first nothing else would pull at the attention, and a ReLU that it closes stays closed (ours).
        lpips_lips, lpips, lpips_fuse: of LPIPS, where weights are given: lips and whole picture in the last tenth of the face, whole picture
            in the second half of fusing (paper: .01, .2, .5).
        likelihood: of a Gaussian likelihood of the remaining error under the rendered variance; 0: variances only weigh the views (ours). On a
            small drawn head the rank correlation of variance and squared error rose from -.06 to .27 at .0003 (PSNR as without it), and to
            .62 at .003 (1.1 dB less).
        likelihood_unit: variance of a colour (0..1) for one unit of the fused state's variance; likelihood_floor: what is always there (ours).

        log_every, preview_every, checkpoint_every: steps. held_out: pictures of `val` that are measured at each preview.
        pictures_mb: memory for decoded pictures. preset: what these settings are called.
    """

    mouth: BranchPlan = BranchPlan(2600, 400, 800, 600, 800)
    face: BranchPlan = BranchPlan(8000, 1200, 2400, 3600, 4200)
    agree_steps: int = 200
    agree_rate: float = 2e-3
    doubt: bool = True
    fuse_steps: int = 800
    body: BranchPlan = BranchPlan(1200, 1200, 1200, 1600, 2400)
    seed: int = 0

    members: int = 4
    field: tuple[int, ...] = (16, 40, 104)
    field_channels: int = 16
    emotion_field: tuple[int, ...] = (8, 24)
    emotion_channels: int = 64
    codebook: tuple[int, ...] = (8, 24)
    logvar_bound: float = 7.0
    still_hair: bool = True
    swapped: float = 0.3
    blinks: float = 0.15
    meetings: float = 0.3
    without: tuple[str, ...] = ()

    start: str = "auto"
    means_rate: float = 1.6e-4
    means_rate_end: float = 1.6e-6
    quats_rate: float = 1e-3
    scales_rate: float = 5e-3
    opacities_rate: float = 0.05
    sh_rate: float = 2.5e-3
    sh_rest_rate: float = 1.25e-4
    planes_rate: float = 1.5e-2
    networks_rate: float = 3e-3
    audio_attention: float = 5.0
    networks_end: float = 0.1
    sh_degree: int = 1
    sh_every: int = 500

    grow_every: int = 100
    grow_from: int = 300
    grow_before_end: int = 1000
    grow_gradient: float = 5e-4
    extent: float = 0.3
    grow_scale: float = 0.01
    prune_scale: float = 0.1
    prune_opacity: float = 0.005
    reset_every: int = 0

    background: tuple[float, float, float] = (0.0, 1.0, 0.0)
    recoloured: float = 0.3
    dssim: float = 0.2
    rest: float = 0.4
    details: float = 0.5
    details_on_depth: float = 0.3
    lip_seal: float = 0.015
    motion: float = 1e-5
    alpha: float = 1e-3
    lining: float = 0.05
    attention: float = 0.0
    attention_from: float = 0.5
    lpips_lips: float = 0.01
    lpips: float = 0.2
    lpips_fuse: float = 0.5
    likelihood: float = 0.0
    likelihood_unit: float = 0.01
    likelihood_floor: float = 1e-4

    log_every: int = 20
    preview_every: int = 500
    checkpoint_every: int = 250
    held_out: int = 12
    pictures_mb: int = 1000
    preset: str = "processor"

    @classmethod
    def quick(cls) -> TrainConfig:
        """Minutes on a processor, to see whether the data is right."""
        return replace(
            cls(), mouth=BranchPlan(600, 150, 540, 300, 400), face=BranchPlan(1800, 500, 1650, 2200, 2500), agree_steps=100, fuse_steps=200,
            body=BranchPlan(300, 300, 300, 900, 900), members=3, grow_before_end=300, preview_every=300, preset="quick",
        )  # fmt: skip

    @classmethod
    def paper(cls) -> TrainConfig:
        """The paper's sizes and schedule; for a graphics card."""
        return replace(
            cls(), mouth=BranchPlan(50_000, 3000, 15_000, 2000, 0), face=BranchPlan(50_000, 3000, 15_000, 2000, 0), agree_steps=0,
            doubt=False, fuse_steps=10_000, body=BranchPlan(0, 0, 0, 0, 0), members=10, field=(64, 128, 256, 512), emotion_field=(64, 128, 256), codebook=(64, 128, 256), start="random",
            still_hair=False, swapped=0.0, blinks=0.0, meetings=0.0, recoloured=0.0, rest=0.0, details=0.0, details_on_depth=0.0,
            lip_seal=0.0, lining=0.0,
            planes_rate=5e-3, networks_rate=5e-4, sh_degree=2, sh_every=1000, grow_from=500, attention=1e-4, log_every=100, preview_every=2500,
            checkpoint_every=1000, preset="paper",
        )  # fmt: skip

    def changed(self, path: Path) -> TrainConfig:
        """With the values of a JSON file, `{"face": {"steps": 4000}, "sh_degree": 2}`.

        Raises:
            UserError: no JSON object, a name that does not exist (all such names are told), or a value of another kind.
        """
        try:
            values = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UserError(f"Cannot read {path}: {error.strerror or error}.", "Check the path.") from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is not JSON ({error}).", 'Write for example {"face": {"steps": 4000}}.') from error
        return _changed(self, values, str(path), "")

    @property
    def total(self) -> int:
        """Steps of all parts."""
        return self.mouth.steps + self.face.steps + self.agree_steps + self.fuse_steps + self.body.steps

    def as_json(self) -> str:
        """All values, sorted by name."""
        return json.dumps(asdict(self), sort_keys=True)


def _changed(config: Any, values: Any, source: str, lead: str) -> Any:
    known = {item.name: getattr(config, item.name) for item in fields(config) if item.name != "preset"}
    if not isinstance(values, dict):
        raise UserError(f"{source}: {lead or 'it'} is not a JSON object.", f"Names are {', '.join(known)}.")
    wrong = [lead + name for name in values if name not in known]
    if wrong:
        raise UserError(f"{source}: no setting is called {', '.join(wrong)}.", f"Names are {', '.join(known)}.")
    found = {}
    for name, value in values.items():
        old = known[name]
        if isinstance(old, BranchPlan):
            value = _changed(old, value, source, f"{name}.")
        elif isinstance(old, tuple) and isinstance(value, list):
            value = tuple(value)
        elif isinstance(old, float) and type(value) is int:
            value = float(value)
        if type(value) is not type(old):
            raise UserError(f"{source}: {lead}{name} is {value!r}, not like {old!r}.", "Mend the value.")
        found[name] = value
    return replace(config, **found)
