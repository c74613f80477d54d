"""The door to Ray Tune: running trials, sampling, scheduling, and recording what they report."""
