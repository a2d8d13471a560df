"""The training engine, one idea per file: task, loop, optimiser, schedule, freezing, resuming. Knows no serving or registry."""
