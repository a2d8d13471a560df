"""Learning rate over a run."""

from math import cos, pi


def warmup_cosine(step: int, total_steps: int, warmup_share: float) -> float:
    """Factor on the peak rate at `step` (from 0): linear to 1 over the warm-up, then half a cosine down to 0."""
    warmup = max(1, round(total_steps * warmup_share))
    if step < warmup:
        return (step + 1) / warmup
    return 0.5 * (1 + cos(pi * (step - warmup) / max(1, total_steps - warmup)))
