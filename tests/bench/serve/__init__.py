"""Measure serving, with its controls: `make bench-serve`."""
