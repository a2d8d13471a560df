"""Drift and accuracy of one version, from rows to evidence. Pure: no clock, no files, no database."""
