"""Loading what a sweep leaves behind, for inference, in one line."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from pdo_search.base.errors import InputError
from pdo_search.base.scratch import scratch_folder
from pdo_search.base.storage import Storage, is_uri
from pdo_search.models.composite import FILE, load_composite
from pdo_search.models.modelfile import load_inference

__all__ = ["load_model"]


def load_model(path: str | Path, base_dir: str | Path | None = None) -> nn.Module:
    """A saved student, teacher or composite that takes raw pictures or texts, in evaluation mode.

    Safe for files that others made: weights are safetensors, the rest is JSON, and no code runs but
    that of ``base_dir``. A model that a ``module:function`` made needs that function again; the
    file says which, and a stranger's could say ``os:system``. So it is imported only from the
    folder that you give, and refused where you give none.

    Args:
        path: a directory that a sweep saved, such as ``results/digits/models/t0003/student``;
            or its URI (``s3://…``), which is copied for the time of loading.
        base_dir: folder of the ``module:function`` that made the model, if one did: the
            experiment's folder, or ``site-packages`` for an installed module.

    Returns:
        A module from pictures (N, C, H, W), in the values that the data source has, to
        (N, classes): logits of a single model, log-probabilities of a composite; or from a list of
        N texts. Its ``predict`` names the classes.

    Raises:
        InputError: the directory holds no model, a damaged one, or one made by a function that
            does not lie in ``base_dir``.
    """
    folder = Path(base_dir) if base_dir is not None else None
    if is_uri(str(path)):
        with scratch_folder("model") as scratch:
            _fetch(str(path), scratch)
            return _loaded(scratch, folder)
    return _loaded(Path(path), folder)


def _fetch(uri: str, scratch: Path) -> None:
    """Copy a model's files, or those of a composite's two models, and nothing deeper."""
    try:
        storage = Storage(uri)
        names = [name for name in storage.objects() if name.count("/") <= 1]
        storage.fetch("", names, scratch)
    except OSError as error:
        raise InputError(f"cannot be fetched: {error}", file=uri) from None


def _loaded(directory: Path, folder: Path | None) -> nn.Module:
    if not (directory.is_dir() and any(directory.iterdir())):
        raise InputError(
            "no such model directory",
            file=directory,
            remedy="the `model` and `composite` columns of a sweep's trials name them",
        )
    if (directory / FILE).is_file():
        return load_composite(directory, folder)
    return load_inference(directory, folder)
