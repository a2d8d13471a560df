"""`make loop`: the life of a model on this machine, from drift to a better champion, with real processes."""
