"""Causal language models as a task of the training loop. Knows no classification."""
