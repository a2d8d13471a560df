"""Tools for choosing settings before a training: trials, recipes, studies and GPU memory. No stage imports it."""
