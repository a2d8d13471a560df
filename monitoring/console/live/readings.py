"""Turns what Prometheus, the prediction log and the database hold into the lines and shares of the charts. Pure."""

from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence

from monitoring.alert_rules import queries
from monitoring.alert_rules.serving import share_with_code
from monitoring.charts.lines import LimitLine, PlotLine, TimeAxis
from monitoring.console.live.charts import LOG, PROMETHEUS, Lines, Shares, as_shares
from monitoring.console.live.counts import Binned, Coverage, Key, quantile_s
from monitoring.console.live.prometheus import Values
from monitoring.console.live.stored import usual_distance
from pipeline.params import Alerts

SCRAPES = 4  # in the period of a rate, as Grafana's $__rate_interval
LEAST_ELAPSED = 1 / 3  # of a bin that is not over yet; a shorter one has no rate
SHORT_NAMES = {  # of the signals, beside their lines
    "input_sketch": "meaning",
    "prediction_labels": "label mix",
    "input_novelty": "novelty",
    "prediction_confidence": "confidence",
    "prediction_softmax": "probabilities",
    "input_length": "length",
    "input_pieces_per_word": "tokens per word",
    "error": "errors by labels",
}
Found = Mapping[str, list[Values]]


def live_queries(axis: TimeAxis, alerts: Alerts) -> dict[str, str]:
    """Return the queries of the page by name, over whole steps: no request and no peak of the evidence is left out.

    A value is used for one period, and not for the five minutes of Prometheus' own look-back.
    """
    period = f"{max(int(axis.step_s), SCRAPES * alerts.scrape_s)}s"

    def last(metric: str) -> str:
        return f"last_over_time({metric}[{period}])"

    return {
        "predictions": queries.predictions_per_second(period),
        "P50": queries.latency_quantile(0.5, period),
        "P99": queries.latency_quantile(0.99, period),
        "failed": share_with_code("5..", period),
        "refused": share_with_code("4..", period),
        "abstained": queries.abstained_share(period),
        "expected abstentions": last(queries.EXPECTED_ABSTENTIONS),
        "evidence": queries.evidence(f"max_over_time({queries.LOG_E}[{period}])", last(queries.LOG_E_THRESHOLD)),
        "estimated": last(queries.ESTIMATED),
        "labelled": last(queries.LABELLED),
        "champion": f"max({last(queries.CHAMPION)})",
        "firing": last(queries.FIRING),
    }


def traffic_of_prometheus(found: Found) -> Lines:
    """Return the rate of predictions that callers got."""
    totals: dict[float, float] = defaultdict(float)
    for values in found["predictions"]:
        if values.labels.get("role") != "shadow":
            for at, value in values.points:
                totals[at] += value
    return Lines([PlotLine("predictions", sorted(totals.items()), 0, is_filled=True)], PROMETHEUS)


def traffic_of_log(counted: Binned, coverage: Coverage, axis: TimeAxis) -> Lines:
    """Return the rate of predictions that callers got; 0 where the log has none between its first prediction and now."""
    totals: dict[int, int] = defaultdict(int)
    for key, count in counted.predictions.items():
        if key.role != "shadow":
            totals[key.bin] += count
    points = []
    first = min(totals, default=0)
    for start in range(first, int(axis.end) + 1, counted.bin_s) if totals else ():
        at = min(start + counted.bin_s, axis.end)
        if at - start >= LEAST_ELAPSED * counted.bin_s and at > max(axis.start, coverage.since):
            points.append((at, totals.get(start, 0) / (at - start)))
    return Lines([PlotLine("predictions", points, 0, is_filled=True)], LOG)


def latency_of_prometheus(found: Found) -> Lines:
    """Return P50 and P99."""
    return Lines([PlotLine(name, sum_of(found[name]), colour) for colour, name in enumerate(("P50", "P99"))], PROMETHEUS)


def latency_of_log(counted: Binned, axis: TimeAxis) -> Lines:
    """Return P50 and P99, read off the same buckets as Prometheus'."""
    lines = []
    for colour, q in enumerate((0.5, 0.99)):
        found = [(min(start + counted.bin_s, axis.end), quantile_s(buckets, q)) for start, buckets in counted.latencies.items()]
        lines.append(PlotLine(f"P{100 * q:g}", sorted((at, value) for at, value in found if value is not None), colour))
    return Lines(lines, LOG)


def errors_of_prometheus(found: Found) -> Lines:
    """Return the shares of requests that failed (5xx) and that were refused (4xx); 0 where requests came and none failed."""
    lines = []
    for colour, (query, name) in enumerate((("failed", "failed (5xx)"), ("refused", "refused (4xx)"))):
        known = dict(sum_of(found[query]))
        answered = [at for at, value in sum_of(found["predictions"]) if value > 0]
        points = sorted(dict.fromkeys(answered, 0.0) | known)
        lines.append(PlotLine(name, [(at, known.get(at, 0.0)) for at in points], 1 - colour))
    return Lines(lines, PROMETHEUS)


def abstentions_of_prometheus(found: Found) -> Lines:
    """Return the share of texts that got no label, a line for each version that abstained."""
    series = sorted((values for values in found["abstained"] if values.points), key=_version)
    lines = [PlotLine(f"version {_version(values)}", values.points, colour) for colour, values in enumerate(series)]
    return Lines(lines, PROMETHEUS)


def expected_abstentions(found: Found) -> LimitLine | None:
    """Return the share of abstentions that the newest version promised; None where no version promised one."""
    series = [values for values in found["expected abstentions"] if values.points]
    if not series:
        return None
    newest = max(series, key=_version)
    return LimitLine(newest.points[-1][1], f"at most expected of version {_version(newest)}", is_alarm=False)


def versions_of_prometheus(found: Found, axis: TimeAxis) -> Shares:
    """Return the share of each version in the predictions that callers got."""
    totals: dict[float, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for values in found["predictions"]:
        if values.labels.get("role") != "shadow":
            for at, value in values.points:
                totals[at][f"version {values.labels.get('version', '?')}"] += value
    return as_shares(totals, axis, PROMETHEUS)


def versions_of_log(counted: Binned, axis: TimeAxis) -> Shares:
    """Return the share of each version in the predictions that callers got."""
    return _shares_of_log(counted, axis, lambda key: f"version {key.version}")


def labels_of_log(counted: Binned, axis: TimeAxis) -> Shares:
    """Return the share of each label in the predictions that callers got."""
    return _shares_of_log(counted, axis, lambda key: key.label)


def _shares_of_log(counted: Binned, axis: TimeAxis, name: Callable[[Key], str]) -> Shares:
    totals: dict[float, dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for key, count in counted.predictions.items():
        if key.role != "shadow":
            totals[min(key.bin + counted.bin_s, axis.end)][name(key)] += count
    return as_shares(totals, axis, LOG)


def champions(found: Found, counted: Binned) -> list[tuple[float, int]]:
    """Return (time, champion), a row for each change, from Prometheus or from the version that answered as champion."""
    if any(values.points for values in found["champion"]):
        known = [(at, int(value)) for at, value in sum_of(found["champion"]) if value]
    else:
        answered: dict[int, dict[int, int]] = defaultdict(lambda: defaultdict(int))
        for key, count in counted.predictions.items():
            if key.role == "champion":
                answered[key.bin][key.version] += count
        known = [(float(start), max(versions, key=lambda v, of=versions: of[v])) for start, versions in sorted(answered.items())]  # type: ignore[misc]
    return [now for number, now in enumerate(known) if not number or known[number - 1][1] != now[1]]


def evidence_lines(by_signal: Mapping[str, list[tuple[float, float]]], source: str) -> Lines:
    """Return a line for each signal, always in the same colour; evidence for no change (below 0) is drawn as 0."""
    lines = [
        PlotLine(
            words,
            [(at, max(0.0, value)) for at, value in by_signal[signal]],
            colour,
            usual_s=usual_distance(by_signal[signal]),
        )
        for colour, (signal, words) in enumerate(SHORT_NAMES.items())
        if by_signal.get(signal)
    ]
    return Lines(lines, source)


def evidence_of_prometheus(found: Found) -> Lines:
    """Return the evidence on each signal, of whichever version was watched."""
    return evidence_lines({signal: latest_of(found["evidence"], signal=signal) for signal in SHORT_NAMES}, PROMETHEUS)


def accuracy_of_prometheus(found: Found) -> Lines:
    """Return the accuracies with their bounds, of whichever version was watched."""
    lines = []
    for colour, (query, name) in enumerate((("estimated", "estimated"), ("labelled", "by labels"))):
        lower, upper = (dict(latest_of(found[query], bound=bound)) for bound in ("lower", "upper"))
        points = latest_of(found[query], bound="estimate")
        lines.append(
            PlotLine(name, points, colour, [(at, lower[at], upper[at]) for at, _ in points if at in lower and at in upper])
        )
    return Lines(lines, PROMETHEUS)


def _version(values: Values) -> int:
    return int(values.labels.get("version", 0))


def latest_of(series: Sequence[Values], **labels: str) -> list[tuple[float, float]]:
    """Return the values of the series with these labels as one; at each moment the newest version counts."""
    matching = [values for values in series if labels.items() <= values.labels.items()]
    merged: dict[float, float] = {}
    for values in sorted(matching, key=_version):
        merged.update(values.points)
    return sorted(merged.items())


def sum_of(series: Sequence[Values]) -> list[tuple[float, float]]:
    """Return the sum of the series at each moment."""
    totals: dict[float, float] = defaultdict(float)
    for values in series:
        for at, value in values.points:
            totals[at] += value
    return sorted(totals.items())
