"""The training engine, one idea a file. Knows tensors and rows; knows no files of the pipeline and no MLflow."""
