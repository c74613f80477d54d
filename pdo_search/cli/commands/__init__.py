"""One file per group of commands: their arguments, and whom they call."""
