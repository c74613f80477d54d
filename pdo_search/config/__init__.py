"""The experiment file: schema, loading, search space, and what a point of the space resolves to."""

from pdo_search.config.load import Loaded, load_experiment, parse_experiment
from pdo_search.config.recipe import Recipe
from pdo_search.config.resolve import resolve
from pdo_search.config.schema import Experiment, TrialConfig
from pdo_search.config.space import Dimension, Space

__all__ = [
    "Dimension",
    "Experiment",
    "Loaded",
    "Recipe",
    "Space",
    "TrialConfig",
    "load_experiment",
    "parse_experiment",
    "resolve",
]
