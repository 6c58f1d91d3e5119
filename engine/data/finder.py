"""Find the file that a table's row means."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable


class Finder:
    """Files by the longest common end of their path and a table's, or by name without ending."""

    def __init__(self, names: list[str]) -> None:
        self.names = names
        self._paths = set(names)
        self._deepest = 1 + max((name.count("/") for name in names), default=0)
        self._by_end: dict[tuple[int, bool], _Index] = {}  # each made when it is first needed

    def find(self, name: str) -> list[str]:
        """The files that a table's name can mean, the surest way of reading it first."""
        name = name.replace("\\", "/").removeprefix("./")
        if name in self._paths:
            return [name]
        if f"images/{name}" in self._paths:
            return [f"images/{name}"]
        parts = name.split("/")
        for stem in (False, True):
            for depth in range(min(len(parts), self._deepest), 0, -1):
                if found := self._index(depth, stem).find("/".join(parts[-depth:])):
                    return found
        return []

    def _index(self, depth: int, stem: bool) -> _Index:
        if (depth, stem) not in self._by_end:
            ends = _ends(depth, stem)
            self._by_end[depth, stem] = _Index(self.names, ends)
        return self._by_end[depth, stem]


def _ends(depth: int, stem: bool) -> Callable[[str], str | None]:
    """The last `depth` parts of a path, without the ending where `stem` says so."""

    def end(name: str) -> str | None:
        parts = name.split("/")
        if len(parts) < depth:
            return None
        last = name if len(parts) == depth else "/".join(parts[-depth:])
        before, _, ending = last.rpartition(".")
        without = stem and before and not before.endswith("/") and "/" not in ending
        return before if without else last

    return end


class _Index:
    """Files by a key of their path; lists only for keys that several have."""

    def __init__(self, names: list[str], key: Callable[[str], str | None]) -> None:
        self._one: dict[str, str] = {}
        self._more: dict[str, list[str]] = defaultdict(list)
        for name in names:
            of = key(name)
            if of is not None and self._one.setdefault(of, name) != name:
                self._more[of].append(name)

    def find(self, key: str) -> list[str]:
        return [self._one[key], *self._more.get(key, ())] if key in self._one else []
