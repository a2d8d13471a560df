"""Watched: what was served is compared with its reference, and people are told."""
