"""Reads the past: the lineage of an alert, version or request, and replays under other thresholds. Changes nothing."""
