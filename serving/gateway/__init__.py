"""The HTTP API in front of Triton: schemas, middleware, predictor, batch queue, metrics. Reads routes; knows no model files."""
