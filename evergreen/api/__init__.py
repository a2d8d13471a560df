"""The Python API: a model that predicts, a training for notebooks, an estimator for scikit-learn. Knows no command."""
