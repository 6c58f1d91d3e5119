"""Configuration: what can be set, and how it is read."""

from __future__ import annotations

from config.errors import ConfigError, UserError
from config.manager import ConfigManager
from config.schema import Config

__all__ = ["Config", "ConfigError", "ConfigManager", "UserError"]
