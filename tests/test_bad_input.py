"""Bad input is refused before anything starts: exit code 2, in words, with nothing written."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from pdo_search.cli.main import run_command
from pdo_search.config.model import ModelConfig

from .conftest import TINY
from .pictures import build_model

Edit = Callable[[dict[str, Any], Path], Any]


def put(path: str, value: Any) -> Edit:
    """Set a leaf."""

    def edit(tree: dict[str, Any], folder: Path) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree.setdefault(key, {})
        tree[last] = value

    return edit


def drop(path: str) -> Edit:
    """Remove a leaf."""

    def edit(tree: dict[str, Any], folder: Path) -> None:
        *parents, last = path.split(".")
        for key in parents:
            tree = tree[key]
        del tree[last]

    return edit


def checkpoint(content: Callable[[Path], None]) -> Edit:
    """Give the teacher a checkpoint."""

    def edit(tree: dict[str, Any], folder: Path) -> None:
        content(folder / "teacher.pt")
        tree["teacher"] = {"arch": "small_resnet", "width": 8, "weights": "teacher.pt"}

    return edit


def other_width(file: Path) -> None:
    model = build_model(ModelConfig(arch="small_resnet", width=4), (1, 8, 8), 10, seed=0)
    torch.save(model.state_dict(), file)


def garbage(file: Path) -> None:
    file.write_bytes(b"\x80garbage")


def code_in_pickle(file: Path) -> None:
    class Hostile:
        def __reduce__(self) -> Any:
            return (Path.touch, (file.with_name("pwned"),))

    torch.save({"w": Hostile()}, file)


def factory(text: str, name: str = "mine:make", where: str = "student") -> Edit:
    """Write a module with a factory and name it."""

    def edit(tree: dict[str, Any], folder: Path) -> None:
        module = f"mine_{abs(hash(text))}"
        (folder / f"{module}.py").write_text(text)
        full = name.replace("mine", module)
        if where == "student":
            tree["student"] = {"arch": full}
        else:
            tree["task"] = {"data": {"source": full}}

    return edit


def rare_class(tree: dict[str, Any], folder: Path) -> None:
    labels = np.array([0, 1] * 50 + [2])
    inputs = np.arange(101 * 64, dtype=np.uint8).reshape(101, 8, 8)
    np.savez(folder / "rare.npz", x=inputs, y=labels)
    text = "import numpy as np\nfrom pathlib import Path\ndef load():\n"
    text += "    d = np.load(Path(__file__).with_name('rare.npz'))\n    return d['x'], d['y']\n"
    (folder / "rare_class_data.py").write_text(text)
    tree["task"] = {"data": {"source": "rare_class_data:load"}}


def broken_picture(tree: dict[str, Any], folder: Path) -> None:
    for name in ("a", "b"):
        (folder / "pictures" / name).mkdir(parents=True)
        (folder / "pictures" / name / "1.png").write_bytes(b"not a picture")
    tree["task"] = {"data": {"source": "image_folder", "path": "pictures"}}


def existing_sweep(tree: dict[str, Any], folder: Path) -> None:
    (folder / "results" / "tiny").mkdir(parents=True)
    (folder / "results" / "tiny" / "sweep.json").write_text("{}")


THREE_CLASSES = """
from torch import nn
def make():
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
"""

CASES: dict[str, tuple[Edit, list[str]]] = {
    "unknown section": (put("serach", {}), ["serach", "did you mean 'search'"]),
    "unknown key": (put("trial.epoch", 3), ["trial.epoch", "got 3", "did you mean 'epochs'"]),
    "unknown nested key": (put("trial.loss", {"kll": 1}), ["trial.loss.kll", "'kl'"]),
    "missing section": (drop("task"), ["task", "is missing"]),
    "missing key": (drop("student.arch"), ["student.arch", "is missing"]),
    "wrong type": (put("trial.epochs", "many"), ["trial.epochs", "'many'", "integer"]),
    "list for a number": (put("teacher.width", [1]), ["teacher.width", "[1]"]),
    "nan": (put("trial.prune_ratio", float("nan")), ["trial.prune_ratio", "nan"]),
    "number out of range": (put("trial.prune_ratio", 1.5), ["trial.prune_ratio", "1.5"]),
    "low above high": (
        put("trial.temperature", {"float": [8, 1]}),
        ["trial.temperature", "low is above high", "[8, 1]", "swap"],
    ),
    "text as bound": (
        put("trial.temperature", {"float": ["1e-3", 1]}),
        ["trial.temperature", "write 1.0e-3"],
    ),
    "log from zero": (
        put("trial.temperature", {"float": [0, 1], "log": True}),
        ["trial.temperature", "above 0"],
    ),
    "empty choice": (put("trial.teacher_order", {"choice": []}), ["trial.teacher_order", "[]"]),
    "bad choice": (
        put("trial.teacher_order", {"choice": ["descending", "up"]}),
        ["trial.teacher_order", "'up'"],
    ),
    "dimension leaves the range": (
        put("trial.temperature", {"float": [-1, 2]}),
        ["trial.temperature", "-1", "narrow"],
    ),
    "two kinds of dimension": (
        put("trial.temperature", {"int": [1, 2], "float": [1, 2]}),
        ["trial.temperature", "exactly one"],
    ),
    "weights that sum to nothing": (
        put("trial.loss", {"kl": 0, "avg": 0, "init": 0}),
        ["trial.loss", "sum to nothing", "'kl': 0"],
    ),
    "more stages than epochs": (
        put("trial.num_stages", 9),
        ["trial", "more stages than epochs", "9"],
    ),
    "splits leave no train": (
        put("task.splits", {"transfer": 0.5, "validation": 0.3, "test": 0.3}),
        ["task.splits", "must leave a share for train"],
    ),
    "teacher without knowledge": (drop("teacher.train"), ["teacher", "`weights` or `train`"]),
    "shrink without teacher": (put("student.shrink", 0.5), ["student", "belong together"]),
    "a unit that nothing has": (
        put("student", {"arch": "teacher", "keep": {"width": 2}}),
        ["student.keep", "width is none of channels, blocks, layers", "{'width': 2}"],
    ),
    "shrink beside keep": (
        put("student", {"arch": "teacher", "keep": 0.5, "shrink": 0.5}),
        ["student", "give `keep` alone"],
    ),
    "metric in the wrong direction": (
        put("search", {"metric": "val_loss", "mode": "max"}),
        ["search", "wrong direction"],
    ),
    "several objectives without a choice of students": (
        put("search", {"minimize": ["flops"]}),
        ["search.minimize", "flops", "every student costs the same"],
    ),
    "several objectives under median stopping": (
        lambda tree, folder: (
            put("search.minimize", ["flops"])(tree, folder),
            put("student.width", {"choice": [2, 4]})(tree, folder),
            put("scheduler", {"kind": "median"})(tree, folder),
        ),
        ["search.minimize", "median compares the metric alone"],
    ),
    "grid without points": (put("search", {"sampler": "grid"}), ["search", "needs `points`"]),
    "point outside its dimension": (
        put("search", {"points": [{"temperature": 99.0}]}),
        ["search.points.0.temperature", "99.0", "outside"],
    ),
    "point of an unknown dimension": (
        put("search", {"points": [{"temperatur": 2.0}]}),
        ["search.points.0.temperatur", "did you mean 'temperature'"],
    ),
    "negative duration": (put("limits", {"wall": "-3m"}), ["limits.wall", "'-3m'", "20m"]),
    "name that leaves the root": (put("name", "../up"), ["name", "'../up'", "directory"]),
    "more CPUs than there are": (
        put("resources", {"cpus": 4000}),
        ["resources", "4000 CPUs", "lower resources.cpus"],
    ),
    "more workers than fit": (
        put("resources", {"workers": 5000}),
        ["resources", "5000 worker", "lower resources.cpus"],
    ),
    "unknown source": (put("task.data.source", "digit"), ["task.data.source", "'digits'"]),
    "missing folder": (
        put("task.data", {"source": "image_folder", "path": "nowhere"}),
        ["task.data.path", "nowhere", "no such folder"],
    ),
    "folder that is not given": (
        put("task.data", {"source": "image_folder"}),
        ["task.data.path", "needs a path"],
    ),
    "picture that cannot be read": (
        broken_picture,
        ["a/1.png (no picture", "2 of 2", "repair or remove"],
    ),
    "class empty in a split": (rare_class, ["task.splits", "class '2'", "transfer"]),
    "unknown architecture": (
        put("teacher.arch", "resnet51"),
        ["teacher.arch", "'resnet51'", "did you mean resnet"],
    ),
    "width of a torchvision model": (
        put("student", {"arch": "resnet18", "width": 3}),
        ["student.width", "small models"],
    ),
    "missing checkpoint": (
        put("teacher.weights", "none.pt"),
        ["teacher.weights", "none.pt", "no such checkpoint"],
    ),
    "corrupt checkpoint": (
        checkpoint(garbage),
        ["teacher.weights", "teacher.pt", "cannot be read", "save it again"],
    ),
    "checkpoint that runs code": (
        checkpoint(code_in_pickle),
        ["teacher.weights", "teacher.pt", "cannot be read"],
    ),
    "checkpoint of another model": (
        checkpoint(other_width),
        ["teacher.weights", "of another shape: stem.0.weight (4, 1, 3, 3) for (8, 1, 3, 3)"],
    ),
    "factory that is not there": (
        put("student", {"arch": "no_such_module_here:make"}),
        ["student.arch", "no_such_module_here", "cannot be imported"],
    ),
    "factory without the function": (factory("x = 1\n"), ["student.arch", "no function 'make'"]),
    "factory that raises": (
        factory("def make(num_outputs):\n    raise RuntimeError('boom')\n"),
        ["student.arch", "RuntimeError: boom"],
    ),
    "factory that exits": (
        factory("def make(num_outputs):\n    raise SystemExit(0)\n"),
        ["student.arch", "ended the program: sys.exit(0)", "line 2"],
    ),
    "model that exits": (
        factory(
            "from torch import nn\nclass Net(nn.Module):\n    def forward(self, x):\n"
            "        exit(3)\ndef make():\n    return Net()\n"
        ),
        ["student.arch", "sys.exit(3)", "line 4", "(N, 1, 8, 8) to (N, 10)"],
    ),
    "file for a module": (
        put("task.data", {"source": "src/mine.py:load"}),
        ["task.data.source", "'src/mine.py:load'", "src.mine:load"],
    ),
    "arguments that a factory does not take": (
        put("student", {"arch": "torchvision.models:alexnet", "args": {"num_clases": 3}}),
        ["the factory raised TypeError", "num_clases"],
    ),
    "factory of a wrong shape": (
        factory(THREE_CLASSES),
        ["student.arch", "(2, 3)", "(2, 10)"],
    ),
    "source that returns junk": (
        factory("def make():\n    return 7\n", where="data"),
        ["task.data.source", "must return"],
    ),
    "existing sweep": (existing_sweep, ["name", "exists already", "resume"]),
}  # fmt: skip


NAMED = ("experiment.yaml", "teacher.pt", "none.pt", "pictures/a/1.png")


def refused(capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    code = run_command(list(arguments))
    told = capsys.readouterr().err
    assert code == 2, told
    assert "Traceback" not in told
    return " ".join(told.split())


@pytest.mark.parametrize("case", CASES)
def test_a_bad_experiment_is_refused_in_words(
    case: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    edit, words = CASES[case]
    monkeypatch.chdir(tmp_path)
    tree = yaml.safe_load(yaml.safe_dump(TINY))
    edit(tree, tmp_path)
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(tree))
    before = set(tmp_path.rglob("*"))
    told = refused(capsys, "run", str(file))
    for word in [*words, "->"]:
        assert word in told, told
    assert any(str(tmp_path / name) in told for name in NAMED), told
    assert not (tmp_path / "pwned").exists()
    made = {p for p in set(tmp_path.rglob("*")) - before if "__pycache__" not in str(p)}
    assert made == set()
    ray = sys.modules.get("ray")
    assert ray is None or not ray.is_initialized()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [1", "not valid YAML"),
        ("- a\n- b\n", "must be a mapping"),
        ("", "must be a mapping"),
        ("name: a\nname: b\n", "stands twice"),
        ("x: !!python/object/apply:os.getcwd []\n", "not valid YAML"),
        ("1: 2\n", "not text"),
    ],
)
def test_a_file_that_is_no_experiment_is_refused(
    text: str, words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(text)
    told = refused(capsys, "check", str(file))
    assert words in told
    assert str(file) in told


def test_a_binary_file_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    assert "cannot be read as text" in refused(capsys, "check", str(file))


def test_a_missing_file_suggests_its_neighbour(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "digits.yaml").write_text("")
    told = refused(capsys, "run", str(tmp_path / "digit.yaml"))
    assert f"did you mean {tmp_path / 'digits.yaml'}" in told


@pytest.mark.parametrize("override", ["trial.epochs", "=3", "trial..x=1", "name.x=1", "trial.x=[1"])
def test_a_bad_override_is_refused(
    override: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "experiment.yaml"
    file.write_text(yaml.safe_dump(TINY))
    assert "--set" in refused(capsys, "check", str(file), "--set", override)


@pytest.mark.parametrize("command", ["show", "resume"])
def test_a_directory_that_is_no_sweep_is_refused(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    told = refused(capsys, command, str(tmp_path))
    assert str(tmp_path) in told
    assert "->" in told


def test_an_unknown_address_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    told = refused(capsys, "resume", str(tmp_path), "--address", "there")
    assert "--address" in told
