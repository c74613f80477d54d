"""Files of tensors, told apart by their first bytes and not by their names.

Owns formats, directories and shards. Knows nothing of models: what comes back is what was stored.
"""

from __future__ import annotations

import json
import os
import re
import stat
from pathlib import Path
from typing import Any

from torch import Tensor

from pdo_search.base.errors import InputError
from pdo_search.base.safefile import read_regular
from pdo_search.base.safetext import presentable
from pdo_search.models.torchfile import SAVE_WEIGHTS, read_torch_file

__all__ = ["files_of", "read_safetensors", "read_tensors"]

HEAD_BYTES = 512
MAX_HEADER_BYTES = 8 << 20
"""Of a safetensors file: about 100,000 tensors, which take three seconds."""
MAX_INDEX_BYTES = 64 << 20
MAX_SHARDS = 4096
IN_DIRECTORIES = (
    "model.safetensors",
    "model.safetensors.index.json",
    "pytorch_model.bin",
    "pytorch_model.bin.index.json",
    "weights.safetensors",
)
"""What a directory of weights calls them: Hugging Face's names, then those of a stored model."""
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".tar", ".index.json")
AGAIN = "copy or download it again, and compare the sizes"
OTHERS = "give weights of PyTorch: a state dict that torch.save wrote, or safetensors"
FOREIGN: tuple[tuple[bytes, str, str], ...] = (
    (b"version https://git-lfs", "is a Git LFS pointer, not the file it stands for",
     "fetch it: git lfs pull"),
    (b"\x89HDF\r\n\x1a\n", "is an HDF5 file, as of Keras or TensorFlow", OTHERS),
    (b"\x93NUMPY", "is an array of numpy, not a state dict", OTHERS),
    (b"GGUF", "is a GGUF file, as of llama.cpp", OTHERS),
    (b"\x1f\x8b", "is compressed (gzip)", "unpack it: gunzip, or tar xf"),
    (b"BZh", "is compressed (bzip2)", "unpack it: bunzip2, or tar xf"),
    (b"\xfd7zXZ", "is compressed (xz)", "unpack it: unxz, or tar xf"),
    (b"\x28\xb5\x2f\xfd", "is compressed (zstd)", "unpack it: unzstd, or tar xf"),
    (b"7z\xbc\xaf\x27\x1c", "is compressed (7z)", "unpack it and name the weights file in it"),
    (b"Rar!", "is compressed (rar)", "unpack it and name the weights file in it"),
    (b"PK\x05\x06", "is an empty zip archive", AGAIN),
)  # fmt: skip
"""First bytes of what is no weights file of PyTorch, what that is, and what to do."""


def files_of(file: Path) -> list[Path]:
    """The files that weights lie in: the file itself, or an index and its shards.

    Args:
        file: a file, an index of shards, or a directory with one of these under a usual name.

    Raises:
        InputError: it is missing, no regular file, or its shards are; says which.
    """
    found = _in_directory(file) if os.path.isdir(file) else file
    size = _regular_size(found)
    head = _head(found)
    if size and _kind(head, size) == "json":
        return [found, *_shards(found)]
    return [found]


def read_tensors(file: Path) -> Any:
    """What a file of weights holds, on the CPU; no code in it is run.

    Args:
        file: see ``files_of``.

    Raises:
        InputError: it is missing, damaged, or of another kind; says which.
    """
    files = files_of(file)
    if len(files) == 1:
        return _read_one(files[0])
    merged: dict[str, Any] = {}
    for shard in files[1:]:
        content = _read_one(shard)
        if not isinstance(content, dict):
            raise InputError("is a shard that holds no state dict", file=shard, remedy=AGAIN)
        merged.update(content)
    return merged


def read_safetensors(file: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, whose header is of a sensible size.

    Raises:
        InputError: it is missing, damaged or too large; says which.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    size = _regular_size(file)
    head = _head(file)
    if _kind(head, size) != "safetensors":
        raise InputError("is no safetensors file", file=file, remedy=AGAIN)
    header = int.from_bytes(head[:8], "little")
    if header > MAX_HEADER_BYTES:
        raise InputError(
            f"claims a list of tensors of {header:,} bytes, more than {MAX_HEADER_BYTES:,}",
            file=file,
            remedy="save fewer tensors in one file: shards with an index",
        )
    _check_size(file, header, size)
    try:
        return dict(load_file(file))
    except (SafetensorError, ValueError, TypeError, KeyError, RuntimeError) as error:
        reason = presentable(str(error).partition("\n")[0])
        raise _damaged(file, reason) from None


def _check_size(file: Path, header: int, size: int) -> None:
    """Raise InputError where a safetensors file has not the bytes that its header promises."""
    with file.open("rb") as stream:
        stream.seek(8)
        content = stream.read(header)
    try:
        listed: Any = json.loads(content)
        ends = [int(v["data_offsets"][1]) for k, v in listed.items() if k != "__metadata__"]
    except (ValueError, TypeError, KeyError, IndexError, AttributeError, RecursionError):
        raise _damaged(file, "its list of tensors is none") from None
    wanted = 8 + header + max(ends, default=0)
    if size < wanted:
        raise InputError(f"is cut off: {size:,} of {wanted:,} bytes", file=file, remedy=AGAIN)


def _damaged(file: Path, reason: str) -> InputError:
    return InputError(f"is a damaged safetensors file: {reason}", file=file, remedy=AGAIN)


def _head(file: Path) -> bytes:
    """The first bytes of a regular file."""
    try:
        with file.open("rb") as stream:
            return stream.read(HEAD_BYTES)
    except OSError as error:
        raise _unreadable(file, error.strerror or str(error)) from None


def _unreadable(file: Path, reason: str) -> InputError:
    return InputError(f"cannot be read: {reason}", file=file, remedy="see to its permissions")


def _regular_size(file: Path) -> int:
    """Size of a regular file in bytes; a pipe or a device would keep a reader waiting for ever."""
    try:
        found = file.stat()
    except PermissionError:
        raise _unreadable(file, "Permission denied") from None
    except (OSError, ValueError):
        raise InputError("no such checkpoint", file=file, remedy="correct the path") from None
    if not stat.S_ISREG(found.st_mode):
        raise InputError("is no regular file", file=file, remedy="give a file of weights")
    return found.st_size


def _kind(head: bytes, size: int) -> str:
    """What a file is by its first bytes: how it is read, or ``other``."""
    header = int.from_bytes(head[:8], "little")
    if head[8:9] == b"{" and header < 1 << 48:
        return "safetensors" if 8 + header <= size else "short safetensors"
    if head.startswith(b"PK\x03\x04"):
        return "zip"
    if head.startswith(b"\x80"):
        return "torch pickle" if head.startswith(_TORCH_MAGIC) else "pickle"
    return "json" if head.lstrip()[:1] == b"{" else "other"


_TORCH_MAGIC = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
"""The first pickle of a file that ``torch.save`` wrote before version 1.6."""


def _read_one(file: Path) -> Any:
    """What one file holds; see ``read_tensors``."""
    size = _regular_size(file)
    if not size:
        raise InputError("the file is empty", file=file, remedy=AGAIN)
    head = _head(file)
    kind = _kind(head, size)
    try:
        if kind == "safetensors":
            return read_safetensors(file)
        if kind in ("zip", "torch pickle"):
            return read_torch_file(file, zipped=kind == "zip")
        if kind == "short safetensors":
            raise InputError(f"is a safetensors file that is cut off at {size:,} bytes")
        if kind == "pickle":
            raise InputError(
                "the checkpoint cannot be read: it is a pickle that torch.save did not write",
                remedy=SAVE_WEIGHTS,
            )
        raise _foreign(file, head)
    except InputError as error:
        raise error.at(file=file, remedy=AGAIN) from None


def _foreign(file: Path, head: bytes) -> InputError:
    """What a file is that is no weights of PyTorch."""
    for start, problem, remedy in FOREIGN:
        if head.startswith(start):
            return InputError(problem, remedy=remedy)
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return InputError(
            "is a web page, as servers send in the place of a file, not weights",
            remedy="open the address in a browser, and download the file itself",
        )
    if head[257:262] == b"ustar":
        return InputError("is a tar archive", remedy="unpack it: tar xf, and name the file in it")
    if head[4:8] == b"TFL3":
        return InputError("is a TensorFlow Lite model", remedy=OTHERS)
    # Protocol buffers have no magic: the version of the format comes first, then the producer.
    if file.suffix == ".onnx" or re.match(rb"\x08[\x03-\x14][\x12\x1a\x22\x3a]", head):
        return InputError("is an ONNX model, a program with its weights", remedy=OTHERS)
    if re.search(r"\.data-\d{5}-of-\d{5}$|\.ckpt\.(index|meta)$|\.pb$", file.name):
        return InputError("is a checkpoint of TensorFlow", remedy=OTHERS)
    if head.strip(b"\0") == b"":
        return InputError("begins with zeros: it was never written in full", remedy=AGAIN)
    try:
        shown = head[:60].decode().split("\n")[0]
    except UnicodeDecodeError:
        shown = ""
    if shown.strip() and shown.replace("\t", " ").isprintable():
        return InputError(f"is a text that begins with {shown.strip()!r}, not weights")
    return InputError("is in no known format of weights", remedy=OTHERS)


def _in_directory(directory: Path) -> Path:
    """The file of weights in a directory.

    Raises:
        InputError: it has none of the usual names; names the files that may be meant.
    """
    for name in IN_DIRECTORIES:
        if (directory / name).is_file():
            return directory / name
    if (directory / ".metadata").is_file():
        raise InputError(
            "is a distributed checkpoint, a directory of torch.distributed.checkpoint",
            file=directory,
            remedy="make one file of it: python -m torch.distributed.checkpoint.format_utils"
            " dcp_to_torch DIRECTORY weights.pt",
        )
    try:
        names = sorted(name for name in os.listdir(directory) if name.endswith(SUFFIXES))
    except OSError as error:
        raise _unreadable(directory, error.strerror or str(error)) from None
    raise InputError(
        f"is a directory without {IN_DIRECTORIES[0]} or {IN_DIRECTORIES[2]}",
        file=directory,
        remedy=f"name the file in it: {presentable(', '.join(names[:5]))}"
        if names
        else "give a file of weights",
    )


def _shards(index: Path) -> list[Path]:
    """The files that an index names, which lie beside it.

    Raises:
        InputError: it is no index, or names files elsewhere or missing ones.
    """
    try:
        content: Any = json.loads(read_regular(index, MAX_INDEX_BYTES))
        weight_map = content["weight_map"]
        names = sorted(set(weight_map.values()))
        if not names or not all(isinstance(name, str) for name in names):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError):
        raise InputError(
            "is a JSON file and no index of weights: it has no weight_map of file names",
            file=index,
            remedy=OTHERS,
        ) from None
    outside = [n for n in names if Path(n).name != n or n in ("", ".", "..") or "\\" in n]
    if outside or len(names) > MAX_SHARDS:
        what = f"{outside[0]!r}, which does not lie beside it" if outside else f"{len(names)} files"
        raise InputError(
            f"is an index of weights that names {what}",
            file=index,
            remedy="put the shards beside the index, and name them without a folder",
        )
    missing = [name for name in names if not (index.parent / name).is_file()]
    if missing:
        more = f" and {len(missing) - 3} more" if len(missing) > 3 else ""
        raise InputError(
            f"is an index of weights in {len(names)} file{'s' * (len(names) > 1)}, of which"
            f" {len(missing)} {'is' if len(missing) == 1 else 'are'} missing:"
            f" {presentable(', '.join(missing[:3]))}{more}",
            file=index,
            remedy="put all files that it names beside it, or give one file with all weights",
        )
    return [index.parent / name for name in names]
