"""Running trials by Tune: the one way of a sweep and of its confirmation.

Owns how Tune is set, and what it runs as a trial. Which trials there are is told by a ``Work``,
what they say is the recorder's business, what they need is in the ``Session``. Not to be imported
before the settings of ``search.tune`` are in the environment, as everything that imports Tune.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from ray import tune

from pdo_search.base.remote import patience
from pdo_search.config.resolve import planned_epochs
from pdo_search.results.schema import TRIALS
from pdo_search.search.cluster import alive_nodes, fitting
from pdo_search.search.progress import Progress
from pdo_search.search.session import Session
from pdo_search.search.tune.recorder import Recorder, Work
from pdo_search.search.tune.slots import SlotLimiter
from pdo_search.search.tune.workarounds import Forgetful, store_error_in, without_states
from pdo_search.trial.inprocess import run_in_process
from pdo_search.trial.ray_train import OUTER_CPUS, run_nested

__all__ = ["named", "run_trials"]

AT_THE_END_S = 10.0
"""Patience with an object store once a run is at its end."""


def run_trials(held: Session, work: Work, trainable: Any = None) -> bool:
    """Let Tune run trials to their end, and record them.

    Args:
        held: the session, on a cluster.
        work: the trials.
        trainable: what Tune runs as a trial; by default the worker function.

    Returns:
        Whether the user cut it off.

    Raises:
        StoreError: a disk is full, or an object store does not answer.
    """
    experiment = held.loaded.experiment
    progress = Progress(
        held.console,
        num_trials=work.num_trials,
        metric=experiment.search.metric,
        mode=experiment.search.mode,
        counts=work.counts,
        paused=work.paused,
        compares=work.table == TRIALS.name,
        epochs=planned_epochs(experiment),
    )
    recorder = Recorder(held.writer, work, experiment, [progress])
    if work.num_samples:
        tuner = _tuner(held, work, recorder, trainable)
        with progress.show(), without_states():
            try:
                tuner.fit()
            except KeyboardInterrupt:
                return True
            except Exception as error:
                if (own := store_error_in(error)) is not None:
                    raise own from None
                raise
            finally:
                # Whoever ends a sweep while its object store is gone has waited once.
                with patience(AT_THE_END_S):
                    recorder.interrupt()
    recorder.close()
    return False


def _tuner(held: Session, work: Work, recorder: Recorder, trainable: Any) -> Any:
    """Tune with all that a session's trials need."""
    search, resources = held.loaded.experiment.search, held.loaded.experiment.resources
    searcher = work.searcher
    if held.at_once is None:
        searcher = SlotLimiter(searcher, lambda: fitting(resources, alive_nodes()))
    return tune.Tuner(
        trainable or _trainable(held),
        tune_config=tune.TuneConfig(
            search_alg=searcher,
            scheduler=work.scheduler,
            num_samples=work.num_samples,
            max_concurrent_trials=held.at_once,
            reuse_actors=not resources.uses_train,
            trial_name_creator=_trial_name,
            trial_dirname_creator=_trial_name,
        ),
        run_config=tune.RunConfig(
            name="tune",
            storage_path=held.scratch,
            callbacks=[recorder, Forgetful()],
            failure_config=tune.FailureConfig(max_failures=search.retries),
            verbose=0,
        ),
    )


def _trainable(held: Session) -> Any:
    """The worker function under the adapter that the resources ask for."""
    resources = held.loaded.experiment.resources
    if resources.uses_train:
        nested = partial(run_nested, assignment=held.assignment, scratch=held.scratch)
        return tune.with_resources(named(nested), {"cpu": OUTER_CPUS})
    alone = partial(run_in_process, assignment=held.assignment)
    asked = {"cpu": resources.cpus, **({"gpu": resources.num_gpus} if resources.num_gpus else {})}
    return tune.with_resources(named(alone), asked)


def named(function: Any) -> Any:
    """A trainable with the signature and the name that Tune looks for."""

    def trial(config: dict[str, Any]) -> None:
        function(config)

    return trial


def _trial_name(trial: Any) -> str:
    return str(trial.config.get("trial_id", trial.trial_id))
