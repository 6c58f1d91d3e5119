"""Mistakes that the user can put right."""

from __future__ import annotations


class UserError(ValueError):
    """A mistake of the user's: its one line says what is wrong, where, and what to do."""


class ConfigError(UserError):
    """An unknown key, a value of the wrong type or out of range; names the file and line or key."""
