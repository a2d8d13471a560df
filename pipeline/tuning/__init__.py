"""Tools for choosing settings before a training: recipes, studies and GPU memory."""
