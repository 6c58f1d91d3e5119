"""Layers, provenance, and errors that name file, line and the nearest key."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from config import Config, ConfigError, ConfigManager
from config.schema import DEFAULTS, RULES, describe

ROOT = Path(__file__).parents[2]


def load(tmp_path: Path, text: str, **more: Any) -> Config:
    path = tmp_path / "run.yaml"
    path.write_text(text)
    return ConfigManager.load(path, **{"environ": {}, **more})


def wrong(tmp_path: Path, text: str, **more: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, text, **more)
    return str(caught.value)


def test_a_later_layer_wins_and_says_so(tmp_path: Path) -> None:
    text = "experiment:\n  epochs: 5\n  learning_rate: 0.01\n  dropout_rate: 0.1\n"
    environ = {
        "PNEUMOSCOPE__experiment__epochs": "6",
        "PNEUMOSCOPE__experiment__learning_rate": "0.02",
    }
    config = load(tmp_path, text, environ=environ, overrides={"experiment.epochs": 7})
    experiment = config.experiment
    assert (experiment.epochs, experiment.learning_rate, experiment.dropout_rate) == (7, 0.02, 0.1)
    assert experiment.min_epochs == 3
    said = config.provenance
    assert said["experiment.epochs"] == "override"
    assert "PNEUMOSCOPE__experiment__learning_rate" in said["experiment.learning_rate"]
    assert said["experiment.dropout_rate"].endswith("run.yaml:4")
    assert said["experiment.min_epochs"] == "default"


def test_the_file_in_the_repository_is_the_defaults() -> None:
    path = ROOT / "config" / "default_config.yaml"
    assert ConfigManager.load(path, environ={}) == Config() == ConfigManager.load(environ={})
    written = yaml.safe_load(path.read_text())
    assert {f"{s}.{key}" for s, keys in written.items() for key in keys} == set(RULES)


def test_every_default_is_allowed_by_its_own_rule() -> None:
    for key, value in DEFAULTS.items():
        assert ConfigManager.load(overrides={key: value}, environ={}) == Config()
    assert {entry.key for entry in describe()} == set(RULES)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("experiment:\n  epoch: 5\n", ["run.yaml:2", "experiment.epoch", "experiment.epochs"]),
        ("experimnt:\n  epochs: 5\n", ["run.yaml:1", "experiment"]),
        ("experiment:\n\n  epochs: -1\n", ["run.yaml:3", "experiment.epochs", "1 to 100000"]),
        ("experiment:\n  epochs: 2.5\n", ["run.yaml:2", "whole number"]),
        ("system:\n  precision: fp8\n", ["run.yaml:2", "bf16"]),
        ("system:\n  seed: true\n", ["run.yaml:2", "system.seed"]),
        ("model:\n  head_sizes: [64, none]\n", ["run.yaml:2", "model.head_sizes"]),
        ("experiment: [1, 2]\n", ["run.yaml:1", "keys with values"]),
        ("experiment:\n  epochs: 5\n epochs: 6\n", ["run.yaml"]),
        ("- 1\n", ["run.yaml"]),
        ("system: {device: !!python/object/apply:os.system [true]}\n", ["run.yaml"]),
    ],
)
def test_a_mistake_names_file_line_and_key(tmp_path: Path, text: str, words: list[str]) -> None:
    message = wrong(tmp_path, text)
    for word in words:
        assert word in message


def test_mistakes_in_other_layers_name_them(tmp_path: Path) -> None:
    message = wrong(tmp_path, "", environ={"PNEUMOSCOPE__experiment__epoch": "3"})
    assert "PNEUMOSCOPE__experiment__epoch" in message
    assert "experiment.epochs" in wrong(tmp_path, "", overrides={"experiment.epoch": 3})
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        ConfigManager.load("nowhere.yaml", environ={})


def test_the_traps_of_yaml(tmp_path: Path) -> None:
    text = "experiment: {learning_rate: 1e-3}\nsystem: {compile: off, pin_memory: yes}\n"
    config = load(tmp_path, text)
    assert config.experiment.learning_rate == 0.001
    assert config.system.compile == "off"
    assert config.system.pin_memory is True


def test_the_parts_of_the_split_must_leave_training_images(tmp_path: Path) -> None:
    text = "system: {validation_split: 0.5, test_split: 0.5}"
    assert "system.validation_split" in wrong(tmp_path, text)


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        Config().system.seed = 1  # type: ignore[misc]


@given(
    st.integers(1, 65536),
    st.floats(1e-9, 10),
    st.lists(st.integers(1, 4096), max_size=4),
    st.sampled_from(["auto", 0, 3]),
)
def test_a_stored_configuration_is_read_back(
    batch_size: int, rate: float, sizes: list[int], workers: int | str
) -> None:
    config = ConfigManager.load(
        overrides={
            "system.batch_size": batch_size,
            "experiment.learning_rate": rate,
            "model.head_sizes": sizes,
            "system.num_workers": workers,
        },
        environ={},
    )
    assert Config.from_dict(config.to_dict()) == config


def test_a_stored_configuration_older_than_a_key_keeps_what_was_done_then() -> None:
    old = Config().to_dict()
    del old["recipe"], old["experiment"]["selection"], old["experiment"]["operating_point"]
    found = Config.from_dict(old)
    assert found.experiment.selection == "recall"
    assert found.experiment.operating_point == "default_0.5"
    assert Config.from_dict(Config().to_dict()) == Config()
