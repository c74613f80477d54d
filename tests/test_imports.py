"""The tree's rooms import one way, and the distillation core needs neither Ray nor pandas."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import pdo_search

ROOT = Path(pdo_search.__file__).parent
COMMON = {"base", "errors", "safefile", "safetext", "screen"}
ALLOWED = {
    "base": set(),
    "errors": set(),
    "safefile": set(),
    "safetext": set(),
    "screen": set(),
    "log": {"config"},
    "config": set(),
    "store": {"config"},
    "tasks": {"config", "store"},
    "results": {"config"},
    "distill": {"config", "tasks", "store"},
    "trial": {"config", "tasks", "store", "distill"},
    "search": {"config", "results", "distill", "trial", "log"},
    "analysis": {"config", "results"},
    "check": {"config", "tasks", "distill"},
    "doctor": {"tasks"},
    "cli": {"config", "store", "results", "search", "analysis", "check", "doctor"},
    "__init__": {"results", "distill"},
}


def room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported_rooms(path: Path) -> set[str]:
    """Rooms of the package that a module imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        names: list[str] = []
        if isinstance(node, ast.ImportFrom) and node.module:
            names = [node.module] if node.module != "pdo_search" else [
                f"pdo_search.{alias.name}" for alias in node.names
            ]  # fmt: skip
        elif isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        found |= {n.split(".")[1] for n in names if n.startswith("pdo_search.")}
    return found


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.py")), ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    own = room(path)
    assert imported_rooms(path) - {own} - COMMON <= ALLOWED[own]


def test_the_allowed_directions_have_no_cycle() -> None:
    order: list[str] = []
    left = dict(ALLOWED)
    while left:
        ready = [name for name, needs in left.items() if needs <= set(order)]
        assert ready, f"a cycle among {sorted(left)}"
        order += ready
        for name in ready:
            del left[name]


def modules_after(statement: str) -> set[str]:
    code = f"import sys\n{statement}\nprint(*sys.modules)"
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )
    return set(result.stdout.split())


CORE = (
    "distill.loop",
    "distill.combine",
    "distill.teacher",
    "tasks.image_classification",
    "store.bank",
)


def test_distill_tasks_and_store_leave_ray_and_pandas_out() -> None:
    imports = "\n".join(f"import pdo_search.{name}" for name in CORE)
    assert modules_after(imports) & {"ray", "pandas", "torchvision", "sklearn"} == set()


def test_the_package_and_the_command_line_import_nothing_slow() -> None:
    loaded = modules_after("import pdo_search, pdo_search.cli")
    assert loaded & {"ray", "torch", "pandas", "pyarrow", "optuna", "pydantic"} == set()


def test_results_need_neither_torch_nor_ray() -> None:
    loaded = modules_after("import pdo_search.results.reader, pdo_search.analysis.show")
    assert loaded & {"ray", "torch", "optuna"} == set()
