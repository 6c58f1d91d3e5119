"""The whole configuration: its sections, every key's rule, and how values are checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from config.data_section import Data
from config.errors import ConfigError
from config.recipe_section import Recipe
from config.rules import AUTO, Rule, convert, require_known, show, shown
from config.sections import BACKBONES, Augment, Experiment, Model, Output, Report, System

__all__ = [
    "AUTO",
    "BACKBONES",
    "DEFAULTS",
    "RULES",
    "SECTIONS",
    "Augment",
    "Config",
    "Data",
    "Experiment",
    "KeyDescription",
    "Model",
    "Output",
    "Recipe",
    "Report",
    "System",
    "build",
    "check",
    "describe",
]


@dataclass(frozen=True)
class Config:
    """The whole configuration of a run; frozen."""

    system: System = field(default_factory=System)
    experiment: Experiment = field(default_factory=Experiment)
    recipe: Recipe = field(default_factory=Recipe)
    model: Model = field(default_factory=Model)
    data: Data = field(default_factory=Data)
    augment: Augment = field(default_factory=Augment)
    output: Output = field(default_factory=Output)
    report: Report = field(default_factory=Report)
    # dotted key -> default, FILE:LINE, environment NAME, or override
    provenance: Mapping[str, str] = field(default_factory=dict, compare=False, repr=False)

    def to_dict(self) -> dict[str, dict[str, Any]]:
        """Sections of plain values, as JSON and YAML have them."""
        return {
            name: {
                key: list(value) if isinstance(value, tuple) else value
                for key, value in dataclasses.asdict(getattr(self, name)).items()
            }
            for name in SECTIONS
        }

    def absolute(self) -> Config:
        """With every path made absolute: a stored configuration means the same from any folder."""
        folders: dict[str, Any] = {
            key: str(Path(value).absolute())
            for key, value in dataclasses.asdict(self.output).items()
            if isinstance(value, str)
        }
        output = dataclasses.replace(self.output, **folders)
        model = self.model
        if model.weights not in ("imagenet", "none"):
            model = dataclasses.replace(model, weights=str(Path(model.weights).absolute()))
        data = self.data
        if data.patients != "none" and Path(data.patients).exists():  # else: in the data set
            data = dataclasses.replace(data, patients=str(Path(data.patients).absolute()))
        return dataclasses.replace(self, model=model, data=data, output=output)

    @classmethod
    def from_dict(cls, values: Mapping[str, Mapping[str, Any]]) -> Config:
        """The inverse of `to_dict`. Raises ConfigError.

        A missing key gets what was done before there was one (`EARLIER`), else its default.
        """
        source = "stored configuration"
        flat: dict[str, tuple[Any, str]] = {}
        for section, keys in values.items():
            require_known(section, list(SECTIONS), "section", source)
            if not isinstance(keys, Mapping):
                raise ConfigError(f"{source}: {section} should hold keys with values")
            for key, value in keys.items():
                require_known(f"{section}.{key}", list(RULES), "key", source)
                flat[f"{section}.{key}"] = (value, source)
        for key, value in EARLIER.items():
            if values.get(key.partition(".")[0]):
                flat.setdefault(key, (value, source))
        return build(flat)


# Of stored configurations that are older than the key.
EARLIER: dict[str, Any] = {
    "experiment.selection": "recall",
    "experiment.operating_point": "default_0.5",
    "model.stem": "standard",
    "model.grey_input": False,
}
SECTIONS: dict[str, type] = {
    "system": System,
    "experiment": Experiment,
    "recipe": Recipe,
    "model": Model,
    "data": Data,
    "augment": Augment,
    "output": Output,
    "report": Report,
}
RULES: dict[str, Rule] = {
    f"{section}.{entry.name}": entry.metadata["rule"]
    for section, owner in SECTIONS.items()
    for entry in dataclasses.fields(owner)
}
DEFAULTS: dict[str, Any] = {
    f"{section}.{entry.name}": getattr(owner(), entry.name)
    for section, owner in SECTIONS.items()
    for entry in dataclasses.fields(owner)
}


class KeyDescription(NamedTuple):
    """One line of the reference."""

    key: str
    default: str
    allowed: str
    meaning: str


def describe() -> list[KeyDescription]:
    """Every key with default, allowed values and meaning, in the order of the schema."""
    return [
        KeyDescription(key, show(DEFAULTS[key]), rule.allowed(), rule.meaning)
        for key, rule in RULES.items()
    ]


def build(values: Mapping[str, tuple[Any, str]]) -> Config:
    """A Config from dotted keys to (value, where it comes from). Raises ConfigError."""
    checked = {key: check(key, value, source) for key, (value, source) in values.items()}
    sections: dict[str, Any] = {}
    for name, owner in SECTIONS.items():
        names = [entry.name for entry in dataclasses.fields(owner)]
        sections[name] = owner(
            **{n: checked[f"{name}.{n}"] for n in names if f"{name}.{n}" in checked}
        )
    system = sections["system"]
    if system.validation_split + system.test_split >= 1:
        raise ConfigError(
            "system.validation_split and system.test_split together must leave images to train on "
            f"(they are {system.validation_split:g} and {system.test_split:g})"
        )
    provenance = {key: values[key][1] if key in values else "default" for key in RULES}
    return Config(**sections, provenance=provenance)


def check(key: str, value: Any, source: str) -> Any:
    """The value as the schema has it. Raises ConfigError, naming key and place."""
    rule = RULES[key]
    result = convert(rule, value)
    if result is None:
        allowed = rule.allowed()
        if rule.kind == "str" and isinstance(value, str) and not value.isprintable():
            allowed += ", without control characters"
        raise ConfigError(f"{source}: {key} is {shown(value)}, but must be {allowed}")
    return result
