"""Makes a model: data, training, evaluation, export. Imports neither serving nor monitoring."""
