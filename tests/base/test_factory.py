"""Functions that an experiment names: found, called in surroundings of their own, or refused."""

from __future__ import annotations

import itertools
import json
import os
import random
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pdo_search.base.errors import InputError
from pdo_search.base.factory import (
    call_factory,
    load_factory,
    load_local_factory,
    source_digest,
)
from pdo_search.cli.main import run_command

from ..conftest import TINY

PATH = "task.data.source"
NUMBERS = itertools.count()

ARGPARSE_SCRIPT = """
import argparse

def options():
    parser = argparse.ArgumentParser(description="Train a network")
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--lr", type=float, default=0.1)
    return parser.parse_args()

args = options()

def load():
    return args.width, options().lr

if __name__ == "__main__":
    raise RuntimeError("trains for hours")
"""


@pytest.fixture(autouse=True)
def search_path() -> Iterator[None]:
    """Folders of one test are none of the next one's."""
    before = list(sys.path)
    yield
    sys.path[:] = before


@pytest.fixture
def module(tmp_path: Path) -> Callable[[str], str]:
    """Write a module; its name, which no other test has."""

    def write(text: str) -> str:
        name = f"users_module_{next(NUMBERS)}"
        (tmp_path / f"{name}.py").write_text(text)
        return name

    return write


def called(name: str, folder: Path | None, **arguments: Any) -> Any:
    function = load_factory(name, PATH, folder)
    return call_factory(function, arguments, name=name, path=PATH)


def told(name: str, folder: Path, **arguments: Any) -> str:
    with pytest.raises(InputError) as caught:
        called(name, folder, **arguments)
    text = str(caught.value)
    assert "->" in text or "raised" in text
    assert "task.data." in text
    return text


RAISED = {
    "exit with a code": ("import sys; sys.exit(4)", "sys.exit(4)"),
    "exit that says all is well": ("exit(0)", "sys.exit(0)"),
    "exit with words": ("raise SystemExit('no data')", "sys.exit(no data)"),
    "argparse with a required argument": (
        "import argparse; p = argparse.ArgumentParser(); p.add_argument('--x', required=True);"
        " p.parse_args()",
        "sys.exit(2)",
    ),
    "GeneratorExit": ("raise GeneratorExit('odd')", "GeneratorExit: odd"),
    "StopIteration": ("raise StopIteration", "StopIteration"),
    "recursion": ("return load()", "RecursionError"),
    "two lines and an escape": ("raise ValueError('red \\x1b[31m\\nline')", r"red \x1b[31m line"),
    "an installed library's error": ("import json; json.loads('{')", "JSONDecodeError"),
}


@pytest.mark.parametrize("case", RAISED)
def test_whatever_the_function_raises_is_told_with_its_line(
    case: str, tmp_path: Path, module: Callable[[str], str]
) -> None:
    line, words = RAISED[case]
    name = module(f"def load():\n    x = 1\n    {line}\n")
    text = told(f"{name}:load", tmp_path)
    assert words in text
    assert f"{tmp_path / name}.py, line 3" in text
    assert "\x1b" not in text
    assert len(text.splitlines()) <= 2


def test_an_error_that_cannot_be_shown_is_told(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    name = module(
        "class Odd(BaseException):\n    def __str__(self):\n        raise ValueError\n"
        "def load():\n    raise Odd\n"
    )
    assert "Odd: its text cannot be shown" in told(f"{name}:load", tmp_path)


def test_an_interrupt_goes_through(tmp_path: Path, module: Callable[[str], str]) -> None:
    name = module("def load():\n    raise KeyboardInterrupt\n")
    with pytest.raises(KeyboardInterrupt):
        called(f"{name}:load", tmp_path)


def test_a_script_with_argparse_gets_no_arguments_of_ours(
    tmp_path: Path, module: Callable[[str], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["pdo-search", "check", "e.yaml"])
    assert called(f"{module(ARGPARSE_SCRIPT)}:load", tmp_path) == (8, 0.1)
    assert sys.argv == ["pdo-search", "check", "e.yaml"]


SETTINGS = """
import os, random, sys, warnings
import numpy as np
import torch

def change():
    os.chdir("/")
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("meta")
    torch.set_num_threads(torch.get_num_threads() + 1)
    torch.set_grad_enabled(False)
    torch.set_float32_matmul_precision("medium")
    random.seed(1)
    np.random.seed(1)
    warnings.simplefilter("error")
    sys.argv = ["mine"]
    print("loading")

change()

def load():
    change()
    return 7
"""


def settings() -> list[Any]:
    return [
        os.getcwd(),
        torch.get_default_dtype(),
        torch.get_default_device(),
        torch.get_num_threads(),
        torch.is_grad_enabled(),
        torch.get_float32_matmul_precision(),
        random.getstate(),
        str(np.random.get_state()),
        list(warnings.filters),
        list(sys.argv),
    ]


def test_what_user_code_sets_for_the_process_is_put_back(
    tmp_path: Path, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    before = settings()
    assert called(f"{module(SETTINGS)}:load", tmp_path) == 7
    assert settings() == before
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err == "loading\nloading\n"


def test_a_module_that_draws_when_it_is_imported_changes_no_weights(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    name = module("import torch\ntorch.manual_seed(5)\ndef load():\n    return torch.rand(1)\n")
    torch.manual_seed(3)
    expected = torch.rand(1)
    for _ in range(2):
        torch.manual_seed(3)
        assert called(f"{name}:load", tmp_path) == expected


def test_check_prints_json_and_nothing_else(
    tmp_path: Path, module: Callable[[str], str], capsys: pytest.CaptureFixture[str]
) -> None:
    name = module(
        "from torch import nn\nprint('imported')\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n        self.head = nn.Linear(64, n)\n"
        "    def forward(self, x):\n"
        "        print('forward')\n        return self.head(x.flatten(1))\n"
        "def make(num_outputs):\n    print('made')\n    return Net(num_outputs)\n"
    )
    tree = {**yaml.safe_load(yaml.safe_dump(TINY)), "student": {"arch": f"{name}:make"}}
    file = tmp_path / "e.yaml"
    file.write_text(yaml.safe_dump(tree))
    assert run_command(["check", str(file), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["students"][0]["params"] == 650


KINDS = {
    "class": ("class load:\n    def __init__(self, n):\n        self.n = n\n", None),
    "lambda": ("load = lambda n: n\n", None),
    "partial": ("from functools import partial\nload = partial(lambda m, n: n, 1)\n", None),
    "bound method": ("class A:\n    def f(self, n): return n\nload = A().f\n", None),
    "callable object": ("class A:\n    def __call__(self, n): return n\nload = A()\n", None),
    "async": ("async def load(n):\n    return n\n", "write `def`"),
    "generator": ("def load(n):\n    yield n\n", "use `return`"),
    "value": ("load = [1, 2]\n", "'load' is no function but a value, list"),
    "model": ("from torch import nn\nload = nn.Linear(1, 1)\n", "built already"),
    "another name": ("def loads(n):\n    return n\n", "did you mean loads?"),
}  # fmt: skip


@pytest.mark.parametrize("case", KINDS)
def test_kinds_of_functions(case: str, tmp_path: Path, module: Callable[[str], str]) -> None:
    text, words = KINDS[case]
    name = f"{module(text)}:load"
    if words is None:
        assert called(name, tmp_path, n=3) is not None
    else:
        assert words in told(name, tmp_path, n=3)


def test_a_partial_depends_on_the_module_that_has_it(
    tmp_path: Path, module: Callable[[str], str]
) -> None:
    text = "from functools import partial\nfrom json import loads\nload = partial(loads, s='7')\n"
    name = f"{module(text)}:load"
    assert called(name, tmp_path) == 7
    assert source_digest(load_factory(name, PATH, tmp_path)) == text
    assert call_factory(load_local_factory(name, PATH, tmp_path), {}, name=name, path=PATH) == 7


@pytest.mark.parametrize(
    ("takes", "given", "words"),
    [
        ("root, size=8", {"root": 1, "sise": 3}, "takes no argument 'sise'"),
        ("root, size=8", {"root": 1, "sise": 3}, "did you mean size?"),
        ("root, size=8", {"size": 3}, "needs the argument 'root'"),
        ("root, size=8", {"size": 3}, "args: {root: …}"),
        ("", {"size": 3}, "it takes none"),
    ],
)
def test_arguments_that_do_not_fit(
    takes: str, given: dict[str, Any], words: str, tmp_path: Path, module: Callable[[str], str]
) -> None:
    name = module(f"def load({takes}):\n    pass\n")
    text = told(f"{name}:load", tmp_path, **given)
    assert words in text
    assert text.startswith("task.data.args: ")


IMPORTS = {
    "a package that is missing": (
        "import no_such_package_xyz.part\n",
        ["No module named 'no_such_package_xyz'", "pip install no_such_package_xyz", "line 1"],
    ),
    "a syntax error": ("x = 1\ndef load(:\n", ["SyntaxError: invalid syntax", "line 2"]),
    "an error": ("x = 1\n\ny = 1 / 0\n", ["ZeroDivisionError", "line 3"]),
    "an exit": ("import sys\nsys.exit()\n", ["ended the program", "line 2", "__main__"]),
}


@pytest.mark.parametrize("case", IMPORTS)
def test_an_import_that_fails_is_told(
    case: str, tmp_path: Path, module: Callable[[str], str]
) -> None:
    text, words = IMPORTS[case]
    name = module(text)
    found = told(f"{name}:load", tmp_path)
    for word in [*words, f"{tmp_path / name}.py"]:
        assert word in found


PLACES = {
    # What is written, files that are there, and what is answered: a remedy, or None if it works.
    "file": ("mine.py:load", ["mine.py"], "write mine:load"),
    "file in a folder": ("src/mine.py:load", ["src/mine.py"], "write src.mine:load"),
    "path without ending": ("src/mine:load", ["src/mine.py"], "write src.mine:load"),
    "path with a dot": ("./mine.py:load", ["mine.py"], "write mine:load"),
    "hyphen as a path": ("my-data.py:load", ["my-data.py"], "write my-data:load"),
    "dot in the name": ("my.data.py:load", ["my.data.py"], "rename the file to my_data.py"),
    "no such file": ("src/mine.py:load", [], "there is no"),
    "file named like Python's": ("random.py:load", ["random.py"], "write my_random:load"),
    "parentheses": ("mine:load()", ["mine.py"], "write mine:load"),
    "no function": ("mine:", ["mine.py"], "write mine:function"),
    "neighbour": ("mime:load", ["mine.py"], "did you mean mine?"),
    "other case": ("MINE:load", ["mine.py"], "did you mean mine?"),
    "module in a folder": ("src_a.mine:load", ["src_a/mine.py"], None),
    "module in a package": ("src_b.mine:load", ["src_b/__init__.py", "src_b/mine.py"], None),
    "module py": ("src_c.py:load", ["src_c/py.py"], None),
    "hyphen": ("my-data:load", ["my-data.py"], None),
    "named like Python's": ("random:load", ["random.py"], "rename random.py to my_random"),
    "named like one not yet loaded": ("this:load", ["this.py"], "this is Python's own module"),
    "named like a needed package": ("ray:load", ["ray.py"], "rename ray.py"),
    "named like a loaded package": ("_pytest:load", ["_pytest.py"], "in use already"),
    "named like it in a folder": ("src_d.random:load", ["src_d/random.py"], None),
    "a folder of Python's name is no module": ("json:loads", ["json/notes.txt"], None),
}  # fmt: skip


@pytest.mark.parametrize("case", PLACES)
def test_where_modules_are_found(case: str, tmp_path: Path) -> None:
    name, files, words = PLACES[case]
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).write_text("def load():\n    return __file__\n")
    if words is not None:
        assert words in told(name, tmp_path)
    elif name != "json:loads":
        assert called(name, tmp_path) == str(tmp_path / files[-1])
        assert load_local_factory(name, PATH, tmp_path).__name__ == "load"
    else:
        assert called(name, tmp_path, s="1") == 1


def test_a_file_elsewhere_is_to_be_copied(tmp_path: Path) -> None:
    (tmp_path / "far.py").write_text("def load():\n    return 1\n")
    text = told(f"{tmp_path}/far.py:load", tmp_path / "here")
    assert f"copy {tmp_path / 'far.py'} beside the experiment file, and write far:load" in text


def test_a_neighbour_of_a_module_in_a_folder_is_imported_with_a_dot(tmp_path: Path) -> None:
    (tmp_path / "src_e").mkdir()
    (tmp_path / "src_e" / "near_by.py").write_text("n = 4\n")
    mine = tmp_path / "src_e" / "mine.py"
    mine.write_text("from near_by import n\ndef load():\n    return n\n")
    assert "import it as .near_by" in told("src_e.mine:load", tmp_path)
    mine.write_text("from .near_by import n\ndef load():\n    return n\n")
    assert called("src_e.mine:load", tmp_path) == 4


def test_modules_of_one_name_in_two_folders_are_two(tmp_path: Path) -> None:
    for number in (1, 2, 1):
        folder = tmp_path / str(number)
        folder.mkdir(exist_ok=True)
        (folder / "same_name.py").write_text(f"def load():\n    return {number}\n")
        assert called("same_name:load", folder) == number


def test_a_function_of_an_installed_package() -> None:
    model = called("torchvision.models:mobilenet_v3_small", None, num_classes=3)
    assert model.classifier[-1].out_features == 3
