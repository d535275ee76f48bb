"""What lies where in a data set folder, and what it means.

```
transforms_train.json, transforms_val.json (, transforms_<split>.json)   cameras and the sound frame of each picture
ori_imgs/<id>.jpg, <id>.lms    the picture as it was; its 68 landmarks, "x y" a line
gt_imgs/<id>.jpg               the person over the background
torso_imgs/<id>.png            RGBA: neck and torso without the head
parsing/<id>.png               what each pixel shows, by PARSING
teeth_mask/<id>.npy            bool [H,W]: teeth and mouth inside that the parsing took for face
bc.jpg  aud.wav  au.csv        background; sound; action units by OpenFace's columns, row = id
```
Ours beside it, all optional: `labels.npz`, `emotions.json` or `.csv` (an emotion file, `engine.shot`: what the person shows, when; seconds of `aud.wav`),
`depth/<id>.npy` (float16, metres), `data.json`. Features of other tools (`*.pth`) are listed, not read.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

PARSING = {
    "face": (0, 0, 255), "hair": (0, 0, 0), "mouth": (100, 100, 100), "neck": (0, 255, 0), "torso": (255, 0, 0), "background": (255, 255, 255),
}  # fmt: skip
"""Colours (RGB) of `parsing/<id>.png`."""

AU_COLUMNS = (1, 2, 4, 5, 6, 7, 9, 10, 12, 14, 15, 17, 20, 23, 25, 26, 45)
"""Numbers of the action units in `au.csv`, in OpenFace's intensities of 0..5."""

VIEW_AUS = (1, 4, 5, 6, 7, 45)
"""Those that the networks see (method, "AU view")."""

AU_FULL, BLINK_FULL = 5.0, 2.0
"""Intensities that count as 1: OpenFace's full scale; a blink is closed at 2 already (the authors' code clips AU45 there)."""

FPS = 25.0
LANDMARKS = 68
TRANSFORMS = "transforms_{}.json"
REQUIRED_FILES = ("transforms_train.json", "transforms_val.json", "bc.jpg", "aud.wav", "au.csv")
PICTURE_FILES = {
    "ori_imgs": "ori_imgs/{}.jpg", "landmarks": "ori_imgs/{}.lms", "gt_imgs": "gt_imgs/{}.jpg", "torso_imgs": "torso_imgs/{}.png",
    "parsing": "parsing/{}.png", "teeth_mask": "teeth_mask/{}.npy",
}  # fmt: skip
"""One of each for every picture."""
DEPTH_FILE, LABELS_FILE, INFO_FILE = "depth/{}.npy", "labels.npz", "data.json"
EMOTION_FILES = ("emotions.json", "emotions.csv")
"""The first that is there counts, before what `labels.npz` says."""


@dataclass(frozen=True, eq=False)
class Frame:
    """One picture.

    Attributes:
        number: its id, the file names' number and the row in `au.csv` and `labels.npz`.
        time: seconds in the sound.
        viewmat: [4,4] float32 world to camera; x right, y down, z forward (gsplat's).
    """

    number: int
    time: float
    viewmat: np.ndarray


@dataclass(frozen=True, eq=False)
class Masks:
    """What each pixel shows, bool [H,W] each; the inside of the mouth with its teeth belongs to `mouth` alone."""

    face: np.ndarray
    hair: np.ndarray
    mouth: np.ndarray
    neck: np.ndarray
    torso: np.ndarray

    @property
    def head(self) -> np.ndarray:
        """Face, hair and mouth."""
        return self.face | self.hair | self.mouth


@dataclass(eq=False)
class Labels:
    """What is known of each picture beyond what can be seen, one row an id.

    Attributes:
        emotion: [F,8] float32, weights times intensity in the order of `avatar.EMOTIONS`.
        take: [F] int32, number of the sentence it belongs to.
        phoneme: [F] text; viseme: [F] int32, index into `views.content.VISEMES`.
        expression: [F,C] float32 coefficients; expression_names: their [C] names.
        camera: [F] int32.
    """

    emotion: np.ndarray
    take: np.ndarray
    phoneme: np.ndarray
    viseme: np.ndarray
    expression: np.ndarray
    expression_names: np.ndarray
    camera: np.ndarray
