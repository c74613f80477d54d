"""The experiment's folder: kept with the sweep, missed when it is gone, named anew."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from pdo_search.base.errors import InputError
from pdo_search.results.sweepfile import read_sweep_file
from pdo_search.search.base_folder import needs_base_dir
from pdo_search.search.sweep import reopened_sweep

from ..conftest import TINY

MODULE = """
from torch import nn
from their_parts.layers import classifier

def student(num_outputs, input_shape, width):
    return nn.Sequential(nn.Flatten(), classifier(num_outputs))
"""
BEGIN = """
from pdo_search.cli.check import preflight
from pdo_search.config import load_experiment
from pdo_search.results.sweepfile import write_sweep_file
from pdo_search.search.base_folder import keep_code
from pdo_search.search.sweep import new_sweep
loaded = load_experiment("their.yaml", ())
info, sweep = new_sweep(loaded)
preflight(loaded)
write_sweep_file(sweep, info)
keep_code(sweep, info, anew=True)
"""
AGAIN = """
import sys
from pdo_search.cli.check import preflight
from pdo_search.search.sweep import reopened_sweep
from pdo_search.search.session import loaded_of
preflight(loaded_of(reopened_sweep(sys.argv[1], base_dir=sys.argv[2])))
print(sys.modules["their_parts.layers"].__file__)
"""


@pytest.fixture
def begun(tmp_path: Path) -> Path:
    """A sweep in another folder than its experiment."""
    own = tmp_path / "own"
    (own / "their_parts").mkdir(parents=True)
    (own / "their_parts" / "layers.py").write_text(
        "from torch import nn\nclassifier = nn.LazyLinear\n"
    )
    (own / "their_project.py").write_text(MODULE)
    (own / "unused.py").touch()
    tree = {
        **TINY,
        "student": {"arch": "their_project:student", "width": 4},
        "output": {"root": str(tmp_path / "results")},
    }
    (own / "their.yaml").write_text(yaml.safe_dump(tree))
    subprocess.run([sys.executable, "-c", BEGIN], cwd=own, check=True)
    return tmp_path / "results" / "tiny"


def test_a_sweep_whose_folder_is_gone_goes_on_with_the_modules_it_kept(begun: Path) -> None:
    kept = {str(p.relative_to(begun / "code")) for p in (begun / "code").rglob("*.py")}
    assert kept == {"their_project.py", "their_parts/layers.py"}
    assert reopened_sweep(str(begun)) == read_sweep_file(begun)
    shutil.rmtree(begun.parents[1] / "own")
    with pytest.raises(InputError) as caught:
        reopened_sweep(str(begun))
    assert f"--base-dir {begun}/code" in str(caught.value)
    with pytest.raises(InputError, match="is no folder"):
        reopened_sweep(str(begun), base_dir=str(begun / "nowhere"))
    done = subprocess.run(
        [sys.executable, "-c", AGAIN, str(begun), f"{begun}/code"],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip().endswith(f"{begun}/code/their_parts/layers.py")


@pytest.mark.parametrize(
    ("changes", "needed"),
    [
        ({}, False),
        ({"arch": "pdo_search.models.small_models:small_convnet"}, False),
        ({"arch": "their_lost_project:student"}, True),
        ({"arch": {"choice": ["small_resnet", "their_lost_project:student"]}}, True),
        ({"weights": "IMAGENET1K_V2"}, False),
        ({"weights": "teacher.safetensors"}, True),
        ({"weights": "/models/teacher.safetensors"}, False),
        ({"path": "pictures"}, True),
        ({"path": None}, False),
    ],
)
def test_only_what_lies_in_the_folder_needs_it(
    changes: dict[str, Any], needed: bool, tmp_path: Path
) -> None:
    assert (
        needs_base_dir({"student": {"arch": "small_convnet", **changes}}, str(tmp_path)) == needed
    )
