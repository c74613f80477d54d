"""The search: sampler, scheduler, sweep and resume, over Ray Tune and Optuna."""
