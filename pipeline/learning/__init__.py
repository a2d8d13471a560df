"""The training engine, one idea a file: task, loop, optimiser, schedule, freezing, resuming. Knows no serving and no registry."""
