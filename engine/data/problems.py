"""What is wrong with a data set, in words, however much there is."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from itertools import chain

from config import UserError

LISTED = 50  # problems of a kind that are kept and shown; the rest is counted


class Problems:
    """Counts every problem and keeps the first LISTED of each kind."""

    def __init__(self) -> None:
        self.count = 0
        self._counts: Counter[str] = Counter()
        self._kept: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def add(self, kind: str, text: str) -> None:
        """`kind` is a word that groups problems: where there are many, each kind is shown."""
        if len(self._kept[kind]) < LISTED:
            self._kept[kind].append((self.count, text))
        self.count += 1
        self._counts[kind] += 1

    def listed(self) -> list[str]:
        """At most LISTED problems of each kind, in the order in which they were added."""
        return [text for _, text in sorted(chain.from_iterable(self._kept.values()))]

    def rest(self) -> str:
        """The problems that are not listed, as "and 7 more"; of several kinds, each is counted."""
        left = {kind: n - len(self._kept[kind]) for kind, n in self._counts.items()}
        left = {kind: n for kind, n in left.items() if n}
        if not left:
            return ""
        kinds = ", ".join(f"{kind} {n:,}" for kind, n in left.items())
        return f"and {sum(left.values()):,} more" + (f" ({kinds})" if len(self._counts) > 1 else "")


class DatasetError(UserError):
    """What is wrong with a data set: `problems` lists LISTED of a kind at most, `count` is all."""

    def __init__(self, summary: str, problems: Sequence[str] | Problems | None = None) -> None:
        if isinstance(problems, Problems):
            self.problems, self.count, rest = problems.listed(), problems.count, problems.rest()
        elif problems is not None:
            self.problems, self.count = list(problems[:LISTED]), len(problems)
            rest = f"and {len(problems) - LISTED:,} more" if len(problems) > LISTED else ""
        else:
            self.problems, self.count, rest = [summary], 1, ""
        lines = [summary]
        if problems is not None:
            lines += [f"  {problem}" for problem in self.problems]
            lines += [f"  {rest}"] if rest else []
        super().__init__("\n".join(lines))


class UnreadableFile(OSError):
    """One file of the data set cannot be read; the message says why."""
