"""Find the file that a table's row means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable
from pathlib import PurePosixPath


class Finder:
    """Files by path, by name and by name without ending."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._paths = set(names)
        self._by_name = _Index(names, lambda path: path.name)
        self._by_stem: _Index | None = None  # made when a table has names without ending

    def find(self, name: str) -> list[str]:
        """The files that a table's name can mean, the surest way of reading it first."""
        name = name.replace("\\", "/").removeprefix("./")
        for candidate in (name, f"images/{name}"):
            if candidate in self._paths:
                return [candidate]
        last = PurePosixPath(name).name
        if by_name := self._by_name.find(last):
            return by_name
        if self._by_stem is None:
            self._by_stem = _Index(self.names, lambda path: path.stem)
        return self._by_stem.find(last)


class _Index:
    """Files by a key of their path; lists only for keys that several have."""

    def __init__(self, names: list[str], key: Callable[[PurePosixPath], str]) -> None:
        self._one: dict[str, str] = {}
        self._more: dict[str, list[str]] = defaultdict(list)
        for name in names:
            of = key(PurePosixPath(name))
            if self._one.setdefault(of, name) != name:
                self._more[of].append(name)

    def find(self, key: str) -> list[str]:
        return [self._one[key], *self._more.get(key, ())] if key in self._one else []
