"""Measure the flywheel on Banking77, with other orders of the queue as controls: `make bench-flywheel`."""
