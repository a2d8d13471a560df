"""Reports of a load test: a table for the terminal, a JSON file and a chart."""

from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from rich.table import Table

from pipeline.atomic_write import atomic_write
from pipeline.charts import GREEN, GREY, RUST
from pipeline.data.records import json_values, write_json
from pipeline.output.terminal import styled
from serving.loadtest.limit import Limit, Step
from serving.loadtest.result import Result, per_second, spread

SECOND = "second of the run in which a request was meant to be sent; latency counts from there"


def write_report(measured: Result | Limit, folder: Path) -> None:
    """Write `loadtest.json` and `loadtest.png`."""
    figure = limit_figure(measured) if isinstance(measured, Limit) else run_figure(measured)
    folder.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder / "loadtest.png") as part:
        figure.savefig(part, format="png", dpi=110)
    write_json(folder / "loadtest.json", limit_summary(measured) if isinstance(measured, Limit) else run_summary(measured))


def run_summary(result: Result) -> dict[str, Any]:
    """Return every figure of a run as JSON values; null where nothing was measured."""
    versions, answers = np.unique(result.versions[result.versions != ""], return_counts=True)
    summary: dict[str, Any] = json_values(
        {
            "target": result.target,
            "url": result.url,
            "started_at": result.started_at,
            "load": result.load._asdict(),
            "counted_from_s": result.since_s,
            "counted_to_s": result.until_s,
            "requests": len(result.at_s),
            "offered_per_s": result.offered_per_s,
            "achieved_per_s": result.achieved_per_s,
            "status": result.counts,
            "wrong": None if result.wrong is None else int(result.wrong.sum()),
            "latency_ms": spread(result.latency_ms[result.ok]),
            "p99_all_ms": result.p99_all_ms,
            "late_ms": spread(result.late_ms),
            "valid": result.valid,
            "interrupted": result.interrupted,
            "waited_for_a_connection": result.waited,
            "generator_cpu_us": result.cpu_us,
            "repeat_share": float(result.repeats.mean()) if len(result.repeats) else None,
            "hit_share": result.hit_share,
            "versions": dict(zip(versions.tolist(), answers.tolist(), strict=True)),
            "seconds": per_second(result),
        }
    )
    return summary


def limit_summary(limit: Limit) -> dict[str, Any]:
    """Return the highest rate and every step, without the steps' seconds."""
    steps = [
        {"rate_per_s": s.rate_per_s, "verdict": s.verdict, **{k: v for k, v in run_summary(s.result).items() if k != "seconds"}}
        for s in limit.steps
    ]
    summary: dict[str, Any] = json_values({**limit._asdict(), "steps": steps})
    return summary


def run_table(result: Result) -> Table:
    """Return the table of a run."""
    table = Table(title=f"{result.target} at {result.load.rate_per_s:g} requests/s", title_justify="left", show_header=False)
    late, took = spread(result.late_ms), spread(result.latency_ms[result.ok])
    table.add_row("offered, answered in time", f"{result.offered_per_s:.1f}/s, {result.achieved_per_s:.1f}/s")
    table.add_row("requests by status", ", ".join(f"{status}: {count}" for status, count in result.counts.items()))
    if result.wrong is not None:
        table.add_row("wrong answers", str(int(result.wrong.sum())))
    table.add_row("latency of good answers", " ".join(f"{name} {value:.1f}" for name, value in took.items()) + " ms")
    table.add_row("P99, a failure counted as over", f"{result.p99_all_ms:.1f} ms")
    if result.hit_share is not None:
        table.add_row("from a cache", f"{result.hit_share:.1%} (texts sent before: {result.repeats.mean():.1%})")
    table.add_row("generator", f"{result.cpu_us:.0f} µs CPU a request; late p50 {late['p50']:.2f} p99 {late['p99']:.2f} ms")
    if result.waited:
        table.add_row("no free connection", f"{result.waited} requests waited for one: raise --connections")
    if not result.valid:
        table.add_row(styled("not valid", "red"), "the generator was too late for these latencies to count")
    return table


def limit_table(limit: Limit) -> Table:
    """Return the table of a search."""
    title = f"{limit.target}: {limit.rate_per_s:.0f} requests/s at P99 ≤ {limit.p99_limit_ms:g} ms"
    table = Table("offered/s", "answered/s", "P50 ms", "P99 ms", "failed", "late P99 ms", "", title=title, title_justify="left")
    for step in limit.steps:
        result = step.result
        took = spread(result.latency_ms[result.ok])
        table.add_row(
            f"{step.rate_per_s:.1f}",
            f"{result.achieved_per_s:.1f}",
            f"{took['p50']:.1f}",
            f"{took['p99']:.1f}",
            str(result.failed),
            f"{spread(result.late_ms)['p99']:.1f}",
            step.verdict,
        )
    return table


def run_figure(result: Result) -> Figure:
    """Draw latency over time above, offered and answered requests below."""
    figure = Figure(figsize=(10, 6), layout="constrained")
    above, below = figure.subplots(2, 1, sharex=True, height_ratios=(3, 2))
    _latency_over_time(above, result)
    above.set_title(f"{result.target}: {result.load.rate_per_s:g} requests/s, {result.load.arrivals} arrivals", parse_math=False)
    rows = per_second(result)
    seconds = [row["second"] for row in rows]
    below.bar(seconds, [row["requests"] for row in rows], color=RUST, label="offered, and failed")
    below.bar(seconds, [row["answered"] for row in rows], color=GREEN, label="offered, and answered")
    below.set_xlabel(SECOND)
    below.set_ylabel("requests in that second")
    _finish(below)
    return figure


def limit_figure(limit: Limit) -> Figure:
    """Draw latency against the offered rate above; below, the run at the highest rate over time."""
    figure = Figure(figsize=(10, 8), layout="constrained")
    above, below = figure.subplots(2, 1, height_ratios=(3, 2))
    steps = sorted(limit.steps, key=lambda step: step.rate_per_s)
    held = [step for step in steps if step.verdict == "held"]
    other = [step for step in steps if step.verdict != "held"]
    above.plot(_rates(held), _latencies(held, "p50"), "o-", color=GREY, label="P50")
    above.plot(_rates(held), _latencies(held, "p99"), "o-", color=GREEN, label="P99")
    above.plot(_rates(other), _latencies(other, "p99"), "x", color=RUST, markersize=8, label="P99 where it did not hold")
    above.axhline(limit.p99_limit_ms, color=RUST, linewidth=1, linestyle="--", label=f"limit: {limit.p99_limit_ms:g} ms")
    if held:
        above.axvline(limit.rate_per_s, color=GREEN, linewidth=1, linestyle=":", label=f"held: {limit.rate_per_s:.0f}/s")
    _log_ms(above)
    above.set_xlabel("offered requests/s")
    above.set_ylabel("latency, ms")
    above.set_title(f"{limit.target}: {limit.rate_per_s:.0f} requests/s at P99 ≤ {limit.p99_limit_ms:g} ms", parse_math=False)
    _finish(above)
    if held:
        best = max(held, key=lambda step: step.rate_per_s)
        _latency_over_time(below, best.result)
        below.axhline(limit.p99_limit_ms, color=RUST, linewidth=1, linestyle="--")
        below.set_title(f"over time at {best.rate_per_s:.0f} requests/s")
        below.set_xlabel(SECOND)
    below.set_visible(bool(held))
    return figure


def _latency_over_time(axes: Axes, result: Result) -> None:
    rows = per_second(result)
    seconds = [row["second"] for row in rows]
    for key, colour, name in (("p50_ms", GREY, "P50"), ("p99_ms", GREEN, "P99")):
        axes.plot(seconds, [row[key] for row in rows], marker="o", markersize=3, color=colour, label=f"{name} of the second")
    axes.plot(seconds, [row["late_p99_ms"] for row in rows], color=RUST, linewidth=1, linestyle=":", label="P99 sent late")
    _log_ms(axes)
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set_ylabel("latency, ms")
    _finish(axes)


def _log_ms(axes: Axes) -> None:
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _position: f"{value:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())


def _rates(steps: list[Step]) -> list[float]:
    return [step.rate_per_s for step in steps]


def _latencies(steps: list[Step], name: str) -> list[float]:
    return [spread(step.result.latency_ms[step.result.ok])[name] for step in steps]


def _finish(axes: Axes) -> None:
    axes.grid(alpha=0.25)
    axes.legend(frameon=False, loc="upper left", bbox_to_anchor=(1.0, 1.0))
