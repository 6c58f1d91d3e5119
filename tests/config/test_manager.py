"""What people and other programs put into a configuration file, and what they meant."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Any

import pytest

from config import Config, ConfigError, ConfigManager
from config.schema import RULES


def load(tmp_path: Path, content: str | bytes) -> Config:
    path = tmp_path / "run.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return ConfigManager.load(path, environ={})


def wrong(tmp_path: Path, content: str | bytes) -> str:
    with pytest.raises(ConfigError) as caught:
        load(tmp_path, content)
    message = str(caught.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("key", sorted(RULES))
def test_a_slip_of_the_finger_is_answered_with_the_key_that_was_meant(key: str) -> None:
    section, name = key.split(".")
    for slip in (f"{section}.{name[:-1]}", f"{section}.{name.replace('_', '')}s", name):
        with pytest.raises(ConfigError) as caught:
            ConfigManager.load(overrides={slip: 1}, environ={})
        assert str(caught.value).endswith(f"did you mean {key!r}?")


@pytest.mark.parametrize(
    "content",
    [
        b'system:\n  device: "\xff\xfe"\n',
        "system:\n  seed: 1\n".encode("utf-16"),
        b"system:\n  seed: \x00\n",
        "a: 1\n---\nb: 2\n",
        "system: {seed: 1\n",
        "model:\n  head_sizes: " + "[" * 5000 + "\n",
        "? [a, b]\n: 1\n",
        "just words",
        "<<: {seed: 1}\n",
    ],
)
def test_what_is_no_configuration_file_is_refused_with_its_name(
    tmp_path: Path, content: str | bytes
) -> None:
    assert "run.yaml" in wrong(tmp_path, content)


@pytest.mark.parametrize(
    "value",
    [
        "!!int abc",
        "!!bool abc",
        "!!timestamp abc",
        "2020-13-45",
        "1" + "0" * 400,
        "1" + "0" * 5000,
        "0x" + "f" * 5000,
        "&a [*a]",
        "",
        "~",
    ],
)
def test_a_value_that_is_none_names_its_line(tmp_path: Path, value: str) -> None:
    assert "run.yaml:3: system.seed" in wrong(tmp_path, f"# a note\nsystem:\n  seed: {value}\n")


def test_a_key_said_twice_names_both_lines(tmp_path: Path) -> None:
    message = wrong(tmp_path, "system:\n  seed: 1\n  seed: 2\n")
    assert "run.yaml:3" in message
    assert "line 2" in message


@pytest.mark.parametrize("where", ["", "device: ", "seed: ", "positive_label: "])
def test_nothing_in_a_file_or_an_override_is_executed(tmp_path: Path, where: str) -> None:
    mark = tmp_path / "mark"
    tag = f'!!python/object/apply:os.mkdir ["{mark}"]'
    section = "data" if "label" in where else "system"
    wrong(tmp_path, f"{section}: {{{where}{tag}}}\n" if where else f"{section}: {tag}\n")
    with pytest.raises(ConfigError):
        ConfigManager.load(overrides={"system.device": tag}, environ={})
    assert not mark.exists()


def test_a_file_from_windows_is_read(tmp_path: Path) -> None:
    config = load(tmp_path, b"\xef\xbb\xbfsystem:\r\n  seed: 7\r\n")
    assert config.system.seed == 7
    assert config.provenance["system.seed"].endswith("run.yaml:2")


@pytest.mark.parametrize("name", ["1", "No", "on", "1e3", "2020-13-45", "null", "0123"])
def test_a_name_that_yaml_takes_for_something_else_stays_a_name(tmp_path: Path, name: str) -> None:
    key = "data.positive_label"
    variable = "PNEUMOSCOPE__data__positive_label"
    assert ConfigManager.load(overrides={key: name}, environ={}).data.positive_label == name
    assert ConfigManager.load(environ={variable: name}).data.positive_label == name
    if name != "null":
        assert load(tmp_path, f"data: {{positive_label: {name}}}").data.positive_label == name
    quoted = ConfigManager.load(overrides={key: f"'{name}'"}, environ={})
    assert quoted.data.positive_label == name


@pytest.mark.parametrize(
    ("key", "text", "value"),
    [
        ("experiment.learning_rate", "1e-3", 0.001),
        ("experiment.learning_rate", "5E-4", 0.0005),
        ("system.compile", "on", "on"),
        ("system.compile", "off", "off"),
        ("system.deterministic", "yes", True),
        ("system.pin_memory", "auto", "auto"),
        ("system.num_workers", "0", 0),
        ("experiment.epochs", "5.0", 5),
        ("model.head_sizes", "[]", ()),
        ("output.database", "C:\\runs: mine\\a.db", "C:\\runs: mine\\a.db"),
    ],
)
def test_text_from_the_shell_means_what_a_person_means(key: str, text: str, value: Any) -> None:
    section, name = key.split(".")
    variable = f"PNEUMOSCOPE__{section}__{name}"
    for config in (
        ConfigManager.load(overrides={key: text}, environ={}),
        ConfigManager.load(environ={variable: text, "PNEUMOSCOPE_OTHER": "1"}),
    ):
        got = getattr(getattr(config, section), name)
        assert (type(got), got) == (type(value), value)


def test_the_environment_of_the_process_is_the_default(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PNEUMOSCOPE__SYSTEM__SEED", "11")
    config = ConfigManager.load()
    assert config.system.seed == 11
    assert "PNEUMOSCOPE__SYSTEM__SEED" in config.provenance["system.seed"]


@pytest.mark.skipif(sys.platform == "win32", reason="folders and modes are the system's own")
def test_a_file_that_cannot_be_read_says_why(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="directory"):
        ConfigManager.load(tmp_path, environ={})
    (tmp_path / "a.yaml").touch(mode=0)
    if os.geteuid() != 0:
        with pytest.raises(ConfigError, match=r"a\.yaml: cannot be read \(Permission"):
            ConfigManager.load(tmp_path / "a.yaml", environ={})
