"""Knobs before a training is paid for: recipes, studies and GPU memory. Knows no serving."""
