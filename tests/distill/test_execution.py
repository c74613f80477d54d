"""Which precision ``auto`` is."""

from __future__ import annotations

import pytest
import torch

from pdo_search.config.training import ExecutionConfig
from pdo_search.distill.execution import autocast, computed_by

from ..models.sequences import TOKEN, made
from ..models.test_build import build

CPU = torch.device("cpu")
AUTO = ExecutionConfig()


@pytest.mark.parametrize("amx", [True, False])
def test_auto_is_bf16_for_transformers_where_a_cpu_has_amx(
    amx: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_amx_tile_supported", lambda: amx)
    for model, arch, expected in (
        (made("small_transformer", [TOKEN], width=32), "small_transformer", amx),
        (build("small_convnet"), "small_convnet", False),
    ):
        with autocast(AUTO, model, CPU):
            product = torch.ones(2, 2) @ torch.ones(2, 2)
        assert (product.dtype == torch.bfloat16) == expected
        precision = computed_by(AUTO, CPU, arch)["precision"]
        assert precision == ("bf16" if expected else "fp32")
    asked = ExecutionConfig(precision="fp32")
    assert computed_by(asked, CPU, "small_transformer")["precision"] == "fp32"
    assert not torch.is_autocast_enabled("cpu")
