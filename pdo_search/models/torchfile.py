"""Files that ``torch.save`` wrote, read without importing or calling anything they name.

Owns what a pickle may name. Knows nothing of models, nor of what its tensors are for.
"""

from __future__ import annotations

import io
import pickle
import pickletools
import re
import textwrap
import warnings
import zipfile
from collections import OrderedDict
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch

from pdo_search.base.errors import InputError
from pdo_search.base.safetext import presentable

__all__ = ["SAVE_WEIGHTS", "read_torch_file"]

SAVE_WEIGHTS = "save it again, the weights alone: torch.save(model.state_dict(), 'weights.pt')"
LONGEST_REASON = 200
LEGACY_PICKLES = 4
"""Magic number, version, system and then the object, in files from before torch 1.6."""
SIGNS_OF_DAMAGE = (
    "PytorchStreamReader",
    "Unsupported operand",
    "storage has wrong byte size",
    "unexpected EOF",
)
MAX_PICKLE_BYTES = 1 << 26
"""Of the part of a file that is searched for what it names."""

HARMLESS: dict[str, tuple[str, ...]] = {
    "argparse": ("Namespace",),
    "builtins": ("NoneType", "bool", "bytes", "float", "frozenset", "int", "list", "object",
                 "range", "slice", "str", "tuple"),
    "collections": ("deque",),
    "copyreg": ("_reconstructor",),
    "datetime": ("date", "datetime", "time", "timedelta", "timezone"),
    "decimal": ("Decimal",),
    "fractions": ("Fraction",),
    "numpy": ("bool_", "dtype", "float32", "float64", "int32", "int64", "ndarray"),
    "numpy._core.multiarray": ("_reconstruct", "scalar"),
    "numpy._core.numeric": ("_frombuffer",),
    "numpy.core.multiarray": ("_reconstruct", "scalar"),
    "numpy.core.numeric": ("_frombuffer",),
    "omegaconf.base": ("ContainerMetadata", "Metadata", "SCMode"),
    "omegaconf.dictconfig": ("DictConfig",),
    "omegaconf.listconfig": ("ListConfig",),
    "omegaconf.nodes": ("AnyNode", "BooleanNode", "BytesNode", "FloatNode", "IntegerNode",
                        "InterpolationResultNode", "PathNode", "StringNode"),
    "pathlib": ("Path", "PosixPath", "PurePath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "pathlib._local": ("Path", "PosixPath", "PurePosixPath", "PureWindowsPath", "WindowsPath"),
    "torch.torch_version": ("TorchVersion",),
    "types": ("SimpleNamespace",),
    "typing": ("Any",),
    "uuid": ("UUID",),
}  # fmt: skip
"""What the settings and scores in training checkpoints are made of.

A stand-in takes the place of each, for not even these are safe to make: a dtype with forged flags
makes numpy take bytes of the file for an address.
"""

MADE_BY = {"_reconstruct": "ndarray", "_frombuffer": "ndarray", "_reconstructor": "object"}
"""What functions among these make, for messages."""

HARMLESS_DICTS: dict[str, tuple[str, ...]] = {
    "addict.addict": ("Dict",),
    "builtins": ("dict",),
    "collections": ("defaultdict",),
    "easydict": ("EasyDict",),
    "lightning.fabric.utilities.data": ("AttributeDict",),
    "lightning_fabric.utilities.data": ("AttributeDict",),
    "mmcv.utils.config": ("ConfigDict",),
    "mmengine.config.config": ("ConfigDict",),
    "pytorch_lightning.utilities.parsing": ("AttributeDict",),
    "yacs.config": ("CfgNode",),
}
"""Dictionaries of other classes; a plain one takes the place of each."""


class _StandIn(list[Any]):
    """What takes an object's place: it keeps nothing of it and does nothing."""

    def __new__(cls, *_: object) -> _StandIn:
        return super().__new__(cls)

    def __init__(self, *_: object) -> None:
        super().__init__()

    def __setstate__(self, _: object) -> None:
        pass


class _Dict:
    """Makes a plain mapping in the place of a dictionary of another class."""

    def __new__(cls, *_: object) -> OrderedDict[Any, Any]:  # type: ignore[misc]
        return OrderedDict()


@lru_cache
def _stand_ins() -> tuple[Any, ...]:
    """Stand-ins by the name that a pickle has for them: the real ones are never looked up."""
    made = [
        (type(MADE_BY.get(name, name), (_StandIn,), {}), f"{module}.{name}")
        for module, names in HARMLESS.items()
        for name in names
    ]
    dicts = [
        (_Dict, f"{module}.{name}") for module, names in HARMLESS_DICTS.items() for name in names
    ]
    return *made, *dicts


def read_torch_file(file: Path, *, zipped: bool) -> Any:
    """What ``torch.save`` wrote, on the CPU; no code of the file's choice is run.

    Numbers of numpy, settings and paths, which training checkpoints hold, come back as empty
    stand-ins.

    Args:
        file: a regular file.
        zipped: whether it is a zip archive, as torch has written them since 1.6.

    Raises:
        InputError: it is damaged or names other classes than those; without the file.
    """
    if zipped:
        _refuse_other_archives(file)
    try:
        with warnings.catch_warnings(), torch.serialization.safe_globals(list(_stand_ins())):
            # Odd files make torch ask for an issue upstream.
            warnings.simplefilter("ignore", UserWarning)
            if zipped and file.suffix != ".safetensors":
                # A map of the file, not a copy: optimizer states are most of a checkpoint.
                return torch.load(file, map_location="cpu", weights_only=True, mmap=True)
            with file.open("rb") as stream:  # By its path, torch would go by its suffix.
                return torch.load(stream, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:
        raise _explained(file, error, zipped) from None


def _refuse_other_archives(file: Path) -> None:
    """Raise InputError for a zip archive that ``torch.save`` did not write."""
    try:
        with zipfile.ZipFile(file) as archive:
            names = archive.namelist()
    except (zipfile.BadZipFile, OSError, ValueError, NotImplementedError):
        raise _cut_off(file) from None
    last = {name.rpartition("/")[2] for name in names}
    if "constants.pkl" in last:
        raise InputError(
            "is a TorchScript archive, a program with its weights",
            remedy="save its weights alone: torch.save(torch.jit.load(FILE).state_dict(),"
            " 'weights.pt')",
        )
    if "data.pkl" in last:
        return
    if "archive_format" in last or any(name.endswith("models/model.json") for name in names):
        raise InputError(
            "is an exported program of torch.export",
            remedy="save its weights alone: torch.save(torch.export.load(FILE).state_dict,"
            " 'weights.pt')",
        )
    if names and all(name.endswith(".npy") for name in names):
        raise InputError(
            "is an archive of numpy arrays (.npz), not of tensors", remedy=_CONVERT_NUMPY
        )
    if "model.weights.h5" in last:
        raise InputError("is a model of Keras", remedy="give weights of PyTorch")
    held = ", ".join(names[:3]) or "nothing"
    raise InputError(
        f"is a zip archive that torch.save did not write; it holds {presentable(held)}",
        remedy="unpack it and name the weights file in it",
    )


_CONVERT_NUMPY = (
    "convert it: torch.save({k: torch.from_numpy(v) for k, v in numpy.load(FILE).items()},"
    " 'weights.pt')"
)


def _cut_off(file: Path) -> InputError:
    return InputError(
        f"the checkpoint is cut off or damaged; it has {file.stat().st_size:,} bytes",
        remedy="copy or download it again, and compare the sizes",
    )


def _explained(file: Path, error: Exception, zipped: bool) -> InputError:
    """What torch said as one sentence, without its advice to trust the file."""
    text, named = str(error), _names(file, zipped)
    if any(name.startswith("torch.nn.modules.") for name in named):
        return InputError(
            "this is a pickled model, not its weights: the checkpoint cannot be read without"
            " running code",
            remedy=SAVE_WEIGHTS,
        )
    refused = re.search(r"GLOBAL (\S+) (?:was not|whose)", text)
    if refused:
        return InputError(
            "the checkpoint cannot be read without running code: beside tensors it holds"
            f" {presentable(refused[1])}",
            remedy=SAVE_WEIGHTS,
        )
    if "must be imported to load" in text:
        return InputError(
            "the checkpoint cannot be read: it holds distributed or nested tensors",
            remedy="gather them where the file was made: save full tensors",
        )
    # Operands of protocols 4 and 5; others are damage.
    if re.search(r"Unsupported operand 1(4\d|5[0-2])\b", text):
        return InputError(
            "the checkpoint cannot be read: it was saved with another pickle protocol than 2",
            remedy="save it again without pickle_protocol: torch.save(model.state_dict(), …)",
        )
    # What is refused on purpose is one of these two; the rest is bytes that make no sense.
    meant = isinstance(error, pickle.UnpicklingError | RuntimeError)
    if not meant or any(part in text for part in SIGNS_OF_DAMAGE):
        return _cut_off(file)
    reason = text.rpartition("WeightsUnpickler error:")[2]
    if "weights_only" in reason or "Weights only" in reason:
        return _cut_off(file)
    short = textwrap.shorten(presentable(reason), LONGEST_REASON, placeholder=" …")
    return InputError(f"the checkpoint cannot be read: {short}", remedy=SAVE_WEIGHTS)


def _names(file: Path, zipped: bool) -> set[str]:
    """The classes and functions that a file names, as far as it can be read; none is imported."""
    found: set[str] = set()
    try:
        for opcode, argument, _ in _opcodes(file, zipped):
            if opcode.name == "GLOBAL":
                found.add(str(argument).replace(" ", "."))
    except (ValueError, OSError, EOFError, zipfile.BadZipFile, NotImplementedError):
        pass
    return found


def _opcodes(file: Path, zipped: bool) -> Iterator[tuple[pickletools.OpcodeInfo, Any, int | None]]:
    """What a file's pickles consist of; nothing is carried out."""
    if zipped:
        with zipfile.ZipFile(file) as archive:
            for name in [n for n in archive.namelist() if n.endswith("/data.pkl")][:1]:
                with archive.open(name) as stream:
                    yield from pickletools.genops(stream.read(MAX_PICKLE_BYTES))
        return
    with file.open("rb") as stream:
        beginning = io.BytesIO(stream.read(MAX_PICKLE_BYTES))
    for _ in range(LEGACY_PICKLES):
        yield from pickletools.genops(beginning)
