"""Make the arrays that the controls read: sketches of references and windows, and streams of errors."""

from typing import Any

import numpy as np

from tests.bench.drift.errors import CHANGE, streams
from tests.bench.drift.windows import WINDOWS
from tests.bench.drift.worlds import World, draw, mixed

CONTAMINATION, HALF = 0.1, 0.5
STREAMS_PER_WINDOW = 10  # streams are cheap


def arrays(world: World, runs: int, seed: int) -> dict[str, Any]:
    """Return `reference` (runs, rows, sketch), `window-<kind>-<texts>`, `null` and `changed` (streams, items), and `change`.

    Kinds: 0 (nothing changed), 10 % of each foreign text, and 50 % hotels (large windows only).
    """
    kinds = {"0": ("hotels", 0.0), "hotels": ("hotels", CONTAMINATION), "support desk": ("support desk", CONTAMINATION)}
    kinds["half hotels"] = ("hotels", HALF)
    sketches: dict[str, list[Any]] = {"reference": []}
    for run in range(runs):
        rng = np.random.default_rng([seed, run])
        reference, rest = draw(world, rng)
        sketches["reference"].append(reference.sketch[: max(WINDOWS)].astype(np.float64))
        for name, (foreign, share) in kinds.items():
            for window in WINDOWS if share < HALF else WINDOWS[-1:]:
                sketch = mixed(rest, world.others[foreign], share, window, rng).sketch.astype(np.float64)
                sketches.setdefault(f"window-{name}-{window}", []).append(sketch)
    null, changed = streams(runs * STREAMS_PER_WINDOW, seed)
    return {name: np.stack(parts) for name, parts in sketches.items()} | {
        "null": null,
        "changed": changed,
        "change": np.array(CHANGE),
    }
