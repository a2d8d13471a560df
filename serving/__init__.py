"""How a model is served. Uses records, params and runtime of `pipeline`; knows nothing of monitoring."""
