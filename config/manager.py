"""Reads the layers of a configuration: defaults, YAML file, environment, overrides."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from config.errors import ConfigError
from config.rules import require_known
from config.schema import RULES, SECTIONS, Config, build

ENVIRONMENT_PREFIX = "PNEUMOSCOPE__"

Layer = dict[str, tuple[Any, str]]  # dotted key -> (value, where it comes from)

# What PyYAML lets through of malformed scalars (!!int abc, 2020-13-45) and of deep nesting.
YAML_ERRORS = (yaml.YAMLError, ValueError, LookupError, AttributeError, TypeError, RecursionError)
AS_WRITTEN = {f"tag:yaml.org,2002:{kind}" for kind in ("bool", "int", "float", "timestamp")}


class ConfigManager:
    """Loads configurations; a later layer wins."""

    @staticmethod
    def load(
        path: str | Path | None = None,
        overrides: Mapping[str, Any] | None = None,
        environ: Mapping[str, str] | None = None,
    ) -> Config:
        """Defaults, then the YAML file, then the environment, then dotted `overrides`.

        Text among the overrides is read as YAML. Raises ConfigError, naming file and line or key.
        """
        values: Layer = {}
        if path is not None:
            values |= read_yaml(Path(path))
        values |= read_environment(os.environ if environ is None else environ)
        values |= read_overrides(overrides or {})
        return build(values)


def read_yaml(path: Path) -> Layer:
    """Sections of a YAML file, each value with FILE:LINE."""
    try:
        root = yaml.compose(path.read_text(encoding="utf-8"), Loader=yaml.SafeLoader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"{path}: is not UTF-8 text") from error
    except (yaml.YAMLError, RecursionError) as error:
        raise ConfigError(" ".join(f"{path}: is not YAML: {error}".split())) from error
    values: Layer = {}
    if root is None:
        return values
    for section, content, line in _entries(root, path):
        require_known(section, list(SECTIONS), "section", f"{path}:{line}")
        if isinstance(content, yaml.ScalarNode) and content.tag.endswith(":null"):
            continue  # a section with every key commented out
        for key, node, key_line in _entries(content, path):
            source = f"{path}:{key_line}"
            name = f"{section}.{key}"
            require_known(name, list(RULES), "key", source)
            values[name] = (_value(name, node, source), source)
    return values


def read_environment(environ: Mapping[str, str]) -> Layer:
    """`PNEUMOSCOPE__section__key` variables; their values are read as YAML."""
    values: Layer = {}
    for name, text in environ.items():
        if name.startswith(ENVIRONMENT_PREFIX):
            source = f"environment {name}"
            key = name.removeprefix(ENVIRONMENT_PREFIX).replace("__", ".").lower()
            require_known(key, list(RULES), "key", source)
            values[key] = (_parse(key, text), source)
    return values


def read_overrides(overrides: Mapping[str, Any]) -> Layer:
    """Dotted keys, as --set and `overrides=` give them."""
    values: Layer = {}
    for key, value in overrides.items():
        require_known(key, list(RULES), "key", "override")
        values[key] = (_parse(key, value) if isinstance(value, str) else value, "override")
    return values


def _entries(node: yaml.Node, path: Path) -> list[tuple[str, yaml.Node, int]]:
    """(key, value node, line) of a mapping. Raises ConfigError for all else, and a key twice."""
    line = node.start_mark.line + 1
    if not isinstance(node, yaml.MappingNode):
        raise ConfigError(f"{path}:{line}: here should be keys with values, as in 'epochs: 50'")
    entries: dict[str, tuple[str, yaml.Node, int]] = {}
    for key_node, value_node in node.value:
        line, key = key_node.start_mark.line + 1, key_node.value
        if not isinstance(key, str):
            raise ConfigError(f"{path}:{line}: a key should be a name, as in 'epochs: 50'")
        if key in entries:
            raise ConfigError(f"{path}:{line}: {key} is already in line {entries[key][2]}")
        entries[key] = (key, value_node, line)
    return list(entries.values())


def _value(key: str, node: yaml.Node, source: str) -> Any:
    if _is_text(key) and isinstance(node, yaml.ScalarNode) and node.tag in AS_WRITTEN:
        return node.value  # a class called 1 or No is a name all the same
    # The labels of a mapping are text as written: No, 1 and 1.0 too.
    loader = yaml.BaseLoader("") if RULES[key].kind == "map" else yaml.SafeLoader("")
    try:
        return loader.construct_document(node)
    except YAML_ERRORS as error:
        reason = " ".join(str(error).split())
        raise ConfigError(f"{source}: {key} cannot be read as a value ({reason})") from error
    finally:
        loader.dispose()


def _parse(key: str, text: str) -> Any:
    if _is_text(key) and text[:1] not in ("'", '"'):
        return text
    loader = yaml.BaseLoader(text) if RULES[key].kind == "map" else yaml.SafeLoader(text)
    try:
        return loader.get_single_data()
    except YAML_ERRORS:
        return text  # the schema says what is wrong with it
    finally:
        loader.dispose()


def _is_text(key: str) -> bool:
    return RULES[key].kind == "str" and not RULES[key].choices
