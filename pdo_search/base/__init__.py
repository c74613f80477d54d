"""What every room stands on: errors, text, screen, log, seeds, storage, processes, factories."""
