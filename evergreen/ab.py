"""The commands of A/B tests: plan one, start it, look at it, end it."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table

from evergreen import releasing
from evergreen.inspection import out
from pipeline.errors import EvergreenError, InputError
from pipeline.output.plain_text import plain_json, print_line
from pipeline.output.shares import percent
from pipeline.output.terminal import styled

if TYPE_CHECKING:
    from monitoring.release.ab.look import AbLook
    from monitoring.release.ab.tests_table import AbTest
    from serving.release.routing import Routes

app = typer.Typer(help="Compare champion (A) and challenger (B) on live traffic: plan, start, status, stop.")
Margin = Annotated[float | None, typer.Option(help="difference that matters, in the outcome's unit; default: ab.margin")]
OpenShare = Annotated[float | None, typer.Option(help="challenger's share of units, between 0 and 1; default: ab.share")]


@app.command()
def plan(
    baseline: Annotated[float | None, typer.Option(help="for shares: A's share now, between 0 and 1")] = None,
    deviation: Annotated[float | None, typer.Option(help="for numbers: standard deviation between units")] = None,
    margin: Margin = None,
    share: OpenShare = None,
    units_per_day: Annotated[float | None, typer.Option(help="units a day with an outcome, to say how many days")] = None,
) -> None:
    """Say how many units a test needs, by the rule that ends it."""
    from monitoring.release.ab.intervals import StoppingRule
    from monitoring.release.ab.planner import plan_test
    from pipeline.params import load_params

    settings = load_params().ab
    if (baseline is None) == (deviation is None):
        raise InputError("ab plan", "it needs one measure of spread", "give --baseline for shares, or --deviation for numbers")
    if baseline is not None:
        deviation = (_between("--baseline", baseline) * (1 - baseline)) ** 0.5
    spread, least = (
        _positive("--deviation", deviation or 0.0),
        _positive("--margin", settings.margin if margin is None else margin),
    )
    rule = StoppingRule(settings.alpha, least, settings.min_units, settings.expected_units)
    weight = _between("--share", settings.share if share is None else share)
    planned = plan_test(rule, deviation=spread, weight=weight, power=settings.power)
    table = Table("units with an outcome, both arms", "", *([] if units_per_day is None else ["days"]), box=None)
    rows = (
        (planned.units, f"find a difference of {least:g} with probability {settings.power:g}"),
        (planned.usual_units, f"half of the tests of a difference of {least:g} end by then"),
        (planned.double_units, f"half of the tests of a difference of {2 * least:g}"),
        (planned.equal_units, "half of the tests of equal versions"),
        (planned.fixed_units, "for comparison: a test that may be looked at once, at its end"),
    )
    for units, meaning in rows:
        days = [] if units_per_day is None else [f"{units / _positive('--units-per-day', units_per_day):.1f}"]
        table.add_row(str(units), meaning, *days)
    out.print(table)
    out.print(f"looks may come at any time; equal versions got A or B in {percent(planned.wrong)} of the simulated tests")


@app.command()
def start(
    version: Annotated[int | None, typer.Argument(help="the challenger's version, to be sure; default: the challenger")] = None,
    share: OpenShare = None,
    feedback: Annotated[bool, typer.Option("--feedback", help="judge by labels of people, not by outcomes of callers")] = False,
    caller: Annotated[str | None, typer.Option(help="count only outcomes that this caller reports")] = None,
    lower_is_better: Annotated[bool, typer.Option("--lower-is-better", help="as for minutes or errors")] = False,
    margin: Margin = None,
    force: releasing.Force = False,
) -> None:
    """Start a test: the challenger gets its share of units, or keeps the share that it has."""
    from monitoring.release.ab.tests_table import begin_test, refuse_second
    from pipeline.home import find_home
    from pipeline.params import load_params
    from state.database import open_state

    home, params = find_home(), load_params()
    least = _positive("--margin", params.ab.margin if margin is None else margin)
    _refuse_senseless(feedback=feedback, caller=caller, lower_is_better=lower_is_better)
    settings: dict[str, Any] = {
        "metric": "feedback" if feedback else "outcome",
        "caller": caller,
        "is_lower_better": lower_is_better,
        "alpha": params.ab.alpha,
        "margin": least,
        "min_units": params.ab.min_units,
        "expected_units": params.ab.expected_units,
    }
    with open_state(home) as engine:
        with engine.begin() as connection:
            refuse_second(connection)
            routes = _pair(connection, version)
        weight = _between("--share", share if share is not None else routes.challenger_weight or params.ab.share)
        with _shared(routes, weight, force=force), engine.begin() as connection:
            test = begin_test(connection, settings, weight_before=routes.challenger_weight, at=time.time())
    out.print(styled("✓", "green"), f"A/B test {test.id}: A is version {test.champion}, B is version {test.challenger}")
    source = "labels of people" if feedback else f"outcomes that {caller or 'callers'} report (POST /v1/outcome)"
    out.print(f"  B answers {test.weight:.0%} of units; judged by {source}; margin {test.margin:g}")
    out.print("  look as often as you like: .venv/bin/evergreen ab status")


@app.command()
def status(json: Annotated[bool, typer.Option("--json", help="one JSON object")] = False) -> None:
    """Show the running test, or the last one, and its verdict. The first verdict stands."""
    from monitoring.release.ab.tests_table import keep_verdict
    from pipeline.home import find_home
    from state.database import open_state

    with open_state(find_home()) as engine:
        with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            look = _look(connection)
        if look.has_answer:
            with engine.begin() as connection:
                keep_verdict(connection, look.test.id, look.record())
    if json:
        print_line(plain_json({"test": look.test._asdict(), "look": look.record()}))
        return
    _print(look)


@app.command()
def stop() -> None:
    """End the running test: its verdict goes to MLflow, and the challenger gets the share back that it had before."""
    from monitoring.release.ab.tests_table import end_test, running_test
    from monitoring.release.ab.tracked import log_test
    from pipeline.home import find_home
    from state.database import open_state

    home = find_home()
    with open_state(home) as engine:
        with engine.connect().execution_options(reads_only=True) as connection, connection.begin():
            if (test := running_test(connection)) is None:
                raise InputError("ab stop", "no test is running", "see the last one: .venv/bin/evergreen ab status")
            look = _look(connection, test)
        with engine.begin() as connection:
            if not end_test(connection, test.id, look.record(), look.at):
                raise InputError("ab stop", f"test {test.id} has just been ended", "see it: .venv/bin/evergreen ab status")
    _print(look._replace(test=test._replace(ended_at=look.at)))
    if (test.verdict or look.record())["answer"] == "B":
        out.print(f"next: .venv/bin/evergreen publish {test.challenger} (make B champion)")
    try:
        if look.is_interrupted:
            out.print(styled("!", "yellow"), "the routing had changed since the test began, and stays as it is")
        elif test.weight_before != test.weight:
            _set_share(test.weight_before)
    finally:
        run_id = log_test(look, home)
        out.print(f"MLflow run {run_id}" if run_id else "MLflow could not be reached; the state database has the verdict")


def _pair(connection: Any, version: int | None) -> "Routes":
    """Return the routes; raise `InputError` without two versions, or when the challenger is not the expected one."""
    from serving.release.routing import read_routes

    routes = read_routes(connection)
    if routes.champion is None or routes.challenger is None:
        raise InputError("ab start", "there is no challenger to compare", "publish one: .venv/bin/evergreen publish")
    if version not in (None, routes.challenger):
        do = f"name {routes.challenger}, or publish version {version} as challenger first"
        raise InputError(f"version {version}", f"the challenger is version {routes.challenger}", do)
    return routes


@contextmanager
def _shared(routes: "Routes", weight: float, *, force: bool) -> Iterator[None]:
    """Give the challenger its share; take it away again when the test does not begin."""
    if weight == routes.challenger_weight:
        yield
        return
    releasing.route(weight=weight, shadow=routes.shadow_share, force=force)
    try:
        yield
    except EvergreenError:
        _set_share(routes.challenger_weight)
        raise


def _set_share(weight: float) -> None:
    """Set the challenger's share of units, and leave its share of copies as it is."""
    from pipeline.home import find_home
    from pipeline.params import load_params
    from serving.release.live import swap
    from serving.release.routing import read_routes
    from state.database import open_state

    home = find_home()
    with open_state(home) as engine, engine.begin() as connection:
        shadow = read_routes(connection).shadow_share
    swap.route(load_params(), home, challenger_weight=weight, shadow_share=shadow, announce=releasing.announce)
    out.print(f"the challenger answers {weight:.0%} of units")


def _look(connection: Any, test: "AbTest | None" = None) -> "AbLook":
    """Look at a test, by default the newest one; raise `InputError` when there has been none."""
    from monitoring.release.ab.look import look_at
    from monitoring.release.ab.tests_table import newest_tests
    from pipeline.home import find_home
    from pipeline.params import load_params

    chosen = test or next(iter(newest_tests(connection, 1)), None)
    if chosen is None:
        raise InputError("ab status", "there has been no A/B test", "start one: .venv/bin/evergreen ab start")
    return look_at(chosen, connection, load_params(), find_home(), time.time())


def _print(look: "AbLook") -> None:
    test, verdict, units = look.test, look.verdict, look.units
    out.print(f"A/B test {test.id}, {'running' if test.ended_at is None else 'ended'}; judged by {test.metric}")
    table = Table("arm", "version", "units", "mean", box=None)
    for name, version, arm in (("A", test.champion, verdict.a), ("B", test.challenger, verdict.b)):
        table.add_row(name, str(version), str(arm.units), f"{arm.mean:.4g}" if arm.units else "–")
    out.print(table)
    record = look.record()
    if record["lower"] is not None:
        bounds = f"from {record['lower']:+.4g} to {record['upper']:+.4g}"
        out.print(f"B − A: {record['difference']:+.4g}, {bounds} (holds at every look, {percent(1 - test.alpha)})")
    left_out = {"not in the prediction log, or not yet": units.unlogged, "of jobs without a unit": units.unassigned}
    for reason, count in left_out.items():
        if count:
            out.print(f"{count} outcomes do not count: {reason}")
    if units.crossed:
        out.print(f"{units.crossed} of {units.outcomes} outcomes are of answers by the other arm's version")
    out.print(styled(look.sentence, "bold"))


def _refuse_senseless(*, feedback: bool, caller: str | None, lower_is_better: bool) -> None:
    if feedback and (caller or lower_is_better):
        what = "labels of people are right or wrong: more right ones are better, and all labellers who count do"
        raise InputError("ab start --feedback", what, "leave out --caller and --lower-is-better")


def _between(name: str, value: float) -> float:
    if not 0 < value < 1:
        raise InputError(name, f"{value:g} is not between 0 and 1", "give a share such as 0.5")
    return value


def _positive(name: str, value: float) -> float:
    if not 0 < value < float("inf"):
        raise InputError(name, f"{value:g} is no positive number", "give one such as 0.02")
    return value
