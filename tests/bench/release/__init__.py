"""Measure the statistics of gradual releases on Banking77, with other rules as controls: `make bench-release`."""
