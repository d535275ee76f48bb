"""The one clear line a user sees when something cannot be done."""

from __future__ import annotations


class UserError(Exception):
    """Something the user can put right.

    Args:
        message: one line that names the thing (usually a file) and what is wrong with it.
        remedy: one line that says what to do about it; may be empty.
    """

    def __init__(self, message: str, remedy: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.remedy = remedy

    def __str__(self) -> str:
        return f"{self.message} {self.remedy}".strip()


class Cancelled(Exception):
    """Work was stopped on request; what was finished before stays valid."""
