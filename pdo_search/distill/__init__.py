"""Progressive distillation: stages, losses, curriculum, teacher simplification, composite.

Runs in any process with torch: a notebook, a test, a worker. Knows neither Ray nor pandas.
"""
