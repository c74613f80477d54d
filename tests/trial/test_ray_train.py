"""The adapter to Ray Train, as far as it needs neither Ray nor a GPU."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.trial.ray_train import synchronised


def test_a_synchronised_twin_shares_every_tensor_and_leaves_the_model_its_own_norms() -> None:
    norm = nn.BatchNorm2d(2)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), norm, nn.Dropout(0.5))
    twin = synchronised(model)
    assert isinstance(twin.get_submodule("1"), nn.SyncBatchNorm)
    assert model[1] is norm
    own, shared = model.state_dict(keep_vars=True), twin.state_dict(keep_vars=True)
    assert own.keys() == shared.keys()
    assert all(shared[name] is own[name] for name in own)
    twin(torch.randn(8, 1, 5, 5))
    assert norm.running_mean is not None
    assert norm.running_mean.abs().sum() > 0


def test_a_norm_that_does_more_is_not_replaced_by_a_plain_one() -> None:
    class Activated(nn.BatchNorm2d):
        """As timm's BatchNormAct2d."""

        def forward(self, x: Tensor) -> Tensor:
            return super().forward(x).relu()

    with pytest.raises(InputError, match="Activated"):
        synchronised(nn.Sequential(nn.Conv2d(1, 2, 3), Activated(2)))
