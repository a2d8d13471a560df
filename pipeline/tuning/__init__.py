"""Tools for choosing settings before a training: recipes, studies and GPU memory. No stage imports it."""
