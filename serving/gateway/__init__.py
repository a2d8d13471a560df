"""The HTTP API in front of Triton: schemas, middleware, predictor, batch queue, metrics. Knows no model files and no releases."""
