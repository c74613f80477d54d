"""The door to Ray Tune: running trials, sampling, scheduling, and recording what they report.

No other folder of the search imports ``ray.tune``.
"""

TUNE_SETTINGS = {
    # Files of every trial's results, as CSV, JSON and for TensorBoard: the tables have them.
    "TUNE_DISABLE_AUTO_CALLBACK_LOGGERS": "1",
    # Ctrl-C is the driver's, which keeps what it has within seconds.
    "TUNE_DISABLE_SIGINT_HANDLER": "1",
    # A trial that ends without a single epoch has no metric to report.
    "TUNE_DISABLE_STRICT_METRIC_CHECKING": "1",
    # A snapshot of all trials, for a restore that is not used.
    "TUNE_GLOBAL_CHECKPOINT_S": "86400",
    "TUNE_WARN_EXCESSIVE_EXPERIMENT_CHECKPOINT_SYNC_THRESHOLD_S": "0",
    # The scheduler decides on every report before the next.
    "TUNE_RESULT_BUFFER_LENGTH": "1",
    # What runs is shown by ``progress``.
    "RAY_AIR_NEW_OUTPUT": "0",
    # Relative paths stay those of the experiment.
    "RAY_CHDIR_TO_TRIAL_DIR": "0",
    "RAY_TRAIN_V2_ENABLED": "1",
}
"""Of the environment, before anything imports Tune (Ray 2.60)."""
