"""Code that runs inside Triton's Python backend. Knows only `pipeline.runtime`, which is copied next to it."""
