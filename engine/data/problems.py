"""What is wrong with a data set, in words, however much there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from itertools import chain, zip_longest

from config import UserError

LISTED = 50  # problems that are kept and shown; the rest is counted


class Problems:
    """Counts every problem and keeps the first LISTED of each kind."""

    def __init__(self) -> None:
        self.count = 0
        self._kept: dict[str, list[tuple[int, str]]] = defaultdict(list)

    def add(self, kind: str, text: str) -> None:
        """`kind` groups problems: where there are many, each kind is shown."""
        if len(self._kept[kind]) < LISTED:
            self._kept[kind].append((self.count, text))
        self.count += 1

    def listed(self) -> list[str]:
        """At most LISTED problems in the order in which they were added, a fair share of a kind."""
        in_turn = chain.from_iterable(zip_longest(*self._kept.values()))
        fair = [problem for problem in in_turn if problem is not None][:LISTED]
        return [text for _, text in sorted(fair)]


class DatasetError(UserError):
    """What is wrong with a data set: `problems` lists at most LISTED of them, `count` says all."""

    def __init__(self, summary: str, problems: Sequence[str] | Problems | None = None) -> None:
        if isinstance(problems, Problems):
            self.problems, self.count = problems.listed(), problems.count
        elif problems is not None:
            self.problems, self.count = list(problems[:LISTED]), len(problems)
        else:
            self.problems, self.count = [summary], 1
        lines = [summary]
        if problems is not None:
            lines += [f"  {problem}" for problem in self.problems]
            if self.count > len(self.problems):
                lines.append(f"  and {self.count - len(self.problems):,} more")
        super().__init__("\n".join(lines))


class UnreadableFile(OSError):
    """One file of the data set cannot be read; the message says why."""
