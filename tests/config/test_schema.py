"""Every key's range, at its very edges, and what is no value at all."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from config import Config, ConfigError, ConfigManager
from config.rules import Rule
from config.schema import DEFAULTS, RULES

NUMBERS = [key for key, rule in RULES.items() if rule.kind in ("int", "float")]


def load(key: str, value: Any) -> Any:
    section, name = key.split(".")
    overrides = {"system.validation_split": 0.1, key: value}  # so that the split always fits
    return getattr(getattr(ConfigManager.load(overrides=overrides, environ={}), section), name)


def refused(key: str, value: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        load(key, value)
    return str(caught.value)


def beyond(rule: Rule) -> list[float]:
    """The nearest values outside the range."""
    step = 1.0 if rule.kind == "int" else 1e-9
    found = []
    if rule.low is not None:
        found.append(rule.low if rule.above_low else rule.low - step)
    if rule.high is not None:
        found.append(rule.high + step)
    return found


@pytest.mark.parametrize("key", NUMBERS)
def test_a_range_holds_its_edges_and_nothing_beyond(key: str) -> None:
    rule = RULES[key]
    if rule.low is not None and not rule.above_low:
        assert load(key, rule.low) == rule.low
    if rule.high is not None and key != "system.validation_split":
        assert load(key, min(rule.high, 0.85) if key == "system.test_split" else rule.high)
    for value in beyond(rule):
        message = refused(key, value)
        assert key in message
        assert rule.allowed() in message


@pytest.mark.parametrize("key", NUMBERS)
@pytest.mark.parametrize(
    "value",
    [math.nan, math.inf, -math.inf, True, None, "many", [], {}, 10**400, -(10**5000)],
    ids=lambda value: type(value).__name__,
)
def test_a_number_is_a_finite_number(key: str, value: Any) -> None:
    assert key in refused(key, value)


@pytest.mark.parametrize("key", [key for key, rule in RULES.items() if rule.choices])
def test_a_choice_is_one_of_those_named(key: str) -> None:
    for choice in RULES[key].choices:
        assert load(key, choice) == choice
    message = refused(key, "sometimes")
    assert all(choice in message for choice in RULES[key].choices)


@pytest.mark.parametrize("device", ["cuda:", "cuda:-1", "cpu ", "gpu", "", "cuda\n"])
def test_a_device_is_named_in_full(device: str) -> None:
    assert "cuda:N" in refused("system.device", device)


@pytest.mark.parametrize("sizes", [[0], [1.5], "64", [True], [[64]], {"a": 1}])
def test_a_head_has_whole_widths(sizes: Any) -> None:
    assert "model.head_sizes" in refused("model.head_sizes", sizes)


@pytest.mark.parametrize("sizes", [[256.0, 64], ["256", "64"], (256, 64)])
def test_widths_of_the_head_become_whole_numbers(sizes: Any) -> None:
    found = load("model.head_sizes", sizes)
    assert found == (256, 64)
    assert [type(size) for size in found] == [int, int]


def test_a_refused_value_is_shown_briefly() -> None:
    assert len(refused("model.head_sizes", ["x" * 100_000])) < 300
    with pytest.raises(
        ConfigError, match=r"unknown key 'x+'\.\.\. \(100000 characters\)"
    ) as caught:
        ConfigManager.load(overrides={"x" * 100_000: 1}, environ={})
    assert len(str(caught.value)) < 300


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("data.positive_label", "x" * 101),
        ("data.positive_label", "two\nlines"),
        ("data.positive_label", "\x1b[31m"),
        ("output.database", "a\0b"),
        ("output.log_dir", "\udcff"),  # a byte of a path that is not UTF-8
        ("output.log_dir", "x" * 5000),
    ],
)
def test_a_text_is_printable_and_of_bounded_length(key: str, value: str) -> None:
    message = refused(key, value)
    assert key in message
    assert message.isprintable()


def test_backbones_are_the_resnets_of_torchvision() -> None:
    from torchvision.models import list_models

    names = [name for name in list_models() if isinstance(name, str)]
    known = [n for n in names if n.startswith(("resnet", "resnext", "wide_resnet"))]
    assert set(RULES["model.backbone"].choices) == set(known)
    assert "wide_resnet50_2" in refused("model.backbone", "densenet121")


def test_paths_become_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    config = ConfigManager.load(overrides={"model.weights": "w.pt"}, environ={}).absolute()
    assert config.output.database == str(tmp_path / "output" / "pneumoscope.db")
    assert config.model.weights == str(tmp_path / "w.pt")
    assert config.absolute() == config
    assert Config().absolute().model.weights == "imagenet"


def test_a_mapping_on_the_disk_becomes_absolute_and_one_in_the_data_set_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("people.csv").touch()
    for name, stored in (("people.csv", str(tmp_path / "people.csv")), ("other.csv", "other.csv")):
        config = ConfigManager.load(overrides={"data.patients": name}, environ={})
        assert config.absolute().data.patients == stored


@pytest.mark.parametrize(
    "stored",
    [{"system": {"sede": 1}}, {"sistem": {"seed": 1}}, {"system": 3}, {"system": {"seed": "x"}}],
)
def test_a_stored_configuration_that_does_not_fit_is_refused_in_words(stored: Any) -> None:
    with pytest.raises(ConfigError, match="stored configuration"):
        Config.from_dict(stored)


@pytest.mark.parametrize(
    "value", ["{a: 2}", "{a: drpo}", "[a]", "a", {"a": True}, {"a": None}, {1: 1}, {"a\n": 1}]
)
def test_a_label_is_mapped_to_0_1_or_drop(value: Any) -> None:
    assert "a mapping of labels to 0, 1 or drop" in refused("data.label_map", value)


def test_labels_of_a_mapping_are_text_as_written(tmp_path: Path) -> None:
    expected = {"No": 0, "1.0": 1, "Lung Opacity": 1, "*": "drop"}
    text = '{No: 0, 1.0: 1, Lung Opacity: 1, "*": drop}'
    assert load("data.label_map", text) == expected
    path = tmp_path / "run.yaml"
    path.write_text(f"data:\n  label_map: {text}\n")
    assert ConfigManager.load(path, environ={}).data.label_map == expected


@given(st.data())
@settings(deadline=None)
def test_any_allowed_configuration_survives_storing(data: st.DataObject) -> None:
    overrides: dict[str, Any] = {}
    for key in data.draw(st.sets(st.sampled_from(sorted(RULES)), max_size=12)):
        rule = RULES[key]
        low, high = rule.low or 0, min(rule.high or 1e6, 1e6)
        if key.endswith("_split"):
            high = 0.49
        chosen: bool = data.draw(st.booleans())
        if rule.choices and chosen:
            overrides[key] = data.draw(st.sampled_from(rule.choices))
        elif rule.kind == "int":
            overrides[key] = data.draw(st.integers(int(low), int(high)))
        elif rule.kind == "float":
            overrides[key] = data.draw(st.floats(low, high, exclude_min=rule.above_low))
        elif rule.kind == "ints":
            overrides[key] = data.draw(st.lists(st.integers(1, 5000), max_size=5))
        elif rule.kind == "map":
            labels = st.dictionaries(st.text(max_size=9), st.sampled_from([0, 1, "drop"]))
            overrides[key] = data.draw(labels.filter(lambda of: all(map(str.isprintable, of))))
        elif rule.kind == "bool":
            overrides[key] = data.draw(st.booleans())
        elif not rule.choices and not rule.pattern:
            letters = st.characters(exclude_categories=["C", "Z"], exclude_characters="'\"")
            overrides[key] = data.draw(st.text(letters, min_size=1, max_size=40))
    config = ConfigManager.load(overrides=overrides, environ={})
    assert Config.from_dict(config.to_dict()) == config
    for key, value in overrides.items():
        section, name = key.split(".")
        got = getattr(getattr(config, section), name)
        assert (list(got) if isinstance(got, tuple) else got) == value
    assert {key for key, said in config.provenance.items() if said == "default"} == (
        set(DEFAULTS) - set(overrides)
    )
