"""The command line: one file per group of commands. Imports what a command needs when it runs."""
