"""Print the declared dependencies at their lowest versions, for pip."""

from __future__ import annotations

import tomllib
from pathlib import Path

project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["project"]
print(*(wanted.replace(">=", "==") for wanted in project["dependencies"]))
