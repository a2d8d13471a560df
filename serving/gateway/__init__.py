"""The HTTP API in front of Triton: schemas, middleware, prediction, queueing, metrics. Knows no model files and no releases."""
