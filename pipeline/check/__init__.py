"""Checks params, data and tools before a stage runs (`evergreen check`). Imports neither torch nor MLflow."""
