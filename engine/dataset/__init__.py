"""The folder of pictures, sound and annotations that an avatar is trained on, in the layout of TalkingGaussian-style tools."""

from .layout import AU_COLUMNS, EMOTION_FILES, PARSING, Frame, Labels, Masks
from .reader import FaceData, read_data
from .writer import DataWriter

__all__ = ["AU_COLUMNS", "EMOTION_FILES", "PARSING", "DataWriter", "FaceData", "Frame", "Labels", "Masks", "read_data"]
