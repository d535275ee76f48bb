"""From a plain talking-head video to a data set folder: `python -m engine prepare VIDEO OUT`."""

from .pipeline import PrepareSettings, prepare

__all__ = ["PrepareSettings", "prepare"]
