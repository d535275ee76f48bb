"""Where bakes lie, and what they are called."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import tempfile
from pathlib import Path

from ...engine.cache import LOCK_FILE, SHOT_FILE
from ...engine.errors import UserError

CACHE_FOLDER = "ua3dtalk_cache"


def safe_name(name: str) -> str:
    """A name that every file system takes; never empty, no dots at its ends, no device name of Windows."""
    name = re.sub(r"[^\w\- ]+", "_", name).strip(" _")[:48].strip(" _") or "avatar"
    return f"{name}_" if re.fullmatch(r"(?i)(con|prn|aux|nul|com\d|lpt\d)", name) else name


def new_cache_name(name: str) -> str:
    """A cache name no other file in the folder will have: the object's name and four random digits."""
    return f"{safe_name(name)}-{secrets.token_hex(2)}"


def temporary_folder(name: str) -> Path:
    """A folder for this user's files that belong to no .blend; other users of the machine have their own."""
    user = str(os.getuid()) if hasattr(os, "getuid") else os.environ.get("USERNAME", "")
    return Path(tempfile.gettempdir()) / f"ua3dtalk-{user}" / name


def is_temporary(folder: Path) -> bool:
    """True for a folder below `temporary_folder`."""
    return folder.is_relative_to(temporary_folder(""))


def cache_folder(cache_name: str, blend_folder: Path | None) -> Path:
    """The automatic folder of a bake: beside the .blend, or a temporary one for a file never saved."""
    if blend_folder is None:
        return temporary_folder(CACHE_FOLDER) / cache_name
    return blend_folder / CACHE_FOLDER / cache_name


def is_cache(folder: Path) -> bool:
    """True where a bake lies in the folder."""
    return (folder / "header.json").is_file()


def take_along(old: Path, new: Path, move: bool) -> bool:
    """Bring a bake to where its file was saved; a bake that lies there already stays.

    Args:
        move: True for a temporary folder, False leaves `old` where it is.

    Returns:
        True where something was brought.

    Raises:
        UserError: it cannot be written there; `old` is whole.
    """
    if old == new or not is_cache(old) or new.exists():
        return False
    partial = new.with_name(f".{new.name}.{secrets.token_hex(2)}.part")
    try:
        new.parent.mkdir(parents=True, exist_ok=True)
        # The lock of an engine that is at work in the old folder is not the new one's.
        shutil.copytree(old, partial, ignore=shutil.ignore_patterns(LOCK_FILE))
        partial.rename(new)
    except OSError as error:
        shutil.rmtree(partial, ignore_errors=True)
        raise UserError(
            f"The bake could not be taken along to {new} ({error.strerror or error}).", f"It is still in {old}; copy it, or bake again."
        ) from error
    if move:
        shutil.rmtree(old, ignore_errors=True)
    return True


def clear_cache(folder: Path) -> bool:
    """Remove a bake's own files, and the folder where nothing else lies in it. True where there was a bake.

    Raises:
        UserError: a file cannot be removed.
    """
    if not is_cache(folder):
        return False
    try:
        # The header goes first: without it the rest is no bake, whatever happens next.
        (folder / "header.json").unlink()
        for item in folder.iterdir():
            if item.is_dir() and item.name.startswith("store-"):
                shutil.rmtree(item)
            elif item.name in (SHOT_FILE, LOCK_FILE):
                item.unlink()
        if not any(folder.iterdir()):
            folder.rmdir()
    except OSError as error:
        raise UserError(f"Cannot clear {folder}: {error.strerror or error}.", "Close programs that use it and try again.") from error
    return True
