"""The tree's rooms import one way, and the distillation core needs neither Ray nor pandas."""

from __future__ import annotations

import ast
import subprocess
import sys
from graphlib import TopologicalSorter
from pathlib import Path

import pytest

import pdo_search

ROOT = Path(pdo_search.__file__).parent
ORDER = (
    ("base",),
    ("config",),
    ("records",),
    ("store",),
    ("results", "tasks"),
    ("models", "analysis"),
    ("distill",),
    ("trial",),
    ("search",),
    ("cli", "testing"),
)
"""The rooms from the ground up: a file imports its own room and lower ones."""
ALLOWED = {
    name: {lower for floor in ORDER[:height] for lower in floor}
    for height, floor in enumerate(ORDER)
    for name in floor
} | {"__init__": {"analysis", "models"}}
FOREIGN = {
    "ray.tune": ("search/tune/", "trial/"),
    "pyarrow.fs": ("base/storage.py",),
    "boto3": ("base/conditional.py",),
    "google": ("base/conditional.py",),
}
"""What else may be imported only there."""


def room(path: Path) -> str:
    relative = path.relative_to(ROOT)
    return relative.parts[0] if len(relative.parts) > 1 else relative.stem


def imported(path: Path) -> set[str]:
    """Modules that a file imports, wherever in its text."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return found


def rooms(modules: set[str]) -> set[str]:
    return {m.split(".")[1] for m in modules if m.startswith("pdo_search.")}


FILES = sorted(ROOT.rglob("*.py"))


@pytest.mark.parametrize("path", FILES, ids=lambda p: str(p.relative_to(ROOT)))
def test_a_module_imports_only_what_its_room_may(path: Path) -> None:
    own = room(path)
    assert rooms(imported(path)) & set(ALLOWED) - {own} <= ALLOWED[own]
    here = path.relative_to(ROOT).as_posix()
    for module, homes in FOREIGN.items():
        if not here.startswith(homes):
            assert not any(f"{m}.".startswith(f"{module}.") for m in imported(path)), module


def test_no_file_imports_itself_by_way_of_others() -> None:
    files = {".".join(path.relative_to(ROOT.parent).with_suffix("").parts): path for path in FILES}
    needs = {name: imported(path) & set(files) - {name} for name, path in files.items()}
    TopologicalSorter(needs).prepare()  # Raises CycleError, which names the circle.


DOMAIN_WORDS = ("picture", "token", "accuracy", "input_shape")


@pytest.mark.parametrize("path", sorted((ROOT / "distill").glob("*.py")), ids=lambda p: p.name)
def test_the_core_speaks_of_no_domain(path: Path) -> None:
    text = path.read_text().lower()
    assert [word for word in DOMAIN_WORDS if word in text] == []


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
    "tasks.images.task",
    "store.bank",
)


def test_distill_tasks_and_store_leave_ray_and_pandas_out() -> None:
    imports = "\n".join(f"import pdo_search.{name}" for name in CORE)
    assert modules_after(imports) & {"ray", "pandas", "torchvision", "sklearn"} == set()


def test_the_package_and_the_command_line_import_nothing_slow() -> None:
    loaded = modules_after("import pdo_search, pdo_search.cli.main")
    assert loaded & {"ray", "torch", "pandas", "pyarrow", "optuna", "pydantic"} == set()


def test_results_need_neither_torch_nor_ray() -> None:
    loaded = modules_after("import pdo_search.analysis.summary, pdo_search.cli.show")
    assert loaded & {"ray", "torch", "optuna"} == set()
