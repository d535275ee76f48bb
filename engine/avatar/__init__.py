"""The avatar file and its Gaussians. Standard library and numpy alone."""

from .file import BRANCHES, EMOTIONS, Avatar, AvatarMeta, View, load_avatar, save_avatar
from .gaussians import Gaussians

__all__ = ["BRANCHES", "EMOTIONS", "Avatar", "AvatarMeta", "Gaussians", "View", "load_avatar", "save_avatar"]
