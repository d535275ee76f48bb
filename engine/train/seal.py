"""Lips that meet on p, b, m whatever is felt.

A film shows few closures under each emotion, and networks learn first what an emotion does to a mouth on the whole: a smile then stays open on them.
What a closure is needs no picture of every emotion, though: the sound says it. So what was heard at pictures whose lips meet (`material.lips_meet`)
is given to the networks twice, with no emotion and with the emotion and the action units of any other picture, and the lips' opening must be the same.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ..dataset import Frame
from .named import calm, named_splats, pixel_size
from .scene import Scene

UPPER, LOWER = "lip_upper", "lip_lower"
EVERY = 100
"""Steps after which the splats on the lips are looked for again."""


class LipSeal:
    """The loss, and the splats that it is measured on.

    Args:
        scene: whose face trains.

    Attributes:
        rows: of the face's splats, on the upper and on the lower lip; [] where no landmarks tell.
        pixel: units that a pixel covers.
        stale: the splats are to be looked for again.
    """

    def __init__(self, scene: Scene) -> None:
        self.scene, self.frame = scene, calm(scene.material)
        self.rows: list[Tensor] = []
        self.pixel, self.stale = 1.0, True
        nothing = scene.material.sources.emotion(np.zeros((1, 8), np.float32))[:, None]
        self._no_emotion = torch.from_numpy(np.ascontiguousarray(nothing, np.float32)).to(scene.material.device)

    def follow(self, step: int) -> None:
        """Before the loss of a step: look for the splats again, where it is time."""
        if self.stale or step % EVERY == 0:
            self.look()

    def look(self) -> None:
        """Find the splats on upper and lower lip, by the calmest picture."""
        found = named_splats(self.scene, self.frame)
        self.rows = [torch.from_numpy(found[name]).long().to(self._no_emotion.device) for name in (UPPER, LOWER)] if found else []
        self.pixel, self.stale = pixel_size(self.scene), False

    def opening(self, d_means: Tensor) -> Tensor:
        """[F] px of the training pictures, from rest, of motion [F,U+L,3] of the rows: upper lips, then lower."""
        height = d_means[..., 1]
        return (height[:, : len(self.rows[0])].mean(1) - height[:, len(self.rows[0]) :].mean(1)) / self.pixel

    def loss(self, met: Frame, felt: Frame, members: dict[str, int] | None) -> Tensor:
        """Smooth L1 [] between the opening in px with no emotion and with another picture's, where lips meet; 0 where there is nothing to measure it on.

        Args:
            met: whose sound is heard. felt: whose emotion and action units are shown.
            members: one of each view; None: all.
        """
        if not self.rows:
            return self._no_emotion.new_zeros(())
        heard, shown = self.scene.material.views(met), self.scene.material.views(felt)
        views = {view: torch.cat([value, value]) for view, value in heard.items()}
        views["emotion"] = torch.cat([self._no_emotion, shown["emotion"]])
        views["au"] = torch.cat([torch.zeros_like(shown["au"]), shown["au"]])
        means = self.scene.splats["face"].parameters["means"].detach()
        calmly, feeling = self.opening(self.scene.nets["face"](means, views, torch.cat(self.rows), members).d_means)
        return F.smooth_l1_loss(feeling, calmly)

    def state(self) -> dict[str, object]:
        """For a checkpoint: until they are looked for again, the splats are those of an earlier step."""
        return {"rows": self.rows, "pixel": self.pixel, "stale": self.stale}

    def restore(self, state: dict) -> None:
        """Go on from a `state`."""
        self.rows = [rows.to(self._no_emotion.device) for rows in state["rows"]]
        self.pixel, self.stale = state["pixel"], state["stale"]
