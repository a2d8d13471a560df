"""What the controls are shown: sketches of references and windows, and streams of errors, as arrays."""

from typing import Any

import numpy as np

from tests.bench.drift_errors import CHANGE, streams
from tests.bench.drift_windows import WINDOWS
from tests.bench.drift_worlds import World, draw, mixed

CONTAMINATION, HALF = 0.1, 0.5
MANY_STREAMS = 10  # times as many streams as windows: they are cheap


def arrays(world: World, runs: int, seed: int) -> dict[str, Any]:
    """`reference` (runs, rows, sketch), `window-<kind>-<texts>`, `null` and `changed` (streams, items), `change`.

    Kinds: 0 (nothing changed), a tenth of each foreign text, half of it hotels (large windows only).
    """
    kinds = {"0": ("hotels", 0.0), "hotels": ("hotels", CONTAMINATION), "support desk": ("support desk", CONTAMINATION)}
    kinds["half hotels"] = ("hotels", HALF)
    found: dict[str, list[Any]] = {"reference": []}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        reference, rest = draw(world, rng)
        found["reference"].append(reference.sketch[: max(WINDOWS)].astype(np.float64))
        for name, (foreign, share) in kinds.items():
            for window in WINDOWS if share < HALF else WINDOWS[-1:]:
                sketch = mixed(rest, world.others[foreign], share, window, rng).sketch.astype(np.float64)
                found.setdefault(f"window-{name}-{window}", []).append(sketch)
    null, changed = streams(runs * MANY_STREAMS, seed)
    return {name: np.stack(own) for name, own in found.items()} | {
        "null": null,
        "changed": changed,
        "change": np.array(CHANGE),
    }
