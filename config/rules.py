"""What one configuration key accepts, and how a value is brought into its type."""

from __future__ import annotations

import difflib
import math
import re
from dataclasses import field
from typing import Any, NamedTuple

from config.errors import ConfigError

AUTO = "auto"
SHOWN = 60  # characters of a refused name or value in an error message
MAPPED: dict[str, int | str] = {"0": 0, "1": 1, "drop": "drop"}  # what a label is mapped to
MOST_MAPPED = 10_000  # labels of a mapping
LONGEST = 4096  # characters of any text, as the longest path of Linux


class Rule(NamedTuple):
    """What a key accepts. `kind` is int, float, bool, str, ints (a list) or map (of labels)."""

    kind: str
    meaning: str
    low: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()
    pattern: str | None = None
    form: str = ""  # the pattern in words
    above_low: bool = False  # the lower bound itself is not allowed
    longest: int | None = None  # characters of a text

    def allowed(self) -> str:
        """The range in words, for help and for errors."""
        if self.pattern is not None:
            return self.form
        names = {"int": "a whole number", "float": "a number", "bool": "true or false"}
        names |= {"str": "text", "ints": "a list of whole numbers"}
        names |= {"map": "a mapping of labels to 0, 1 or drop"}
        words = [] if self.kind == "str" and self.choices else [names[self.kind]]
        if self.longest is not None:
            words[0] += f" of at most {self.longest} characters"
        if self.low is not None and self.high is not None:
            words[0] += f" {'above' if self.above_low else 'from'} {self.low:g} to {self.high:.10g}"
        elif self.low is not None:
            words[0] += f" {'above' if self.above_low else 'of at least'} {self.low:g}"
        if len(self.choices) > 4:
            return f"one of {', '.join(self.choices)}"
        return " or ".join(words + [str(choice) for choice in self.choices])


def key(default: Any, kind: str, meaning: str, **limits: Any) -> Any:
    """The field of a section's dataclass: the default of a key, and its rule."""
    return field(default=default, metadata={"rule": Rule(kind, meaning, **limits)})


def show(value: Any) -> str:
    """A value as YAML has it."""
    if isinstance(value, tuple | list):
        return "[" + ", ".join(map(show, value)) + "]"
    if isinstance(value, dict):
        return "{" + ", ".join(f"{show(key)}: {show(of)}" for key, of in value.items()) + "}"
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)


def require_known(name: str, known: list[str], kind: str, source: str) -> None:
    """Raises ConfigError with the nearest name for one that is not known."""
    if name in known:
        return
    if len(name) > SHOWN:  # difflib takes seconds on a long text
        raise ConfigError(f"{source}: unknown {kind} {name[:SHOWN]!r}... ({len(name)} characters)")
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
    raise ConfigError(f"{source}: unknown {kind} {name!r}; did you mean {near[0]!r}?")


def shown(value: Any) -> str:
    """A refused value in quotes, however large it is, and even where it holds itself."""
    try:
        text = show(value)
    except (ValueError, RecursionError):  # an integer of thousands of digits, say
        return f"a {type(value).__name__} too large to show"
    return repr(text if len(text) <= SHOWN else f"{text[: SHOWN - 3]}...")


def convert(rule: Rule, value: Any) -> Any:
    """The value in its proper type, or None where the rule does not allow it."""
    if isinstance(value, bool) and "on" in rule.choices:
        return "on" if value else "off"  # YAML reads a bare on or off as a truth value
    if rule.choices and isinstance(value, str) and value in rule.choices:
        return value
    if rule.kind == "bool":
        return value if isinstance(value, bool) else None
    if rule.kind == "str":
        if not isinstance(value, str) or not value or rule.choices:
            return None
        if not value.isprintable() or len(value) > (rule.longest or LONGEST):
            return None  # control characters and lone surrogates break logs, tables and files
        return value if re.fullmatch(rule.pattern or ".*", value) else None
    if rule.kind == "ints":
        if not isinstance(value, list | tuple):
            return None
        numbers = [_number(rule, item, int) for item in value]
        return None if None in numbers else tuple(numbers)
    if rule.kind == "map":
        return _mapping(value)
    return _number(rule, value, int if rule.kind == "int" else float)


def _mapping(value: Any) -> dict[str, int | str] | None:
    """Labels as text to 0, 1 or drop."""
    if not isinstance(value, dict) or len(value) > MOST_MAPPED:
        return None
    result: dict[str, int | str] = {}
    for label, of in value.items():
        if not isinstance(label, str) or not label.isprintable() or len(label) > LONGEST:
            return None
        if isinstance(of, bool) or not isinstance(of, int | str) or str(of) not in MAPPED:
            return None
        result[label] = MAPPED[str(of)]
    return result


def _number(rule: Rule, value: Any, kind: type[int] | type[float]) -> int | float | None:
    if isinstance(value, str):  # YAML 1.1 reads 1e-3 as text
        try:
            value = float(value)
        except ValueError:
            return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        return None
    try:
        if not math.isfinite(value):
            return None
    except OverflowError:  # an integer beyond every float
        return None
    if kind is int and value != int(value):
        return None
    too_low = rule.low is not None and (value < rule.low or (rule.above_low and value == rule.low))
    too_high = rule.high is not None and value > rule.high
    return None if too_low or too_high else kind(value)
