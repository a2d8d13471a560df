"""Measure monitoring, with other drift detectors as controls: `make bench-drift`."""
