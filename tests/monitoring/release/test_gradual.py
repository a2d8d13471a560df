"""A release moves by its evidence, step by step, wherever it was killed; nobody's answers hang on a broken challenger."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import repeat

import pytest
import sqlalchemy as sa

from monitoring.release.gradual import GradualRelease, ReleaseAccess, ReleaseEnd, end_of
from monitoring.release.runs import ReleaseRun, read_run, set_wish
from pipeline.errors import RefusedError, ToolError
from pipeline.params import Params, ReleaseSettings
from serving.release.release_table import add_release, make_challenger, promote, roles
from serving.release.routing import read_routes, set_routing
from state.database import read_only
from tests.monitoring.release.played import EXAMPLE, PlayedServing, PlayedWatch, Seen

GOOD = [0] * 300 + [1] * 12  # outcomes of pairs: proved not worse
BAD = [0] * 100 + [-1] * 40
RETRAIN, VERSION = 7, 2


class StoppedError(Exception):
    """The test stops the release here, as a killed controller or a shutdown does."""


class Played:
    """A release whose looks and faults a test plays."""

    def __init__(self, engine: sa.Engine, settings: ReleaseSettings) -> None:
        self.engine, self.settings, self.now = engine, settings, 1000.0
        self.looks: Iterator[Seen] = iter(())
        self.before_look: Callable[[ReleaseRun], None] = lambda _run: None
        self.before_move: Callable[[str], None] = lambda _move: None
        self.heard: list[str] = []
        self.beats_left = 50
        self.is_leased = True
        self.serving = PlayedServing(engine.begin, lambda move: self.before_move(move))

    def release(self) -> GradualRelease:
        """Return a release as a controller that has just taken it over works on it."""
        access = ReleaseAccess(self.engine.begin, partial(read_only, self.engine), self.check_lease)
        watching = lambda _run: PlayedWatch(self.settings, self.next_look)  # noqa: E731
        return GradualRelease(access, self.serving, watching, self.settings, clock=lambda: self.now, wait=self.wait)

    def work(self, *stages: str) -> ReleaseRun:
        for stage in stages:
            release = self.release()
            run = release.begin(RETRAIN, VERSION)
            assert run is not None
            run = release.work(run, stage, self.heartbeat)  # type: ignore[arg-type]
        return run

    def next_look(self, run: ReleaseRun) -> Seen:
        self.before_look(run)
        return next(self.looks, Seen())

    def check_lease(self, _connection: sa.Connection) -> None:
        if not self.is_leased:
            raise StoppedError

    def heartbeat(self, progress: str) -> None:
        self.heard.append(progress)
        self.beats_left -= 1
        if self.beats_left < 0:
            raise StoppedError

    def wait(self, seconds: float) -> None:
        self.now += seconds

    @property
    def run(self) -> ReleaseRun:
        with self.engine.begin() as connection:
            run = read_run(connection, RETRAIN)
        assert run is not None
        return run

    @property
    def shares(self) -> tuple[float, float]:
        with self.engine.begin() as connection:
            routes = read_routes(connection)
        return routes.challenger_weight, routes.shadow_share

    @property
    def roles(self) -> dict[str, int]:
        with self.engine.begin() as connection:
            return {**roles(connection)}


@pytest.fixture
def played(state: sa.Engine, params: Params) -> Played:
    with state.begin() as connection:
        for version in (1, 2, 3):
            add_release(connection, version, f"content {version}")
    settings = params.release.model_copy(update={"min_pairs": 300, "steps": "0.1 0.5", "step_answers": 100, "poll_s": 1})
    return Played(state, settings)


def test_a_good_challenger_passes_the_shadow_climbs_and_becomes_champion(played: Played) -> None:
    played.looks = iter([Seen(GOOD[:100]), Seen(GOOD[100:]), Seen(), *repeat(Seen(answered=60), 4)])
    run = played.work("shadow", "canary")
    assert (run.stage, run.rung, run.outcome) == ("promote", 1, None)
    run, is_served = played.release().promote(run)
    assert (run.outcome, run.stage, is_served, end_of(run)) == ("promoted", "ended", True, None)
    assert played.serving.moves == ["route 0 1", "route 0.1 1", "route 0.5 1", "promote 2"]
    assert played.roles == {"champion": 2, "previous": 1}
    assert "100 texts compared" in played.heard[0]
    assert "60 answers and 60 of the baseline, of 100 each" in played.heard[-1]


def test_a_challenger_that_is_proved_worse_is_refused_before_it_answers_anybody(played: Played) -> None:
    played.looks = iter([Seen(BAD)])
    run = played.work("shadow")
    assert (run.outcome, run.broken, run.examples) == ("refused", None, [EXAMPLE])
    end = end_of(run)
    assert isinstance(end, ReleaseEnd) and "proved worse than the champion on live traffic: accuracy -28.6%" in end.reason
    assert played.serving.moves == ["roll back 2"]
    assert played.roles == {"champion": 1}


def test_a_broken_guardrail_takes_the_shares_away_at_the_same_look(played: Played) -> None:
    played.looks = iter([Seen(GOOD), Seen(), Seen(answered=60), Seen(answered=60, failed=50)])
    run = played.work("shadow", "canary")
    assert (run.outcome, run.broken, played.shares) == ("rolled_back", "errors", (0.0, 0.0))
    assert run.reason is not None and run.reason.startswith("guardrail errors: requests of the challenger's units failed")
    assert played.serving.moves == ["route 0.1 1", "roll back 2"]
    assert played.heard[-1].startswith("canary: step 1 of 2, 10% of units; 60 answers")  # no turn between what broke and the end


def test_without_data_nothing_moves(played: Played) -> None:
    played.looks = iter([Seen(GOOD), *repeat(Seen(), 500)])
    with pytest.raises(StoppedError):
        played.work("shadow", "canary")
    assert (played.run.stage, played.run.rung, played.shares) == ("canary", 0, (0.1, 1.0))


@pytest.mark.parametrize("kills", range(1, 12))
def test_a_release_killed_at_any_transaction_goes_on_from_its_row(played: Played, kills: int) -> None:
    """Play one whole release; a kill comes after `kills` looks or moves, and then again and again."""
    calls = 0

    def maybe_die(_what: object) -> None:
        nonlocal calls
        calls += 1
        if calls % kills == 0:
            raise StoppedError

    played.before_look = played.before_move = maybe_die
    outcomes = 0

    def next_seen() -> Iterator[Seen]:
        while True:
            yield Seen(GOOD if played.run.stage == "shadow" else (), 60)

    played.looks = next_seen()
    if kills == 1:  # nothing can ever be done
        return
    for _ in range(60):
        try:
            run = played.work("shadow", "canary")
            played.release().promote(run)
            outcomes += 1
            break
        except StoppedError:
            continue
    assert (outcomes, played.run.outcome, played.roles["champion"]) == (1, "promoted", 2)


def test_what_is_out_of_reach_is_tried_again_and_moves_nothing(played: Played) -> None:
    faults: list[Exception] = [OSError("the log"), ToolError("Triton", "is away", ""), sa.exc.OperationalError("", {}, OSError())]

    def fail(_what: object) -> None:
        if faults:
            raise faults.pop()

    played.looks, played.before_look = iter([Seen(GOOD)]), fail
    run = played.work("shadow")
    assert run.stage == "canary"
    assert len(played.heard) == 3  # a look that fails is a turn too: the lease is renewed


def test_a_challenger_that_does_not_load_is_refused(played: Played) -> None:
    def refuse(move: str) -> None:
        if move.startswith("route"):
            raise RefusedError("intent-2", "3 of 20 golden answers differ", "")

    played.before_move = refuse
    run = played.work("shadow")
    assert run.outcome == "refused"
    assert "golden answers differ" in str(run.reason)


def test_a_roll_back_that_fails_is_repeated_at_the_next_look(played: Played) -> None:
    tries: list[str] = []

    def fail_once(move: str) -> None:
        tries.append(move)
        if tries == ["roll back 2"]:
            raise OSError("the database is away")

    played.looks, played.before_move = iter([Seen(BAD)]), fail_once
    assert played.work("shadow").outcome == "refused"
    assert tries == ["roll back 2", "roll back 2"]


def test_a_pause_holds_back_and_an_abort_ends(played: Played) -> None:
    def wish(run: ReleaseRun) -> None:
        with played.engine.begin() as connection:
            set_wish(connection, run.retrain_id, "pause" if len(played.heard) < 5 else "abort")

    played.looks, played.before_look = iter([Seen(GOOD)]), wish
    run = played.work("shadow")
    assert (run.outcome, run.reason) == ("aborted", "a person has ended it")
    assert played.heard[0].startswith("paused by a person; shadow")
    assert played.roles == {"champion": 1}


def test_a_pause_never_holds_back_a_roll_back(played: Played) -> None:
    played.looks = iter([Seen(GOOD), Seen(), Seen(answered=100, failed=90)])
    played.work("shadow")
    with played.engine.begin() as connection:
        set_wish(connection, RETRAIN, "pause")
    assert played.work("canary").broken == "errors"


def test_a_release_whose_place_another_one_takes_ends_and_touches_nothing(played: Played) -> None:
    def publish(_run: ReleaseRun) -> None:
        if len(played.heard) == 2:
            with played.engine.begin() as connection:
                make_challenger(connection, 3)
                set_routing(connection, challenger_weight=0.0, shadow_share=0.25)

    played.before_look = publish
    run = played.work("shadow")
    assert (run.outcome, run.reason) == ("aborted", "another release took its place: champion 1, challenger 3")
    assert played.shares == (0.0, 0.25)
    assert "roll back 2" not in played.serving.moves


def test_a_version_that_a_person_makes_champion_meanwhile_is_promoted(played: Played) -> None:
    def make_champion(_run: ReleaseRun) -> None:
        with played.engine.begin() as connection:
            promote(connection, VERSION)

    played.before_look = make_champion
    run = played.work("shadow", "canary")
    assert (run.stage, run.outcome) == ("promote", None)
    assert played.release().promote(run)[0].outcome == "promoted"


def test_an_abort_at_the_last_moment_is_heard(played: Played) -> None:
    played.looks = iter([Seen(GOOD), Seen(), *repeat(Seen(answered=100), 2)])
    run = played.work("shadow", "canary")
    with played.engine.begin() as connection:
        set_wish(connection, RETRAIN, "abort")
    run, _ = played.release().promote(played.run)
    assert (run.outcome, played.roles) == ("aborted", {"champion": 1})


def test_shares_that_somebody_changes_are_set_again(played: Played) -> None:
    def change(_run: ReleaseRun) -> None:
        if len(played.heard) == 1:
            with played.engine.begin() as connection:
                set_routing(connection, challenger_weight=0.9, shadow_share=0.0)

    played.before_look = change
    with pytest.raises(StoppedError):
        played.work("shadow")
    assert played.serving.moves == ["route 0 1", "route 0 1"]


def test_nothing_is_written_without_the_lease(played: Played) -> None:
    before = played.release().begin(RETRAIN, VERSION)
    assert before is not None
    played.is_leased, played.looks = False, iter([Seen(BAD)])
    with pytest.raises(StoppedError):
        played.release().work(before, "shadow", played.heartbeat)
    assert (played.run, played.serving.moves) == (before, [])


def test_the_first_champion_needs_no_release(played: Played) -> None:
    assert played.release().begin(RETRAIN, 1) is None


def test_a_version_that_is_released_again_is_counted_anew(played: Played) -> None:
    played.looks = iter([Seen(BAD)])
    first = played.work("shadow")
    again = played.release().begin(RETRAIN + 1, VERSION)
    assert again is not None and again.salt != first.salt
    assert played.roles["challenger"] == VERSION
