"""The monitor process: reads the prediction log, stores and exports the results. Computes no statistics."""
