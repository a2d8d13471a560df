"""`evergreen check`: finds what is wrong with params, data and tools before a stage runs. Imports neither torch nor MLflow."""
