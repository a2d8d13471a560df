"""Run the controls of the drift bench in the Python of `requirements-peers.lock`: arrays in, JSON out.

`python peers.py in.npz out.json`. All settings are the tools' defaults. The script imports nothing of
this project.
"""

import json
import subprocess
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from evidently.legacy.metrics.data_drift import embedding_drift_methods as evidently
from frouros.callbacks import PermutationTestDistanceBased
from frouros.detectors.concept_drift import HDDMA, HDDMAConfig
from frouros.detectors.data_drift import MMD
from river import drift
from scipy.stats import ks_2samp

ALPHA, PERMUTATIONS, FEW = 0.05, 19, 8
SLOW = ("Evidently mmd, bootstrap", "frouros MMD, permutation")  # a check takes seconds: they see FEW windows
Alarm = Callable[[Any, Any], bool]


def evidently_alarm(method: str, **settings: Any) -> Alarm:
    """Return one of Evidently's embedding drift methods."""
    detect = getattr(evidently, method)(**settings)
    return lambda reference, current: bool(detect(_frame(reference), _frame(current))[1])


def ks_alarm(reference: Any, current: Any) -> bool:
    """Test every dimension with scipy's KS and Bonferroni's correction."""
    values = [ks_2samp(reference[:, d], current[:, d]).pvalue for d in range(reference.shape[1])]
    return bool(min(values) <= ALPHA / len(values))


def frouros_alarm(reference: Any, current: Any) -> bool:
    """Test with frouros' MMD and its permutation test."""
    test = PermutationTestDistanceBased(num_permutations=PERMUTATIONS, random_state=1, num_jobs=1, name="p")
    detector = MMD(callbacks=[test])
    detector.fit(X=reference)
    return bool(detector.compare(X=current)[1]["p"]["p_value"] <= ALPHA)


WINDOW_ALARMS: dict[str, Alarm] = {
    "Evidently mmd": evidently_alarm("mmd"),
    "Evidently mmd, bootstrap": evidently_alarm("mmd", bootstrap=True),
    "Evidently model": evidently_alarm("model"),
    "Evidently distance": evidently_alarm("distance"),
    "Evidently ratio": evidently_alarm("ratio"),
    "scipy KS, Bonferroni": ks_alarm,
    "frouros MMD, permutation": frouros_alarm,
    "always fires": lambda _reference, _current: True,
    "never fires": lambda _reference, _current: False,
}


def windows(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the share of alarms and the median seconds of a check, by detector and kind of window."""
    results: dict[str, Any] = {name: {} for name in WINDOW_ALARMS}
    for kind in [key.removeprefix("window-") for key in arrays if key.startswith("window-")]:
        for name, alarm in WINDOW_ALARMS.items():
            alarms, seconds = [], []
            pairs = list(zip(arrays["reference"], arrays[f"window-{kind}"], strict=True))
            for reference, current in pairs[: FEW if name in SLOW else len(pairs)]:
                started = time.perf_counter()
                alarms.append(alarm(reference, current))
                seconds.append(time.perf_counter() - started)
            results[name][kind] = {"rate": float(np.mean(alarms)), "seconds": float(np.median(seconds))}
    return results


class Hundredth:
    """Fire at every hundredth item."""

    def __init__(self) -> None:
        self.count = 0

    def __call__(self, _value: int) -> bool:
        self.count += 1
        return self.count % 100 == 0


def river_alarm(detector: Any) -> Callable[[int], bool]:
    def update(value: int) -> bool:
        detector.update(value)
        return bool(detector.drift_detected)

    return update


def frouros_stream() -> Callable[[int], bool]:
    detector = HDDMA(config=HDDMAConfig())

    def update(value: int) -> bool:
        detector.update(value=value)
        return bool(detector.status["drift"])

    return update


STREAM_ALARMS: dict[str, Callable[[], Callable[[int], bool]]] = {
    "river ADWIN": lambda: river_alarm(drift.ADWIN()),
    "river Page-Hinkley": lambda: river_alarm(drift.PageHinkley()),
    "river DDM": lambda: river_alarm(drift.binary.DDM()),
    "frouros HDDM-A": frouros_stream,
    "always fires (every 100 items)": Hundredth,
    "never fires": lambda: lambda _value: False,
}


def streams(arrays: dict[str, Any]) -> dict[str, Any]:
    """Return the index of each stream's first alarm, −1 without one.

    In streams with a change, only alarms after the change count.
    """
    change = int(arrays["change"])
    return {
        name: {
            "null": [_first_alarm(make(), stream.tolist(), 0) for stream in arrays["null"]],
            "changed": [_first_alarm(make(), stream.tolist(), change) for stream in arrays["changed"]],
        }
        for name, make in STREAM_ALARMS.items()
    }


def _first_alarm(update: Callable[[int], bool], values: list[int], since: int) -> int:
    """Skip the alarms before `since`: the detector restarts by itself after each."""
    return next((index for index, value in enumerate(values) if update(value) and index >= since), -1)


def _frame(rows: Any) -> pd.DataFrame:
    return pd.DataFrame(rows, columns=[f"c{d}" for d in range(rows.shape[1])])


def import_seconds() -> float:
    """Return the seconds that a fresh interpreter takes to import Evidently, at the third try."""
    code = "import time; t = time.perf_counter(); import evidently; from evidently import Report; print(time.perf_counter() - t)"
    runs = [subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True) for _ in range(3)]
    return float(runs[-1].stdout)


def main() -> None:
    warnings.simplefilter("ignore")
    arrays = dict(np.load(Path(sys.argv[1])))
    results = {"windows": windows(arrays), "streams": streams(arrays), "import_s": import_seconds()}
    Path(sys.argv[2]).write_text(json.dumps(results), encoding="utf-8")


if __name__ == "__main__":
    main()
