"""How a model is served. May know pipeline's records, params and profile; knows nothing of watching."""
