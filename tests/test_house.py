"""The rules of the house: one direction of imports, no heavy import by accident, true documents."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

from config import Config
from config.schema import describe
from engine.stream import events
from server.openapi import describe as describe_routes

ROOT = Path(__file__).parents[1]
FORBIDDEN = {
    "config": {"engine", "server", "benchmarks"},
    "engine": {"server", "starlette", "uvicorn", "benchmarks"},
    "server": {"torch", "torchvision", "numpy", "PIL", "benchmarks"},
}


def imported(path: Path) -> set[str]:
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            names.add(node.module)
    return {name.partition(".")[0] for name in names}


@pytest.mark.parametrize("package", FORBIDDEN)
def test_imports_go_one_way(package: str) -> None:
    for path in (ROOT / package).rglob("*.py"):
        assert not imported(path) & FORBIDDEN[package], path


# Inside `engine`, from top to bottom: a module imports its own level or lower ones.
LEVELS = (
    ("train", "check", "evaluate", "predict", "export", "reproduce", "runs"),
    ("cli",),
    ("group",),
    ("trainer",),
    ("failure", "ending", "follower"),
    ("rehearsal",),
    ("run",),
    ("saving",),
    ("report",),
    ("inference",),
    ("training",),
    ("stream",),
    ("records",),
    ("model",),
    ("data",),
    ("metrics",),
    ("device", "distributed", "files", "limits", "process", "threads", "stop"),
)
LEVEL_OF = {name: level for level, names in enumerate(LEVELS) for name in names}


def engine_imports() -> dict[str, set[str]]:
    """Module of `engine` -> the modules of `engine` it imports, those within functions too."""
    modules = {
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
        for path in (ROOT / "engine").rglob("*.py")
    }
    found: dict[str, set[str]] = {}
    for module, path in modules.items():
        found[module] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom) and node.module in modules:
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                found[module] |= (inner & set(modules)) or {node.module}
            elif isinstance(node, ast.Import):
                found[module] |= {alias.name for alias in node.names} & set(modules)
    return found


def test_rooms_import_downwards_only() -> None:
    for module, wanted in engine_imports().items():
        if module == "engine":
            continue  # the lazy exports
        # The command engine.report is the `__main__` of the room of that name.
        level = 0 if module.endswith(".__main__") else LEVEL_OF[module.split(".")[1]]
        for other in wanted - {"engine"}:
            assert LEVEL_OF[other.split(".")[1]] >= level, f"{module} imports {other}"


def test_no_import_circles() -> None:
    imports = {m: wanted - {"engine"} for m, wanted in engine_imports().items() if m != "engine"}
    while leaves := {module for module, wanted in imports.items() if not wanted & set(imports)}:
        imports = {m: wanted for m, wanted in imports.items() if m not in leaves}
    assert not imports, f"in a circle, or above one: {sorted(imports)}"


@pytest.mark.parametrize(
    "module",
    [
        *("config", "engine", "engine.stream.events", "engine.records.store", "engine.data.source"),
        *("engine.train", "engine.records.claim", "server.__main__", "server.check_dataset"),
    ],
)
def test_light_modules_do_not_import_torch(module: str) -> None:
    check = f"import sys, {module}; sys.exit('torch' in sys.modules or 'numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", check], cwd=ROOT, check=False).returncode == 0


def test_readme_has_every_key_with_its_default_and_meaning() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for key in describe():
        assert f"| `{key.key}` | `{key.default}` | {key.meaning} ({key.allowed}) |" in readme


def test_readme_has_every_event() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    kinds = [kind for kind in vars(events).values() if isinstance(kind, type)]
    names = [
        kind.name for kind in kinds if issubclass(kind, events.Event) and hasattr(kind, "name")
    ]
    assert len(names) == 13
    for name in names:
        assert f"`{name}`" in readme


def test_readme_has_every_route() -> None:
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for path, methods in describe_routes(Config())["paths"].items():
        for method in methods:
            assert f"`{method.upper()} {path}`" in readme


def test_the_page_asks_nobody_else() -> None:
    for path in (ROOT / "server" / "static").iterdir():
        found = re.findall(r"https?://[^\s\"'`)]+", path.read_text(encoding="utf-8"))
        assert set(found) <= {"http://www.w3.org/2000/svg"}, path


def test_no_file_has_outgrown_a_head() -> None:
    for package in ("config", "engine", "server", "benchmarks"):
        for path in (ROOT / package).rglob("*.py"):
            assert len(path.read_text(encoding="utf-8").splitlines()) <= 400, path
