"""What command lines take, the engine's and Blender's. Standard library alone."""

from __future__ import annotations

from .errors import UserError


def frame_range(text: str | None) -> tuple[int, int] | None:
    """(first, last) of FIRST:LAST; None for None. Raises UserError where it is not of that form."""
    if text is None:
        return None
    try:
        first, last = (int(part) for part in text.split(":"))
    except ValueError:
        raise UserError(f"--frames {text}: not of the form FIRST:LAST.", "For example --frames 0:249.") from None
    if last < first:
        raise UserError(f"--frames {text}: the last frame lies before the first.", "For example --frames 0:249.")
    return first, last
