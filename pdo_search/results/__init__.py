"""A sweep on disk: what its tables mean, who writes them, how they are read.

Parts are imported where they are needed: ``schema`` needs nothing, ``writer`` pyarrow, ``reader``
pandas. None of them imports torch or ray.
"""
