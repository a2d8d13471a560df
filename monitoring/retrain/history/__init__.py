"""Reads the past: the lineage of an alert, version or request, replays, comparisons of models. Changes nothing."""
