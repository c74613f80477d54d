"""The suite of ``tasks.base.Task``: what the loop, the bank and the tables rely on in every domain.

Legend: B examples in a batch, L positions (padded), K size of a head.
"""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from pdo_search.base.seeds import seed_for
from pdo_search.config.domains import AnyTaskConfig
from pdo_search.config.metrics import METRICS
from pdo_search.config.schema import TrialConfig
from pdo_search.distill.evaluate import metrics_of
from pdo_search.distill.protocol import LocalWorker
from pdo_search.models.build import build_for
from pdo_search.tasks import build_task
from pdo_search.tasks.base import Batch, Split, Task
from pdo_search.testing.batches import FEW, batch_of, few
from pdo_search.testing.elsewhere import call_elsewhere
from pdo_search.testing.task_inputs import InputsContract
from pdo_search.testing.task_outputs import OutputsContract
from pdo_search.trial.protocol import Places
from pdo_search.trial.worker import run_trial

__all__ = ["TaskContract"]


def fingerprint_of(config: str, base_dir: Path) -> str:
    """The fingerprint of a trial's task; the trial is given as JSON."""
    return build_task(TrialConfig.model_validate_json(config).task, base_dir).fingerprint


class TaskContract(InputsContract, OutputsContract):
    """Tests of a task.

    The fixture ``config``, of the scope of a class, gives a short trial of it whose student can
    learn something in its first epoch. ``other`` is a task of other data; a domain whose seed is
    not all of that, or whose targets are not those of its heads, overrides it and ``perfect``.
    """

    @pytest.fixture(scope="class")
    def base_dir(self) -> Path:
        """What paths and factories of ``config`` refer to."""
        return Path.cwd()

    @pytest.fixture(scope="class")
    def other(self, config: TrialConfig) -> AnyTaskConfig:
        """The same task on other data."""
        return config.task.model_copy(update={"seed": config.task.seed + 1})

    @pytest.fixture(scope="class")
    def task(self, config: TrialConfig, base_dir: Path) -> Task:
        """The task under test."""
        return build_task(config.task, base_dir)

    @pytest.fixture(scope="class")
    def model(self, config: TrialConfig, task: Task, base_dir: Path) -> nn.Module:
        """The trial's student, untrained."""
        seed = seed_for(config.seed, "student")
        return build_for(task, config.student, seed=seed, base_dir=base_dir)

    @pytest.fixture
    def batch(self, task: Task) -> Batch:
        """Some prepared examples of the train split, with labels."""
        examples = task.examples(Split.TRAIN)
        return batch_of(task, examples, few(examples))

    def test_heads_and_metrics_are_named_and_known(self, task: Task) -> None:
        """The first metric says what better is."""
        assert task.heads
        assert len({head.name for head in task.heads}) == len(task.heads)
        known = [METRICS[name.rpartition(".")[2]] for name in task.metrics]
        assert len(set(task.metrics)) == len(known)
        assert known[0].mode is not None

    def test_a_model_answers_with_every_head(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """Outputs (B, K), or (B, L, K) of a head with positions."""
        outputs = task.forward(model.eval(), batch)
        assert set(outputs) == {head.name for head in task.heads}
        for head in task.heads:
            positions = () if head.positions is None else batch[head.positions].shape[1:]
            assert outputs[head.name].shape == (FEW, *positions, head.size)
            assert outputs[head.name].isfinite().all()

    def test_an_example_is_answered_alike_alone_and_among_longer_ones(
        self, task: Task, model: nn.Module, batch: Batch
    ) -> None:
        """A model does not look at the padding."""
        examples = task.examples(Split.TRAIN)
        model.eval()
        together = task.forward(model, batch)
        for row, place in enumerate(few(examples)):
            alone = task.forward(model, batch_of(task, examples, place[None]))
            for name, found in alone.items():
                expected = together[name][row]
                own = expected[: found.shape[1]] if expected.dim() > 1 else expected
                torch.testing.assert_close(found[0], own, rtol=1e-4, atol=1e-4)

    def test_the_example_is_one_that_models_take(self, task: Task, model: nn.Module) -> None:
        """It is prepared, and alone in its batch."""
        outputs = task.forward(model.eval(), task.example())
        assert {len(found) for found in outputs.values()} == {1}

    def test_a_fingerprint_is_of_the_data_and_of_nothing_else(
        self, config: TrialConfig, other: AnyTaskConfig, task: Task, base_dir: Path
    ) -> None:
        """Another process finds the same one; of other data it is another one."""
        assert build_task(other, base_dir).fingerprint != task.fingerprint
        found = call_elsewhere(fingerprint_of, config.model_dump_json(), base_dir)
        assert found == task.fingerprint

    def test_the_loop_trains_a_student_of_it(
        self, config: TrialConfig, task: Task, model: nn.Module, base_dir: Path, tmp_path: Path
    ) -> None:
        """After its first epoch the loss on validation is lower than before."""
        device = torch.device("cpu")
        before = metrics_of(task, model, task.examples(Split.VALIDATION), device)["loss"]
        worker = LocalWorker(stop_after=1)
        places = Places(str(tmp_path / "store"), str(tmp_path), str(base_dir), "t0000", 0)
        run_trial(config, worker, places=places)
        assert worker.reports[0].metrics["val_loss"] < before
