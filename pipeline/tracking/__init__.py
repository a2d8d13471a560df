"""MLflow: its store, the runs of stages, the model registry. The only importer of MLflow; knows no stage."""
