"""Mistakes that the user can put right."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's: its one line says what is wrong, where, and what to do."""


class ConfigError(UserError):
    """An unknown key, a value of the wrong type or out of range; names the file and line or key."""


def first_line(error: BaseException) -> str:
    """An error's own words, cut to one line; its type where it has none."""
    return (str(error) or type(error).__name__).splitlines()[0]
