"""Rules for every file that the repository ships."""
