"""Drills of serving: swaps under load, overload, killed processes."""
