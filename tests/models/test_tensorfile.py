"""Files of weights of every kind: read by what they hold, or named as what they are."""

from __future__ import annotations

import gzip
import io
import json
import os
import pickle
import shutil
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.config.model import ModelConfig
from pdo_search.models.modelfile import load_model_file
from pdo_search.models.weights import weights_digest

from ..security.sweeps import write_model
from .test_weights import STATE, assert_same, loaded, refused


def zip_of(**files: bytes) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return stream.getvalue()


def saved(content: object, **how: Any) -> bytes:
    stream = io.BytesIO()
    torch.save(content, stream, **how)
    return stream.getvalue()


def arrays() -> bytes:
    stream = io.BytesIO()
    np.savez(stream, w=np.ones(3))
    return stream.getvalue()


def script() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    return stream.getvalue()


HEADER = safetensors.torch.save(STATE)
FOREIGN: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 44\n",
            "git lfs pull"),
    "html": (b"\n<!DOCTYPE html>\n<html><body>404</body></html>", "is a web page"),
    "text": (b"Not Found\n", "is a text that begins with 'Not Found'"),
    "json": (b'{"error": "Repository not found"}', "no index of weights"),
    "zip": (zip_of(**{"readme.txt": b"hello"}), "it holds readme.txt"),
    "npz": (arrays(), "an archive of numpy arrays"),
    "npy": (b"\x93NUMPY\x01\x00", "an array of numpy"),
    "gzip": (gzip.compress(b"weights"), "compressed (gzip)"),
    "h5": (b"\x89HDF\r\n\x1a\n" + bytes(90), "HDF5"),
    "onnx": (b"\x08\x08\x12\x07pytorch\x1a\x052.1.0", "ONNX"),
    "torchscript": (script(), "a TorchScript archive"),
    "pickle": (pickle.dumps(STATE), "a pickle that torch.save did not write"),
    "zeros": (bytes(4096), "begins with zeros"),
    "noise": (b"\xfe\xed" * 99, "in no known format"),
    "cut zip": (saved(STATE)[:-200], "is cut off or damaged"),
    "half a zip": (saved(STATE)[:2000], "is cut off or damaged; it has 2,000 bytes"),
    "cut pickle": (saved(STATE, _use_new_zipfile_serialization=False)[:-200], "is cut off"),
    "cut safetensors": (HEADER[:-8], f"is cut off: {len(HEADER) - 8:,} of {len(HEADER):,} bytes"),
    "cut header": (HEADER[:100], "is cut off at 100 bytes"),
    "bad header": (HEADER[:9] + b"?" * 20 + HEADER[29:], "is a damaged safetensors file"),
    "other protocol": (saved(STATE, pickle_protocol=4), "another pickle protocol than 2"),
}  # fmt: skip


@pytest.mark.parametrize("kind", FOREIGN)
@pytest.mark.parametrize("name", ["w.pth", "w.safetensors"])
def test_a_file_of_another_kind_is_named(kind: str, name: str, tmp_path: Path) -> None:
    content, expected = FOREIGN[kind]
    (tmp_path / name).write_bytes(content)
    assert expected in refused(tmp_path / name)


def test_a_tar_archive_is_named(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "w.pt")
    with tarfile.open(tmp_path / "w.pth.tar", "w") as archive:
        archive.add(tmp_path / "w.pt", "w.pt")
    assert "is a tar archive" in refused(tmp_path / "w.pth.tar")


def test_the_name_of_a_file_does_not_matter(tmp_path: Path) -> None:
    safetensors.torch.save_file(STATE, tmp_path / "pytorch_model.bin")
    torch.save(STATE, tmp_path / "w.safetensors")
    for name in ("pytorch_model.bin", "w.safetensors"):
        assert_same(loaded(tmp_path / name)[0])


def test_what_is_no_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "no regular file" in refused(tmp_path / "pipe.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    assert "no regular file" in refused(tmp_path / "zero.pt")
    assert "no such checkpoint" in refused(tmp_path / "absent.pt")
    (tmp_path / "gone.pt").symlink_to(tmp_path / "absent.pt")
    for name in ("gone.pt", "a\0b", "x" * 300):
        assert "no such checkpoint" in refused(tmp_path / name)


def write_shards(directory: Path, suffix: str) -> Path:
    """An index of two shards in a directory."""
    names = [f"model-0000{i}-of-00002.{suffix}" for i in (1, 2)]
    keys = list(STATE)
    weight_map = {key: names[i % 2] for i, key in enumerate(keys)}
    for name in names:
        part = {k: STATE[k] for k in keys if weight_map[k] == name}
        if suffix == "bin":
            torch.save(part, directory / name)
        else:
            safetensors.torch.save_file(part, directory / name)
    stem = "pytorch_model" if suffix == "bin" else "model"
    index = directory / f"{stem}.{suffix}.index.json"
    index.write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))
    return index


@pytest.mark.parametrize("suffix", ["bin", "safetensors"])
def test_shards_are_put_together(suffix: str, tmp_path: Path) -> None:
    index = write_shards(tmp_path, suffix)
    assert_same(loaded(index)[0])
    assert_same(loaded(tmp_path)[0])
    config = ModelConfig(arch="small_convnet", weights=index.name)
    before = weights_digest(config, tmp_path)
    shard = tmp_path / f"model-00002-of-00002.{suffix}"
    shard.write_bytes(shard.read_bytes() + b" ")
    assert weights_digest(config, tmp_path) != before
    shard.write_text("version https://git-lfs.github.com/spec/v1")
    assert f"{shard}: student.weights: is a Git LFS pointer" in refused(index)
    shard.unlink()
    assert f"of which 1 is missing: {shard.name}" in refused(index)


@pytest.mark.parametrize("name", ["../out.bin", "/etc/passwd", "..", "a/b.bin", "a\\b.bin"])
def test_an_index_reaches_nothing_elsewhere(name: str, tmp_path: Path) -> None:
    file = tmp_path / "model.safetensors.index.json"
    file.write_text(json.dumps({"weight_map": {"head.bias": name}}))
    assert "does not lie beside it" in refused(file)


def test_a_directory_gives_its_weights_or_names_the_files(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "best.pt")
    assert "name the file in it: best.pt" in refused(tmp_path)
    torch.save(STATE, tmp_path / "pytorch_model.bin")
    assert_same(loaded(tmp_path)[0])
    (tmp_path / "empty").mkdir()
    assert "is a directory without" in refused(tmp_path / "empty")


def test_a_directory_of_torch_distributed_is_named(tmp_path: Path) -> None:
    from torch.distributed.checkpoint.state_dict_saver import save

    save(STATE, checkpoint_id=str(tmp_path / "dcp"), no_dist=True)
    assert "dcp_to_torch" in refused(tmp_path / "dcp")


def test_a_list_of_tensors_without_end_is_refused_before_it_is_read(tmp_path: Path) -> None:
    entries = ",".join(
        f'"t{i}":{{"dtype":"U8","shape":[0],"data_offsets":[0,0]}}' for i in range(200_000)
    )
    header = f"{{{entries}}}".encode()
    file = tmp_path / "w.safetensors"
    file.write_bytes(len(header).to_bytes(8, "little") + header)
    assert "claims a list of tensors of" in refused(file)
    model = write_model(tmp_path / "stored")
    shutil.copy(file, model / "weights.safetensors")
    with pytest.raises(InputError, match="claims a list of tensors of"):
        load_model_file(model)
