"""ADWIN (Bifet and Gavalda 2007): an adaptive window whose halves differ by more than chance. River's, imported when used."""

from collections.abc import Iterable


def alarms(values: Iterable[float], delta: float) -> list[int]:
    """Indices at which river's ADWIN reports a change; raises `ModuleNotFoundError` where river is not installed."""
    from river.drift import ADWIN  # type: ignore[import-not-found, unused-ignore]  # in the benches' environment

    detector, found = ADWIN(delta=delta), []
    for index, value in enumerate(values):
        detector.update(value)
        if detector.drift_detected:
            found.append(index)
    return found
