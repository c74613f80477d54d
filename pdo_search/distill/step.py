"""The one update: forward pass, loss, gradients, clipping, optimizer. Whoever trains calls it.

Owns what an update is. Which examples it sees, what its loss is and how far training has come is
the caller's business.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor, nn

from pdo_search.config.training import ExecutionConfig, OptimizerConfig
from pdo_search.distill.evaluate import usual_numbers
from pdo_search.distill.execution import autocast, compiled
from pdo_search.distill.optim import clip_gradients, lr_factor, make_optimizer, set_hyperparameters
from pdo_search.tasks.base import Batch, Outputs, Task

__all__ = ["Updated", "Updates"]

LossOf = Callable[[Outputs], tuple[Tensor, ...]]
"""From a batch's outputs to its loss, a mean over the batch, and further terms to be kept."""


@dataclass(frozen=True)
class Updated:
    """What is known after an update.

    Attributes:
        outputs: of the batch, in torch's default type, without gradient.
        losses: what the loss function returned, without gradient; the first was minimised.
        lr: learning rate of the update.
    """

    outputs: Outputs
    losses: tuple[Tensor, ...]
    lr: float


class Updates:
    """Updates of one model, with its optimizer.

    Attributes:
        optimizer: of the model's parameters.
        through: what is trained: the model itself, or what wraps it and shares its tensors.

    Args:
        task: makes outputs.
        model: on its device; trained in place.
        config: optimizer, schedule, clipping.
        execution: precision, compilation.
        wrapped: adds a data-parallel wrapper; by default there is none.
    """

    def __init__(
        self,
        task: Task,
        model: nn.Module,
        config: OptimizerConfig,
        execution: ExecutionConfig,
        wrapped: Callable[[nn.Module], nn.Module] | None = None,
    ) -> None:
        device = next(model.parameters()).device
        self.optimizer = make_optimizer(model, config)
        self._task = task
        self._config = config
        self._parameters = list(model.parameters())
        self._autocast = autocast(execution, model, device)
        self.through = compiled(model if wrapped is None else wrapped(model), execution, device)

    def add(self, module: nn.Module) -> None:
        """Train the parameters of another module as well."""
        self.optimizer.add_param_group({"params": [*module.parameters()], "decay": True})
        self._parameters += module.parameters()

    def __call__(
        self,
        batch: Batch,
        loss_of: LossOf,
        *,
        progress: float,
        lr_scale: float = 1.0,
        weight_decay: float | None = None,
    ) -> Updated:
        """Make an update.

        Args:
            batch: prepared.
            loss_of: its loss.
            progress: share of all updates done before this one, 0 to 1.
            lr_scale: factor on the schedule's learning rate.
            weight_decay: in place of the configured one.
        """
        config = self._config
        lr = config.lr * lr_scale * lr_factor(config, progress)
        decay = config.weight_decay if weight_decay is None else weight_decay
        set_hyperparameters(self.optimizer, lr=lr, weight_decay=decay)
        with self._autocast:
            outputs = usual_numbers(self._task.forward(self.through, batch))
        losses = loss_of(outputs)
        self.optimizer.zero_grad(set_to_none=True)
        losses[0].backward()  # type: ignore[no-untyped-call]
        if config.clip_norm is not None:
            clip_gradients(self._parameters, config.clip_norm)
        self.optimizer.step()
        said = {head: found.detach() for head, found in outputs.items()}
        return Updated(said, tuple(loss.detach() for loss in losses), lr)
