"""Networks: built, adapted to a task, simplified, measured, kept in files. Runs without Ray."""
