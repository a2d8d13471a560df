"""What runs inside Triton's Python backend. Knows only `pipeline.runtime`, which is copied beside it."""
