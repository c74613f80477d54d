"""The worker function as the training loop of Ray Train, nested in a Tune trial: several workers.

Measured with Ray 2.60: a nested trial takes seconds to start, since each starts processes that
import torch again; so one-worker trials run in process, and this adapter is for the others.
"""

from __future__ import annotations

import copy
import inspect
from typing import Any, TypeVar

from torch import Tensor, nn

from pdo_search.base.errors import InputError
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.protocol import Report
from pdo_search.trial.messages import Assignment, failure_message, report_message
from pdo_search.trial.shared import check_visible

__all__ = ["OUTER_CPUS", "run_nested", "synchronised", "worker_resources"]

OUTER_CPUS = 0.001
"""The outer function only waits; its token is taken from the workers, so that trials fill the
machine exactly."""

T = TypeVar("T")


class TrainWorker:
    """One of several workers of a trial, in a torch.distributed group.

    Args:
        sync_batch_norm: whether batch norms see the whole batch, not the worker's share of it.
    """

    def __init__(self, *, sync_batch_norm: bool) -> None:
        from ray import train
        from ray.train import torch as ray_torch

        context = train.get_context()
        self.rank: int = context.get_world_rank()
        self.world_size: int = context.get_world_size()
        self.device = ray_torch.get_device()
        self.sync_batch_norm = sync_batch_norm

    def report(self, report: Report) -> None:
        """Pass the results on; every rank calls, rank 0's count."""
        from ray import train

        train.report(report_message(report))

    def wrap_model(self, model: nn.Module) -> nn.Module:
        """The model with gradients averaged over ranks, where there are several.

        Buffers stay each rank's own: they are statistics of norms, which every rank measures anew
        before an evaluation.
        """
        if self.world_size == 1:
            return model
        from torch.nn.parallel import DistributedDataParallel

        if self.sync_batch_norm:
            model = synchronised(model)
        # Renamed in torch 2.14, which warns of the old name.
        names = inspect.signature(DistributedDataParallel).parameters
        new = "forward_sync_buffers" in names
        own_buffers: dict[str, Any] = {
            "forward_sync_buffers" if new else "broadcast_buffers": False
        }
        return DistributedDataParallel(model, gradient_as_bucket_view=True, **own_buffers)

    def should_stop(self) -> bool:
        """Never: Tune ends the processes."""
        return False

    def broadcast(self, value: T) -> T:
        """Rank 0's value, on every rank."""
        if self.world_size == 1:
            return value
        from torch import distributed

        box = [value]
        distributed.broadcast_object_list(box, src=0, device=self.device)
        return box[0]

    def mean(self, values: Tensor) -> Tensor:
        """Mean over ranks."""
        if self.world_size == 1:
            return values
        from torch import distributed

        total = values.clone()
        distributed.all_reduce(total)
        return total / self.world_size


def synchronised(model: nn.Module) -> nn.Module:
    """A twin that shares all tensors with a model, and whose batch norms see the whole batch.

    The model itself has none that wait for other ranks: one rank alone can evaluate it.

    Raises:
        InputError: a norm is of a kind of its own, which torch would replace by a plain one.
    """
    plain = (nn.BatchNorm1d, nn.BatchNorm2d, nn.BatchNorm3d, nn.SyncBatchNorm)
    norms = [m for m in model.modules() if isinstance(m, nn.modules.batchnorm._BatchNorm)]
    odd = sorted({type(norm).__name__ for norm in norms if type(norm) not in plain})
    if odd:
        raise InputError(
            f"the student has norms that do more than torch's: {', '.join(odd)}",
            path="resources.sync_batch_norm",
            value=True,
            remedy="leave it out, or give a student that synchronises its norms itself",
        )
    shared = {id(t): t for t in (*model.parameters(), *model.buffers())}
    twin = copy.deepcopy(model, shared)
    converted: nn.Module = nn.SyncBatchNorm.convert_sync_batchnorm(twin)  # type: ignore[no-untyped-call]
    return converted


def worker_resources(config: TrialConfig) -> dict[str, float]:
    """Resources of one worker."""
    resources = {"CPU": config.resources.cpus - OUTER_CPUS}
    if config.resources.num_gpus:
        resources["GPU"] = config.resources.num_gpus
    return resources


def run_nested(suggestion: dict[str, Any], assignment: Assignment, scratch: str) -> None:
    """The Tune trainable: start the workers and wait for them.

    The workers report through Tune themselves; an exception of theirs is reported, not raised. A
    worker that dies raises here, and Tune tries the trial again from its checkpoint.
    """
    from ray import tune
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer
    from ray.tune.integration.ray_train import TuneReportCallback

    try:
        config = assignment.config(suggestion)
    except Exception as error:
        tune.report(failure_message(error))
        return
    TorchTrainer(
        _train_loop,
        train_loop_config={"suggestion": suggestion, "assignment": assignment.to_dict()},
        scaling_config=ScalingConfig(
            num_workers=config.resources.workers,
            use_gpu=config.resources.num_gpus > 0,
            resources_per_worker=worker_resources(config),
        ),
        run_config=RunConfig(
            name=suggestion["trial_id"], storage_path=scratch, callbacks=[TuneReportCallback()]
        ),
    ).fit()


def _train_loop(message: dict[str, Any]) -> None:
    """Runs in every worker."""
    from ray import train

    from pdo_search.trial.worker import run_trial

    assignment = Assignment(**message["assignment"])
    suggestion = message["suggestion"]
    try:
        check_visible(assignment.sweep)
        config = assignment.config(suggestion)
        worker = TrainWorker(sync_batch_norm=config.resources.sync_batch_norm)
        run_trial(config, worker, places=assignment.places(suggestion))
    except Exception as error:
        train.report(failure_message(error))
