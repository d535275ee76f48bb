"""How far a bake is to be trusted: uncertainty and the views' shares of each region over time, in numbers and in words.

Where the avatar knows the size of its errors, uncertainties are variances of colour and their roots expected errors. Some avatars (imported
ones) do not know, and what is usual differs from region to region, so all is told against what is usual in the same
bake as well: the median over its frames. So are the shares: a view's share is its precision among those of all views, and of a trained
head they lie close together whatever is said. What tells which input is behind an odd frame is the view whose own precision
has changed, up or down: the shares of the others all change by one factor to make room, and its own by another.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

QUANTITIES = ("total", "aleatoric", "epistemic")
VIEW_WORDS = {"audio": "sound", "exp": "expression", "style": "tone of voice", "emotion": "emotion"}
REGION_WORDS = {"mouth": "inside of the mouth", "head": "rest of the head"}
STANDS_OUT = 1.25
"""Times the usual from which a frame is one to stop at."""
WORTH_SAYING = 1.5
"""Times the usual from which the panel says so."""
PRECISION_MOVES = 0.05
"""Part by which a view's precision must differ from its usual to be named as what is behind it."""
_WHAT_TO_DO = {
    "audio": "the speech is unlike what it was trained on: look for noise, music or another voice",
    "exp": "the expression is unlike what it was trained on: soften blinks and brows here",
    "style": "the tone of voice is unlike what it was trained on: try another take of the line",
    "emotion": "the emotion is unlike what it was trained on: lower the intensity or mix less",
}
_DATA_DIFFERS = "the same speech looked different in training: key what you want to see"


@dataclass(frozen=True, eq=False)
class Trust:
    """A bake's frames.

    Attributes:
        regions: names of the R regions.
        views: names of the V views.
        frames: [F] int64 scene frames, rising.
        aleatoric, epistemic: [F,R] mean variances of the region's moving Gaussians, 0 where a region has none.
        shares: [F,R,V] how much of the motion comes from each view, sum 1 (0 where nothing moves).
        color_variance: whether the variances are of colour (display, 0..1).
    """

    regions: tuple[str, ...]
    views: tuple[str, ...]
    frames: np.ndarray
    aleatoric: np.ndarray
    epistemic: np.ndarray
    shares: np.ndarray
    color_variance: bool = False

    def __len__(self) -> int:
        return len(self.frames)

    def values(self, quantity: str) -> np.ndarray:
        """[F,R] of one of QUANTITIES. Raises KeyError for another."""
        return {"total": self.aleatoric + self.epistemic, "aleatoric": self.aleatoric, "epistemic": self.epistemic}[quantity]

    def times_usual(self, quantity: str) -> np.ndarray:
        """[F,R]: against the median over the frames; 0 where a region has no uncertainty at all."""
        values = self.values(quantity)
        if not len(values):
            return values
        usual = np.median(values, axis=0)
        return np.divide(values, usual, out=np.zeros_like(values), where=usual > 0)

    def expected_errors(self, quantity: str) -> np.ndarray | None:
        """[F,R]: colour (display, of full brightness 1) that a region is expected to be off by, root mean square; None where nobody knows.
        Raises KeyError for another quantity."""
        values = self.values(quantity)
        return np.sqrt(values) if self.color_variance else None

    def score(self, quantity: str, region: str = "") -> np.ndarray:
        """[F]: times the usual in a region; of the region that is furthest off where none is named. Raises KeyError."""
        ratios = self.times_usual(quantity)
        if not region:
            return ratios.max(axis=1, initial=0.0)
        return ratios[:, self._column(region)]

    def worst(self, quantity: str, region: str = "") -> list[int]:
        """Frames worth a look, rising: the highest of each stretch that stands out, or of the whole where none does."""
        score = self.score(quantity, region)
        if not len(score):
            return []
        out = score >= STANDS_OUT
        edges = np.flatnonzero(np.diff(np.concatenate([[0], out.astype(np.int8), [0]])))
        # A gap in the bake ends a stretch as well.
        stretches = [part for a, b in zip(edges[::2], edges[1::2]) for part in _unbroken(self.frames, int(a), int(b))]
        tops = [a + int(score[a:b].argmax()) for a, b in stretches]
        return [int(self.frames[row]) for row in tops or [int(score.argmax())]]

    def row(self, frame: int) -> int | None:
        """The row of a frame, None where it is not in the bake."""
        row = int(np.searchsorted(self.frames, frame))
        return row if row < len(self.frames) and self.frames[row] == frame else None

    def lines(self, frame: int, most: int = 3) -> list[str]:
        """What stands out at a frame, the furthest first, and what to do about it."""
        row = self.row(frame)
        if row is None:
            return []
        found = []
        for quantity in ("aleatoric", "epistemic"):
            ratios = self.times_usual(quantity)[row]
            found += [(float(ratios[column]), quantity, column) for column in np.flatnonzero(ratios >= WORTH_SAYING)]
        found.sort(reverse=True)
        return [self._line(row, column, quantity, ratio) for ratio, quantity, column in found[:most]]

    def behind(self, row: int, region: str) -> int | None:
        """Column of the view whose precision in a region is furthest from its usual at a row; None where none notably is."""
        shares = self.shares[:, self._column(region)]
        usual = np.median(shares, axis=0)
        some = (usual > 0) & (shares[row] > 0)
        if some.sum() < 2:
            return None
        moved = np.zeros(len(self.views))
        moved[some] = np.log(shares[row, some] / usual[some])
        moved[some] = np.abs(moved[some] - np.median(moved[some]))  # the median is the factor that all others share
        view = int(moved.argmax())
        return view if moved[view] >= PRECISION_MOVES else None

    def _line(self, row: int, column: int, quantity: str, ratio: float) -> str:
        region = self.regions[column]
        said = f"{region_label(region)}: {quantity} {times(ratio)} its usual"
        view = self.behind(row, region)
        if view is None:
            return f"{said}; no single input stands out"
        now, usual = self.shares[row, column, view], np.median(self.shares[:, column, view])
        name = self.views[view]
        advice = _WHAT_TO_DO[name] if quantity == "epistemic" else _DATA_DIFFERS
        return f"{said}; {100 * now:.0f} % from {VIEW_WORDS[name]}, usually {100 * usual:.0f} %: {advice}"

    def _column(self, region: str) -> int:
        if region not in self.regions:
            raise KeyError(region)
        return self.regions.index(region)


def _unbroken(frames: np.ndarray, first: int, end: int) -> list[tuple[int, int]]:
    """Rows first..end (exclusive) in pieces whose frames follow each other."""
    cuts = [first, *(np.flatnonzero(np.diff(frames[first:end]) > 1) + first + 1).tolist(), end]
    return list(zip(cuts[:-1], cuts[1:]))


def next_frame(worst: list[int], here: float, step: int) -> int | None:
    """The next (step 1) or previous (-1) of the worst frames as seen from `here`; round the end to the other one."""
    if not worst:
        return None
    if step > 0:
        return next((frame for frame in worst if frame > here), worst[0])
    return next((frame for frame in reversed(worst) if frame < here), worst[-1])


def region_label(region: str) -> str:
    """A region's name for people."""
    return REGION_WORDS.get(region, region).capitalize()


def times(ratio: float) -> str:
    """`twice`, `1.5 times`."""
    if 1.95 <= ratio < 2.05:
        return "twice"
    return f"{ratio:.0f} times" if ratio >= 9.95 else f"{ratio:.1f} times".replace(".0 ", " ")
