"""`make loop`: from drift to a better champion on this machine, with real processes. No package imports it."""
