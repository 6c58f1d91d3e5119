"""`python -m benchmarks` lists the benchmarks; `python -m benchmarks NAME... | all` runs them."""

from __future__ import annotations

import importlib
import subprocess
import sys
from pathlib import Path

NOT_BENCHMARKS = ("__init__", "__main__", "peers")


def main(chosen: list[str]) -> int:
    """0 where every chosen benchmark ran; 2 for an unknown name."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    names = [name for name in found if name not in NOT_BENCHMARKS]
    if not chosen:
        for name in names:
            doc = importlib.import_module(f"benchmarks.{name}").__doc__ or ""
            print(f"{name:16s} {doc.splitlines()[0].partition('`')[0].strip()}")
        return 0
    wanted = names if chosen == ["all"] else chosen
    if unknown := [name for name in wanted if name not in names]:
        print(f"error: no benchmark {unknown[0]}; there are {', '.join(names)}", file=sys.stderr)
        return 2
    # Each in its own process: threads and caches of one must not change the next.
    codes = [subprocess.call([sys.executable, "-m", f"benchmarks.{name}"]) for name in wanted]
    return max(codes)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
