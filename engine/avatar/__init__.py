"""The avatar file and its Gaussians. Standard library and numpy alone."""

from .file import AU_NAMES, BRANCHES, EMOTIONS, Avatar, AvatarMeta, View, load_avatar, save_avatar
from .gaussians import Gaussians
from .regions import REGIONS, regions, strength_masks

__all__ = [
    "AU_NAMES", "BRANCHES", "EMOTIONS", "REGIONS", "Avatar", "AvatarMeta", "Gaussians", "View", "load_avatar", "regions", "save_avatar",
    "strength_masks",
]  # fmt: skip
