"""How a model is made. Knows nothing of serving or monitoring."""
